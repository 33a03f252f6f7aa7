//! Joins a frontend and a session, so that bytes flow both ways until both directions have ended.
//!
//! The frontend is a raw caller's socket or its stream of QUIC, or one end of the socket pair through which a caller on
//! another shard uses the session.
//!
//! | step | the way of a raw caller's bytes | where |
//! |---|---|---|
//! | 1 | the connection is accepted, with TLS if its address has TLS | `listen::accept`, `shard/accept`, `shard/tls` |
//! | 2 | the preamble is read, the caller verified | `shard/frontends` (`raw_arrived`), `listen/tcp`, `shard/callers` |
//! | 2 | or, over QUIC: each stream of a connection has its preamble | `quic` (`streams`), `shard/quic/callers` |
//! | 2 | or, over WebSocket: the request is answered with `101` | `listen/http` (`serve/upgrade`), `shard/upgrades` |
//! | 3 | an agent is chosen and a session opened | `shard/frontends` (`place_raw`), `shard/place` |
//! | 4 | bytes go from the stream into the mux, within the session's credit | `poll_up` here, `session/handle` |
//! | 5 | the mux's frames go to the agent in one send | `link` (`write`) |
//! | 6 | frames come back, and payload goes straight to the caller's stream | `link` (`read`), `session/state` |
//! | 7 | payload that the stream did not take waits for room | `session/inbox`, `poll_down` here |

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_wire::SessionEnd;

use crate::io::{Received, sleep, timeout};
use crate::session::{Incoming, Session, Sink};

mod close;
mod frontend;
mod keep_alive;
mod lane;

pub(crate) use frontend::Frontend;
pub(crate) use keep_alive::unanswered;

/// Largest single read from a frontend, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Size of the block that reads are cut from, in bytes. Small reads share a block, so that many of them cost one
/// allocation.
const BLOCK_BYTES: usize = 256 * 1024;

/// Time for accepted bytes to leave before a reset follows them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for a caller without half-close to end its connection once the target has finished.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval of checks on a frontend that is not read, because the session has no credit or the direction is over.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Receive buffer that all frontends of a shard share.
///
/// Payload is sent from where it was read; the block is reused once all of it was sent.
#[derive(Default)]
pub(crate) struct ReadBlock(RefCell<BytesMut>);

impl ReadBlock {
    /// Reads from `stream` without waiting.
    fn recv(&self, stream: &impl Frontend, max: usize) -> io::Result<(Received, Bytes)> {
        let mut block = self.0.borrow_mut();
        if block.capacity() < max {
            block.reserve(BLOCK_BYTES);
        }
        let received = stream.recv(&mut block, max)?;
        Ok((received, block.split().freeze()))
    }
}

/// Runs until both directions have ended, or one failed. If the session was reset, returns the reason; payload from
/// before the reset was written then, and the stream's close will be a reset, or a WebSocket's Close frame with the
/// reason.
///
/// Where a stream has no half-close, its caller's end is that of the session: what the caller sent is delivered, and
/// the rest of the target's answer is dropped. The target's end asks such a caller for its own; without one in time,
/// what the caller sent does not count as complete.
///
/// An end of the frontend's direction counts as a cancel while `cancelled` returns true.
pub(crate) fn splice<S: Frontend>(
    stream: Rc<S>,
    session: Session,
    block: Rc<ReadBlock>,
    cancelled: impl Fn() -> bool,
) -> impl Future<Output = Option<SessionEnd>> {
    session.deliver_to(Rc::clone(&stream) as Rc<dyn Sink>);
    // Made here, so that it also takes effect if the future is never polled.
    let frontend = CutOff {
        stream,
        over: Cell::new(false),
    };
    async move {
        let unread = Cell::new(false);
        let failed = {
            let mut ways = Directions {
                frontend: &frontend,
                session: &session,
                block: &block,
                cancelled: &cancelled,
                unread: &unread,
                up: DirectionState::Link,
                down: DirectionState::Link,
                is_full: false,
                looking: None,
            };
            poll_fn(|cx| ways.poll(cx)).await.err()
        };
        // The session is dropped before each wait, which must not keep it in the counts.
        let reason = match failed? {
            // The frontend is gone, so only the agent is told.
            Failure::Frontend(reason) => {
                // A reset would overtake the Close frame of a WebSocket.
                frontend.over.set(frontend.stream.has_half_close());
                session.reset(reason);
                drop(session);
                Box::pin(frontend.stream.fail()).await;
                return None;
            }
            Failure::Left => {
                frontend.over.set(true);
                session.leave();
                drop(session);
                // A caller that does not read gets no Close frame, because the kernel has no room for it.
                let finished = poll_fn(|cx| frontend.stream.poll_finish(cx));
                let _ = Box::pin(timeout(FLUSH_TIMEOUT, finished)).await;
                return None;
            }
            Failure::Lane => {
                session.reset(SessionEnd::LaneLost);
                SessionEnd::LaneLost
            }
            Failure::Session(reason) => reason,
        };
        drop(session);
        frontend.over.set(false);
        Box::pin(break_off(&*frontend.stream, reason)).await;
        Some(reason)
    }
}

