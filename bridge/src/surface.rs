//! What a driver hands to the bridge, and what it gets from it.

use std::time::Instant;

use bytes::Bytes;

use crate::headers::{Era, RequestHead};
use crate::ids::{Caller, ChildId, ExchangeId, SessionKey};
use crate::message::Line;

/// Method of an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// GET, for the stream of a legacy session.
    Get,
    /// POST, for messages.
    Post,
    /// DELETE, for the end of a legacy session.
    Delete,
    /// Any other method; it is refused.
    Other,
}

/// An HTTP request whose body has arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request's method.
    pub method: HttpMethod,
    /// The header fields that the bridge looks at.
    pub head: RequestHead,
    /// The caller, as the driver knows it.
    pub caller: Caller,
    /// The whole body.
    pub body: Bytes,
}

/// Head of the answer to an HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// Value of `Content-Type`; `None` if there is no body.
    pub content_type: Option<&'static str>,
    /// Value of `Mcp-Session-Id`.
    pub session: Option<SessionKey>,
    /// Value of `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// Value of `Allow`.
    pub allow: Option<&'static str>,
    /// True for a stream of events, which must not be buffered on its way: `Cache-Control: no-cache`,
    /// `X-Accel-Buffering: no`.
    pub is_stream: bool,
}

/// What a driver is to do, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Start a process for this child.
    Start(ChildId),
    /// Write this line and a newline to the child's standard input.
    Write(ChildId, Line),
    /// Close the child's standard input and see to it that the process ends; report its end.
    End(ChildId),
    /// Log this line of the child's standard output, which is not JSON-RPC.
    Stray(ChildId, Bytes),
    /// Send the head of the answer.
    Head(ExchangeId, ResponseHead),
    /// Send bytes of the answer's body.
    Body(ExchangeId, Vec<Bytes>),
    /// End the answer in order.
    Done(ExchangeId),
    /// Break the answer off, so that it does not look complete.
    Broken(ExchangeId),
}

/// How a process ended, or why it could not be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildEnd {
    /// The exit status or the error, in words: `exit status 1`.
    pub status: String,
    /// The last line that the process wrote to its standard error, if it wrote one.
    pub last_words: Option<String>,
}

impl std::fmt::Display for ChildEnd {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.last_words {
            Some(words) => write!(to, "{}: {words}", self.status),
            None => to.write_str(&self.status),
        }
    }
}

/// What a bridge can tell of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Children that run.
    pub children: usize,
    /// Those of them that have not answered their first request.
    pub starting: usize,
    /// Sessions of legacy callers.
    pub sessions: usize,
    /// Calls of callers under way at children.
    pub calls: usize,
    /// Those of them that wait for input of their caller.
    pub parked: usize,
    /// The era that the target speaks, once a child has shown it.
    pub era: Option<Era>,
    /// Children started so far.
    pub starts: u64,
    /// Children that ended although the bridge had not asked them to.
    pub ends: u64,
    /// Moment since which the target counts as failed.
    pub failed_since: Option<Instant>,
    /// How the latest child ended that was not asked to.
    pub last_end: Option<String>,
    /// Lines of children that are not JSON-RPC.
    pub strays: u64,
    /// Answers, progress and cancellations that belong to no request under way.
    pub unmatched: u64,
}
