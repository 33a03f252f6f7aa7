//! Drives a link: reads its socket into the mux, writes the mux's output, and runs its timers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tieline_wire::{LinkEnd, SendBatching, SendProgress, Side, Transmit};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::buffer::{READ_BYTES_MIN, TURN_BYTES_MAX};
use super::dispatch::Dispatch;
use super::{Link, Start};
use crate::error::Error;
use crate::transport::{Reads, Stream, Writes};

/// Time limit for the last frames to reach the kernel.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit for the relay to close its side after the agent closed its own.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Time limit for aborted sessions to end; above a session's own limit for the last bytes to its target.
const ABORT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Runs `link` over `stream` until it ends.
///
/// # Errors
/// Why the link ended, unless [`Link::close`] ended it.
pub(crate) async fn run(link: Arc<Link>, stream: Stream, start: Start) -> Result<(), Error> {
    let lane_address = stream.lane_address().map_err(Error::lost_by)?;
    let exporter = stream.exporter();
    // What opened a WebSocket for agents is a relay, so its bytes need no explanation.
    let is_surely_relay = stream.is_websocket();
    if let Ok(gauge) = stream.gauge() {
        // A link runs once, so there was none.
        let _ = link.gauge.set(gauge);
    }
    let (reads, writes) = stream.split();
    let mut ending = Ending { link: &link, reads };
    let reads = &mut ending.reads;
    // Separate tasks, so that a read of the link does not poll all of them.
    let mut others = JoinSet::new();
    others.spawn(write(Arc::clone(&link), writes));
    others.spawn(keep_time(Arc::clone(&link)));
    others.spawn(closed(Arc::clone(&link)));
    let mut dispatch = Dispatch::new(&link, (lane_address, exporter), start);
    let end = tokio::select! {
        biased;
        end = dispatch.read(reads) => end,
        Some(end) = others.join_next() => {
            end.unwrap_or_else(|_| Err(Error::link_lost("a task of the link stopped")))
        }
    };
    let end = match end {
        // A write may have failed before the relay's reason was read.
        Err(error) => Err(dispatch.last_words(reads, error).await),
        Ok(()) => Ok(()),
    };
    let end = end.map_err(|error| match is_surely_relay {
        true => error,
        false => dispatch.explained(error),
    });
    match &end {
        Ok(()) => {
            link.abort_sessions();
            let _ = timeout(ABORT_TIMEOUT, link.emptied()).await;
            let _ = timeout(FLUSH_TIMEOUT, flushed(&link)).await;
            say_farewell(reads).await;
        }
        // Tells the relay what it did wrong, for its log, in case the relay still reads.
        Err(Error::Link {
            reason,
            side: Side::Peer,
            ..
        }) if *reason != LinkEnd::LinkLost => {
            link.close(Instant::now(), Some(*reason));
            let _ = timeout(FAREWELL_TIMEOUT, flushed(&link)).await;
            if *reason == LinkEnd::Stale {
                link.fell_silent();
            }
        }
        Err(_) => {}
    }
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

/// Waits until the kernel has all that the mux had to send.
async fn flushed(link: &Link) {
    loop {
        let flushed = link.flushed.notified();
        tokio::pin!(flushed);
        flushed.as_mut().enable();
        {
            let core = link.core();
            if core.written.waiting == 0 && !core.mux.wants_transmit() {
                return;
            }
        }
        flushed.await;
    }
}

/// Closes our side, and reads until the relay has closed its own.
///
/// Closing a socket with unread bytes resets the connection, and the relay could lose our last frames.
async fn say_farewell(reads: &mut Reads) {
    let mut rest = BytesMut::with_capacity(READ_BYTES_MIN);
    let _ = timeout(FAREWELL_TIMEOUT, async {
        reads.end_sending().await;
        while matches!(reads.read(&mut rest).await, Ok(count) if count > 0) {
            rest.clear();
        }
    })
    .await;
}

/// Runs the mux's timers: sends pings, and detects a relay that fell silent.
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
            let wakes_at = core.mux.poll_timeout();
            core.wakes_at = Some(wakes_at);
            wakes_at
        };
        let at = link.started_at + Duration::from_micros(wakes_at.as_micros());
        tokio::select! {
            () = sleep_until(at) => {}
            () = link.deadline.heard() => {}
        }
    }
}

/// Sends the mux's output in gathered writes until the socket fails.
async fn write(link: Arc<Link>, writes: Writes) -> Result<(), Error> {
    let mut out = Transmit::new();
    let (mut turn_bytes, mut written) = (0, SendProgress::default());
    loop {
        let mut batching = SendBatching::default();
        while batching.goes_on(&link.core().mux) {
            // Lets tasks run that are ready now: their frames then go into the same write.
            yield_now().await;
        }
        {
            let mut core = link.core();
            if core.mux.wants_transmit() {
                core.mux.poll_transmit(link.now(), &mut out);
                core.after_turn(&link.deadline);
            }
            written.waiting = out.len() as u64;
            core.written = written;
        }
        if out.is_empty() {
            link.flushed.notify_waiters();
            turn_bytes = 0;
            link.transmit.heard().await;
            continue;
        }
        while !out.is_empty() {
            let sent: io::Result<usize> = out.send_with(|slices| {
                let count = writes.try_send_vectored(slices)?;
                #[cfg(test)]
                crate::link::tests::witness::written(writes.socket(), slices, count);
                Ok(count)
            });
            match sent {
                Ok(count) => {
                    turn_bytes += count;
                    written.acked += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    written.waiting = out.len() as u64;
                    link.core().written = written;
                    writes.writable().await.map_err(Error::lost_by)?;
                }
                Err(error) => return Err(Error::lost_by(error)),
            }
            if turn_bytes >= TURN_BYTES_MAX {
                turn_bytes = 0;
                yield_now().await;
            }
        }
    }
}

/// Aborts the sessions when the link's future ends or is dropped, and resets the connection if the relay answers
/// nothing.
struct Ending<'a> {
    link: &'a Arc<Link>,
    reads: Reads,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.link.abort_sessions();
        if self.link.core().is_silent {
            self.reads.reset_on_close();
        }
    }
}
