//! Tests of `tieline connect`, with real sockets on both sides and a relay that does what the test
//! says.

// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

mod answers;
// These tests need Unix signals and file modes.
#[cfg(unix)]
mod binary;
mod endings;
mod guards;
// Only `binary` runs the program.
#[cfg(unix)]
#[path = "../program/mod.rs"]
mod program;
mod requests;
mod rig;
mod secure;
mod websockets;
