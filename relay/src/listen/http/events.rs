//! An event stream on its way to the caller: kept alive while it is quiet, its endpoint mapped.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Gateway;
use super::endpoint::Endpoint;
use super::sse::{Border, COMMENT, Opening};

/// One stream, between its target and its caller.
pub(super) struct Events<G: Gateway> {
    gateway: G,
    border: Border,
    /// The first event, where it may name an endpoint, and how to map that.
    opening: Option<(Opening, Endpoint)>,
    /// Longest time without a byte; zero for as long as it takes.
    quiet_max: Duration,
    /// When the last byte left.
    last: Instant,
    timer: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<G: Gateway> Events<G> {
    /// A stream that begins now. With `endpoint`, its first event may name one.
    pub(super) fn new(gateway: G, quiet_max: Duration, endpoint: Option<Endpoint>) -> Self {
        Self {
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

    /// A comment, once the stream was quiet for long enough; never in the middle of an event.
    pub(super) fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.quiet_max.is_zero() {
            return Poll::Pending;
        }
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let now = self.gateway.now();
            let quiet = now.saturating_duration_since(self.last);
            if quiet >= self.quiet_max {
                self.last = now;
                if self.border.is_reached() && !self.is_holding() {
                    return Poll::Ready(COMMENT);
                }
            }
            let left = self.quiet_max.saturating_sub(quiet);
            let left = if left.is_zero() { self.quiet_max } else { left };
            self.timer = Some(Box::pin(self.gateway.sleep(left)));
        }
    }
}
