//! Towards the target: connections over sessions, and requests that are sent again.
//!
//! `serve` takes a kept connection from the `pool`, or opens a new one over a session of the agent (`target_stream`),
//! sends a `request` on it, and lends it to the answer's body, which gives it back to the pool. `reasons` tells whether
//! a session that ended is worth another try.

pub(super) mod pool;
pub(super) mod reasons;
pub(super) mod request;
pub(super) mod target_stream;
