//! The bare forwarder: accepts, dials, moves bytes. No names, no multiplexing, no auth.
//!
//! Two of them in a row are what any relay with an agent is held against. There is one on tokio
//! and one on tokio-uring, because which of the two is faster depends on load and machine.

mod on_tokio;
mod on_uring;

use crate::cli::{ForwarderFlags, ForwarderRuntime};

/// Runs one hop until the process is ended.
pub(crate) fn run(flags: &ForwarderFlags) -> anyhow::Result<()> {
    match flags.runtime {
        ForwarderRuntime::Tokio => on_tokio::run(flags.listen, flags.to),
        ForwarderRuntime::TokioUring => on_uring::run(flags.listen, flags.to),
    }
}
