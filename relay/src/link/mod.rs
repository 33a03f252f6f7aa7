//! One agent's connection: moves bytes between its stream and the mux, and reports events to the shard. `over_quic` does the
//! same for the streams of a QUIC connection.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use tieline_wire::limits::{GATHER_BYTES_MAX, PREFACE};
use tieline_wire::{
    AgentHello, Event, LinkEnd, Lost, Mux, Register, SendBatching, Transmit, TunnelId,
};
use tracing::debug;

use crate::io::{Detached, Received, Stream, turn};
use crate::session::SharedMux;

pub(crate) mod over_quic;

/// Largest single read from a link, in bytes.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Longest handshake that can be read again on another shard, in bytes: many times the longest hello. A link whose
/// agent has sent more stays on its shard.
const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;

/// Bytes that a writer sends before other tasks get a turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Unsent bytes that the kernel may hold for a link: enough to keep it busy, few enough that a small message does not
/// wait behind bulk data that was handed over earlier.
pub(crate) const NOTSENT_BYTES: u32 = 128 * 1024;

/// What a link needs of its shard.
pub(crate) trait LinkHost {
    /// The agent proved its key. `may_move`: the link can still move to another shard.
    ///
    /// # Errors
    /// Reason for which the link must end.
    fn hello(&self, hello: AgentHello, may_move: bool) -> Result<Stay, LinkEnd>;
    /// The agent registers a target; the acknowledgement goes into the mux, now or later.
    fn register(&self, mux: &mut Mux, register: Register);
    /// The agent takes a tunnel back.
    fn unregister(&self, tunnel: &TunnelId);
    /// The agent reports what had reached it over an earlier link.
    fn lost(&self, lost: Lost);
    /// The agent will close the link, and accepts no new sessions on it.
    fn going_away(&self);
}

/// Where a link goes on once its agent is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    Here,
    OnShard(usize),
}

/// How a link leaves its shard.
pub(crate) enum Left {
    /// The stream is closed, and every session was reset.
    Ended(LinkEnd),
    /// The link moves to shard `to`; its stream returns again what the agent has sent behind its preface.
    Moved { to: usize, stream: Detached },
}

/// Receive buffer that all links of a shard share: each read is processed whole before the next one.
#[derive(Default)]
pub(crate) struct LinkBlock(RefCell<BytesMut>);

/// Moves bytes until the link ends or moves, and returns which. If the link ends, the stream is closed and every
/// session reset before this returns; the stream is reset if its agent answers nothing. `may_move`: the link has not
/// moved before.
pub(crate) async fn run(
    stream: Stream,
    may_move: bool,
    link: &Rc<SharedMux>,
    host: &impl LinkHost,
    block: &LinkBlock,
) -> Left {
    let stream = Rc::new(stream);
    link.carrier().runs_over(&stream);
    let end = {
        let heard = Cell::new(false);
        let reader = pin!(read(&stream, may_move, link, host, block, &heard));
        let writer = pin!(async { Err(write(&stream, link).await) });
        both(reader, writer, || heard.take() && link.has_output()).await
    };
    let reason = match end {
        Ok(to) => {
            // Nothing else keeps the stream: the mux looks at it only within a call.
            match Rc::into_inner(stream).map(Stream::detach) {
                Some(stream) => return Left::Moved { to, stream },
                None => LinkEnd::LinkLost,
            }
        }
        Err(reason) => {
            match link.closing().is_some_and(is_of_unreached_agent) {
                true => stream.reset(),
                false => stream.shutdown(),
            }
            reason
        }
    };
    link.fail_sessions(reason);
    Left::Ended(reason)
}

/// Whether a link that the relay ends for `reason` has an agent that answers nothing, or that has given the link up.
/// Such a link is reset: an end in order would wait behind unacknowledged bytes for the kernel's next retransmission,
/// many seconds after the path works again. A reset leaves at once, and the kernel answers every later packet with
/// another.
const fn is_of_unreached_agent(reason: LinkEnd) -> bool {
    matches!(reason, LinkEnd::Stale | LinkEnd::LinkLost)
}

/// Runs reader and writer until either ends. When the reader `has_answers`, the writer waits for one poll, so that
/// tasks woken before have run and their bytes leave with the answers in one send.
async fn both<T>(
    mut reader: impl Future<Output = T> + Unpin,
    mut writer: impl Future<Output = T> + Unpin,
    has_answers: impl Fn() -> bool,
) -> T {
    let mut waits = false;
    poll_fn(|cx| {
        let end = Pin::new(&mut reader).poll(cx);
        if end.is_ready() {
            return end;
        }
        // Never twice in a row: a peer that sends without pause must not keep the writer from answering.
        waits = has_answers() && !waits;
        if waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut writer).poll(cx)
    })
    .await
}

