//! Joins a raw frontend and a session, so that bytes flow both ways until both ways ended.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_wire::Reason;

use crate::io::{Received, Socket, sleep};
use crate::session::{Incoming, Session};

mod lane;

/// Largest single read from a frontend, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Size of the block that reads are cut from, in bytes. Small reads share one, so that many of
/// them cost one allocation.
const BLOCK_BYTES: usize = 256 * 1024;

/// How long accepted bytes may take to leave before a reset follows them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a frontend is looked at that nothing is read from: it has no credit, or is done.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Memory of one shard that frontends are read into.
///
/// What was read is sent from where it lies; the block is reused once all of it was sent.
#[derive(Default)]
pub(crate) struct ReadBlock(RefCell<BytesMut>);

impl ReadBlock {
    /// Reads from `socket` without waiting.
    fn recv(&self, socket: &Socket, max: usize) -> io::Result<(Received, Bytes)> {
        let mut block = self.0.borrow_mut();
        if block.capacity() < max {
            block.reserve(BLOCK_BYTES);
        }
        let received = socket.recv(&mut block, max)?;
        Ok((received, block.split().freeze()))
    }
}

/// Runs until both directions ended, or one failed. If the session was reset, says why; what came
/// before was then written, and the socket's close will be a reset.
///
/// `early` was read behind the preamble. An end of the frontend's direction is a cancel where
/// `cancelled` says so.
pub(crate) fn splice(
    socket: Rc<Socket>,
    session: Session,
    mut early: Bytes,
    block: Rc<ReadBlock>,
    cancelled: impl Fn() -> bool,
) -> impl Future<Output = Option<Reason>> {
    session.deliver_to(Rc::clone(&socket));
    // Also if nobody ever polls what follows.
    let frontend = CutOff {
        socket,
        over: Cell::new(false),
    };
    async move {
        let unread = Cell::new(false);
        let failed = {
            let mut ways = Ways {
                frontend: &frontend,
                session: &session,
                block: &block,
                cancelled: &cancelled,
                early: &mut early,
                unread: &unread,
                up: Way::Link,
                down: Way::Link,
                is_full: false,
                looking: None,
            };
            poll_fn(|cx| ways.poll(cx)).await.err()
        };
        let reason = match failed? {
            // Only the agent is there to be told.
            Failure::Frontend(reason) => {
                frontend.over.set(true);
                session.reset(reason);
                return None;
            }
            Failure::Lane => {
                session.reset(Reason::LaneLost);
                Reason::LaneLost
            }
            Failure::Session(reason) => reason,
        };
        frontend.over.set(false);
        Box::pin(flush(&frontend.socket)).await;
        Some(reason)
    }
}

/// Makes the close of a frontend a reset unless its answer is `over`, also where its task is dropped:
/// what broke off must not look complete.
struct CutOff {
    socket: Rc<Socket>,
    over: Cell<bool>,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if !self.over.get() {
            self.socket.abort();
        }
    }
}

/// Which side ended out of order.
enum Failure {
    Frontend(Reason),
    /// The session was reset; what came before is written already.
    Session(Reason),
    /// The lane broke, and the link did not say why.
    Lane,
}

/// Both ways of a session. By hand: an async function for each would hold what it is given twice,
/// and have room for all that it might ever wait for.
struct Ways<'a, C> {
    frontend: &'a CutOff,
    session: &'a Session,
    block: &'a ReadBlock,
    cancelled: &'a C,
    /// Goes to the target before anything else.
    early: &'a mut Bytes,
    /// Nobody reads the frontend at the moment.
    unread: &'a Cell<bool>,
    up: Way<'a>,
    down: Way<'a>,
    /// The frontend took nothing of what is there for it.
    is_full: bool,
    /// Looks at the frontend while nobody reads it.
    looking: Option<Rare<'a, Failure>>,
}

/// How far one of them is.
enum Way<'a> {
    /// Over the link.
    Link,
    /// Over the lane.
    Lane(Rare<'a, Result<(), Failure>>),
    Over,
}

/// What few sessions ever do: each would have room for it.
type Rare<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

