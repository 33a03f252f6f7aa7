//! What the agent promises, each against a relay made of the real mux and real sockets.
//!
//! One binary: linking is most of what such a test costs.

// Clippy allows it in test functions only, not in what they call.
#![allow(clippy::unwrap_used)]

// Signals and modes are part of it.
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
