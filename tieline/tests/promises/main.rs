//! Tests of the program against a relay made of the real mux and real sockets; the relay is the one of the
//! library's own tests.

// These tests need Unix signals and file modes.
#![cfg(unix)]
// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

mod command_line;
mod diag;
mod first_sight;
#[path = "../program/mod.rs"]
mod program;
#[path = "../../../agent/tests/promises/rig.rs"]
#[allow(dead_code)]
mod rig;
#[path = "../../../agent/tests/promises/targets.rs"]
#[allow(dead_code)]
mod targets;
