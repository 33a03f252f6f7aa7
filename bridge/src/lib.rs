//! The pure core of `tieline serve --to 'stdio:COMMAND'`: MCP over JSON lines on one side, Streamable HTTP on the
//! other.
//!
//! A [`Bridge`] stands between HTTP requests of callers and the standard streams of children, which are MCP servers. It
//! does no I/O, has no clock and starts nothing: a driver hands in requests, lines and ends with the time, and carries
//! out [`Output`]s.
//!
//! ```text
//!   callers                        Bridge                          children
//!   Request ──────► arrivals ──► legacy | modern ──► Call ──► Output::Write
//!   Output::Head ◄─ Outside ◄─── Session | Call  ◄── heard ◄───── line
//!   Output::Body                                 asked: input that a child needs of a caller
//! ```
//!
//! The protocol has two eras. A legacy caller or child begins with `initialize` and keeps a session; a modern one says
//! in each request what it is. All four pairs work: `session` holds the streams of a legacy caller, `greeting`
//! shows a child of one era to callers of the other, `rounds` and `gathering` carry requests of children across the
//! eras, and `subscriptions` carries changes.
//!
//! Every id of a caller becomes a number of the bridge's own before a child sees it, and so does every progress token,
//! so that callers who share a child never meet. Payloads pass as they are: a message is its text, and edits are cuts.
//!
//! Paths, `Origin` and authorization are checked before a request comes here.
//!
//! Comments name pages of the specification of MCP by their files, `logging.mdx` for example: they are in
//! `docs/specification/2026-07-28` of github.com/modelcontextprotocol/modelcontextprotocol.

mod bridge;
mod call;
mod child;
mod client;
mod error;
mod gathering;
mod greeting;
mod headers;
mod ids;
mod json;
mod lines;
mod message;
mod modern;
mod names;
mod outside;
mod own;
mod replay;
mod restarts;
mod rounds;
mod session;
mod settings;
mod sse;
mod start;
mod subscriptions;
mod surface;
mod timers;

#[cfg(test)]
mod tests;

pub use bridge::Bridge;
pub use headers::{
    Era, HeaderError, LEGACY_VERSIONS, META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL,
    META_PREFIX, META_SERVER_INFO, META_SUBSCRIPTION_ID, META_VERSION, MODERN_VERSION, RequestHead,
    VALUE_BYTES_MAX,
};
pub use ids::{CALLER_BYTES_MAX, Caller, CallerError, ChildId, ExchangeId, Random, SessionKey};
pub use lines::{LINE_BYTES_MAX, LineError, Lines};
pub use message::{
    DEPTH_MAX, Edit, ID_BYTES_MAX, Kind, Line, MEMBERS_MAX, MESSAGE_BYTES_MAX, METHOD_BYTES_MAX,
    Message, MessageError, raw,
};
pub use restarts::FAILURE_TIME;
pub use settings::{Settings, Share};
pub use surface::{ChildEnd, HttpMethod, Output, Request, ResponseHead, State};
