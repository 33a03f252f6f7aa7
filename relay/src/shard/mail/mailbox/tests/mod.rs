//! Tests on real rings and threads: wake-ups, full mailboxes on both sides, and outboxes.

mod model;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tieline_wire::Scheme;
use tokio::sync::oneshot;

use super::super::message::Stop;
use super::*;
use crate::directory::RouteUpdate;
use crate::io::{Chosen, Listener, Received, choose, run, sleep, spawn};
use crate::registry::TunnelInfo;

/// Timeout far above the duration of any test; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest round trip of an echo during a flood, on a machine that is busy with other tests.
const ECHO_TIME_MAX: Duration = Duration::from_secs(2);

fn drivers() -> [Chosen; 2] {
    [choose(None).unwrap().0, Chosen::Epoll]
}

fn name(text: &str) -> TunnelId {
    TunnelId::parse(text).unwrap()
}

/// A message without effect that carries a number.
fn numbered(revision: u64) -> Message {
    Message::RouteApplied {
        tunnel: name("maya"),
        revision,
        shard: 0,
    }
}

fn route(tunnel: &str, revision: u64) -> Message {
    Message::Route(Arc::new(RouteUpdate {
        tunnel: name(tunnel),
        revision,
        agents: Vec::new(),
        info: Arc::new(TunnelInfo {
            scheme: Scheme::Tcp,
            authority: String::new(),
            base_path: String::new(),
            dcc: String::new(),
            capabilities: Vec::new(),
            ..TunnelInfo::default()
        }),
        expected: Vec::new(),
        forget: false,
    }))
}

/// Kind, name and number of a message.
fn told(message: &Message) -> (&'static str, String, u64) {
    match message {
        Message::RouteApplied {
            tunnel, revision, ..
        } => ("applied", tunnel.to_string(), *revision),
        Message::Route(update) => ("route", update.tunnel.to_string(), update.revision),
        _ => ("other", String::new(), 0),
    }
}

fn send(sender: &MailboxSender, mut message: Message) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(back) = sender.try_send(message) {
        assert!(Instant::now() < deadline, "the mailbox stays full");
        message = back;
        thread::yield_now();
    }
}

/// Waits until `count` reaches `wanted`.
fn await_count(count: &AtomicU64, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while count.load(Ordering::SeqCst) < wanted {
        assert!(
            Instant::now() < deadline,
            "message {wanted} was not handled: a wake-up was lost"
        );
        thread::yield_now();
    }
}

/// Starts a thread that handles `total` messages; also returns the count of those that it has handled.
fn receiver(
    driver: Chosen,
    mailbox: Mailbox,
    total: u64,
) -> (Arc<AtomicU64>, thread::JoinHandle<()>) {
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let thread = thread::spawn(move || {
        run(driver, async {
            let mut mailbox = mailbox.open().unwrap();
            for _ in 0..total {
                mailbox.next().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        })
        .unwrap();
    });
    (handled, thread)
}

#[test]
fn a_message_wakes_its_receiver_at_whatever_step_of_parking_it_comes() {
    const ROUNDS: u64 = 60_000;
    for driver in drivers() {
        let (sender, mailbox) = mailbox().unwrap();
        let (handled, thread) = receiver(driver, mailbox, ROUNDS);
        let mut random = fastrand::Rng::with_seed(1);
        for round in 1..=ROUNDS {
            // One message at a time, since a second message would hide a lost wake-up.
            send(&sender, numbered(round));
            await_count(&handled, round);
            for _ in 0..random.u32(..400) {
                std::hint::spin_loop();
            }
        }
        thread.join().unwrap();
    }
}

#[test]
fn many_senders_at_once_lose_nothing_and_leave_nobody_asleep() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 20_000;
    for driver in drivers() {
        let (sender, mailbox) = mailbox().unwrap();
        let (handled, receiving) = receiver(driver, mailbox, SENDERS * EACH);
        thread::scope(|scope| {
            for seed in 0..SENDERS {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for round in 0..EACH {
                        send(&sender, numbered(round));
                        // Bursts and gaps make the receiver park again and again.
                        if random.u32(..64) == 0 {
                            for _ in 0..random.u32(..20_000) {
                                std::hint::spin_loop();
                            }
                        }
                    }
                });
            }
        });
        await_count(&handled, SENDERS * EACH);
        receiving.join().unwrap();
    }
}

