//! Packets of a connection that come from another address: a copy moves nothing, and an address that has not been proved
//! gets little.

use std::sync::atomic::{AtomicBool, Ordering};

use super::raw::{DATA, FIRST_BYTES, Heard};
use super::*;

/// Longest time for which the way's thread waits for the client's packets while others may have come.
const IDLE: Duration = Duration::from_micros(100);

/// Bytes that an attacker's socket has sent and received.
#[derive(Clone, Copy, Debug, Default)]
struct Attacker {
    sent: usize,
    heard: usize,
}

/// A way between a client and the relay, on which an attacker sends copies of the client's packets from an address of his.
struct Way {
    /// The address to which the client connects.
    entry: SocketAddr,
    /// The client's address, as the relay sees it.
    client: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Attacker>,
}

impl Way {
    /// Every `step`th copy comes before the packet itself; 0: none.
    fn to(relay: SocketAddr, step: usize) -> Self {
        let [entry, out, attacker] = [1, 1, 66].map(|host| {
            let socket = UdpSocket::bind((loopback_of(host), 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        entry.set_nonblocking(false).unwrap();
        entry.set_read_timeout(Some(IDLE)).unwrap();
        let addresses = (entry.local_addr().unwrap(), out.local_addr().unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut buffer, mut client, mut number) = (vec![0; 65_536], None, 0);
            let mut count = Attacker::default();
            while !until.load(Ordering::Relaxed) {
                while let Ok((len, from)) = entry.recv_from(&mut buffer) {
                    client = Some(from);
                    number += 1;
                    let packet = &buffer[..len];
                    let is_first = step > 0 && number % step == 0;
                    let copy = |count: &mut Attacker| {
                        count.sent += attacker.send_to(packet, relay).unwrap();
                    };
                    if is_first {
                        copy(&mut count);
                    }
                    out.send_to(packet, relay).unwrap();
                    if !is_first {
                        copy(&mut count);
                    }
                }
                while let Ok((len, _)) = out.recv_from(&mut buffer) {
                    entry.send_to(&buffer[..len], client.unwrap()).unwrap();
                }
                while let Ok((len, _)) = attacker.recv_from(&mut buffer) {
                    count.heard += len;
                }
            }
            count
        });
        Self {
            entry: addresses.0,
            client: addresses.1,
            is_over,
            thread,
        }
    }

    async fn ends(self) -> Attacker {
        self.is_over.store(true, Ordering::Relaxed);
        joined(self.thread).await
    }
}

/// Moves bytes to and fro while an attacker sends copies; returns what the attacker got.
fn with_copies(step: usize) -> Attacker {
    let rig = Rig::new();
    let attacker = Rc::new(Cell::default());
    let result = Rc::clone(&attacker);
    run(Chosen::Epoll, async move {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let way = Way::to(bound, step);
        let payload: Vec<u8> = (0..300_000_u32).map(|it| it.to_le_bytes()[0]).collect();
        let sent = payload.clone();
        let client = rig.client(way.entry, "tieline", move |mut client| {
            client.shake().unwrap();
            let heard = client.exchange(&sent);
            // What the client says last comes from its own address.
            (heard, client.exchange(b"last"))
        });
        let connection = host.next().await;
        let tasks = Rc::clone(&host);
        serve(&host, Rc::clone(&connection), move |stream| {
            stream.widen();
            tasks.spawn(Box::pin(echo_back(stream)));
        });
        let (heard, last) = joined(client).await;
        assert!(heard == payload);
        assert_eq!(last, b"last");
        if step == 0 {
            assert_eq!(connection.peer(), way.client);
            assert_eq!(rig.count(MOVES), 0);
        }
        bystander.ends_well().await;
        result.set(way.ends().await);
        host.kill().await;
    })
    .unwrap();
    attacker.get()
}

#[test]
fn copies_of_packets_from_another_address_move_nothing() {
    let attacker = with_copies(0);
    assert!(attacker.sent > 300_000, "{attacker:?}");
    // Copies of the hello may come to a handshake that has not begun, but they are answered at the first one's address.
    assert_eq!(attacker.heard, 0, "{attacker:?}");
}

#[test]
fn copies_that_come_first_get_three_times_their_bytes_and_the_connection_goes_on() {
    let attacker = with_copies(50);
    assert!(attacker.sent > 300_000, "{attacker:?}");
    assert!(attacker.heard <= 3 * attacker.sent, "{attacker:?}");
}

#[test]
fn an_address_that_only_asks_gets_three_times_what_it_sent() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let client = rig.shaken_raw(bound, move |raw| {
            // A peer that writes the address of a victim into its packets.
            let victim = UdpSocket::bind((loopback_of(77), 0)).unwrap();
            victim.set_nonblocking(true).unwrap();
            let challenge = [&[0x1a][..], &[5; 8]].concat();
            for _ in 0..5 {
                let short = raw.packet(DATA, &challenge, 0);
                victim.send_to(&short, bound).unwrap();
                raw.is_alive();
            }
            let mut buffer = [0; 2048];
            assert!(victim.recv_from(&mut buffer).is_err());
            // Long enough for an answer.
            let long = raw.packet(DATA, &challenge, FIRST_BYTES);
            victim.send_to(&long, bound).unwrap();
            raw.is_alive();
            let (len, _) = victim.recv_from(&mut buffer).unwrap();
            assert!((FIRST_BYTES..=3 * FIRST_BYTES).contains(&len), "{len}");
            assert!(victim.recv_from(&mut buffer).is_err());
            // The connection itself is where it was.
            assert!(!raw.heard.iter().any(|it| matches!(it, Heard::Challenge(_))));
            raw.leave();
        });
        joined(client).await;
        assert_eq!(rig.count(&dropped("unproved")), 5);
        assert_eq!(rig.count(MOVES), 0);
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_connection_that_seems_to_move_to_a_victim_comes_back() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let client = rig.shaken_raw(bound, move |raw| {
            let victim = UdpSocket::bind((loopback_of(78), 0)).unwrap();
            victim.set_nonblocking(true).unwrap();
            let (mut sent, mut heard, mut buffer) = (0, 0, [0; 2048]);
            let asked = |raw: &Raw| {
                let questions = raw.heard.iter();
                questions
                    .filter(|it| matches!(it, Heard::Challenge(_)))
                    .count()
            };
            for round in 0..100 {
                // Not only a question, so the relay takes it for a move.
                let packet = raw.packet(DATA, &[1], 0);
                let before = asked(raw);
                sent += victim.send_to(&packet, bound).unwrap();
                // The relay asks at the address before, unless the connection is there again by then.
                if round % 2 == 0 {
                    raw.until("a question", |it| asked(it) > before);
                }
                raw.is_alive();
            }
            while let Ok((len, _)) = victim.recv_from(&mut buffer) {
                heard += len;
            }
            // A question whether the peer is there is longer than three short packets; there are few of them.
            assert!(heard <= 3 * sent + 8 * 1500, "{heard} for {sent}");
            raw.is_alive();
            raw.leave();
            raw.socket.local_addr().unwrap()
        });
        let connection = host.next().await;
        let address = joined(client).await;
        rig.settled(CONNECTIONS, 0).await;
        assert_eq!(connection.peer(), address);
        // There and back, each time.
        assert!(rig.count(MOVES) >= 2, "{}", rig.count(MOVES));
        host.kill().await;
    })
    .unwrap();
}