/// Reads until the link moves; returns the shard that it moves to. What the agent has sent behind its preface is put
/// back then.
///
/// # Errors
/// Reason of the link's end.
async fn read(
    stream: &Stream,
    may_move: bool,
    link: &Rc<SharedMux>,
    host: &impl LinkHost,
    block: &LinkBlock,
    heard: &Cell<bool>,
) -> Result<usize, LinkEnd> {
    // The bytes that another shard could read again; kept until the agent is known.
    let mut kept = may_move.then(BytesMut::new);
    loop {
        let mut input = {
            stream.readable().await;
            let mut block = block.0.borrow_mut();
            match stream.recv(&mut block, READ_BYTES_MAX) {
                Ok(Received::Bytes(_)) => block.split().freeze(),
                Ok(Received::Nothing) => continue,
                Ok(Received::End) | Err(_) => return Err(LinkEnd::LinkLost),
            }
        };
        kept = kept.filter(|kept| kept.len() + input.len() <= HANDSHAKE_BYTES_MAX);
        kept.iter_mut()
            .for_each(|kept| kept.extend_from_slice(&input));
        heard.set(true);
        let (may_move, mut stay) = (kept.is_some(), None);
        let outcome = link.receive(&mut input, |mux, event| {
            pass_on(host, mux, event, may_move, &mut stay);
        });
        if let Some(mut kept) = kept.take_if(|_| stay.is_some())
            && let Some(Ok(Stay::OnShard(to))) = stay
        {
            kept.advance(PREFACE.len());
            stream.put_back(kept.freeze());
            return Ok(to);
        }
        // First, because an error behind a refused hello is not the reason of the link's end.
        if let Some(Err(reason)) = stay {
            link.close(reason);
        }
        if let Err(error) = outcome {
            debug!(%error, "link broken");
            link.close(error.reason);
        }
        if link.closing().is_some() {
            // The writer sends the reason, and ends the link.
            std::future::pending::<()>().await;
        }
    }
}

/// Passes one event on to the shard. `stay` keeps the shard's answer to the agent's hello, of this read.
fn pass_on(
    host: &impl LinkHost,
    mux: &mut Mux,
    event: Event,
    may_move: bool,
    stay: &mut Option<Result<Stay, LinkEnd>>,
) {
    match event {
        // Frames behind a hello are for the shard that the link moves to. Frames behind a refused hello get no
        // answer, which the agent would take for the reason of the refusal.
        _ if matches!(stay, Some(Ok(Stay::OnShard(_)) | Err(_))) => {}
        Event::AgentHello(hello) => *stay = Some(host.hello(hello, may_move)),
        Event::Register(register) => host.register(mux, register),
        Event::Unregister(tunnel) => host.unregister(&tunnel),
        Event::Lost(lost) => host.lost(lost),
        Event::GoAway(away) => {
            debug!(
                reason = away.reason.word(),
                message = away.message,
                "agent is going away"
            );
            host.going_away();
        }
        _ => {}
    }
}

async fn write(stream: &Stream, link: &Rc<SharedMux>) -> LinkEnd {
    let mut transmit = Transmit::new();
    loop {
        poll_fn(|cx| link.poll_sendable(cx)).await;
        let mut batching = SendBatching::default();
        while link.closing().is_none() && link.goes_on(&mut batching) {
            turn().await;
        }
        let mut turn = 0;
        while gather(link, &mut transmit) {
            let Ok(sent) = transmit.send_with(|slices| stream.send_vectored(slices)) else {
                break;
            };
            turn += sent;
            if sent > 0 && turn < TURN_BYTES_MAX {
                continue;
            }
            turn = 0;
            // A peer that does not read gets no farewell: the link ends with the bytes that fitted.
            if link.closing().is_some() || !writable(stream, link, transmit.len()).await {
                break;
            }
        }
        if let Some(reason) = link.closing() {
            return reason;
        }
        if !transmit.is_empty() {
            return LinkEnd::LinkLost;
        }
    }
}

/// Adds the bytes to send now, while little of earlier ones is left: the mux can limit what a peer makes it say only
/// while the bytes are still in the mux. True if there is anything to send.
fn gather(link: &SharedMux, transmit: &mut Transmit) -> bool {
    let waits = match link.is_trusted() {
        true => transmit.len() >= GATHER_BYTES_MAX,
        false => !transmit.is_empty(),
    };
    waits || link.transmit(transmit)
}

/// Waits until the stream takes more of the `held` bytes; false if it failed or the link must end.
async fn writable(stream: &Stream, link: &Rc<SharedMux>, held: usize) -> bool {
    let mut writable = pin!(stream.writable());
    link.carrier().set_held(held);
    let going_on = poll_fn(|cx| {
        if writable.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        while link.poll_sendable(cx).is_ready() {
            if link.closing().is_some() {
                return Poll::Ready(false);
            }
        }
        Poll::Pending
    })
    .await;
    link.carrier().set_held(0);
    going_on
}

#[cfg(test)]
mod tests;
