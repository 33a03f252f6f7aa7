//! Flags of the `scaling` command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::flags::parse_duration;
use super::{MethodFlags, OutputFlags, ProgramFlags};

#[derive(Args, Debug)]
pub(crate) struct ScalingFlags {
    /// Numbers of sessions to measure on one tunnel
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,10,100,1000,4000,10000"
    )]
    pub(crate) sessions: Vec<usize>,
    /// Numbers of tunnels to measure, each tunnel with its own agent and link
    #[arg(
        long,
        value_name = "M",
        value_delimiter = ',',
        default_value = "1,10,100,1000,10000"
    )]
    pub(crate) tunnels: Vec<usize>,
    /// Run only this series [default: both]
    #[arg(long, value_enum)]
    pub(crate) only: Option<SeriesFlag>,
    /// Requests per second over all sessions, the same for every number
    #[arg(long, default_value_t = 2000)]
    pub(crate) rate: u32,
    /// Bytes of each message
    #[arg(short, long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Sessions spread over the tunnels, the same for every number of tunnels
    #[arg(long, value_name = "N", default_value_t = 9000)]
    pub(crate) callers: usize,
    /// How long to measure idle tunnels, in the first round; one heartbeat interval (15s) covers one
    /// ping per tunnel
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15s")]
    pub(crate) idle: Duration,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) programs: ProgramFlags,
    /// Binary that runs many agents in one process [default: examples/fleet next to this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) fleet_bin: Option<PathBuf>,
    /// Base name of the report's files; existing files are replaced
    #[arg(long, default_value = "scaling")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

/// Quantity that a series varies.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SeriesFlag {
    /// Sessions on one tunnel
    Sessions,
    /// Tunnels
    Tunnels,
}
