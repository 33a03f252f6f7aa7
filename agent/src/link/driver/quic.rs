//! A link over QUIC: one task moves packets, the events of the streams and the mux's output in turns.

use std::time::Duration;

use quinn_proto::ConnectionError;
use tieline_transport::quic::lost;
use tieline_wire::LinkEnd;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::gathered;
use crate::error::Error;
use crate::link::Link;
use crate::link::buffer::TURN_BYTES_MAX;
use crate::link::dispatch::Dispatch;
use crate::transport::{Quic, alert_of, certificate_required};

/// Shortest time between two looks at the path's measurements, for the agent's status.
const PATH_INTERVAL: Duration = Duration::from_secs(1);

/// Round trips without an acknowledgement after which no more is waited for: a lost packet may take two.
const ROUND_TRIPS_MAX: u32 = 4;

/// Moves bytes both ways, and has `dispatch` handle the events, until the link or the connection ends.
///
/// # Errors
/// Always: why the link ended.
pub(super) async fn run(
    link: &Link,
    quic: &mut Quic,
    dispatch: &mut Dispatch<'_>,
) -> Result<(), Error> {
    let ended = turns(link, quic, Some(dispatch), |_, _| false).await;
    let path = quic.path();
    tracing::debug!(
        transport = "quic",
        rtt = ?path.rtt,
        mtu = path.mtu,
        sent = path.sent,
        lost = path.lost,
        "the QUIC connection of the link ends"
    );
    ended
}

/// Sends what the mux has to send, and reads no more of it, until this is dropped or the connection is lost.
pub(super) async fn send(link: &Link, quic: &mut Quic) {
    let _ = turns(link, quic, None, |_, quic| quic.is_closed()).await;
}

/// Sends what the mux has to send, until the relay has acknowledged all of it, for `limit` at least. Until the link's
/// deadline it goes on as long as acknowledgements come, like the kernel for a socket that is closed: one within each
/// `limit`, or on a long path within a few round trips.
pub(super) async fn flush(link: &Link, quic: &mut Quic, limit: Duration) {
    let has_arrived = |link: &Link, quic: &mut Quic| {
        let is_sent = !link.core().mux.wants_transmit();
        quic.is_closed() || is_sent && quic.has_arrived()
    };
    let least = Instant::now() + limit;
    loop {
        // The deadline may come nearer meanwhile.
        let until = link.deadline_at().map_or(least, |at| at.max(least));
        let patience = limit.max(quic.path().rtt * ROUND_TRIPS_MAX);
        let wait = until
            .saturating_duration_since(Instant::now())
            .min(patience);
        let acks = quic.acks();
        let sent = timeout(wait, turns(link, quic, None, has_arrived)).await;
        if sent.is_ok() || quic.acks() == acks || Instant::now() >= until {
            return;
        }
    }
}

/// Takes turns until `is_done` after one of them. Without a dispatch, what arrives on the streams stays unread.
///
/// In each turn what has arrived is read before anything is sent: what the relay is told has arrived has also been read,
/// so that a reset never discards it.
async fn turns(
    link: &Link,
    quic: &mut Quic,
    mut dispatch: Option<&mut Dispatch<'_>>,
    mut is_done: impl FnMut(&Link, &mut Quic) -> bool,
) -> Result<(), Error> {
    let (mut turn_bytes, mut looked_at) = (0, None);
    loop {
        let taken_in = quic.take_in();
        if let Some(dispatch) = &mut dispatch {
            // Also of a lost connection: the reason of its end may have arrived before.
            dispatch.turn(|now, mux| quic.poll_event(now, mux))?;
        }
        turn_bytes += taken_in.map_err(|reason| lost_by(&reason, dispatch.as_deref()))?;
        {
            let mut core = link.core();
            // What was rung for is sent now, or waits for room that the relay gives: a turn for the ring alone would come
            // at once, and again, without a wait in which packets are read.
            link.transmit.hush();
            quic.transmit(link.now(), &mut core.mux);
            core.after_turn(&link.deadline);
        }
        turn_bytes += quic.send_out();
        if looked_at.is_none_or(|at: Instant| at.elapsed() >= PATH_INTERVAL) {
            looked_at = Some(Instant::now());
            link.measured(quic.path());
        }
        if is_done(link, quic) {
            return Ok(());
        }
        if turn_bytes >= TURN_BYTES_MAX {
            turn_bytes = 0;
            yield_now().await;
        }
        let wakes_at = quic.streams_timeout().map(|at| link.at(at));
        tokio::select! {
            // First, so that a ping leaves from the new address.
            biased;
            () = link.moved.heard() => quic.rebind(),
            () = link.lost_address.heard() => quic.leave_lost_address(),
            () = quic.ready(wakes_at) => {}
            () = link.transmit.heard() => gathered(link).await,
        }
    }
}

/// The error of a link whose connection was lost.
fn lost_by(reason: &ConnectionError, dispatch: Option<&Dispatch<'_>>) -> Error {
    // As over TLS, it may be the end of the handshake: the relay refuses the agent's own certificate.
    if let (Some(alert), Some(dispatch)) = (alert_of(reason), dispatch) {
        return dispatch.lost_by(alert);
    }
    let error = lost(reason);
    if let (LinkEnd::ClientCertificate, Some(dispatch)) = (error.reason, dispatch) {
        return dispatch.lost_by(certificate_required());
    }
    match reason {
        ConnectionError::ApplicationClosed(_) if error.reason.is_final() => {
            Error::of_farewell(error.reason, String::new())
        }
        _ => Error::of_link(error),
    }
}
