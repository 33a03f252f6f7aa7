//! Joins a raw frontend and a session, so that bytes flow both ways until both ways ended.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_wire::Reason;

use crate::io::{Received, Socket, sleep};
use crate::session::{Incoming, Lane, Session};

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
pub(crate) async fn splice(
    socket: &Rc<Socket>,
    session: Session,
    early: Bytes,
    block: &ReadBlock,
    cancelled: impl Fn() -> bool,
) -> Option<Reason> {
    session.deliver_to(Rc::clone(socket));
    let over = Cell::new(false);
    let _cut_off = CutOff {
        socket,
        over: &over,
    };
    let failed = {
        let unread = Cell::new(false);
        let up = pin!(upward(socket, &session, early, block, &unread, &cancelled));
        let down = pin!(async {
            downward(socket, &session).await?;
            over.set(true);
            Ok(())
        });
        both(up, down, || gone(socket, &cancelled), &unread)
            .await
            .err()
    };
    let reason = match failed? {
        // Only the agent is there to be told.
        Failure::Frontend(reason) => {
            over.set(true);
            session.reset(reason);
            return None;
        }
        Failure::Lane => {
            session.reset(Reason::LaneLost);
            Reason::LaneLost
        }
        Failure::Session(reason) => reason,
    };
    over.set(false);
    Box::pin(flush(socket)).await;
    Some(reason)
}

/// Makes the close of a frontend a reset unless its answer is `over`, also where its task is dropped:
/// what broke off must not look complete.
struct CutOff<'a> {
    socket: &'a Socket,
    over: &'a Cell<bool>,
}

impl Drop for CutOff<'_> {
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

/// Polls both until both are done or one failed; or until the frontend is `gone`, while it is
/// `unread`.
async fn both<G: Future<Output = Failure>>(
    mut up: impl Future<Output = Result<(), Failure>> + Unpin,
    mut down: impl Future<Output = Result<(), Failure>> + Unpin,
    gone: impl Fn() -> G,
    unread: &Cell<bool>,
) -> Result<(), Failure> {
    let (mut up_done, mut down_done) = (false, false);
    // Made once it is needed.
    let mut looking: Option<Pin<Box<G>>> = None;
    poll_fn(|cx| {
        if !up_done && let Poll::Ready(outcome) = Pin::new(&mut up).poll(cx) {
            outcome?;
            up_done = true;
        }
        if !down_done && let Poll::Ready(outcome) = Pin::new(&mut down).poll(cx) {
            outcome?;
            down_done = true;
        }
        if up_done && down_done {
            return Poll::Ready(Ok(()));
        }
        if up_done || unread.get() {
            let looking = looking.get_or_insert_with(|| Box::pin(gone()));
            return looking.as_mut().poll(cx).map(Err);
        }
        looking = None;
        Poll::Pending
    })
    .await
}

async fn upward(
    socket: &Socket,
    session: &Session,
    mut early: Bytes,
    block: &ReadBlock,
    unread: &Cell<bool>,
    cancelled: impl Fn() -> bool,
) -> Result<(), Failure> {
    let room = async || {
        // Only while this waits does anybody else look.
        unread.set(true);
        let room = room(session).await;
        unread.set(false);
        room
    };
    while !early.is_empty() {
        unread.set(true);
        let capacity = session.capacity().await;
        unread.set(false);
        let Ok(capacity) = capacity else {
            return Ok(());
        };
        let piece = early.split_to(early.len().min(capacity));
        if session.send(piece).is_err() {
            return Ok(());
        }
    }
    loop {
        // Credit first: a session without it leaves the bytes in the kernel, whose window then
        // slows the frontend down.
        match room().await {
            Room::Bytes(_) => socket.readable().await,
            // Boxed, like all that few sessions ever do: each would have room for it.
            Room::Lane(lane) => {
                return Box::pin(lane::upward(socket, session, &lane, unread)).await;
            }
            Room::Gone => return Ok(()),
        }
        let Room::Bytes(capacity) = room().await else {
            continue;
        };
        let (received, payload) = block
            .recv(socket, capacity.min(READ_BYTES_MAX))
            .map_err(frontend_failed)?;
        match received {
            Received::Bytes(_) => {
                if session.send(payload).is_err() {
                    return Ok(());
                }
            }
            Received::End if cancelled() => return Err(Failure::Frontend(Reason::Cancelled)),
            Received::End => {
                session.finish();
                return Ok(());
            }
            Received::Nothing => {}
        }
    }
}

/// Where the next bytes towards the target go.
enum Room {
    /// So many may go over the link.
    Bytes(usize),
    /// All of them go over the lane.
    Lane(Rc<Lane>),
    /// The session is gone: the other direction delivers what came before, and says so.
    Gone,
}

async fn room(session: &Session) -> Room {
    poll_fn(|cx| match session.lane() {
        Some(lane) => Poll::Ready(Room::Lane(lane)),
        None => session.poll_capacity(cx).map(|capacity| match capacity {
            Ok(bytes) => Room::Bytes(bytes),
            Err(_) => Room::Gone,
        }),
    })
    .await
}

async fn downward(socket: &Socket, session: &Session) -> Result<(), Failure> {
    loop {
        match session.incoming().await {
            Incoming::Bytes => {
                if session
                    .take(|bytes| socket.send(bytes))
                    .map_err(frontend_failed)?
                    == 0
                {
                    socket.writable().await;
                }
            }
            Incoming::Lane(lane) => Box::pin(lane::downward(socket, session, &lane)).await?,
            Incoming::Finished => {
                socket.finish();
                return Ok(());
            }
            Incoming::Reset(reason) => return Err(Failure::Session(reason)),
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
