//! Payloads between real sockets: each is sent from the memory that it was read into, and one turn of many
//! sessions is one read and one send of their link.

use super::*;
use crate::link::tests::witness::{self, Place};

/// Number of sessions; each answer takes two slices of a gathered write, a header and a payload.
const SESSIONS: usize = 150;

/// Number of sessions to which the caller sends enough bytes for a credit grant.
const GRANTED: usize = 2;

const ANSWER: &[u8] = &[b'u'; 700];

fn request(index: usize) -> Bytes {
    vec![b'd'; if index < GRANTED { 10_000 } else { 100 }].into()
}

/// Runs one turn in which every target and the link have bytes to read; returns the events at the relay.
async fn one_turn(relay: &mut Relay) -> (Vec<(SessionId, TcpStream)>, Vec<Event>) {
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(relay.open().await);
    }
    let later = relay.now() + Duration::from_secs(15);
    relay.mux.handle_timeout(later).unwrap();
    for (index, (id, _)) in sessions.iter().enumerate() {
        relay.mux.send(*id, request(index), false).unwrap();
    }
    let words = relay.words();
    relay.stream.writable().await.unwrap();

    // No other task runs before the next await, so the agent finds all bytes at once.
    witness::watch();
    assert_eq!(relay.stream.try_write(&words).unwrap(), words.len());
    for (_, target) in &sessions {
        assert_eq!(target.try_write(ANSWER).unwrap(), ANSWER.len());
    }
    let (mut events, mut heard) = (Vec::new(), 0);
    while heard < SESSIONS * ANSWER.len() {
        for event in relay.hears().await {
            if let Event::Data { payload, .. } = &event {
                heard += payload.len();
            }
            events.push(event);
        }
    }
    (sessions, events)
}

fn bytes_of(places: &[Place]) -> usize {
    places.iter().map(|it| it.len()).sum()
}

#[tokio::test]
async fn one_turn_of_many_sessions_is_one_send_of_what_lies_where_it_was_read() {
    let mut relay = Relay::linked(|_| {}).await;
    let (sessions, events) = one_turn(&mut relay).await;
    let writes = witness::writes_of(far_end(&relay.stream));
    let [(offered, taken)] = &writes[..] else {
        let sends: Vec<_> = writes.iter().map(|(it, taken)| (it.len(), taken)).collect();
        panic!("pieces and bytes of each send: {sends:?}");
    };
    assert_eq!(*taken, bytes_of(offered));
    for (_, target) in &sessions {
        let reads = witness::reads_of(far_end(target));
        assert_eq!(bytes_of(&reads), ANSWER.len());
        assert!(
            reads.iter().all(|it| offered.contains(it)),
            "the link sent a copy"
        );
    }
    // The same send carried the answer to a ping, and the credit.
    assert!(events.iter().any(|it| matches!(it, Event::Pong { .. })));
    for (id, _) in &sessions[..GRANTED] {
        let capacity = relay.mux.send_capacity(*id);
        assert!(capacity > 10_000, "{capacity} after a grant");
    }
}

#[tokio::test]
async fn one_read_of_a_link_feeds_many_sessions_from_its_own_memory() {
    let mut relay = Relay::linked(|_| {}).await;
    let (sessions, _) = one_turn(&mut relay).await;
    let reads = witness::reads_of(far_end(&relay.stream));
    let [read] = &reads[..] else {
        panic!("{} reads", reads.len());
    };
    for (index, (_, target)) in sessions.iter().enumerate() {
        let writes = witness::writes_of(far_end(target));
        let taken: usize = writes.iter().map(|(_, taken)| taken).sum();
        assert_eq!(taken, request(index).len());
        let offered: Vec<_> = writes.into_iter().flat_map(|(places, _)| places).collect();
        assert!(
            offered.iter().all(|it| read.holds(*it)),
            "a target got a copy"
        );
    }
}
