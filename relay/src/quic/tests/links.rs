//! A link over QUIC: its handshake, a session with both its directions, and its end.

use bytes::BytesMut;
use tieline_transport::Received;
use tieline_wire::{
    AgentHello, Event as LinkEvent, LinkEnd, Lost, Moment, Mux, Register, RelayHello, Settings,
    TunnelId,
};

use super::connected::use_up_ids;
use super::*;
use crate::clock::Clock;
use crate::io::{Stream, pair};
use crate::link::{LinkHost, Stay, over_quic};
use crate::session::tests::rig::agent_hello;
use crate::session::{Lanes, SessionCaller, SharedMux, TunnelSessions};
use crate::splice::splice;

/// A shard that waits for an agent's hello.
#[derive(Default)]
struct Greeted(Signal);

impl LinkHost for Greeted {
    fn hello(&self, _: AgentHello, may_move: bool) -> Result<Stay, LinkEnd> {
        assert!(!may_move);
        self.0.raise();
        Ok(Stay::Here)
    }

    fn register(&self, _: &mut Mux, _: Register) {}

    fn unregister(&self, _: &TunnelId) {}

    fn lost(&self, _: Lost) {}

    fn going_away(&self) {}
}

/// The relay's end of a link, whose agent signs the nonce of [`agent_hello`].
fn shared(rig: &Rig) -> Rc<SharedMux> {
    let clock = Clock::start();
    let hello = RelayHello::new([7; 32], 10);
    let mux = Mux::relay(hello, Settings::default(), clock.now()).over_streams();
    let lanes = Lanes::new(0, Arc::clone(&rig.metrics));
    SharedMux::new(mux, clock, Arc::clone(&rig.metrics), lanes, Rc::default())
}

/// An agent that counts what a session brings, and answers with the number; returns the reason of the link's end.
fn counting(mut client: Client) -> (Option<LinkEnd>, ConnectionError) {
    client.shake().unwrap();
    let mut mux = Mux::agent(Settings::default(), Moment::default()).over_streams();
    let (mut count, mut reason) = (0, None);
    let lost = client.serve(&mut mux, |mux, event| {
        match event {
            LinkEvent::RelayHello(_) => mux.hello(&agent_hello()),
            LinkEvent::Open { session, .. } => mux.opened(session),
            LinkEvent::Data {
                session, payload, ..
            } => {
                count += payload.len();
                mux.consumed(session, payload.len());
            }
            LinkEvent::Finished { session } => {
                mux.send(session, count.to_string().into(), false).unwrap();
                mux.finish(session);
            }
            LinkEvent::GoAway(away) => reason = Some(away.reason),
            _ => {}
        }
        false
    });
    (reason, lost.unwrap_err())
}

#[test]
fn a_link_carries_sessions_on_streams_and_tells_the_reason_of_its_end() {
    const LEN: usize = 1_000_000;
    for driver in drivers() {
        let rig = Rig::new();
        run(driver, async {
            let (host, bound) = rig.host();
            let agent = rig.client(bound, "tieline-agent/1", counting);
            let connection = host.next().await;
            let (link, greeted) = (shared(&rig), Rc::<Greeted>::default());
            let running = {
                let (link, greeted) = (Rc::clone(&link), Rc::clone(&greeted));
                spawn(async move { over_quic::run(&connection, &link, &*greeted).await })
            };
            greeted.0.wait().await;
            link.trust();
            let maya = TunnelId::parse("maya").unwrap();
            let sessions = TunnelSessions::default();
            let session = link.open(&maya, &sessions, SessionCaller::default());
            let (caller, ours) = pair().unwrap();
            let (caller, ours) = (Stream::new(caller), Rc::new(Stream::new(ours)));
            let spliced = spawn(splice(ours, session.unwrap(), Rc::default(), || false));
            let sent = vec![7; LEN];
            let mut left = &sent[..];
            while !left.is_empty() {
                caller.writable().await;
                left = &left[caller.send(left).unwrap()..];
            }
            caller.finish().await;
            let mut heard = BytesMut::new();
            loop {
                caller.readable().await;
                if caller.recv(&mut heard, 1_000).unwrap() == Received::End {
                    break;
                }
            }
            assert_eq!(&heard[..], LEN.to_string().as_bytes());
            assert_eq!(spliced.await, None);
            link.close(LinkEnd::Superseded);
            assert_eq!(running.await, LinkEnd::Superseded);
            let (reason, lost) = joined(agent).await;
            assert_eq!(reason, Some(LinkEnd::Superseded));
            let ConnectionError::ApplicationClosed(close) = lost else {
                panic!("{lost}");
            };
            assert_eq!(close.error_code, VarInt::from(LinkEnd::Superseded.code()));
            host.kill().await;
        })
        .unwrap();
    }
}

#[test]
fn a_link_whose_agent_uses_up_connection_ids_ends_for_that_reason() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let mut raw = Raw::new(bound, loopback_of(1), &rig.cert, &["tieline-agent/1"]);
        let agent = thread::spawn(move || {
            raw.shake().unwrap();
            use_up_ids(&mut raw)
        });
        let connection = host.next().await;
        let end = over_quic::run(&connection, &shared(&rig), &Greeted::default()).await;
        assert_eq!(end, LinkEnd::Protocol);
        let code = u64::from(LinkEnd::Protocol.code());
        assert_eq!(joined(agent).await, Some(code));
        host.kill().await;
    })
    .unwrap();
}
