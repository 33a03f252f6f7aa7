//! Callers over QUIC: each stream that a caller opens is a raw frontend, which begins with a preamble.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use quinn_proto::VarInt;
use tieline_wire::{CallerRefusal, TunnelId};
use tracing::debug;

use super::super::Shard;
use super::super::callers::Caller;
use super::super::mail::message::RawFrontend;
use super::super::place::SessionPlace;
use crate::io::timeout;
use crate::listen::tcp;
use crate::metrics::FrontendKind;
use crate::quic::{Connection, QuicStream, Streams};
use crate::session::Session;
use crate::splice::{Frontend, splice};

/// Interval of looks at a connection that had a stream; one that has none at two looks in a row is closed.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Time in which a caller must acknowledge another piece of an answer, 64 KiB at most, to be waited for any longer.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Code with which a connection without streams is closed: no reason.
const CODE_IDLE: u32 = 0;

impl Shard {
    /// Serves the streams of a caller's connection. Until the first one comes, the caller has as much time as for a preamble.
    pub(super) fn serve_quic_caller(self: &Rc<Self>, connection: Rc<Connection>) {
        let shard = Rc::clone(self);
        let config = &self.kit.peers.config;
        let mut patience = config.preamble_timeout;
        let streams_max = config.callers.quic_streams_max;
        let windows = Rc::clone(&self.callers.quic_windows);
        let streams = Streams::new(Rc::clone(&connection), streams_max, windows);
        self.kit.tasks.spawn(async move {
            let mut was_idle = true;
            loop {
                match timeout(patience, streams.next()).await {
                    Ok(Some(stream)) => {
                        was_idle = false;
                        shard.stream_arrived(stream, connection.peer());
                    }
                    Ok(None) => return,
                    Err(_) => {
                        let is_idle = streams.is_empty();
                        if is_idle && was_idle {
                            return connection.close(VarInt::from_u32(CODE_IDLE), b"idle");
                        }
                        was_idle = is_idle;
                    }
                }
                patience = LOOK_INTERVAL;
            }
        });
    }

    /// Accepts a raw frontend: reads its preamble, authenticates its caller and routes it to a session.
    fn stream_arrived(self: &Rc<Self>, stream: QuicStream, peer: SocketAddr) {
        // A relay that stops begins nothing; dropping the stream tells the caller.
        if self.kit.draining.get() {
            return;
        }
        self.kit.metrics.frontend_accepted(FrontendKind::Quic);
        let (shard, arrived) = (Rc::clone(self), self.kit.peers.callers.arrived());
        self.kit.tasks.spawn(async move {
            let refused = |reason| {
                shard.callers.raw_refused(peer, None, None, reason);
                turn_away(&stream, reason);
            };
            let Ok(mut pass) = shard.callers.arrive(peer.ip()) else {
                return refused(CallerRefusal::Limited);
            };
            let deadline = shard.kit.peers.config.preamble_timeout;
            let preamble = tcp::preamble(&stream);
            let Some(Some(preamble)) = shard.kit.in_time(deadline, true, preamble).await else {
                debug!(%peer, "no valid preamble, or not in time");
                return refused(CallerRefusal::Preamble);
            };
            match shard.callers.raw_caller(&preamble, peer, &mut pass) {
                Ok(caller) => {
                    let raw = RawFrontend {
                        tunnel: preamble.tunnel,
                        kind: FrontendKind::Quic,
                        peer,
                        pass,
                        arrived,
                        tried: Vec::new(),
                        crossing: None,
                    };
                    shard.route_stream(stream, raw, caller).await;
                }
                Err(reason) => turn_away(&stream, reason),
            }
        });
    }

    /// Joins a stream to a session of its tunnel. Agents with a link on this shard are preferred: the stream cannot move to
    /// another one.
    async fn route_stream(
        self: &Rc<Self>,
        stream: QuicStream,
        mut raw: RawFrontend,
        caller: Caller,
    ) {
        let near = Some(self.kit.index);
        match self.place_raw(&mut raw, near, &caller).await {
            SessionPlace::Here(session) => {
                stream.widen();
                self.serve_stream(stream, session, raw, caller);
            }
            SessionPlace::Shard(to) => {
                stream.widen();
                self.cross(stream, raw, caller, to).await;
            }
            SessionPlace::NoTarget(reason) => {
                let tunnel = &raw.tunnel;
                debug!(%tunnel, reason = reason.word(), "frontend refused");
                let refused = (Some(tunnel), Some(&caller));
                self.refuse_stream(&stream, raw.peer, refused, reason.into());
            }
        }
    }

    /// Joins a stream and its session, in a new task: the present task's size includes the routing, and the session may
    /// last for days.
    fn serve_stream(
        self: &Rc<Self>,
        stream: QuicStream,
        session: Session,
        raw: RawFrontend,
        caller: Caller,
    ) {
        let here = self.callers.count(raw.arrived);
        let (stream, block) = (Rc::new(stream), Rc::clone(&self.callers.read_block));
        let spliced = splice(Rc::clone(&stream), session, block, || false);
        self.kit.tasks.spawn(async move {
            while_welcome(spliced, &stream, &caller).await;
            Box::pin(until_delivered(&stream)).await;
            drop(here);
        });
    }

    /// Counts and notes a stream that is turned away, and tells the caller why.
    pub(super) fn refuse_stream(
        &self,
        stream: &QuicStream,
        peer: SocketAddr,
        (tunnel, caller): (Option<&TunnelId>, Option<&Caller>),
        reason: CallerRefusal,
    ) {
        self.callers.raw_refused(peer, tunnel, caller, reason);
        turn_away(stream, reason);
    }
}

/// Resets a stream with the code of `reason`.
fn turn_away(stream: &QuicStream, reason: CallerRefusal) {
    stream.set_code(reason as u16);
    stream.cut();
}

/// Waits until the caller has got the end of an answer, which QUIC has taken but may send for a long time. The kernel goes on
/// with what a closed socket has to send; QUIC does not once its connection is closed, as idle or because the relay stops.
pub(super) async fn until_delivered(stream: &QuicStream) {
    stream.delivered(ACKNOWLEDGEMENT_TIMEOUT).await;
}

/// Runs `spliced`; drops it unfinished if the caller is revoked, who is told the reason.
async fn while_welcome(spliced: impl Future, stream: &QuicStream, caller: &Caller) {
    let mut spliced = pin!(spliced);
    poll_fn(|cx| {
        if let Poll::Ready(reason) = caller.poll_revoked(cx) {
            stream.tell(reason.into());
            return Poll::Ready(());
        }
        spliced.as_mut().poll(cx).map(drop)
    })
    .await;
}
