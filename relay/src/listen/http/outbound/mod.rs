//! Towards the target: connections over sessions, and requests that are sent again.
//!
//! A `pool` opens a connection over a session of the agent (`line`), lends it for one request and its answer, and
//! keeps it for the next one. `again` keeps what is needed to send a request once more.

pub(super) mod again;
pub(super) mod line;
pub(super) mod pool;
