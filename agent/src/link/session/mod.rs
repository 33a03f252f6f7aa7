//! Connects an opened session to its target, and moves its bytes both ways.
//!
//! The link's own reader writes the relay's bytes to the target, as far as the target takes them at once. The rest is
//! copied into the session's backlog, so that a stalled target blocks neither the link nor its receive buffers. The
//! target's bytes are read straight into the link's buffer, up to the session's credit.

mod lane;
mod pipe;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::{Backlog, SessionEnd, SessionId};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until};

use self::lane::LaneState;
pub(crate) use self::lane::take_offer;
use crate::bell::Bell;
use crate::link::{Link, Pull};
use crate::socket;
use crate::targets::WatchedTarget;
use crate::transport::Lane;

/// Slices in one gathered write to a target.
const SLICES_MAX: usize = 32;

/// Time limit for a target to take bytes that were accepted before the session was aborted.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A session, shared by its link and its task.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    inbox: Mutex<Inbox>,
    /// True while the inbox has a lane; read without the lock before each read of the target.
    seated: AtomicBool,
    /// Rung when the inbox changed.
    changed: Bell,
    /// Rung when the session may send again.
    pub(crate) writable: Bell,
}

#[derive(Debug, Default)]
struct Inbox {
    stream: Option<Arc<Writes>>,
    backlog: Backlog,
    end: Option<End>,
    /// True once the target takes no more bytes.
    failed: bool,
    lane: LaneState,
    /// True if the relay's direction goes on over the lane, after the backlog.
    moved: bool,
}

/// How the direction to the target ends, after the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Orderly end: half-close.
    Finish,
    /// Abort: the connection is reset once the backlog is written, or at `deadline`.
    Abort { deadline: Instant },
}

/// How the direction to the target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivered {
    All,
    Aborted,
    TargetFailed,
    LaneFailed,
}

/// How the direction from the target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collected {
    All,
    TargetFailed,
    LaneFailed,
}

impl Session {
    pub(crate) fn new(id: SessionId) -> Self {
        Self {
            id,
            inbox: Mutex::default(),
            seated: AtomicBool::new(false),
            changed: Bell::default(),
            writable: Bell::default(),
        }
    }

