//! Deadlines of the caller's side: the watchdog of a connection, checks on a caller that is not read, and the lingering
//! close after an early answer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBuf};

use super::state::FrontendState;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::ended::Ended;
use crate::listen::http::gateway::settings::Settings;

/// Limits of a lingering close: total time in which the caller's remaining bytes are discarded, and the
/// longest pause between them. An earlier close would reset the connection and could destroy an answer
/// that the caller has not read yet (RFC 9112, section 9.6).
pub(super) const LINGER_MAX: Duration = Duration::from_secs(30);
pub(super) const LINGER_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Interval of checks on a caller that is not read, for example while its target takes nothing of a request's body.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes discarded before other tasks get a turn.
pub(super) const LINGER_TURN_BYTES: usize = 64 * 1024;

type Timer = Pin<Box<dyn Future<Output = ()>>>;

/// Ends a connection whose deadline has passed. It sets a new timer only if the next deadline comes
/// before the current timer, so a busy connection makes about one timer per idle timeout.
#[derive(Default)]
pub(crate) struct Watchdog {
    timer: Option<(Instant, Timer)>,
}

impl Watchdog {
    /// Resolves if the caller's deadline has passed; call it after hyper was polled.
    pub(crate) fn poll<G: Gateway>(
        &mut self,
        cx: &mut Context<'_>,
        state: &FrontendState,
        settings: &Settings,
        gateway: &G,
    ) -> Poll<Ended> {
        if state.is_unhurried() {
            return Poll::Pending;
        }
        let mut now = gateway.now();
        let (deadline, ended) = state.deadline(settings, now);
        loop {
            match &mut self.timer {
                Some((at, timer)) if *at <= deadline => {
                    ready!(timer.as_mut().poll(cx));
                    self.timer = None;
                    now = gateway.now();
                }
                _ if deadline <= now => return Poll::Ready(ended),
                timer => {
                    *timer = Some((deadline, Box::pin(gateway.sleep(deadline - now))));
                }
            }
        }
    }
}

/// Checks a caller that is not read: no other event shows that it is gone. A timer stays set while the caller is read
/// again for a time, so a connection makes at most one timer per interval.
#[derive(Default)]
pub(crate) struct Look {
    timer: Option<Timer>,
}

impl Look {
    /// True if the caller is not read, and `is_broken` finds its connection broken; call it after hyper was polled.
    pub(crate) fn poll<G: Gateway>(
        &mut self,
        cx: &mut Context<'_>,
        state: &FrontendState,
        gateway: &G,
        is_broken: impl Fn() -> bool,
    ) -> bool {
        while state.is_unread() {
            let sleep = || Box::pin(gateway.sleep(LOOK_INTERVAL)) as Timer;
            let timer = self.timer.get_or_insert_with(sleep);
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.timer = None;
            if is_broken() {
                return true;
            }
        }
        false
    }
}

/// Discards the caller's remaining bytes, until the caller closes or a lingering limit is reached.
pub(crate) async fn linger<IO: Read + Unpin, G: Gateway>(io: &mut IO, gateway: &G) {
    let deadline = gateway.now() + LINGER_MAX;
    let mut bytes = vec![0; 16 * 1024];
    let mut turn_bytes = 0;
    while gateway.now() < deadline {
        let received = pin!(poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut bytes);
            let polled = ready!(Pin::new(&mut *io).poll_read(cx, buf.unfilled()));
            Poll::Ready(polled.map_or(0, |()| buf.filled().len()))
        }));
        match gateway.within(LINGER_PAUSE_MAX, received).await {
            None | Some(0) => return,
            Some(received) => turn_bytes += received,
        }
        if turn_bytes >= LINGER_TURN_BYTES {
            turn_bytes = 0;
            gateway.sleep(Duration::from_millis(1)).await;
        }
    }
}
