//! The mux of one link at work: both ends, with all frames, grants and scheduler turns.

mod link;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use link::Link;
use tieline_wire::limits::DATA_BYTES_SENT_MAX;
use tieline_wire::{Event, SessionId};

const SMALL_BYTES: usize = 256;

/// Full frames that are queued at once: a session may queue 256 KiB, headers included.
const LARGE_FRAMES: usize = 4;

/// Turns after which the window of a busy session has its largest size.
const GROWTH_TURNS: usize = 200;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
        .configure_from_args();
    round_trip(&mut criterion);
    small_frames(&mut criterion);
    large_frames(&mut criterion);
    open_and_close(&mut criterion);
    criterion.final_summary();
}

fn round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux");
    let mut link = Link::new();
    let id = link.open();
    let payload = Bytes::from(vec![1; SMALL_BYTES]);
    group.throughput(Throughput::Elements(1));
    group.bench_function("round_trip_256", |bencher| {
        bencher.iter(|| {
            let back = link.round_trip(id, black_box(&payload).clone());
            assert_eq!(back, SMALL_BYTES);
        });
    });
    group.finish();
    check_conserved(&link);
}

/// One frame on each of many sessions in each turn.
fn small_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux");
    let payload = Bytes::from(vec![1; SMALL_BYTES]);
    for count in [1_usize, 64, 512] {
        let mut link = Link::new();
        let sessions: Vec<_> = (0..count).map(|_| link.open()).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("frames_256_sessions_{count}"), |bencher| {
            bencher.iter(|| {
                for id in &sessions {
                    let sent = link.relay.mux.send(*id, black_box(&payload).clone(), false);
                    sent.expect("credit");
                }
                assert_eq!(receive(&mut link), count * SMALL_BYTES);
            });
        });
        check_conserved(&link);
    }
    group.finish();
}

fn large_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux");
    let mut link = Link::new();
    let id = link.open();
    let payload = Bytes::from(vec![1; DATA_BYTES_SENT_MAX]);
    grow_window(&mut link, id);
    group.throughput(Throughput::Elements(LARGE_FRAMES as u64));
    group.bench_function("frames_32768", |bencher| {
        bencher.iter(|| {
            for _ in 0..LARGE_FRAMES {
                let sent = link.relay.mux.send(id, black_box(&payload).clone(), false);
                sent.expect("credit");
            }
            assert_eq!(receive(&mut link), LARGE_FRAMES * DATA_BYTES_SENT_MAX);
        });
    });
    group.finish();
    check_conserved(&link);
}

/// A session from its `Open` to the `Finish` of both ends.
fn open_and_close(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux");
    let mut link = Link::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("open_and_close", |bencher| {
        bencher.iter(|| {
            let id = link.open();
            link.relay.mux.finish(id);
            let end = Event::Finished { session: id };
            let mut ends = 0;
            link.carry_to_agent(|agent, event| {
                ends += usize::from(event == end);
                agent.finish(id);
            });
            link.carry_to_relay(|_, event| ends += usize::from(event == end));
            assert_eq!(ends, 2);
            assert!(!link.relay.mux.is_live(id) && !link.agent.mux.is_live(id));
        });
    });
    group.finish();
}

/// Delivers and consumes all bytes that the relay sent, and returns grants; returns the payload bytes.
fn receive(link: &mut Link) -> usize {
    let mut bytes = 0;
    link.carry_to_agent(|agent, event| {
        if let Event::Data {
            session, payload, ..
        } = event
        {
            agent.consumed(session, payload.len());
            bytes += payload.len();
        }
    });
    link.carry_to_relay(|_, event| assert!(matches!(event, Event::Pong { .. })));
    bytes
}

/// Streams as much as fits, so that the session's window grows.
fn grow_window(link: &mut Link, id: SessionId) {
    for _ in 0..GROWTH_TURNS {
        let len = link.relay.mux.send_capacity(id);
        let sent = link.relay.mux.send(id, Bytes::from(vec![1; len]), false);
        sent.expect("credit");
        assert_eq!(receive(link), len);
    }
}

/// Checks that no byte was lost, made up, or dropped for a session that had ended.
fn check_conserved(link: &Link) {
    let (relay, agent) = (link.relay.mux.counters(), link.agent.mux.counters());
    assert_eq!(relay.bytes_sent, agent.bytes_received);
    assert_eq!(agent.bytes_sent, relay.bytes_received);
    assert_eq!((relay.frames_dropped, agent.frames_dropped), (0, 0));
}
