//! What an address gets that no client has proved: at most three times what came from it (RFC 9000, section 8), and no
//! answer to an answer.

use super::raw::{DATA, FIRST_BYTES, HANDSHAKE, INITIAL, config};
use super::*;

/// Takes one datagram that has arrived, if there is one.
fn arrived(socket: &UdpSocket) -> Option<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65_536];
    let (len, _) = socket.recv_from(&mut buffer).ok()?;
    buffer.truncate(len);
    Some(buffer)
}

#[test]
fn a_client_that_proves_nothing_gets_three_times_what_it_sent() {
    // With 300 names, a certificate of some 12 KB.
    let names: Vec<_> = (0..300)
        .map(|it| format!("relay-{it}.with-many-names.example"))
        .collect();
    let mut all: Vec<_> = names.iter().map(String::as_str).collect();
    all.push("relay.example");
    let mut rig = Rig::named(&all);
    rig.handshake_timeout = Duration::from_secs(1);
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let cases = [(Vec::new(), 0), (Vec::new(), 3), (vec![9; 70], 0)];
        for (number, (token, pings)) in (1..).zip(cases) {
            let mut raw = rig.raw(bound, 1);
            raw.acknowledges = false;
            raw.token = token;
            raw.hello();
            for _ in 0..pings {
                // The relay has this much more to send, and hears of no packet that has arrived.
                raw.say(INITIAL, &[1]);
            }
            rig.counted(&failures("timeout"), number).await;
            rig.settled(CONNECTIONS, 0).await;
            // The client's keys of the handshake are not needed: only lengths count.
            let mut heard = 0;
            while let Some(datagram) = arrived(&raw.socket) {
                heard += datagram.len();
            }
            let sent = raw.sent_bytes;
            assert!(heard <= 3 * sent, "{heard} for {sent}");
            assert!(heard > FIRST_BYTES, "{heard} for {sent}");
        }
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn answers_of_servers_are_not_answered() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let before = rig.count(CONNECTIONS);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Version negotiation, a Retry, and a packet of a handshake.
        for (head, reason) in [
            ([0x80, 0, 0, 0, 0, 8], "malformed"),
            ([0xf0, 0, 0, 0, 1, 8], "unknown_connection"),
            ([0xe0, 0, 0, 0, 1, 8], "unknown_connection"),
        ] {
            let wanted = rig.count(&dropped(reason)) + 1;
            let mut packet = head.to_vec();
            packet.resize(1_300, 8);
            sender.send_to(&packet, bound).unwrap();
            rig.counted(&dropped(reason), wanted).await;
            assert_eq!(arrived(&sender), None);
        }
        assert_eq!(rig.count(CONNECTIONS), before);
        bystander.ends_well().await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn stateless_resets_are_shorter_than_what_they_answer_so_that_loops_end() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let mut raw = rig.raw(bound, 1);
        let shaken = thread::spawn(move || {
            raw.shake().unwrap();
            raw.leave();
            raw
        });
        let mut raw = joined(shaken).await;
        rig.settled(CONNECTIONS, 0).await;
        while arrived(&raw.socket).is_some() {}
        let unknown = dropped("unknown_connection");
        let mut packet = raw.packet(DATA, &[1], 300);
        let mut answers = 0;
        loop {
            let wanted = rig.count(&unknown) + rig.count(&dropped("malformed")) + 1;
            raw.send(&packet);
            rig.sees("the packet", |it| {
                it.count(&unknown) + it.count(&dropped("malformed")) == wanted
            })
            .await;
            // Each answer goes back to the relay, as from another relay.
            let Some(answer) = arrived(&raw.socket) else {
                break;
            };
            assert!(answer.len() < packet.len());
            packet = answer;
            answers += 1;
        }
        // One in 256 resets seems to be of an earlier connection.
        assert!(answers >= 1);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_token_is_good_for_its_address_alone() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let endpoint = Rc::clone(&host.all.borrow()[0]);
        let unproved: Vec<_> = (0..UNPROVED_MAX).map(|_| endpoint.unproved()).collect();
        let mut raw = rig.raw(bound, 2);
        raw.acknowledges = false;
        raw.hello();
        rig.counted("relay_quic_retries_total", 1).await;
        raw.drain();
        assert_eq!(raw.heard, [raw::Heard::Retry]);
        assert!(raw.heard_bytes < FIRST_BYTES);
        // From another address, and from another port of the same one.
        let bad = dropped("bad_initial");
        for (number, host) in (1..).zip([3, 2]) {
            let thief = UdpSocket::bind((loopback_of(host), 0)).unwrap();
            thief.send_to(&raw.hello_datagram(), bound).unwrap();
            rig.counted(&bad, number).await;
            let told = arrived(&thief).unwrap();
            assert!(told.len() < FIRST_BYTES);
            assert_eq!(arrived(&thief), None);
        }
        // A damaged token is none, so the relay asks again.
        let token = raw.token.clone();
        raw.token[7] ^= 1;
        raw.hello();
        rig.counted("relay_quic_retries_total", 2).await;
        // The client itself has not lost anything.
        raw.drain();
        assert_ne!(raw.token, token);
        raw.acknowledges = true;
        let shaken = thread::spawn(move || {
            raw.shake().unwrap();
            raw.leave();
        });
        joined(shaken).await;
        host.next().await;
        drop(unproved);
        bystander.ends_well().await;
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn early_data_is_neither_offered_nor_taken() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let mut tls = config(&rig.cert, &["tieline"]);
        tls.enable_early_data = true;
        let tls = Arc::new(tls);
        let client = thread::spawn(move || {
            let mut first = Raw::with(bound, loopback_of(1), Arc::clone(&tls));
            first.shake().unwrap();
            first.until("a ticket", |it| it.tls.tls13_tickets_received() > 0);
            first.leave();
            let mut second = Raw::with(bound, loopback_of(1), tls);
            // The ticket allows none, which the client's TLS knows.
            assert!(second.tls.zero_rtt_keys().is_none());
            // Early packets before and behind the hello change nothing.
            let early = second.early_packet();
            second.send(&early);
            second.hello();
            second.send(&early);
            second.shake().unwrap();
            let kind = second.tls.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Resumed));
            assert!(!second.tls.is_early_data_accepted());
            second.is_alive();
            second.leave();
        });
        joined(client).await;
        assert!(rig.count(&dropped("unknown_connection")) >= 1);
        bystander.ends_well().await;
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_client_that_names_no_protocol_is_refused() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let mut raw = Raw::new(bound, loopback_of(1), &rig.cert, &[]);
        let shaken = thread::spawn(move || raw.shake());
        // The alert no_application_protocol (RFC 7301, RFC 9001).
        assert_eq!(joined(shaken).await, Err(0x178));
        assert!(rig.count(&failures("alpn")) >= 1);
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_handshake_that_goes_beyond_its_memory_is_refused() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let mut raw = rig.raw(bound, 1);
        let client = thread::spawn(move || {
            raw.hello();
            raw.say(INITIAL, &raw::crypto(1 << 30, b"far away"));
            raw.close_code()
        });
        // Either the buffer is too small (13), or the hello is whole and nothing may follow (10).
        assert!(matches!(joined(client).await, 10 | 13));
        rig.counted(&failures("protocol"), 1).await;
        let mut raw = rig.raw(bound, 1);
        let client = thread::spawn(move || {
            raw.shake().unwrap();
            // The keys of the handshake are gone, so this is dropped.
            raw.say(HANDSHAKE, &raw::crypto(1 << 30, b"far away"));
            raw.is_alive();
            raw.say(DATA, &raw::crypto(1 << 30, b"far away"));
            raw.close_code()
        });
        assert_eq!(joined(client).await, 13);
        bystander.ends_well().await;
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}
