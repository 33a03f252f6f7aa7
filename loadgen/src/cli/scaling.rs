//! Flags of the `scaling` command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::flags::parse_duration;
use super::{MethodFlags, OutputFlags, ProgramFlags};

#[derive(Args, Debug)]
pub(crate) struct ScalingFlags {
    /// Numbers of sessions on one tunnel
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,10,100,1000,4000,10000"
    )]
    pub(crate) sessions: Vec<usize>,
    /// Numbers of tunnels, each with an agent and a link of its own
    #[arg(
        long,
        value_name = "M",
        value_delimiter = ',',
        default_value = "1,10,100,1000,10000"
    )]
    pub(crate) tunnels: Vec<usize>,
    /// Run only one of the two
    #[arg(long, value_enum)]
    pub(crate) only: Option<SeriesFlag>,
    /// Requests per second over all sessions, the same for every number
    #[arg(long, default_value_t = 2000)]
    pub(crate) rate: u32,
    /// Bytes of each message
    #[arg(short, long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Sessions that take turns over the tunnels, the same for every number of tunnels
    #[arg(long, value_name = "N", default_value_t = 9000)]
    pub(crate) callers: usize,
    /// How long to watch tunnels that do nothing, in the first round; one heartbeat (15s) sees each
    /// ping once
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15s")]
    pub(crate) idle: Duration,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) programs: ProgramFlags,
    /// Many agents in one process [default: examples/fleet beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) fleet_bin: Option<PathBuf>,
    /// Name of the report's files; those of an earlier run are replaced
    #[arg(long, default_value = "scaling")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

/// What there may be many of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SeriesFlag {
    /// Sessions on one tunnel
    Sessions,
    /// Tunnels
    Tunnels,
}
