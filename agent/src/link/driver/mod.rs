//! Drives a link: moves bytes between its connection and the mux, runs the mux's timers, and ends the link. `bytes` is
//! what a stream of bytes needs for that, `quic` what QUIC needs.

mod bytes;
mod quic;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::{LinkEnd, SendBatching, Side};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::error::Error;
use crate::link::dispatch::Dispatch;
use crate::link::{Link, Start};
use crate::transport::{Connection, Quic, Reads};

/// Time limit for the last frames to reach the kernel, and over QUIC for the relay's next acknowledgement of them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The same for a relay that broke a rule.
const COMPLAINT_TIMEOUT: Duration = Duration::from_millis(500);

/// Time limit for aborted sessions to end; above a session's own limit for the last bytes to its target.
const ABORT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Runs `link` over `connection` until it ends.
///
/// # Errors
/// Why the link ended, unless [`Link::close`] ended it.
pub(crate) async fn run(
    link: Arc<Link>,
    connection: Connection,
    start: Start,
) -> Result<(), Error> {
    let facts = (
        connection.lane_address().map_err(Error::lost_by)?,
        connection.exporter(),
    );
    let is_surely_relay = connection.is_surely_relay();
    // Separate tasks, so that a read of the link does not poll all of them.
    let mut others = JoinSet::new();
    let carrier = match connection {
        Connection::Bytes(stream) => {
            if let Ok(gauge) = stream.gauge() {
                // A link runs once, so there was none.
                let _ = link.gauge.set(gauge);
            }
            let (reads, writes) = stream.split();
            others.spawn(bytes::write(Arc::clone(&link), writes));
            Carrier::Bytes(reads)
        }
        Connection::Quic(quic) => {
            let _ = link.gauge.set(quic.gauge());
            Carrier::Quic(quic)
        }
    };
    let mut ending = Ending {
        link: &link,
        carrier,
    };
    let carrier = &mut ending.carrier;
    others.spawn(keep_time(Arc::clone(&link)));
    others.spawn(closed(Arc::clone(&link)));
    let mut dispatch = Dispatch::new(&link, facts, start);
    let end = tokio::select! {
        biased;
        end = carrier.run(&link, &mut dispatch) => end,
        Some(end) = others.join_next() => {
            end.unwrap_or_else(|_| Err(Error::link_lost("a task of the link stopped")))
        }
    };
    let end = match end {
        // A write may have failed before the relay's reason was read.
        Err(error) => Err(carrier.last_words(&mut dispatch, error).await),
        Ok(()) => Ok(()),
    };
    let end = end.map_err(|error| match is_surely_relay {
        true => error,
        false => dispatch.explained(error),
    });
    let heard = dispatch.farewell.as_ref().map(|(reason, _)| *reason);
    part(&link, carrier, &end, heard).await;
    match (end, dispatch.farewell) {
        // If the relay announced the end, its own reason is the result.
        (Ok(()), Some((reason, message))) if reason.is_final() => {
            Err(Error::of_farewell(reason, message))
        }
        (Err(Error::Link { .. }), Some((reason, message))) => {
            Err(Error::of_farewell(reason, message))
        }
        (end, _) => end,
    }
}

/// Takes leave of the relay after the link has ended with `end`; `heard` is the reason of the relay's own `GoAway`.
async fn part(link: &Link, carrier: &mut Carrier, end: &Result<(), Error>, heard: Option<LinkEnd>) {
    match end {
        Ok(()) => {
            link.abort_sessions();
            let emptied = timeout(ABORT_TIMEOUT, link.emptied());
            carrier.while_sending(link, emptied).await;
            carrier.flush(link, FLUSH_TIMEOUT).await;
            let said = link.core().reason;
            let reason = said.or(heard).unwrap_or(LinkEnd::ShuttingDown);
            carrier.say_farewell(reason).await;
        }
        // Tells the relay what it did wrong, for its log, in case the relay still reads.
        Err(Error::Link {
            reason,
            side: Side::Peer,
            ..
        }) if *reason != LinkEnd::LinkLost => {
            link.close(Instant::now(), Some(*reason));
            carrier.flush(link, COMPLAINT_TIMEOUT).await;
            carrier.complain(*reason);
            if *reason == LinkEnd::Stale {
                link.fell_silent();
            }
        }
        Err(_) => {}
    }
}

/// What carries a link, as its driver sees it.
enum Carrier {
    /// The direction from the relay of a stream of bytes; the other has a task of its own.
    Bytes(Reads),
    /// A QUIC connection.
    Quic(Box<Quic>),
}