    /// Hands payloads from the link to the target; returns how many bytes the target took at once.
    ///
    /// The rest is copied into the backlog, whose size the relay's credit limits.
    pub(crate) fn deliver(&self, payloads: &[Bytes]) -> usize {
        let mut guard = self.inbox();
        let inbox = &mut *guard;
        if inbox.failed {
            return 0;
        }
        let mut taken = 0;
        if let Some(stream) = &inbox.stream
            && inbox.backlog.is_empty()
        {
            match write_payloads(stream, payloads) {
                Ok(count) => taken = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    inbox.failed = true;
                    self.changed.ring();
                    return 0;
                }
            }
        }
        let mut skip = taken;
        for payload in payloads {
            let skipped = skip.min(payload.len());
            skip -= skipped;
            if skipped < payload.len() {
                inbox.backlog.push(&payload[skipped..]);
            }
        }
        if !inbox.backlog.is_empty() {
            self.changed.ring();
        }
        taken
    }

    /// Records that the relay's direction ended in order.
    pub(crate) fn finish(&self) {
        self.inbox().end.get_or_insert(End::Finish);
        self.changed.ring();
    }

    /// Aborts the session: the relay reset it, or its link ended.
    pub(crate) fn abort(&self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut inbox = self.inbox();
        if !matches!(inbox.end, Some(End::Abort { .. })) {
            inbox.end = Some(End::Abort { deadline });
        }
        drop(inbox);
        self.changed.ring();
    }

    /// Deadline for accepted bytes to reach the target.
    fn flush_deadline(&self) -> Instant {
        match self.inbox().end {
            Some(End::Abort { deadline }) => deadline,
            _ => Instant::now() + FLUSH_TIMEOUT,
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn aborted(&self) {
        while !matches!(self.inbox().end, Some(End::Abort { .. })) {
            self.changed.heard().await;
        }
    }

    /// Writes the backlog to the target until the direction ends.
    async fn write_target(&self, link: &Link, stream: &Writes) -> Delivered {
        loop {
            let (step, taken) = self.write_some(stream);
            if taken > 0 {
                link.change(|mux| mux.consumed(self.id, taken));
            }
            match step {
                Step::Done(delivered) => return delivered,
                Step::Again => {}
                Step::Lane(lane) => {
                    if let Some(delivered) = self.write_lane(link, &lane, stream).await {
                        return delivered;
                    }
                }
                Step::AwaitChange => self.changed.heard().await,
                Step::AwaitTarget(None) => tokio::select! {
                    ready = stream.writable() => if ready.is_err() { return Delivered::TargetFailed },
                    () = self.changed.heard() => {}
                },
                Step::AwaitTarget(Some(deadline)) => tokio::select! {
                    ready = stream.writable() => if ready.is_err() { return Delivered::Aborted },
                    () = sleep_until(deadline) => return Delivered::Aborted,
                },
            }
        }
    }

    fn write_some(&self, stream: &Writes) -> (Step, usize) {
        let mut guard = self.inbox();
        let inbox = &mut *guard;
        if inbox.failed {
            inbox.backlog.clear();
            return match inbox.end {
                Some(End::Abort { .. }) => (Step::Done(Delivered::Aborted), 0),
                _ => (Step::Done(Delivered::TargetFailed), 0),
            };
        }
        if inbox.backlog.is_empty() {
            // Even after an abort: bytes that the lane brought before it count as accepted.
            if inbox.moved
                && let LaneState::Taken(lane) = &inbox.lane
            {
                inbox.moved = false;
                return (Step::Lane(Arc::clone(lane)), 0);
            }
            let step = match inbox.end {
                None if inbox.moved => match inbox.lane {
                    LaneState::Dialling => Step::AwaitChange,
                    _ => Step::Done(Delivered::LaneFailed),
                },
                None => Step::AwaitChange,
                Some(End::Abort { .. }) => Step::Done(Delivered::Aborted),
                Some(End::Finish) => {
                    socket::finish(stream);
                    Step::Done(Delivered::All)
                }
            };
            return (step, 0);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let filled = inbox.backlog.fill(&mut slices);
        match stream.try_write_vectored(&slices[..filled]) {
            Ok(taken) => {
                inbox.backlog.advance(taken);
                (Step::Again, taken)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match inbox.end {
                Some(End::Abort { deadline }) => (Step::AwaitTarget(Some(deadline)), 0),
                _ => (Step::AwaitTarget(None), 0),
            },
            Err(_) => {
                inbox.failed = true;
                (Step::Again, 0)
            }
        }
    }

    /// Reads the target to its end into the link, up to the session's credit, until a lane takes over.
    async fn read_target(&self, link: &Link, stream: &mut OwnedReadHalf) -> Collected {
        loop {
            match poll_fn(|context| self.poll_target(context, link, stream)).await {
                Next::Lane(lane) => return self.read_to_lane(link, &lane, stream.as_ref()).await,
                Next::AwaitCredit => self.writable.heard().await,
                Next::Done(collected) => return collected,
            }
        }
    }

    fn poll_target(
        &self,
        context: &mut Context<'_>,
        link: &Link,
        stream: &mut OwnedReadHalf,
    ) -> Poll<Next> {
        loop {
            if let Some(lane) = self.lane()
                && link.move_to_lane(self.id)
            {
                return Poll::Ready(Next::Lane(lane));
            }
            match ready!(link.poll_pull(context, self.id, stream)) {
                // After a short read, tokio knows that the socket is empty: checking readiness alone spares the
                // link's lock. The next read reports an error.
                Pull::Sent => drop(ready!(stream.as_ref().poll_read_ready(context))),
                Pull::NoCredit => return Poll::Ready(Next::AwaitCredit),
                Pull::End => return Poll::Ready(Next::Done(Collected::All)),
                Pull::Failed => return Poll::Ready(Next::Done(Collected::TargetFailed)),
            }
        }
    }
}

/// Write half of a target's connection. Unlike tokio's write half, it does not end its direction when it is dropped:
/// closing a connection that was not finished resets it, so that partial data cannot pass for a complete request
/// or answer.
#[derive(Debug)]
struct Writes(Option<OwnedWriteHalf>);

impl Deref for Writes {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        let half = self.0.as_ref().expect("only drop takes the half");
        half.as_ref()
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        if let Some(half) = self.0.take() {
            half.forget();
        }
    }
}

/// Next step of the direction to the target.
enum Step {
    Again,
    /// Everything from the link is written; the rest comes over the lane.
    Lane(Arc<Lane>),
    AwaitChange,
    AwaitTarget(Option<Instant>),
    Done(Delivered),
}

/// Next step of the direction from the target, once nothing more can be read now.
enum Next {
    Lane(Arc<Lane>),
    AwaitCredit,
    Done(Collected),
}

fn write_payloads(stream: &Writes, payloads: &[Bytes]) -> io::Result<usize> {
    if let [payload] = payloads {
        let count = stream.try_write(payload)?;
        #[cfg(test)]
        crate::link::tests::witness::written(stream, &[IoSlice::new(payload)], count);
        return Ok(count);
    }
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut filled = 0;
    for (slot, payload) in slices.iter_mut().zip(payloads) {
        *slot = IoSlice::new(payload);
        filled += 1;
    }
    let count = stream.try_write_vectored(&slices[..filled])?;
    #[cfg(test)]
    crate::link::tests::witness::written(stream, &slices[..filled], count);
    Ok(count)
}

/// Runs a session from its opening to its end.
pub(crate) async fn run(link: Arc<Link>, session: Arc<Session>, target: WatchedTarget) {
    // Removes the session from the link, even if this task is dropped half-way.
    let _leave = Leave {
        link: &link,
        id: session.id,
    };
    let connected = tokio::select! {
        connected = target.connect() => connected,
        () = session.aborted() => return,
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err((failure, error)) => {
            // An event reports the target's outage once; this line reports each session.
            tracing::debug!(session = %session.id, %target, %error, "cannot reach the target");
            link.reset(session.id, failure.into());
            return;
        }
    };
    let (mut reads, writes) = stream.into_split();
    let writes = Arc::new(Writes(Some(writes)));
    session.inbox().stream = Some(Arc::clone(&writes));
    link.change(|mux| mux.opened(session.id));
    let aborted = join(&link, &session, &mut reads, &writes).await;
    session.inbox().stream = None;
    if let LaneState::Taken(lane) = std::mem::take(&mut session.inbox().lane) {
        tokio::spawn(lane::linger(lane));
    }
    if aborted {
        socket::flush(reads.as_ref(), session.flush_deadline()).await;
        // The close is then a reset, even if the direction to the target was already finished.
        let _ = reads.as_ref().set_zero_linger();
    }
}

/// Runs both directions to their ends; true if the target's connection must be reset.
async fn join(link: &Link, session: &Session, reads: &mut OwnedReadHalf, writes: &Writes) -> bool {
    let mut to_target = pin!(session.write_target(link, writes));
    let mut from_target = pin!(session.read_target(link, reads));
    let (mut delivered, mut collected) = (None, None);
    loop {
        tokio::select! {
            biased;
            end = &mut to_target, if delivered.is_none() => delivered = Some(end),
            end = &mut from_target, if collected.is_none() => {
                collected = Some(end);
                let refused_bytes = delivered == Some(Delivered::TargetFailed);
                if end == Collected::All && !refused_bytes && !session.inbox().failed {
                    link.change(|mux| mux.finish(session.id));
                }
            }
            // A caller that has finished its direction can still abort the session.
            () = session.aborted(), if delivered.is_some() => return true,
        }
        match (delivered, collected) {
            (Some(Delivered::Aborted), _) => return true,
            (Some(Delivered::LaneFailed), _) | (_, Some(Collected::LaneFailed)) => {
                link.reset(session.id, SessionEnd::LaneLost);
                return true;
            }
            (_, Some(Collected::TargetFailed)) | (Some(Delivered::TargetFailed), Some(_)) => {
                // The reset goes out after everything that was read from the target.
                link.reset(session.id, SessionEnd::TargetReset);
                return false;
            }
            (Some(Delivered::All), Some(Collected::All)) => return false,
            _ => {}
        }
    }
}

/// Removes the session from its link when dropped.
struct Leave<'a> {
    link: &'a Link,
    id: SessionId,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.link.leave(self.id);
    }
}
