//! How a link leaves its slot: the errors of a link that is given up, the drain of one that is left, and the waits for
//! what ends either.

use std::sync::Arc;
use std::time::Duration;

use tieline_wire::{LinkEnd, Side};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::Error;
use crate::link::Link;

/// Longest time that sessions go on over a link that the slot has left.
pub(super) const MOVE_DRAIN_MAX: Duration = Duration::from_secs(3600);

/// Time after a registration over another link in which sessions may still arrive over the earlier one: the relay opened
/// them before, and a lost packet may hold them up.
const OPENS_ARRIVE: Duration = Duration::from_secs(2);

/// How a link left its slot.
pub(super) enum Left {
    /// The agent was asked to stop.
    Stopped,
    /// The link drains; the slot must dial a new link after this wait.
    Moved(Duration),
    /// The link drains, and the slot already has the next one.
    Overtaken,
}

/// Why a dial ends, or a link, during which this machine was asleep.
pub(super) fn asleep() -> Error {
    Error::link_lost("this machine was asleep for longer than the relay keeps a link")
}

/// Why a link ends that was up while this machine was asleep: the relay has given it up.
pub(super) fn slept(link: &Link) -> Error {
    link.fell_silent();
    asleep()
}

/// Why a link ends that a new connection replaces.
pub(super) fn silent(link: &Link) -> Error {
    link.fell_silent();
    Error::Link {
        reason: LinkEnd::Stale,
        side: Side::Peer,
        detail: "no answer to a ping, while a new connection gets through".to_owned(),
    }
}

/// Why a link ends whose registration is not answered.
pub(super) fn unregistered() -> Error {
    Error::Link {
        reason: LinkEnd::ClaimTimeout,
        side: Side::Peer,
        detail: "no answer to the registration".to_owned(),
    }
}

/// Why a link ends that another transport has outrun.
pub(super) fn outrun() -> Error {
    Error::Link {
        reason: LinkEnd::ClaimTimeout,
        side: Side::Peer,
        detail: "no answer to the registration, while another transport gets through".to_owned(),
    }
}

/// True for the end of a link whose transport may be to blame: the relay has named no reason.
pub(super) const fn is_loss(error: &Error) -> bool {
    matches!(
        error,
        Error::Link {
            reason: LinkEnd::LinkLost
                | LinkEnd::Stale
                | LinkEnd::HandshakeTimeout
                | LinkEnd::ClaimTimeout,
            ..
        }
    )
}

/// The outcome of a link whose task has `ended`.
pub(super) fn ended_by(
    ended: Option<Result<Result<(), Error>, JoinError>>,
    stopping: bool,
) -> Result<(), Error> {
    match ended {
        Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(_))) if stopping => Ok(()),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(_)) | None => Err(Error::link_lost("the link's task stopped")),
    }
}

/// Leaves a link that another one has overtaken: the relay is told after a while, when no session can be on its way over the
/// link, and those that run go on.
pub(super) async fn leave(
    link: Arc<Link>,
    task: JoinSet<Result<(), Error>>,
    drain_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        () = sleep(OPENS_ARRIVE) => {}
        () = stopped(&mut stop) => {}
    }
    let deadline = Instant::now() + MOVE_DRAIN_MAX;
    link.close(deadline, Some(LinkEnd::ShuttingDown));
    drain(link, task, drain_timeout, stop).await;
}

/// Runs a draining link to its end; a stop of the agent shortens the link's deadline.
pub(super) async fn drain(
    link: Arc<Link>,
    mut task: JoinSet<Result<(), Error>>,
    drain_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        _ = task.join_next() => return,
        () = stopped(&mut stop) => link.close(Instant::now() + drain_timeout, None),
    }
    task.join_next().await;
}

/// Ready once the agent is asked to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender is dropped, and this task will be dropped with it.
        std::future::pending::<()>().await;
    }
}

/// Ready when the number in `count` has changed.
pub(super) async fn changed(count: &mut watch::Receiver<u64>) {
    if count.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Ready at `deadline`, if there is one.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
