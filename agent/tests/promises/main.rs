//! Tests of the agent against a relay made of the real mux and real sockets.
//!
//! One binary, because linking is most of what such a test costs.

// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

// These tests need Unix signals and file modes.
#[cfg(unix)]
mod command_line;
#[cfg(unix)]
mod diag;
#[cfg(unix)]
mod first_sight;
mod lifecycle;
#[cfg(unix)]
#[path = "../program/mod.rs"]
mod program;
mod renewal;
mod rig;
mod sessions;
mod several;
#[cfg(unix)]
mod stand_by;
mod targets;