impl<C: Fn() -> bool> Ways<'_, C> {
    /// Ready once both are over or one failed; or once the frontend is gone, while nobody reads it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if !matches!(self.up, Way::Over)
            && let Poll::Ready(outcome) = self.poll_up(cx)
        {
            outcome?;
            self.up = Way::Over;
        }
        if !matches!(self.down, Way::Over)
            && let Poll::Ready(outcome) = self.poll_down(cx)
        {
            outcome?;
            self.down = Way::Over;
        }
        let is_up_over = matches!(self.up, Way::Over);
        if is_up_over && matches!(self.down, Way::Over) {
            return Poll::Ready(Ok(()));
        }
        if is_up_over || self.unread.get() {
            let gone = || Box::pin(gone(&self.frontend.socket, self.cancelled)) as Rare<'_, _>;
            let looking = self.looking.get_or_insert_with(gone);
            return looking.as_mut().poll(cx).map(Err);
        }
        self.looking = None;
        Poll::Pending
    }

    /// From the frontend to the target.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (socket, session) = (&*self.frontend.socket, self.session);
        loop {
            if let Way::Lane(carrying) = &mut self.up {
                return carrying.as_mut().poll(cx);
            }
            if self.early.is_empty() {
                ready!(socket.poll_readable(cx));
                if let Some(lane) = session.lane() {
                    self.unread.set(false);
                    let carrying = lane::upward(socket, session, lane, self.unread);
                    self.up = Way::Lane(Box::pin(carrying));
                    continue;
                }
            }
            // A session without credit leaves the bytes in the kernel, whose window then slows the
            // frontend down.
            let capacity = match session.poll_capacity(cx) {
                Poll::Ready(Ok(capacity)) => capacity,
                // The other direction delivers what came before, and says why.
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    self.unread.set(true);
                    return Poll::Pending;
                }
            };
            self.unread.set(false);
            let payload = if self.early.is_empty() {
                let max = capacity.min(READ_BYTES_MAX);
                let received = self.block.recv(socket, max);
                match received.map_err(frontend_failed)? {
                    (Received::Bytes(_), payload) => payload,
                    (Received::Nothing, _) => continue,
                    (Received::End, _) if (self.cancelled)() => {
                        return Poll::Ready(Err(Failure::Frontend(Reason::Cancelled)));
                    }
                    (Received::End, _) => {
                        session.finish();
                        return Poll::Ready(Ok(()));
                    }
                }
            } else {
                self.early.split_to(self.early.len().min(capacity))
            };
            if session.send(payload).is_err() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// From the target to the frontend.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (socket, session) = (&*self.frontend.socket, self.session);
        loop {
            if let Way::Lane(carrying) = &mut self.down {
                ready!(carrying.as_mut().poll(cx))?;
                self.down = Way::Link;
            }
            if self.is_full {
                ready!(socket.poll_writable(cx));
                self.is_full = false;
            }
            match ready!(session.poll_incoming(cx)) {
                Incoming::Bytes => {
                    let taken = session.take(|bytes| socket.send(bytes));
                    self.is_full = taken.map_err(frontend_failed)? == 0;
                }
                Incoming::Lane(lane) => {
                    let carrying = lane::downward(socket, session, lane);
                    self.down = Way::Lane(Box::pin(carrying));
                }
                Incoming::Finished => {
                    socket.finish();
                    self.frontend.over.set(true);
                    return Poll::Ready(Ok(()));
                }
                Incoming::Reset(reason) => return Poll::Ready(Err(Failure::Session(reason))),
            }
        }
    }
}

/// Ends once the frontend has reset its connection or cancelled. Nobody reads or writes while the
/// target stalls, so nothing else would tell.
async fn gone(socket: &Socket, cancelled: impl Fn() -> bool) -> Failure {
    loop {
        sleep(LOOK_INTERVAL).await;
        if cancelled() {
            return Failure::Frontend(Reason::Cancelled);
        }
        if socket.is_broken() {
            return Failure::Frontend(Reason::FrontendReset);
        }
    }
}

fn frontend_failed(error: io::Error) -> Failure {
    Failure::Frontend(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Reason::FrontendReset,
        _ => Reason::FrontendGone,
    })
}

/// Lets the kernel deliver what it took: a reset discards the rest (`SO_LINGER`, socket(7)).
async fn flush(socket: &Socket) {
    let mut pause = Duration::from_millis(1);
    let mut waited = Duration::ZERO;
    while socket.unsent() > 0 && waited < FLUSH_TIMEOUT {
        // The kernel reports no event for an empty send queue.
        sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
