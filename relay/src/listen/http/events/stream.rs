//! An event stream on its way to the caller: comments keep it alive, and endpoints are mapped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_hop::{EventStream, events};

use super::endpoint::Endpoint;
use super::sse::{Border, COMMENT};
use crate::listen::http::gateway::Gateway;

/// State of one event stream between its target and its caller.
pub(crate) struct Events<G: Gateway> {
    gateway: G,
    border: Border,
    /// Parser and mapping of endpoints, if the stream may name any.
    mapped: Option<events::Events<Endpoint>>,
    /// Received bytes of a stream without endpoints that were not passed on yet.
    piece: Bytes,
    /// Silence before a keep-alive comment; zero for no comments.
    quiet_max: Duration,
    /// When the last byte arrived from the target, or when the last comment was due.
    last: Instant,
    timer: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<G: Gateway> Events<G> {
    /// For a stream that begins now. `mapped` finds and maps the stream's endpoints.
    pub(crate) fn new(
        gateway: G,
        quiet_max: Duration,
        mapped: Option<events::Events<Endpoint>>,
    ) -> Self {
        Self {
            last: gateway.now(),
            gateway,
            border: Border::default(),
            mapped,
            piece: Bytes::new(),
            quiet_max,
            timer: None,
        }
    }

    /// True if a comment may come next: the bytes passed on end with an event, and no byte order mark is held back.
    fn takes_comment(&self) -> bool {
        let mapped = self.mapped.as_ref();
        self.border.is_reached() && mapped.is_none_or(events::Events::has_begun)
    }
}

impl<G: Gateway> EventStream for Events<G> {
    fn push(&mut self, piece: Bytes) {
        self.last = self.gateway.now();
        match &mut self.mapped {
            Some(events) => events.push(piece),
            None => self.piece = piece,
        }
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let out = match &mut self.mapped {
            Some(events) => events.next()?,
            None => Some(std::mem::take(&mut self.piece)).filter(|piece| !piece.is_empty()),
        };
        if let Some(out) = &out {
            self.border.pass(out);
        }
        Ok(out)
    }

    fn rest(&mut self) -> Bytes {
        let mapped = self.mapped.take();
        mapped.map_or_else(Bytes::new, |mut events| events.rest())
    }

    fn is_holding(&self) -> bool {
        let mapped = self.mapped.as_ref();
        !self.piece.is_empty() || mapped.is_some_and(EventStream::is_holding)
    }

    /// Resolves with a comment for the caller after each quiet period, but never inside an event.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
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
            let mut left = self.quiet_max.saturating_sub(quiet);
            if left.is_zero() {
                self.last = now;
                if self.takes_comment() {
                    return Poll::Ready(COMMENT);
                }
                left = self.quiet_max;
            }
            self.timer = Some(Box::pin(self.gateway.sleep(left)));
        }
    }
}
