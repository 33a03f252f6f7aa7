//! The bare forwarder: accepts, dials and moves bytes. No names, no multiplexing, no authentication.
//!
//! Two forwarders in a row are the baseline for any relay with an agent. There is one forwarder on tokio,
//! one on tokio-uring and one on monoio, because load and machine decide which runtime is faster.

mod on_monoio;
mod on_tokio;
mod on_uring;

use crate::cli::{ForwarderFlags, ForwarderRuntime};

/// Runs one hop until the process ends.
pub(crate) fn run(flags: &ForwarderFlags) -> anyhow::Result<()> {
    match flags.runtime {
        ForwarderRuntime::Tokio => on_tokio::run(flags.listen, flags.to),
        ForwarderRuntime::Monoio => on_monoio::run(flags.listen, flags.to),
        ForwarderRuntime::TokioUring => on_uring::run(flags.listen, flags.to),
    }
}
