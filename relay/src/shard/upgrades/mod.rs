//! What HTTP frontends become behind a `101`: links of agents, raw callers over WebSocket, and callers whose target has
//! left HTTP too.
//!
//! The HTTP front has made all checks before the `101`. From here on each connection is served like one of its kind
//! that came without HTTP: `placement` takes a link, `frontends` routes a raw caller, and a session on this shard is
//! spliced. Bytes of a session on another shard go through the `pump`, and a `meter` counts them.

mod meter;
mod pump;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use tieline_transport::websocket::code;
use tieline_wire::CallerRefusal;

use self::meter::Meter;
use super::Shard;
use super::callers::{Caller, FrontendCount};
use super::gateway::{GatewayStream, ShardGateway};
use super::mail::message::RawFrontend;
use crate::error::ListenKind;
use crate::io::{PollStream, Stream};
use crate::listen::http::{TargetConnection, Upgraded};
use crate::metrics::FrontendKind;
use crate::splice::{splice, unanswered};

impl Shard {
    /// Serves what an HTTP frontend at `peer` became, with the bytes that came behind its request.
    pub(super) fn upgraded(
        self: &Rc<Self>,
        stream: Stream,
        peer: SocketAddr,
        (upgraded, input): (Upgraded<ShardGateway>, Bytes),
        here: FrontendCount,
    ) {
        let from = |address| SocketAddr::new(address, peer.port());
        match upgraded {
            Upgraded::Link { source } => {
                // The connection no longer counts as a caller's: a relay that stops waits for callers, but not for
                // agents.
                drop(here);
                let stream = stream.over_websocket(input);
                stream.set_unfinished(ListenKind::Agent.unfinished());
                self.agent_arrived(stream, source);
            }
            Upgraded::Caller {
                tunnel,
                caller,
                address,
                pass,
            } => {
                self.kit.metrics.frontend_accepted(FrontendKind::WebSocket);
                let raw = RawFrontend {
                    tunnel,
                    kind: FrontendKind::WebSocket,
                    peer: from(address),
                    pass,
                    arrived: self.kit.peers.callers.arrived(),
                    tried: Vec::new(),
                    crossing: None,
                };
                let (shard, stream) = (Rc::clone(self), stream.over_websocket(input));
                self.kit
                    .tasks
                    .spawn(async move { shard.route_raw(stream, raw, None, caller).await });
            }
            Upgraded::Target(target) => {
                stream.put_back(input);
                let peer = from(target.address);
                self.serve_switched(stream, peer, target, here);
            }
        }
    }

    /// Joins a caller and a session that have left HTTP, in a new task without the memory that HTTP took.
    fn serve_switched(
        self: &Rc<Self>,
        stream: Stream,
        peer: SocketAddr,
        target: TargetConnection<ShardGateway>,
        here: FrontendCount,
    ) {
        let TargetConnection {
            stream: target,
            ahead,
            tunnel,
            caller,
            pass,
            ..
        } = target;
        let audit = self.callers.noted(peer, &tunnel);
        let session = match target {
            GatewayStream::Local(session) => session.into_session(),
            crossing @ GatewayStream::Crossing(_) => {
                let meter = Meter::new(pass, audit, caller.identity().cloned());
                let joined = pump::join(PollStream::new(stream), crossing, ahead, meter);
                return self.kit.tasks.spawn(caller.while_welcome(joined, here));
            }
        };
        let Some(session) = session else {
            return;
        };
        session.set_pass(pass);
        if let Some(audit) = audit {
            session.note_end(audit, ahead.len());
        }
        let block = Rc::clone(&self.callers.read_block);
        let joined = async move {
            // Returning drops `stream` before its end, which resets the connection.
            if !ahead.is_empty() && !is_written(&stream, ahead).await {
                return;
            }
            if stream.plain().is_some() {
                session.want_lane();
            }
            splice(Rc::new(stream), session, block, || false).await;
        };
        self.kit.tasks.spawn(caller.while_welcome(joined, here));
    }
}

/// Runs `spliced`, the task of a raw caller over WebSocket. Ends the task if the caller answers no ping or is revoked;
/// the Close frame tells the caller the reason.
pub(super) async fn serve_caller(spliced: impl Future, stream: Rc<Stream>, caller: Caller) {
    let is_revoked = {
        let (mut spliced, mut unanswered) = (pin!(spliced), pin!(unanswered(&stream)));
        poll_fn(|cx| {
            if let Poll::Ready(reason) = caller.poll_revoked(cx) {
                // The splice is dropped unfinished, and sends no second Close frame.
                stream.close(close_code(reason.into()), reason.word());
                return Poll::Ready(true);
            }
            // The stream is shut then. A splice that waits for credit would not notice; dropping it resets the session.
            if unanswered.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            spliced.as_mut().poll(cx).map(|_| false)
        })
        .await
    };
    if is_revoked {
        Box::pin(stream.fail()).await;
    }
}

/// Tells a caller over WebSocket why it is turned away. A caller over raw TCP sees only the end of its connection.
pub(super) async fn turn_away(stream: Stream, reason: CallerRefusal) {
    if !stream.is_websocket() {
        return;
    }
    stream.close(close_code(reason), reason.word());
    stream.fail().await;
}

/// The code of the Close for a caller that is turned away or revoked behind the `101`.
const fn close_code(reason: CallerRefusal) -> u16 {
    match reason {
        CallerRefusal::BadToken
        | CallerRefusal::Revoked
        | CallerRefusal::TokenExpired
        | CallerRefusal::TokenNotYet
        | CallerRefusal::AuthChanged => code::POLICY,
        CallerRefusal::SessionLimit
        | CallerRefusal::Overload
        | CallerRefusal::AuthUnavailable
        | CallerRefusal::Limited
        | CallerRefusal::TunnelOffline
        | CallerRefusal::TunnelPaused => code::TRY_AGAIN,
        CallerRefusal::TargetRefused
        | CallerRefusal::TargetUnreachable
        | CallerRefusal::TargetTimeout
        | CallerRefusal::UnknownTunnel
        | CallerRefusal::Preamble => code::INTERNAL,
    }
}

/// Writes all of `bytes`; false if the caller is gone.
async fn is_written(stream: &Stream, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        stream.writable().await;
        match stream.send(&bytes) {
            Ok(count) => drop(bytes.split_to(count)),
            Err(_) => return false,
        }
    }
    true
}
