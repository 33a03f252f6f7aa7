use std::sync::Arc;

use bytes::Bytes;
use tieline_wire::{Refusal, RefusalReason, RelayHello, Settings};

use super::*;
use crate::clock::Clock;
use crate::io::{Chosen, choose, pair, spawn};
use crate::metrics::ShardMetrics;
use crate::session::Lanes;

mod copies;
mod shreds;

/// A shard that ignores all events of a link.
struct Nobody;

impl LinkHost for Nobody {
    fn hello(&self, _: AgentHello, _: bool) -> Result<Stay, LinkEnd> {
        Ok(Stay::Here)
    }

    fn register(&self, _: &mut Mux, _: Register) {}

    fn unregister(&self, _: &TunnelId) {}

    fn lost(&self, _: Lost) {}

    fn going_away(&self) {}
}

fn on_each_driver(test: impl AsyncFn()) {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        crate::io::run(driver, test()).unwrap();
    }
}

fn streams() -> (Stream, Stream) {
    let (one, other) = pair().unwrap();
    (Stream::new(one), Stream::new(other))
}

/// Two ends of a TCP connection.
fn connected() -> (Stream, Stream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Stream::new(ours.into()), Stream::new(agent.into()))
}

/// Serves an established link over `stream`.
fn serve(link: &Rc<SharedMux>, stream: Stream) {
    let link = Rc::clone(link);
    spawn(async move {
        let block = LinkBlock::default();
        run(stream, true, &link, &Nobody, &block).await
    })
    .detach();
}

/// Reads what the relay sends to `agent`, and returns how the connection ends: in order, or with an error.
async fn end_of(agent: &Stream) -> std::io::Result<Received> {
    let mut heard = BytesMut::new();
    loop {
        agent.readable().await;
        match agent.recv(&mut heard, 64 * 1024) {
            Ok(Received::Bytes(_) | Received::Nothing) => {}
            end => return end,
        }
    }
}

#[test]
fn a_link_whose_agent_answers_nothing_is_reset_and_others_end_in_order() {
    on_each_driver(async || {
        for is_websocket in [false, true] {
            for (reason, is_reset) in [
                (LinkEnd::Stale, true),
                (LinkEnd::LinkLost, true),
                (LinkEnd::Protocol, false),
                (LinkEnd::ShuttingDown, false),
                (LinkEnd::Superseded, false),
            ] {
                let link = crate::session::tests::rig::Link::established();
                let (mut ours, agent) = connected();
                if is_websocket {
                    ours = ours.over_websocket(Bytes::new());
                }
                link.relay.close(reason);
                let left = run(ours, true, &link.relay, &Nobody, &LinkBlock::default()).await;
                assert!(matches!(left, Left::Ended(it) if it == reason));
                match end_of(&agent).await {
                    Ok(end) => assert!(!is_reset && matches!(end, Received::End), "{reason}"),
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                        assert!(is_reset, "{reason}");
                    }
                }
            }
        }
    });
}

#[test]
fn an_agent_that_asks_without_end_and_reads_slowly_is_cut_off() {
    let clock = Clock::start();
    let hello = RelayHello::new([0; 32], 1);
    let mux = Mux::relay(hello, Settings::default(), clock.now());
    let link = {
        let metrics = Arc::new(ShardMetrics::default());
        let lanes = Lanes::new(0, Arc::clone(&metrics));
        SharedMux::new(mux, clock, metrics, lanes, Rc::default())
    };
    link.receive(&mut Bytes::from_static(&PREFACE), |_, _| {})
        .unwrap();
    let mut transmit = Transmit::new();
    for request in 0..100_000 {
        if let Err(error) = link.receive(&mut Bytes::new(), |_, _| {}) {
            assert_eq!(error.reason, LinkEnd::Overload);
            assert!(transmit.len() < 2 * GATHER_BYTES_MAX, "{}", transmit.len());
            return;
        }
        let refusal = Refusal::new(RefusalReason::BadToken, "x".repeat(500));
        link.with_mux(|mux| mux.refuse_registration(request, refusal));
        // The socket takes one byte at a time.
        assert!(gather(&link, &mut transmit));
        transmit.advance(1);
    }
    panic!(
        "{} bytes wait for a peer that does not read",
        transmit.len()
    );
}