#[test]
fn a_full_mailbox_gives_the_message_back() {
    let (sender, mailbox) = mailbox().unwrap();
    for count in 0..MAILBOX_MESSAGES_MAX {
        assert!(sender.try_send(numbered(count as u64)).is_ok());
    }
    let back = sender.try_send(numbered(7_777)).err().unwrap();
    assert_eq!(told(&back), ("applied", "maya".to_owned(), 7_777));
    // A sender is not blocked by a shard that has stopped.
    drop(mailbox);
    assert!(sender.try_send(numbered(1)).is_ok());
}

#[test]
fn a_message_that_meets_a_stopping_shard_is_dropped() {
    for delay in 0..1_000 {
        let (sender, mailbox) = mailbox().unwrap();
        let (answer, mut answered) = oneshot::channel();
        let after = String::new();
        thread::scope(|scope| {
            scope.spawn(|| drop(mailbox));
            (0..delay * 10).for_each(|_| std::hint::spin_loop());
            assert!(sender.try_send(Message::Report { after, answer }).is_ok());
        });
        // If the message were kept, its sender would wait for the answer for ever.
        let outcome = answered.try_recv().map(|_| ());
        assert_eq!(outcome, Err(oneshot::error::TryRecvError::Closed));
    }
}

#[test]
fn route_updates_that_wait_coalesce_and_the_latest_wins() {
    let (sender, mailbox) = mailbox().unwrap();
    let mut outbox = Outbox::default();
    for count in 0..MAILBOX_MESSAGES_MAX {
        outbox.push(numbered(count as u64));
    }
    assert!(outbox.flush(&sender) && outbox.is_empty());

    // The mailbox is full from here on: 1,000 updates of two names coalesce to two.
    for revision in 1..=500 {
        for tunnel in ["maya", "nuke"] {
            outbox.push(route(tunnel, revision));
            assert!(!outbox.flush(&sender));
        }
        if revision == 1 {
            outbox.push(numbered(9_999));
        }
    }
    assert_eq!((outbox.order.len(), outbox.updates.len()), (3, 2));

    for count in 0..MAILBOX_MESSAGES_MAX {
        assert_eq!(told(&mailbox.queue.recv().unwrap()).2, count as u64);
    }
    assert!(outbox.flush(&sender) && outbox.is_empty());
    let rest: Vec<_> = std::iter::from_fn(|| mailbox.queue.try_recv().ok())
        .map(|message| told(&message))
        .collect();
    let wanted = [
        ("route", "maya", 500),
        ("route", "nuke", 500),
        ("applied", "maya", 9_999),
    ];
    assert_eq!(
        rest,
        wanted.map(|(kind, name, it)| (kind, name.to_owned(), it))
    );
}

#[test]
fn what_waits_leaves_in_order_as_room_comes() {
    let (sender, mailbox) = mailbox().unwrap();
    let mut outbox = Outbox::default();
    let total = 3 * MAILBOX_MESSAGES_MAX as u64 + 5;
    for revision in 0..total {
        outbox.push(numbered(revision));
    }
    for wanted in 0..total {
        if wanted % 100 == 0 {
            outbox.flush(&sender);
        }
        let message = mailbox.queue.try_recv().unwrap();
        assert_eq!(told(&message).2, wanted);
    }
    assert!(outbox.is_empty());
}

/// A shard that answers every message with one to its peer, and echoes what its caller sends.
struct Flooded {
    peer: MailboxSender,
    outbox: std::cell::RefCell<Outbox>,
    flushing: std::cell::Cell<bool>,
    handled: Arc<AtomicU64>,
    waited: Arc<AtomicUsize>,
}

