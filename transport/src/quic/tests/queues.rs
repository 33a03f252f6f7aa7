//! A ping behind a queue of seconds in the network.

use super::*;

/// Sessions whose bytes fill the queue together, within their first credit.
const SESSIONS: usize = 32;

/// Bytes of the sessions before the path narrows, so that QUIC lets the whole queue be on its way at once.
const FAST_BYTES: usize = 2_000_000;

/// Bytes a second of the narrow path.
const RATE: u64 = 20_000;

/// Bytes that the queue is made of: 8 s.
const QUEUE_BYTES: usize = 160_000;

/// Bytes that a session gives its mux at once: the sessions' bytes are sent in turns, and none of them has to wait for long
/// until a whole piece is acknowledged.
const PIECE_BYTES: usize = 1024;

/// Gives a session's mux up to `most` bytes, as its credit allows; returns their number.
fn give(peer: &mut Peer, id: SessionId, most: usize) -> usize {
    let mut given = 0;
    loop {
        let room = peer.mux.send_capacity(id);
        let len = room.min(PIECE_BYTES).min(most - given);
        if len == 0 {
            return given;
        }
        peer.mux.send(id, bytes_of(len), false).unwrap();
        given += len;
    }
}

/// A link and its sessions. A queue of 8 s towards the agent was just filled, and the agent's program takes nothing of it, so
/// that the relay hears nothing but the answer to its ping.
fn queued() -> (Pair, Vec<SessionId>) {
    let mut pair = Pair::connected();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| pair.session(Mode::Bytes)).collect();
    let (mut given, mut heard) = (0, 0);
    pair.run("the fast bytes", |[relay, agent]| {
        while relay.mux.poll_writable().is_some() {}
        for id in &sessions {
            given += give(relay, *id, FAST_BYTES - given);
        }
        for event in agent.take_events() {
            if let Event::Data {
                session, payload, ..
            } = event
            {
                heard += payload.len();
                agent.mux.consumed(session, payload.len());
            }
        }
        heard == FAST_BYTES
    });
    // The last grants.
    pair.pass(Duration::from_millis(100));
    pair.network.narrows(RATE);
    let mut given = 0;
    pair.run("the queue", |[relay, _]| {
        for id in &sessions {
            given += give(relay, *id, QUEUE_BYTES - given);
        }
        given == QUEUE_BYTES
    });
    (pair, sessions)
}

#[test]
fn a_link_is_kept_while_the_bytes_in_front_of_its_ping_are_acknowledged() {
    let (mut pair, _) = queued();
    pair.run("the answer", |[relay, _]| {
        relay.mux.rtt() > Some(Duration::from_secs(5))
    });
    assert!(pair.peers.iter().all(|peer| peer.error.is_none()));
    let progress = pair.peers[RELAY].streams.progress().read();
    assert!(
        progress.acked > (FAST_BYTES + QUEUE_BYTES / 2) as u64,
        "{progress:?}"
    );
}

#[test]
fn a_path_that_dies_behind_its_queue_is_noticed_in_time_also_if_sessions_are_reset() {
    for resets in [false, true] {
        let (mut pair, sessions) = queued();
        pair.pass(Duration::from_millis(2_500));
        assert!(pair.peers[RELAY].error.is_none());
        pair.network.cut();
        let cut_at = pair.now;
        if resets {
            for id in &sessions {
                pair.peers[RELAY].mux.reset(*id, SessionEnd::Cancelled);
            }
        }
        pair.run("the end of the link", |[relay, _]| relay.error.is_some());
        // 3 s from the last look that finds progress, which is half a second after the cut at most.
        let took = pair.now - cut_at;
        assert!(took < Duration::from_millis(3_700), "{took:?}");
        let error = pair.peers[RELAY].error.take().unwrap();
        assert_eq!(error.reason, LinkEnd::Stale, "{error}");
    }
}