impl Carrier {
    /// Has `dispatch` handle what arrives, until the link ends.
    async fn run(&mut self, link: &Link, dispatch: &mut Dispatch<'_>) -> Result<(), Error> {
        match self {
            Self::Bytes(reads) => dispatch.read(reads).await,
            Self::Quic(quic) => quic::run(link, quic, dispatch).await,
        }
    }

    /// The error of a link that ended with `error`, after what is still to be read.
    async fn last_words(&mut self, dispatch: &mut Dispatch<'_>, error: Error) -> Error {
        match self {
            Self::Bytes(reads) => dispatch.last_words(reads, error).await,
            Self::Quic(_) => error,
        }
    }

    /// Waits for `done`, while what the mux has to send goes out.
    async fn while_sending(&mut self, link: &Link, done: impl Future) {
        match self {
            Self::Bytes(_) => drop(done.await),
            Self::Quic(quic) => {
                // A connection that is lost meanwhile does not end the wait.
                let sending = async {
                    quic::send(link, quic).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    _ = done => {}
                    () = sending => {}
                }
            }
        }
    }

    /// Waits until all that the mux had to send is in the kernel, or over QUIC has arrived; for `limit` at most, over QUIC
    /// longer while it goes on arriving.
    async fn flush(&mut self, link: &Link, limit: Duration) {
        match self {
            Self::Bytes(_) => drop(timeout(limit, bytes::flushed(link)).await),
            Self::Quic(quic) => quic::flush(link, quic, limit).await,
        }
    }

    /// Ends the connection in order.
    async fn say_farewell(&mut self, reason: LinkEnd) {
        match self {
            Self::Bytes(reads) => bytes::say_farewell(reads).await,
            Self::Quic(quic) => quic.close(reason),
        }
    }

    /// Ends the connection because of what the relay did, if the way in which it ends can tell that.
    fn complain(&mut self, reason: LinkEnd) {
        match self {
            Self::Bytes(_) => {}
            Self::Quic(quic) => quic.close(reason),
        }
    }
}

/// Waits until the link was asked to close, and its sessions have ended or their deadline has passed.
async fn closed(link: Arc<Link>) -> Result<(), Error> {
    let mut requests = link.closing.subscribe();
    loop {
        let closing = *requests.borrow_and_update();
        let asked_again = match closing {
            None => requests.changed().await.is_ok(),
            Some(deadline) => tokio::select! {
                changed = requests.changed() => changed.is_ok(),
                _ = timeout_at(deadline, link.emptied()) => false,
            },
        };
        if !asked_again {
            return Ok(());
        }
    }
}

/// Runs the mux's timers: sends pings, detects a relay that fell silent, and tells of a doubt over QUIC before.
async fn keep_time(link: Arc<Link>) -> Result<(), Error> {
    loop {
        let wakes_at = {
            let mut core = link.core();
            let now = link.now();
            if core.mux.poll_timeout() <= now {
                if core.mux.wants_progress(now) {
                    let progress = link.progress(&core);
                    core.mux.progressed(now, progress);
                }
                core.mux.handle_timeout(now).map_err(Error::of_link)?;
                link.transmit.ring();
            }
            // Over TCP nothing is done about a doubt.
            if link.is_over_quic && core.mux.take_doubt(now) {
                link.doubted.ring();
            }
            let doubt_at = core.mux.doubt_at().filter(|_| link.is_over_quic);
            let timeout_at = core.mux.poll_timeout();
            let wakes_at = doubt_at.map_or(timeout_at, |at| at.min(timeout_at));
            core.wakes_at = Some(wakes_at);
            wakes_at
        };
        tokio::select! {
            () = sleep_until(link.at(wakes_at)) => {}
            () = link.deadline.heard() => {}
        }
    }
}

/// Lets tasks run that are ready now: what they have to send then goes into the same write.
async fn gathered(link: &Link) {
    let mut batching = SendBatching::default();
    while batching.goes_on(&link.core().mux) {
        yield_now().await;
    }
}

/// Aborts the sessions when the link's future ends or is dropped, and resets the connection if the relay answers
/// nothing.
struct Ending<'a> {
    link: &'a Arc<Link>,
    carrier: Carrier,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.link.abort_sessions();
        // A QUIC connection that is dropped is closed at once, whatever is unacknowledged.
        if let Carrier::Bytes(reads) = &self.carrier
            && self.link.core().is_silent
        {
            reads.reset_on_close();
        }
    }
}
