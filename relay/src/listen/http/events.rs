//! An event stream on its way to the caller: kept alive while it is quiet, its endpoints mapped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_hop::events;

use super::Gateway;
use super::endpoint::Endpoint;
use super::sse::{Border, COMMENT};

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
    /// What finds endpoints in it, where it may name some, and how to map them.
    mapped: Option<(events::Events, Endpoint)>,
    /// Of a stream without any, what came and has not left.
    piece: Bytes,
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
    /// A stream that begins now; one that is an answer to a GET will stay. With `mapped`, it may name
    /// endpoints.
    pub(super) fn new(
        gateway: G,
        quiet_max: Duration,
        is_get: bool,
        mapped: Option<(events::Events, Endpoint)>,
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
            mapped,
            piece: Bytes::new(),
            quiet_max,
            timer: None,
        }
    }

    /// Takes a piece from the target.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.last = self.gateway.now();
        match &mut self.mapped {
            Some((events, _)) => events.push(piece),
            None => self.piece = piece,
        }
    }

    /// What goes on of what was pushed; `None` once the next piece is to come.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let out = match &mut self.mapped {
            Some((events, endpoint)) => events.next(|url| endpoint.public(url))?,
            None => Some(std::mem::take(&mut self.piece)).filter(|piece| !piece.is_empty()),
        };
        if let Some(out) = &out {
            self.border.pass(out);
        }
        Ok(out)
    }

    /// What was held back when the target ended the stream.
    pub(super) fn rest(&mut self) -> Bytes {
        let mapped = self.mapped.take();
        mapped.map_or_else(Bytes::new, |(mut events, _)| events.rest())
    }

    /// True if something is held back.
    pub(super) fn is_holding(&self) -> bool {
        let mapped = self.mapped.as_ref();
        !self.piece.is_empty() || mapped.is_some_and(|(events, _)| events.is_holding())
    }

    /// True if a comment may come next: what is held back is the beginning of an event.
    fn takes_comment(&self) -> bool {
        let mapped = self.mapped.as_ref();
        self.border.is_reached() && mapped.is_none_or(|(events, _)| events.has_begun())
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
                    if self.takes_comment() {
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
