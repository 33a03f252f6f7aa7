//! Bytes of state per idle session at each end of a link, as lines of JSON.
//!
//! No Criterion: allocated bytes are exact, so one run is enough.

#[path = "../link/mod.rs"]
mod link;

mod counting_allocator;

use bytes::Bytes;
use counting_allocator::{CountingAllocator, held_bytes};
use link::Link;
use tieline_wire::Mux;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Round trips before the measurement: none for sessions just opened, some for sessions idle again.
const ROUND_TRIPS: [usize; 2] = [0, 100];

fn main() {
    for round_trips in ROUND_TRIPS {
        let empty = ends_bytes(0, round_trips);
        for sessions in [1_000_usize, 10_000] {
            let full = ends_bytes(sessions, round_trips);
            for (end, full, empty) in [
                ("relay", full.relay, empty.relay),
                ("agent", full.agent, empty.agent),
            ] {
                let bytes = (full - empty) / sessions;
                // Each session has at least two windows of its own: fewer bytes would mean that it is missing.
                assert!(bytes > 64, "{bytes} bytes for each of {sessions} sessions");
                println!(
                    r#"{{"end": "{end}", "sessions": {sessions}, "round_trips": {round_trips}, "bytes": {bytes}}}"#
                );
            }
        }
    }
}

/// Bytes that the two muxes of a link hold.
struct Held {
    relay: usize,
    agent: usize,
}

/// Bytes that each mux frees when it is dropped, with `sessions` open and idle.
fn ends_bytes(sessions: usize, round_trips: usize) -> Held {
    let mut link = Link::new();
    let ids: Vec<_> = (0..sessions).map(|_| link.open()).collect();
    for _ in 0..round_trips {
        for id in &ids {
            assert_eq!(link.round_trip(*id, Bytes::from_static(&[1; 256])), 256);
        }
    }
    link.settle();
    assert_eq!(link.relay.mux.session_count(), sessions);
    assert_eq!(link.agent.mux.session_count(), sessions);
    let Link { relay, agent, .. } = link;
    Held {
        relay: freed_by(relay.mux),
        agent: freed_by(agent.mux),
    }
}

fn freed_by(mux: Mux) -> usize {
    let before = held_bytes();
    drop(mux);
    before - held_bytes()
}