/// Makes the close of a frontend a reset unless its answer is `over`, even if its task is dropped: an answer that broke
/// off must not look complete.
struct CutOff<S: Frontend> {
    stream: Rc<S>,
    over: Cell<bool>,
}

impl<S: Frontend> Drop for CutOff<S> {
    fn drop(&mut self) {
        if !self.over.get() {
            self.stream.cut();
        }
    }
}

/// Which side failed.
enum Failure {
    Frontend(SessionEnd),
    /// The frontend, which has no half-close, ended its connection in order.
    Left,
    /// The session was reset; payload from before the reset is written already.
    Session(SessionEnd),
    /// The lane broke, and the link did not say why.
    Lane,
}

/// Both directions of a session. Written by hand because an async function per direction would hold its arguments
/// twice, and would have room for everything it may ever wait for.
struct Directions<'a, S: Frontend, C> {
    frontend: &'a CutOff<S>,
    session: &'a Session,
    block: &'a ReadBlock,
    cancelled: &'a C,
    /// Whether the frontend is not read at present.
    unread: &'a Cell<bool>,
    up: DirectionState<'a>,
    down: DirectionState<'a>,
    /// Whether the frontend's stream has no room for payload that waits for it.
    is_full: bool,
    /// Checks the frontend while it is not read, or while only its end is awaited.
    looking: Option<Rare<'a, Failure>>,
}

/// Where one direction of a session stands.
enum DirectionState<'a> {
    /// The direction uses the link.
    Link,
    /// The direction uses the lane.
    Lane(Rare<'a, Result<(), Failure>>),
    Over,
}

/// Boxed future for what few sessions ever do, so that other sessions need no room for it.
type Rare<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

