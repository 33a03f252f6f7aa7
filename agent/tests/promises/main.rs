//! Tests of the agent against a relay made of the real mux and real sockets.
//!
//! One binary, because linking is most of what such a test costs.

// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

mod lifecycle;
mod renewal;
mod rig;
mod sessions;
mod several;
#[cfg(unix)]
mod stand_by;
mod targets;
