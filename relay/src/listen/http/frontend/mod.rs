//! One caller's connection: its bytes, its state, its deadlines, and the memory that it holds.
//!
//! hyper's server reads and writes a `caller`, which notes in `state` what moves. `deadline` ends a connection whose
//! caller is too slow, `memory` counts answer bytes that wait for the caller, `unread_body` deals with a body that its
//! target did not read, and `refused_head` and `resets` report what hyper refuses by itself.

pub(super) mod caller;
pub(super) mod deadline;
pub(super) mod memory;
pub(super) mod refused_head;
mod resets;
pub(super) mod state;
pub(super) mod unread_body;
