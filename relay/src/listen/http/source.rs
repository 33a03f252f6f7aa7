//! Source of an answer's body: hyper's client, or the session itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Gateway;
use super::direct::Direct;
use super::pool::Lease;

/// Why an answer is incomplete.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error(transparent)]
    Stream(#[from] io::Error),
    #[error("the caller took nothing of the answer for too long")]
    Stalled,
}

/// Source of an answer's frames.
pub(super) enum Source<G: Gateway> {
    Hyper {
        incoming: Incoming,
        /// Data bytes delivered so far.
        passed: u64,
        /// The connection's lease, which ends with the body.
        lease: Option<Box<Lease<G>>>,
    },
    Direct(Box<Direct<G>>),
}

impl<G: Gateway> Source<G> {
    pub(super) fn new(incoming: Incoming, lease: Lease<G>) -> Self {
        Self::Hyper {
            incoming,
            passed: 0,
            lease: Some(Box::new(lease)),
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let (incoming, passed, lease) = match self {
            Self::Hyper {
                incoming,
                passed,
                lease,
            } => (incoming, passed, lease),
            Self::Direct(direct) => return direct.poll_frame(cx).map_err(Broken::from),
        };
        let polled = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let is_last = match &polled {
            Some(Ok(frame)) => {
                *passed += frame.data_ref().map_or(0, |data| data.len() as u64);
                frame.is_trailers() || incoming.is_end_stream()
            }
            None => true,
            Some(Err(_)) => {
                *lease = None;
                false
            }
        };
        if is_last {
            finish(lease);
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Broken::from)))
    }

    /// Takes an event stream from hyper, if hyper buffers none of it. False if the switch should be tried again
    /// later.
    pub(super) fn settle(&mut self) -> bool {
        let Self::Hyper {
            passed,
            lease: Some(lease),
            ..
        } = self
        else {
            return true;
        };
        let Some(direct) = lease.take_stream(*passed) else {
            return false;
        };
        *self = Self::Direct(Box::new(direct));
        true
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper { incoming, .. } => incoming.is_end_stream(),
            Self::Direct(direct) => direct.is_over(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper { incoming, .. } => incoming.size_hint(),
            Self::Direct(_) => SizeHint::default(),
        }
    }
}

impl<G: Gateway> Drop for Source<G> {
    fn drop(&mut self) {
        // hyper does not poll for the end of a body of known length.
        if let Self::Hyper {
            incoming, lease, ..
        } = self
            && incoming.is_end_stream()
        {
            finish(lease);
        }
    }
}

fn finish<G: Gateway>(lease: &mut Option<Box<Lease<G>>>) {
    if let Some(lease) = lease.take() {
        lease.finish();
    }
}
