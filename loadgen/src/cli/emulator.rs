//! Flags of the `path` command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::flags::parse_duration;
use crate::emulator::settings::Sysctl;
use crate::emulator::units::{QueueLimit, Rate, Share};

#[derive(Args, Debug)]
pub(crate) struct EmulatorFlags {
    /// Delay of each direction, such as 50ms; a round trip takes twice as long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0ms")]
    pub(crate) delay: Duration,
    /// Share of packets that each direction loses, such as 1%
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub(crate) loss: Share,
    /// Rate of each direction in bits per second, IP headers included, such as 200mbit [default: no limit]
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// Most that waits for the rate in each direction; more is dropped: products of rate and round trip
    /// (1bdp, at least 64 KiB), bytes (64kb, 256kib), time at the rate (20ms), packets (1000p), or a size
    /// and packets (1bdp,1000p) [default: 1bdp]
    #[arg(long, value_name = "LIMIT", requires = "rate")]
    pub(crate) queue: Option<QueueLimit>,
    /// Share of packets that each direction holds back for a quarter of the delay, at least 1ms, so that
    /// later ones overtake them
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub(crate) reorder: Share,
    /// Largest packet of both ends' interfaces
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    pub(crate) mtu: u16,
    /// Largest packet that passes between the ends; a larger one is dropped and answered by ICMP, with
    /// --drop-icmp without an answer; one of IPv4 that may be fragmented gets no answer either
    #[arg(long, value_name = "BYTES")]
    pub(crate) path_mtu: Option<u16>,
    /// Lower TCP's segment size to --path-mtu when a connection opens, as many home routers do
    #[arg(long, requires = "path_mtu")]
    pub(crate) clamp_mss: bool,
    /// Drop UDP
    #[arg(long)]
    pub(crate) drop_udp: bool,
    /// Drop ICMP
    #[arg(long)]
    pub(crate) drop_icmp: bool,
    /// Give the ends addresses of IPv6 only
    #[arg(long)]
    pub(crate) v6: bool,
    /// Seed of loss and reordering [default: random]; printed, so that a run can be repeated: the n-th packet
    /// of a direction then has the same fate
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Setting of the kernel in both namespaces, such as net.ipv4.tcp_congestion_control=bbr; may be repeated
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    pub(crate) sysctls: Vec<Sysctl>,
    /// Command of the near end, run by `sh -c`; the path ends with it, and its exit code is the path's
    #[arg(long, value_name = "COMMAND")]
    pub(crate) near: String,
    /// Command of the far end, run by `sh -c` and started first; when the near one has ended it gets SIGTERM,
    /// and SIGKILL 5 s later
    #[arg(long, value_name = "COMMAND")]
    pub(crate) far: Option<String>,
    /// Start the near command once a program of the far end listens on this TCP port
    #[arg(long, value_name = "PORT", requires = "far")]
    pub(crate) far_port: Option<u16>,
    /// Write the counters of both directions to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// Flags of the process that ends the programs of a namespace.
#[derive(Args, Debug)]
pub(crate) struct GuardFlags {
    /// Network namespace of the machine, such as `net:[4026531840]`; the guard refuses to work in it
    #[arg(long)]
    pub(crate) outside: OsString,
}
