//! What HTTP frontends become behind a `101`: links of agents, raw callers over WebSocket, and callers whose target has
//! left HTTP too.
//!
//! The HTTP front has checked who may do so. From here on each is served as its like that came without HTTP:
//! `placement` takes a link, `frontends` routes a raw caller, and a session on this shard is spliced. Bytes of a session
//! on another shard go through the `pump`, and a `meter` counts them.

mod meter;
mod pump;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_transport::websocket::code;
use tieline_wire::CallerRefusal;

use self::meter::Meter;
use super::Shard;
use super::callers::{Caller, FrontendCount};
use super::gateway::{GatewayStream, ShardGateway};
use super::mail::message::RawFrontend;
use crate::error::ListenKind;
use crate::io::{PollStream, Received, Stream, timeout};
use crate::listen::http::{TargetConnection, Upgraded};
use crate::metrics::FrontendKind;
use crate::splice::{splice, unanswered};

/// Time for a caller that is turned away to take the reason and to close.
const TOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of such a caller that are read before the connection is closed: a close in front of unread bytes is a reset,
/// which could destroy the reason.
const READ_BYTES_MAX: usize = 64 * 1024;

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
            Upgraded::Link { address } => {
                // A relay that stops waits for callers, but not for agents.
                drop(here);
                let stream = stream.over_websocket(input);
                stream.set_unfinished(ListenKind::Agent.unfinished());
                self.agent_arrived(stream, from(address));
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
            // A stream that is dropped before its end is reset.
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

/// Runs `spliced`, the task of a raw caller over WebSocket. Ends it if the caller answers no ping or is revoked, which
/// its Close tells.
pub(super) async fn serve_caller(spliced: impl Future, stream: Rc<Stream>, caller: Caller) {
    let (mut spliced, mut unanswered) = (pin!(spliced), pin!(unanswered(&stream)));
    let mut is_shut = false;
    poll_fn(|cx| {
        if let Poll::Ready(reason) = caller.poll_revoked(cx) {
            // The splice, which is dropped unfinished, sends no second Close.
            stream.close(close_code(reason.into()), reason.word());
            return Poll::Ready(());
        }
        // The stream is shut then, which the splice notices.
        is_shut = is_shut || unanswered.as_mut().poll(cx).is_ready();
        spliced.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Tells a caller over WebSocket why it is turned away. Any other caller sees the end of its connection alone.
pub(super) async fn turn_away(stream: Stream, reason: CallerRefusal) {
    if !stream.is_websocket() {
        return;
    }
    stream.close(close_code(reason), reason.word());
    // Without an end in time, the close is a reset.
    let _ = timeout(TOLD_TIMEOUT, read_out(&stream)).await;
}

/// Ends the stream in order, and reads on until the peer does so too.
async fn read_out(stream: &Stream) {
    stream.finish().await;
    let mut unread = BytesMut::new();
    while unread.len() < READ_BYTES_MAX {
        stream.readable().await;
        match stream.recv(&mut unread, READ_BYTES_MAX) {
            Ok(Received::Bytes(_) | Received::Nothing) => {}
            Ok(Received::End) | Err(_) => return,
        }
    }
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
