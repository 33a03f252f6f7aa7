//! The relay's settings as one typed struct. clap derives the flags from it, with their texts in `--help`; a flag's
//! id is the key in the settings file, and with a prefix the environment variable. Groups stand beside the parts of
//! [`Config`](super::Config) that are made from them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, Command, ValueHint};

use super::acme::AcmeSettings;
use super::audit::AuditSettings;
use super::auth::AuthSettings;
use super::callers::CallersSettings;
use super::limits::LimitsSettings;
use super::tls::TlsSettings;
use super::values::{expected, number, switch, time};
use super::{DriverChoice, ListenAddress, PublicUrl, listen, names};

/// Every setting, in the order of `--help`; `None` where a setting is not given.
///
/// A relative `PathBuf` in the settings file starts at that file's folder. A file with the hint `FilePath` exists
/// before the start, so a value that names no file may be a secret, which errors must not show.
#[derive(Debug, Default, Args)]
pub(super) struct Settings {
    /// Address that agents connect to, with tls:// in front for TLS; may be repeated [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR", value_parser = ListenAddress::from_str)]
    pub(super) agent_listen: Option<Vec<ListenAddress>>,
    /// Address for callers over raw TCP, with tls:// in front for TLS, or `off`; may be repeated
    /// [default: 127.0.0.1:9002]
    #[arg(long, value_name = "ADDR", value_parser = ListenAddress::from_str)]
    pub(super) tcp_listen: Option<Vec<ListenAddress>>,
    /// Address for callers over HTTP, and for agents over a WebSocket, with tls:// in front for TLS, or `off`; may be
    /// repeated [default: 127.0.0.1:9080]
    #[arg(long, value_name = "ADDR", value_parser = ListenAddress::from_str)]
    pub(super) http_listen: Option<Vec<ListenAddress>>,
    /// UDP address for agents and callers over QUIC, which needs a certificate; may be repeated [default: off]
    #[arg(long, value_name = "ADDR", value_parser = listen::quic)]
    pub(super) quic_listen: Option<Vec<SocketAddr>>,
    /// Address of the admin pages (tunnels, health, metrics), or `off`; may be repeated [default: 127.0.0.1:9003]
    #[arg(long, value_name = "ADDR", value_parser = listen::plain)]
    pub(super) admin_listen: Option<Vec<SocketAddr>>,
    /// File with the token that admin_listen requires as `Authorization: Bearer ...`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) admin_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) tls: TlsSettings,
    #[command(flatten)]
    pub(super) acme: AcmeSettings,
    /// The relay's DNS name, as in relay.example; each tunnel is also reached as TUNNEL.relay.example,
    /// which needs DNS for *.relay.example
    #[arg(long, value_name = "NAME", value_parser = names::domain)]
    pub(super) domain: Option<String>,
    /// Beginning of public URLs, as in https://relay.example [default: https:// if an HTTP listener has TLS,
    /// else http://, with domain or with the listener's address, and its port]
    #[arg(long, value_name = "URL", value_parser = PublicUrl::parse)]
    pub(super) public_url: Option<PublicUrl>,
    /// Number of shards, the threads that move bytes [default: one per core]
    #[arg(long, value_name = "N", value_parser = number::<usize>)]
    pub(super) shards: Option<usize>,
    /// Kernel interface for I/O: uring, epoll, or auto, which is uring where the kernel allows it [default: auto]
    #[arg(long, value_name = "DRIVER", value_parser = expected("auto, uring or epoll", driver))]
    pub(super) driver: Option<DriverChoice>,
    /// Microseconds that a shard polls for work before it sleeps: costs CPU time, saves latency [default: 0]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    pub(super) spin_us: Option<u32>,
    #[command(flatten)]
    pub(super) auth: AuthSettings,
    #[command(flatten)]
    pub(super) callers: CallersSettings,
    /// Silence of an agent after which its link, the connection to it, is ended [default: 45s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) stale_timeout: Option<Duration>,
    /// Time in which a new caller must name its tunnel over raw TCP or begin an HTTP request, and for a TLS
    /// handshake; an HTTP request's head that has begun may take 10s, whatever this is [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) preamble_timeout: Option<Duration>,
    /// Time that running sessions have to end when the relay stops [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) drain_timeout: Option<Duration>,
    /// Most tunnels at a time [default: 65536]
    #[arg(long, value_name = "N", value_parser = number::<usize>)]
    pub(super) max_tunnels: Option<usize>,
    /// Most sessions at a time on one link [default: 65536]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    pub(super) sessions_max: Option<u32>,
    /// Bytes in large pieces in a row after which a raw TCP session gets a bulk lane, a connection of its own to
    /// the agent; 0: never [default: 262144]
    #[arg(long, value_name = "BYTES", value_parser = number::<u64>)]
    pub(super) bulk_run_bytes: Option<u64>,
    /// Bytes that the sessions of one shard may buffer per direction, less where memory is short [default: 268435456]
    #[arg(long, value_name = "BYTES", value_parser = number::<u64>)]
    pub(super) shard_budget_bytes: Option<u64>,
    /// Folder that keeps over a restart which agent each tunnel name belongs to [default: none, a restart forgets it]
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Replace the relay that runs with this state_dir, if there is one; that relay ends after its sessions
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch)]
    pub(super) take_over: Option<bool>,
    /// Log filter, as in `info,tieline_relay=debug` [default: RUST_LOG or info]
    #[arg(long, value_name = "FILTER")]
    pub(super) log: Option<String>,
    #[command(flatten)]
    pub(super) audit: AuditSettings,
    #[command(flatten)]
    pub(super) limits: LimitsSettings,
    /// Print one JSON object per line on stdout
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch)]
    pub(super) json: Option<bool>,
}

/// The flag of every setting, in the order of `--help`; a flag's id is the setting's key.
pub(crate) fn every_setting() -> Vec<Arg> {
    // Place 0 in `--help` is that of `--config`.
    let command = Settings::augment_args(Command::new("settings").next_display_order(1));
    command.get_arguments().cloned().collect()
}

fn driver(text: &str) -> Option<DriverChoice> {
    match text {
        "auto" => Some(DriverChoice::Auto),
        "uring" => Some(DriverChoice::Uring),
        "epoll" => Some(DriverChoice::Epoll),
        _ => None,
    }
}