impl Flooded {
    /// Posts as a shard does: what does not fit waits in the outbox and is tried again later.
    fn post(self: &Rc<Self>, message: Message) {
        let mut outbox = self.outbox.borrow_mut();
        outbox.push(message);
        if outbox.flush(&self.peer) {
            return;
        }
        self.waited.fetch_add(1, Ordering::SeqCst);
        if !self.flushing.replace(true) {
            let shard = Rc::clone(self);
            spawn(async move {
                loop {
                    sleep(Duration::from_millis(1)).await;
                    if shard.outbox.borrow_mut().flush(&shard.peer) {
                        return shard.flushing.set(false);
                    }
                }
            })
            .detach();
        }
    }

    async fn serve(self: Rc<Self>, mailbox: Mailbox, listener: TcpListener) {
        let listener = Listener::new(listener).unwrap();
        spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut bytes = BytesMut::new();
            loop {
                socket.readable().await;
                match socket.recv(&mut bytes, 4096).unwrap() {
                    Received::Bytes(_) => assert_eq!(socket.send(&bytes).unwrap(), bytes.len()),
                    Received::Nothing => {}
                    Received::End => return,
                }
                bytes.clear();
            }
        })
        .detach();
        // Three mailboxes full on each side keep both mailboxes and both outboxes full.
        for count in 0..3 * MAILBOX_MESSAGES_MAX as u64 {
            self.post(numbered(count));
        }
        let mut mailbox = mailbox.open().unwrap();
        loop {
            match mailbox.next().await.unwrap() {
                Message::Stop(_) => return,
                message => {
                    self.handled.fetch_add(1, Ordering::SeqCst);
                    self.post(message);
                }
            }
        }
    }
}

#[test]
fn two_shards_with_full_mailboxes_neither_deadlock_nor_starve_their_io() {
    for driver in drivers() {
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| mailbox().unwrap()).unzip();
        let handled: Vec<_> = (0..2).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let waited = Arc::new(AtomicUsize::new(0));
        let mut callers = Vec::new();
        let mut threads = Vec::new();
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address: SocketAddr = listener.local_addr().unwrap();
            let (peer, handled) = (senders[1 - index].clone(), Arc::clone(&handled[index]));
            let waited = Arc::clone(&waited);
            threads.push(thread::spawn(move || {
                run(driver, async move {
                    let shard = Rc::new(Flooded {
                        peer,
                        outbox: std::cell::RefCell::default(),
                        flushing: std::cell::Cell::new(false),
                        handled,
                        waited,
                    });
                    shard.serve(mailbox, listener).await;
                })
                .unwrap();
            }));
            let caller = TcpStream::connect(address).unwrap();
            caller.set_nodelay(true).unwrap();
            caller.set_read_timeout(Some(ECHO_TIME_MAX)).unwrap();
            callers.push(caller);
        }
        for round in 0..200_u32 {
            let before = [&handled[0], &handled[1]].map(|count| count.load(Ordering::SeqCst));
            for caller in &mut callers {
                let mut answer = [0; 4];
                caller.write_all(&round.to_le_bytes()).unwrap();
                caller.read_exact(&mut answer).unwrap();
                assert_eq!(u32::from_le_bytes(answer), round);
            }
            for (count, before) in handled.iter().zip(before) {
                await_count(count, before + 1);
            }
        }
        assert!(
            waited.load(Ordering::SeqCst) > 0,
            "the mailboxes were never full: the flood proves nothing"
        );
        for sender in &senders {
            send(sender, Message::Stop(Stop::NOW));
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_mailbox_that_is_never_empty_lets_timers_fire() {
    for driver in drivers() {
        let (sender, mailbox) = mailbox().unwrap();
        let handled = run(driver, async {
            let mut mailbox = mailbox.open().unwrap();
            let ticks = Rc::new(std::cell::Cell::new(0));
            let ticking = Rc::clone(&ticks);
            spawn(async move {
                loop {
                    sleep(Duration::from_millis(1)).await;
                    ticking.set(ticking.get() + 1);
                }
            })
            .detach();
            send(&sender, numbered(0));
            send(&sender, numbered(0));
            let mut handled = 0;
            while ticks.get() < 3 && handled < 5_000_000 {
                send(&sender, mailbox.next().await.unwrap());
                handled += 1;
            }
            handled
        });
        assert!(handled.unwrap() < 5_000_000, "{driver:?}: no timer fired");
    }
}