impl<S: Frontend, C: Fn() -> bool> Directions<'_, S, C> {
    /// Ready once both directions are over or one failed, or once the frontend is gone while it is not read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if !matches!(self.up, DirectionState::Over)
            && let Poll::Ready(outcome) = self.poll_up(cx)
        {
            outcome?;
            self.up = DirectionState::Over;
        }
        if !matches!(self.down, DirectionState::Over)
            && let Poll::Ready(outcome) = self.poll_down(cx)
        {
            outcome?;
            self.down = DirectionState::Over;
            if !self.frontend.stream.has_half_close() {
                self.looking = Some(Box::pin(async {
                    sleep(CLOSE_TIMEOUT).await;
                    Failure::Frontend(SessionEnd::FrontendGone)
                }));
            }
        }
        let is_up_over = matches!(self.up, DirectionState::Over);
        let is_down_over = matches!(self.down, DirectionState::Over);
        if is_up_over && is_down_over {
            return Poll::Ready(Ok(()));
        }
        let is_closing = is_down_over && !self.frontend.stream.has_half_close();
        if is_up_over || is_closing || self.unread.get() {
            let gone = || Box::pin(gone(&*self.frontend.stream, self.cancelled)) as Rare<'_, _>;
            let looking = self.looking.get_or_insert_with(gone);
            return looking.as_mut().poll(cx).map(Err);
        }
        self.looking = None;
        Poll::Pending
    }

    /// Direction from the frontend to the target.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (stream, session) = (&*self.frontend.stream, self.session);
        loop {
            if let DirectionState::Lane(carrying) = &mut self.up {
                return carrying.as_mut().poll(cx);
            }
            ready!(stream.poll_readable(cx));
            if let Some(lane) = session.lane()
                && let Some(socket) = stream.plain()
                && !stream.is_read_ahead()
            {
                self.unread.set(false);
                let carrying = lane::upward(socket, session, lane, self.unread);
                self.up = DirectionState::Lane(Box::pin(carrying));
                continue;
            }
            // Without credit the bytes stay in the kernel, whose receive window then slows the frontend down.
            let capacity = match session.poll_capacity(cx) {
                Poll::Ready(Ok(capacity)) => capacity,
                // The other direction delivers the payload from before the reset, and returns the reason.
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    self.unread.set(true);
                    return Poll::Pending;
                }
            };
            self.unread.set(false);
            let received = self.block.recv(stream, capacity.min(READ_BYTES_MAX));
            let payload = match received.map_err(frontend_failed)? {
                (Received::Bytes(_), payload) => payload,
                (Received::Nothing, _) => continue,
                (Received::End, _) if (self.cancelled)() => {
                    return Poll::Ready(Err(Failure::Frontend(SessionEnd::Cancelled)));
                }
                (Received::End, _) if !stream.peer_finished() => {
                    return Poll::Ready(Err(Failure::Frontend(SessionEnd::FrontendGone)));
                }
                (Received::End, _) if !stream.has_half_close() => {
                    return Poll::Ready(Err(Failure::Left));
                }
                (Received::End, _) => {
                    session.finish();
                    return Poll::Ready(Ok(()));
                }
            };
            if session.send(payload, stream.ended_message()).is_err() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Direction from the target to the frontend.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (stream, session) = (&*self.frontend.stream, self.session);
        loop {
            if let DirectionState::Lane(carrying) = &mut self.down {
                ready!(carrying.as_mut().poll(cx))?;
                self.down = DirectionState::Link;
            }
            if self.is_full {
                ready!(stream.poll_writable(cx));
                self.is_full = false;
            }
            match ready!(session.poll_incoming(cx)) {
                Incoming::Bytes => {
                    let taken = session.take(|bytes| stream.send(bytes));
                    self.is_full = taken.map_err(frontend_failed)? == 0;
                }
                Incoming::Lane(lane) => {
                    let Some(socket) = stream.plain() else {
                        return Poll::Ready(Err(Failure::Lane));
                    };
                    let carrying = lane::downward(socket, session, lane);
                    self.down = DirectionState::Lane(Box::pin(carrying));
                }
                Incoming::Finished => {
                    ready!(stream.poll_finish(cx));
                    self.frontend.over.set(true);
                    return Poll::Ready(Ok(()));
                }
                Incoming::Reset(reason) => return Poll::Ready(Err(Failure::Session(reason))),
            }
        }
    }
}

/// Ends once the frontend has reset its connection or cancelled. While the target stalls, the frontend is neither read
/// nor written, so no other event would show it.
async fn gone(stream: &impl Frontend, cancelled: impl Fn() -> bool) -> Failure {
    loop {
        sleep(LOOK_INTERVAL).await;
        if cancelled() {
            return Failure::Frontend(SessionEnd::Cancelled);
        }
        if stream.is_broken() {
            return Failure::Frontend(SessionEnd::FrontendReset);
        }
    }
}

fn frontend_failed(error: io::Error) -> Failure {
    Failure::Frontend(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => SessionEnd::FrontendReset,
        _ => SessionEnd::FrontendGone,
    })
}

/// Ends a frontend whose session broke off for `reason`, behind the bytes that were accepted: a reset discards those that
/// are on their way (`SO_LINGER`, socket(7); RFC 9000, section 19.4). The reset itself comes when the stream is cut.
pub(crate) async fn break_off(stream: &impl Frontend, reason: SessionEnd) {
    stream.tell(reason);
    let mut pause = Duration::from_millis(1);
    let mut waited = Duration::ZERO;
    while stream.has_unsent() && waited < FLUSH_TIMEOUT {
        // The kernel reports no event for an empty send queue.
        sleep(pause).await;
        // A frame that found no room before fits once the peer has read some.
        stream.tell(reason);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    stream.fail().await;
}

#[cfg(test)]
mod tests;
