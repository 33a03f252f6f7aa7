//! What `tieline connect` promises, each with a real socket on both sides and a relay that does
//! what the test says.

// Clippy allows it in test functions only, not in what they call.
#![allow(clippy::unwrap_used)]

mod answers;
// Signals and modes are part of it.
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
