//! An event stream on its way to the caller: kept alive while it is quiet, its endpoint mapped.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Gateway;
use super::endpoint::Endpoint;
use super::sse::{Border, COMMENT, Opening};

/// After so long without a byte a stream is taken for one that stays open and brings little. An
/// answer that has its events at once is over by then, and its connection serves the next request.
const PAUSE: Duration = Duration::from_secs(1);

/// What comes of a stream's silence.
pub(super) enum Quiet {
    /// It pauses: what holds buffers for it may let go.
    Pause,
    /// It was quiet for so long that its caller gets a comment.
    Comment(Bytes),
}

/// One stream, between its target and its caller.
pub(super) struct Events<G: Gateway> {
    gateway: G,
    border: Border,
    /// The first event, where it may name an endpoint, and how to map that.
    opening: Option<(Opening, Endpoint)>,
    /// Longest time without a byte; zero for as long as it takes.
    quiet_max: Duration,
    /// After how long without a byte it pauses, until it did.
    pauses_after: Option<Duration>,
    /// The same, where nothing else is known of it.
    pause: Duration,
    /// When the last byte left.
    last: Instant,
    timer: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<G: Gateway> Events<G> {
    /// A stream that begins now; one that is an answer to a GET will stay. With `endpoint`, its first
    /// event may name one.
    pub(super) fn new(
        gateway: G,
        quiet_max: Duration,
        is_get: bool,
        endpoint: Option<Endpoint>,
    ) -> Self {
        // Not behind the first comment: each begins the quiet time anew.
        let pause = match quiet_max.is_zero() {
            true => PAUSE,
            false => PAUSE.min(quiet_max),
        };
        let pauses_after = if is_get { Duration::ZERO } else { pause };
        Self {
            pauses_after: Some(pauses_after),
            pause,
            last: gateway.now(),
            gateway,
            border: Border::default(),
            opening: endpoint.map(|endpoint| (Opening::default(), endpoint)),
            quiet_max,
            timer: None,
        }
    }

    /// What goes on of a piece from the target; nothing if all of it is held back.
    pub(super) fn pass(&mut self, piece: Bytes) -> Bytes {
        let out = match &mut self.opening {
            Some((opening, endpoint)) => opening.pass(piece, |url| endpoint.public(url)),
            None => piece,
        };
        self.border.pass(&out);
        self.last = self.gateway.now();
        out
    }

    /// What was held back when the target ended the stream.
    pub(super) fn rest(&mut self) -> Bytes {
        let opening = self.opening.take();
        opening.map_or_else(Bytes::new, |(mut opening, _)| opening.rest())
    }

    /// True if something is held back.
    pub(super) fn is_holding(&self) -> bool {
        self.opening
            .as_ref()
            .is_some_and(|(opening, _)| opening.is_holding())
    }

    /// A pause, once; a comment, each time the stream was quiet for long enough, but never in the
    /// middle of an event.
    pub(super) fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Quiet> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let now = self.gateway.now();
            let quiet = now.saturating_duration_since(self.last);
            let left = match self.pauses_after {
                Some(pause) if quiet >= pause => return Poll::Ready(Quiet::Pause),
                Some(pause) => pause.saturating_sub(quiet),
                None if self.quiet_max.is_zero() => return Poll::Pending,
                None if quiet < self.quiet_max => self.quiet_max.saturating_sub(quiet),
                None => {
                    self.last = now;
                    if self.border.is_reached() && !self.is_holding() {
                        return Poll::Ready(Quiet::Comment(COMMENT));
                    }
                    self.quiet_max
                }
            };
            self.timer = Some(Box::pin(self.gateway.sleep(left)));
        }
    }

    /// The pause was used, or could not be: then there is another one, once the stream was quiet for
    /// longer.
    pub(super) fn paused(&mut self, is_used: bool) {
        let before = self.pauses_after.take();
        if !is_used && before.is_some_and(|before| before < self.pause) {
            self.pauses_after = Some(self.pause);
        }
    }
}
