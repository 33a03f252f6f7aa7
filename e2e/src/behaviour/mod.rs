//! Harness of the behaviour tests: a relay and agents in this process, scripted targets, callers that send
//! raw bytes, and readers of the relay's admin port.
//!
//! ```no_run
//! use tieline_e2e::behaviour::{Target, TestAgent, TestRelay};
//!
//! # async fn fact() -> anyhow::Result<()> {
//! let relay = TestRelay::with().shards(2).start()?;
//! let target = Target::echo().await?;
//! let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
//! let mut caller = relay.raw(agent.tunnel()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything stops when it is dropped. Every wait has a limit, and its error names the awaited event.

mod admin;
mod agent;
mod built;
mod bytes;
mod child;
mod datagrams;
mod http;
mod patient;
mod program;
mod proxy;
mod quic;
mod relay;
pub mod studio;
mod target;
pub mod tls;
mod wire_agent;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use admin::{Metrics, PathRow, TunnelRow};
pub use agent::{AgentBuilder, Outcome, TestAgent};
pub use built::programs;
pub use bytes::{
    Digest, LONG_BYTES, Noise, abort, echo_round_trip, half_close, is_reset, noise, read_to_close,
};
pub use child::{Child, ChildRelay, Up};
pub use datagrams::DatagramPath;
pub use http::{Body, Framing, Head, HttpStream};
pub use patient::PatientTarget;
pub use program::{Addresses, AgentProgram, RelayProgram, without_settings};
pub use proxy::TestProxy;
pub use quic::{QuicCaller, QuicCallerStream, ResetBy};
pub use relay::{RelayBuilder, TestRelay};
pub use target::Target;
pub use tls::{TestAuthority, TestCertificate};
pub use wire_agent::{WireAgent, WireKey, registration};

/// Longest wait for an event that should come soon, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Awaits `future` for at most [`SOON`].
///
/// # Errors
/// The limit passed; the error contains `what`.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    within(SOON, what, future).await
}

/// Awaits `future` for at most `limit`.
///
/// # Errors
/// The limit passed; the error contains `what`.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, future)
        .await
        .with_context(|| format!("not within {limit:?}: {what}"))
}

/// Runs `check` with each time of `paces`, shortest first, until one run succeeds.
///
/// A busy machine delays every run by about the same time; a defect by a share of the run's own times.
///
/// # Errors
/// Every run failed; the error contains each run's error.
pub async fn at_some_pace(
    paces: &[Duration],
    check: impl AsyncFn(Duration) -> Result<()>,
) -> Result<()> {
    let mut failed = Vec::new();
    for pace in paces {
        match check(*pace).await {
            Ok(()) => return Ok(()),
            Err(error) => failed.push(format!("at {pace:?}: {error:#}")),
        }
    }
    bail!("{}", failed.join("; "))
}

/// Turns each `async fn name(driver: DriverChoice) -> Result<()>` into two tests: `auto::name` and
/// `epoll::name`.
#[macro_export]
macro_rules! on_each_driver {
    ($($name:ident),+ $(,)?) => {
        mod auto {
            $(
                #[tokio::test]
                async fn $name() -> anyhow::Result<()> {
                    super::$name(tieline_relay::DriverChoice::Auto).await
                }
            )+
        }
        mod epoll {
            $(
                #[tokio::test]
                async fn $name() -> anyhow::Result<()> {
                    super::$name(tieline_relay::DriverChoice::Epoll).await
                }
            )+
        }
    };
}
