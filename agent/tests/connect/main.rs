//! What `tieline connect` promises, each with a real socket on both sides and a relay that does
//! what the test says.

// Clippy allows it in test functions only, not in what they call.
#![allow(clippy::unwrap_used)]

mod answers;
#[path = "../program/mod.rs"]
mod program;
// Signals and modes are part of it.
#[cfg(unix)]
mod binary;
mod endings;
mod guards;
mod requests;
mod rig;
mod secure;
