//! Frame headers and control messages alone: encoding and decoding.

mod link;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use link::{Link, NONCE, signed_hello};
use tieline_wire::frame::{self, Kind};
use tieline_wire::limits::HEADER_BYTES;
use tieline_wire::{Event, Register, Scheme, SessionId, Token, Transmit};

/// A frame of each shape: kind, session, payload length.
const FRAMES: [(Kind, u32, u32); 8] = [
    (Kind::Data, 7, 256),
    (Kind::Data, 9, 32 * 1024),
    (Kind::Credit, 7, 4),
    (Kind::Finish, 7, 8),
    (Kind::Reset, 9, 2),
    (Kind::Ping, 0, 8),
    (Kind::Open, 11, 64),
    (Kind::Register, 0, 300),
];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(50)
        .configure_from_args();
    headers(&mut criterion);
    messages(&mut criterion);
    criterion.final_summary();
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(FRAMES.len() as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            black_box(&FRAMES)
                .map(|(kind, session, len)| frame::encode(kind, SessionId(session), len, false))
        });
    });
    let encoded = FRAMES.map(|(kind, id, len)| frame::encode(kind, SessionId(id), len, false));
    let bytes_expected: u32 = FRAMES.iter().map(|(_, _, len)| len).sum();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let mut bytes = 0;
            for header in black_box(&encoded) {
                let header = frame::decode(*header).expect("a valid header");
                bytes += black_box(header).payload_len;
            }
            assert_eq!(bytes, bytes_expected);
        });
    });
    group.finish();
}

fn register() -> Register {
    Register {
        request: 7,
        name: Some("maya".into()),
        label: "127.0.0.1:8765/mcp".into(),
        scheme: Scheme::Http,
        authority: "127.0.0.1:8765".into(),
        base_path: "/mcp".into(),
        dcc: "maya".into(),
        capabilities: vec!["render".into(), "scene".into()],
        token: Token::new("x".repeat(200)),
        expose_all: false,
    }
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    group.throughput(Throughput::Elements(1));
    let mut link = Link::new();
    let now = link.now;
    let message = register();

    let (mut transmit, mut written) = (Transmit::new(), Vec::new());
    let mut write = || {
        link.agent.mux.register(black_box(&message));
        assert!(link.agent.mux.poll_transmit(now, &mut transmit));
        written.clear();
        for slice in transmit.slices() {
            written.extend_from_slice(&slice);
        }
        transmit.advance(transmit.len());
    };
    write();
    group.bench_function("write", |bencher| bencher.iter(&mut write));
    assert!(written.len() > HEADER_BYTES + 200);

    let frame = Bytes::from(written);
    let expected = Event::Register(message);
    group.bench_function("verify", |bencher| {
        bencher.iter(|| {
            let mut input = black_box(&frame).clone();
            let event = link.relay.mux.handle_input(now, &mut input);
            let event = event.expect("a valid message");
            assert_eq!(event.as_ref(), Some(&expected));
            event
        });
    });

    let hello = signed_hello();
    group.bench_function("signature", |bencher| {
        bencher.iter(|| black_box(&hello).verify(black_box(&NONCE)).expect("signed"));
    });
    group.finish();
}
