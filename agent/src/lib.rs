//! The agent: dials out to a Tieline relay and publishes a local server under a stable URL.
//!
//! The binary `tieline` is a thin shell around [`run_with_reconnect`]; any program with a tokio
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

pub mod cli;
pub mod command;
pub mod completions;
pub mod connect;
pub mod diag;
pub mod init;
pub mod list;
pub mod service;
pub mod token_show;

mod address;
mod announce;
mod bell;
mod config;
#[cfg(target_os = "linux")]
mod demo;
mod descriptors;
mod dial;
mod error;
mod event;
mod identity;
mod link;
mod network;
mod paint;
mod plain;
mod printer;
mod reconnect;
mod session;
mod signals;
mod socket;
mod status;
mod supervise;
mod target;
mod token;
mod web;
#[cfg(test)]
mod witness;

pub use address::HostPort;
pub use config::{Config, DRAIN_TIMEOUT, DRAIN_TIMEOUT_MAX, LINKS_MAX, TARGETS_MAX, TargetConfig};
pub use dial::{DIAL_TIMEOUT, RelayUrl};
pub use error::{ConfigError, Error, IdentityError, TokenError};
pub use event::{AgentEvent, CallerToken};
pub use identity::{Identity, default_state_dir};
pub use reconnect::{
    BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_MIN, Backoff, NAME_WAIT, Next, QUICK_PHASE, QUICK_WAIT_MAX,
};
pub use status::{
    AgentStatus, LinkStatus, RefusalStatus, State, TunnelStatus, list as list_agents,
};
pub use supervise::{run_once, run_standing_by, run_with_reconnect};
pub use target::{CONNECT_TIMEOUT, Health, HealthState, HttpTarget, Target, TcpTarget};
