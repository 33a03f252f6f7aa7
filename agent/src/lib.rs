//! The agent: dials out to a Tieline relay and publishes a local server under a stable URL.
//!
//! The program `tieline` is a crate above this one; any program with a tokio
//! runtime can publish its own server in the same way:
//!
//! ```no_run
//! use tieline_agent::{Config, run_with_reconnect};
//!
//! # async fn publish() -> Result<(), tieline_agent::Error> {
//! let config = Config::new("tcp://relay.studio:9001", "http://127.0.0.1:8765/mcp")?
//!     .with_dcc("blender")
//!     .with_event_hook(|event| println!("{event}"));
//! run_with_reconnect(config, std::future::pending()).await
//! # }
//! ```
//!
//! The agent buffers a session's bytes only while the receiving side is slow, and never parses them.

pub mod address;
pub mod config;
pub mod error;
pub mod event;
pub mod identity;
pub mod plain;
pub mod socket;
pub mod status;
pub mod targets;
pub mod token;
pub mod transport;

mod bell;
mod link;
mod network;
mod reconnect;
mod sleep;
mod stdio;
mod supervise;

pub use address::HostPort;
pub use config::{
    Config, DRAIN_TIMEOUT, DRAIN_TIMEOUT_MAX, LINKS_MAX, QUIC_RETRY, TARGETS_MAX, TargetConfig,
};
pub use error::{
    ConfigError, Error, IdentityError, ProxyError, RefusedLogin, TokenError, TrustError,
    UnansweredLogin,
};
pub use event::{AgentEvent, CallerToken};
pub use identity::{Identity, default_state_dir};
pub use reconnect::{
    BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_MIN, Backoff, NAME_WAIT, QUICK_PHASE, QUICK_WAIT_MAX,
};
pub use status::{
    AgentStatus, LinkStatus, RefusalStatus, State, TunnelStatus, list as list_agents,
};
pub use stdio::StdioStatus;
pub use supervise::{run_once, run_standing_by, run_with_reconnect};
pub use targets::{
    CONNECT_TIMEOUT, Health, HealthState, ProgramError, StdioOptions, StdioShare, Target,
};
pub use transport::{DIAL_TIMEOUT, Dialler, Proxies, RelayUrl, Transport, server_kind};

/// Is the guard that [`Config::with_guard`] names: waits on standard input until the agent has ended, and ends the
/// processes that the agent's `stdio:` targets have left. A program calls it before anything else, and ends with it.
///
/// Does nothing on Windows, where the system ends these processes.
pub fn run_guard() {
    #[cfg(unix)]
    stdio::run_guard();
}
