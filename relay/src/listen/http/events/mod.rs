//! Event streams (`text/event-stream`) on their way to the caller.
//!
//! `serve` passes a target's event stream through a `stream`: it maps the URLs in `endpoint` events, and adds comments
//! in silence, where `sse` finds the border between two events.

pub(super) mod endpoint;
mod sse;
pub(super) mod stream;
