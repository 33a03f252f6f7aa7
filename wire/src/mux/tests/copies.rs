//! Checks that payload stays in the memory it was read into until it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::limits::DATA_BYTES_SENT_MAX;

/// Memory that one read filled; counted while a reference to it exists.
struct Filled {
    memory: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A driver's reads: each has memory of its own, whose addresses are recorded.
#[derive(Default)]
struct Reads {
    held: Arc<AtomicUsize>,
    places: Vec<(usize, usize)>,
}

impl Reads {
    fn read(&mut self, memory: Vec<u8>) -> Bytes {
        self.held.fetch_add(1, Ordering::Relaxed);
        let held = Arc::clone(&self.held);
        let bytes = Bytes::from_owner(Filled { memory, held });
        let start = bytes.as_ptr().addr();
        self.places.push((start, start + bytes.len()));
        bytes
    }

    /// How many of these bytes are in memory that a read filled: all or none.
    fn in_place(&self, bytes: &[u8]) -> usize {
        let start = bytes.as_ptr().addr();
        let end = start + bytes.len();
        let lies_in = |(from, to): &(usize, usize)| *from <= start && end <= *to;
        if self.places.iter().any(lies_in) {
            bytes.len()
        } else {
            0
        }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// Sessions whose windows are far above the floor.
fn grown(pair: &mut Pair, count: usize) -> Vec<SessionId> {
    let sessions: Vec<_> = (0..count).map(|_| pair.session()).collect();
    for id in &sessions {
        pair.stream_to_agent(*id, 2_000_000);
    }
    sessions
}

#[test]
fn payload_leaves_from_the_memory_it_was_read_into() {
    let mut pair = Pair::connected();
    let sessions = grown(&mut pair, 20);
    let mut reads = Reads::default();
    let (mut payload_bytes, mut frames) = (0, 0);
    for (index, id) in sessions.iter().enumerate() {
        // Lengths from one byte to three frames.
        let len = 1 + index * 4_500;
        let payload = reads.read(vec![7; len]);
        pair.relay.send(*id, payload, false).unwrap();
        payload_bytes += len;
        frames += len.div_ceil(DATA_BYTES_SENT_MAX);
    }
    let mut transmit = Transmit::new();
    let (mut in_place, mut ours) = (0, 0);
    while pair.relay.poll_transmit(pair.now, &mut transmit) {
        for slice in transmit.slices() {
            let lie_there = reads.in_place(&slice);
            in_place += lie_there;
            ours += slice.len() - lie_there;
        }
        transmit.advance(transmit.len());
    }
    assert_eq!((in_place, ours), (payload_bytes, frames * HEADER_BYTES));
    assert_eq!(reads.held(), 0, "memory is held after the send");
}

#[test]
fn one_large_receive_feeds_many_sessions_from_its_own_memory() {
    const EACH: usize = 500;
    let mut pair = Pair::connected();
    let sessions: Vec<_> = (0..400).map(|_| pair.session()).collect();
    for id in &sessions {
        pair.relay.send(*id, vec![7; EACH].into(), false).unwrap();
    }
    let stream = take_output(&mut pair.relay, pair.now);
    // Not cut; cut in the middle of a header; cut in the middle of a payload.
    for cut in [
        stream.len(),
        EACH + HEADER_BYTES + 5,
        EACH + 2 * HEADER_BYTES + 5,
    ] {
        let mut agent = Pair::connected();
        let theirs: Vec<_> = sessions.iter().map(|_| agent.session()).collect();
        assert_eq!(theirs, sessions);
        let mut reads = Reads::default();
        let (mut in_place, mut fed) = (0, std::collections::HashSet::new());
        for part in [&stream[..cut], &stream[cut..]] {
            let part = reads.read(part.to_vec());
            for event in give_input(&mut agent.agent, agent.now, part).unwrap() {
                if let Event::Data {
                    session, payload, ..
                } = event
                {
                    in_place += reads.in_place(&payload);
                    fed.insert(session);
                }
            }
        }
        assert_eq!((in_place, fed.len()), (400 * EACH, 400), "cut at {cut}");
        assert_eq!(
            reads.held(),
            0,
            "the mux still holds memory that it has handed out"
        );
    }
}

#[test]
fn credit_and_heartbeats_ride_in_the_one_send_of_what_many_sessions_say() {
    let mut pair = Pair::connected();
    let sessions: Vec<_> = (0..100).map(|_| pair.session()).collect();
    // The agent's bytes are due a grant, and its ping is due an answer.
    pair.now = pair.now + Duration::from_secs(15);
    pair.agent.handle_timeout(pair.now).unwrap();
    for id in &sessions {
        pair.agent.send(*id, vec![1; 10_000].into(), false).unwrap();
    }
    let output = take_output(&mut pair.agent, pair.now);
    for event in give_input(&mut pair.relay, pair.now, output).unwrap() {
        if let Event::Data {
            session, payload, ..
        } = event
        {
            pair.relay.consumed(session, payload.len());
        }
    }
    pair.relay.handle_timeout(pair.now).unwrap();
    for id in &sessions {
        pair.relay.send(*id, vec![2; 100].into(), false).unwrap();
    }
    let sent = take_one_send(&mut pair.relay, pair.now);
    let count = |kind| sent.iter().filter(|(it, _)| it.kind == Some(kind)).count();
    let kinds = [Kind::Ping, Kind::Pong, Kind::Credit, Kind::Data];
    assert_eq!(kinds.map(count), [1, 1, 100, 100]);
    assert!(!pair.relay.wants_transmit(), "frames were left behind");
}
