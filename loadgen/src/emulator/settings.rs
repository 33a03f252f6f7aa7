//! Settings of the emulator: flags of `path`, checked before anything is started.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::crossing::Filter;
use super::units::{QueueLimit, QueueSize, Rate, whole};
use super::way::WaySettings;
use crate::cli::EmulatorFlags;

/// Longest delay of one direction.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Smallest packet size of a device: RFC 791 for IPv4 (every host takes 576 bytes), RFC 8200 for IPv6.
const MTU_V4_MIN: u16 = 576;
const MTU_V6_MIN: u16 = 1_280;

/// Least bytes of a queue that is given as bandwidth-delay products: one send that the kernel has not cut. Below, every
/// such send would overflow the queue of a short path.
const PRODUCTS_BYTES_MIN: u64 = 64 * 1024;

/// Most packets in the queue if no limit of packets is given.
const QUEUE_PACKETS: usize = 100_000;

/// Most bytes that one direction may hold, in its queue and on its way.
pub(super) const HELD_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Part of the delay by which a packet arrives later that is held back, and the least of it.
const HELD_BACK_PART: u32 = 4;
const HELD_BACK_MIN: Duration = Duration::from_millis(1);

/// Flags of `path` that cannot be.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The delay is too long.
    #[error("--delay must be at most {} s", DELAY_MAX.as_secs())]
    Delay,
    /// The devices cannot have this packet size.
    #[error("--mtu must be {least} to 65535 bytes")]
    Mtu {
        /// Least bytes of this version of IP.
        least: u16,
    },
    /// The path cannot have this packet size.
    #[error("--path-mtu must be {least} bytes to the value of --mtu")]
    PathMtu {
        /// Least bytes.
        least: u16,
    },
    /// A router of IPv6 cannot answer with so small a packet size.
    #[error(
        "--path-mtu below {} bytes works with --v6 only if --drop-icmp is given as well",
        MTU_V6_MIN
    )]
    PathMtuV6,
    /// The queue cannot take a packet.
    #[error("--queue: {bytes} bytes are less than one packet of --mtu")]
    QueueTooSmall {
        /// Bytes of the queue.
        bytes: u64,
    },
    /// The path would need too much memory.
    #[error(
        "--rate, --delay and --queue: a direction would hold {bytes} bytes, and at most {max} are allowed",
        max = HELD_BYTES_MAX
    )]
    TooMuch {
        /// Bytes that a full direction would hold.
        bytes: u64,
    },
    /// A command is empty.
    #[error("{0} has no command")]
    NoCommand(&'static str),
}

/// Checked settings of the emulator.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) way: WaySettings,
    pub(super) filter: Filter,
    pub(super) mtu: u16,
    pub(super) addresses: Addresses,
    pub(super) seed: u64,
    pub(super) sysctls: Vec<Sysctl>,
    /// Command of the near end, for a shell.
    pub(super) near: String,
    /// Command of the far end, for a shell.
    pub(super) far: Option<String>,
    /// TCP port that the far command must listen on before the near one starts.
    pub(super) far_port: Option<u16>,
    /// File for the counters.
    pub(super) report: Option<PathBuf>,
}

/// Addresses of both ends. They exist in the two namespaces only, so they cannot meet those of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Addresses {
    pub(super) near: IpAddr,
    pub(super) far: IpAddr,
}

impl Addresses {
    fn new(is_v6: bool) -> Self {
        match is_v6 {
            true => Self {
                near: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1).into(),
                far: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2).into(),
            },
            false => Self {
                near: Ipv4Addr::new(10, 77, 0, 1).into(),
                far: Ipv4Addr::new(10, 77, 0, 2).into(),
            },
        }
    }

    /// Mask of the network of both addresses of IPv4.
    pub(super) fn mask_v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(255, 255, 255, 252)
    }

    /// Length of the prefix of both addresses of IPv6.
    pub(super) fn prefix_bits_v6(&self) -> u32 {
        64
    }
}

/// A setting of the kernel that each network namespace has of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sysctl {
    /// Such as `net.ipv4.tcp_wmem`.
    pub(super) name: String,
    pub(super) value: String,
}

/// A text that is no setting of a network namespace.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is not a setting of a network namespace: write net.NAME=VALUE, such as net.ipv4.tcp_mtu_probing=1"
)]
pub(crate) struct SysctlError(String);

impl FromStr for Sysctl {
    type Err = SysctlError;

    fn from_str(text: &str) -> Result<Self, SysctlError> {
        let error = || SysctlError(text.to_owned());
        let (name, value) = text.split_once('=').ok_or_else(error)?;
        let is_plain = |part: &str| {
            let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            !part.is_empty() && part.chars().all(is_of_name)
        };
        if !name.starts_with("net.") || !name.split('.').all(is_plain) || value.is_empty() {
            return Err(error());
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl EmulatorFlags {
    /// Checks the flags.
    pub(crate) fn checked(&self) -> Result<Settings, SettingsError> {
        if self.delay > DELAY_MAX {
            return Err(SettingsError::Delay);
        }
        let mtu_min = match self.v6 {
            true => MTU_V6_MIN,
            false => MTU_V4_MIN,
        };
        if self.mtu < mtu_min {
            return Err(SettingsError::Mtu { least: mtu_min });
        }
        let filter = self.filter()?;
        let way = self.way()?;
        let command = |flag, text: &str| match text.trim().is_empty() {
            true => Err(SettingsError::NoCommand(flag)),
            false => Ok(text.to_owned()),
        };
        let far = self.far.as_deref().map(|text| command("--far", text));
        Ok(Settings {
            way,
            filter,
            mtu: self.mtu,
            addresses: Addresses::new(self.v6),
            // Short, so that a user can type the seed again.
            seed: self.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000)),
            sysctls: self.sysctls.clone(),
            near: command("--near", &self.near)?,
            far: far.transpose()?,
            far_port: self.far_port,
            report: self.report.clone(),
        })
    }

    fn filter(&self) -> Result<Filter, SettingsError> {
        if let Some(path_mtu) = self.path_mtu {
            if !(MTU_V4_MIN..=self.mtu).contains(&path_mtu) {
                return Err(SettingsError::PathMtu { least: MTU_V4_MIN });
            }
            if self.v6 && path_mtu < MTU_V6_MIN && !self.drop_icmp {
                return Err(SettingsError::PathMtuV6);
            }
        }
        Ok(Filter {
            no_udp: self.drop_udp,
            no_icmp: self.drop_icmp,
            path_mtu: self.path_mtu.filter(|path_mtu| *path_mtu < self.mtu),
            clamps: self.clamp_mss,
        })
    }

    fn way(&self) -> Result<WaySettings, SettingsError> {
        let held_back = HELD_BACK_MIN.max(self.delay / HELD_BACK_PART);
        let limit = self.queue.unwrap_or_default();
        let queue_bytes = self.rate.map(|rate| self.queue_bytes(rate, limit));
        if let (Some(rate), Some(bytes)) = (self.rate, queue_bytes) {
            if bytes < u64::from(self.mtu) {
                return Err(SettingsError::QueueTooSmall { bytes });
            }
            let bytes = bytes + bytes_in(rate, self.delay + held_back);
            if bytes > HELD_BYTES_MAX {
                return Err(SettingsError::TooMuch { bytes });
            }
        }
        Ok(WaySettings {
            delay_ns: ns(self.delay),
            rate_bits: self.rate.map(Rate::bits),
            queue_bytes_max: queue_bytes.unwrap_or(HELD_BYTES_MAX),
            queue_packets_max: limit.packets.unwrap_or(QUEUE_PACKETS),
            loss: self.loss.value(),
            reorder: self.reorder.value(),
            held_back_ns: ns(held_back),
        })
    }

    fn queue_bytes(&self, rate: Rate, limit: QueueLimit) -> u64 {
        match limit.size.unwrap_or(QueueSize::Products(1.0)) {
            QueueSize::Bytes(bytes) => bytes,
            QueueSize::Time(time) => bytes_in(rate, time),
            QueueSize::Products(products) => {
                let time = (self.delay * 2).mul_f64(products);
                bytes_in(rate, time).max(PRODUCTS_BYTES_MIN)
            }
        }
    }
}

/// Bytes that a rate carries in `time`, which is at most 20,000 s: 1,000 products of the longest round trip.
fn bytes_in(rate: Rate, time: Duration) -> u64 {
    whole(rate.bits() as f64 * time.as_secs_f64() / 8.0)
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(arguments: &[&str]) -> Result<Settings, SettingsError> {
        let words = ["tieline-loadgen", "path", "--near", "true"];
        let words = words.iter().chain(arguments);
        let Command::Path(flags) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not path");
        };
        flags.checked()
    }

    #[test]
    fn without_flags_the_path_changes_nothing() {
        let settings = settings(&[]).unwrap();
        assert_eq!((settings.way.delay_ns, settings.way.rate_bits), (0, None));
        assert!(settings.way.loss + settings.way.reorder < f64::EPSILON);
        assert_eq!(settings.filter, Filter::default());
        assert_eq!(settings.mtu, 1_500);
        assert_eq!(
            settings.addresses.near,
            IpAddr::from(Ipv4Addr::new(10, 77, 0, 1))
        );
    }

    #[test]
    fn the_flags_of_the_example_become_settings() {
        let example = "--delay 50ms --loss 1% --rate 200mbit --queue 1bdp --reorder 0.1% --mtu 1500 --drop-udp \
                       --drop-icmp --v6 --seed 7";
        let settings = settings(&example.split(' ').collect::<Vec<_>>()).unwrap();
        let way = settings.way;
        assert_eq!(
            (way.delay_ns, way.rate_bits),
            (50_000_000, Some(200_000_000))
        );
        // 200 Mbit/s for a round trip of 100 ms.
        assert_eq!(way.queue_bytes_max, 2_500_000);
        assert_eq!(way.held_back_ns, 12_500_000);
        assert!((way.loss - 0.01).abs() < 1e-12 && (way.reorder - 0.001).abs() < 1e-12);
        assert!(settings.filter.no_udp && settings.filter.no_icmp);
        assert!(settings.addresses.near.is_ipv6() && settings.seed == 7);
    }

    #[test]
    fn a_queue_is_in_products_bytes_or_time() {
        let bytes = |queue: &str| {
            let arguments = ["--rate", "80mbit", "--delay", "10ms", "--queue", queue];
            settings(&arguments).unwrap().way.queue_bytes_max
        };
        assert_eq!(bytes("2bdp"), 400_000);
        assert_eq!(bytes("50ms"), 500_000);
        assert_eq!(bytes("30kb"), 30_000);
        // A short path's product is smaller than one send of the kernel.
        assert_eq!(bytes("0.01bdp"), PRODUCTS_BYTES_MIN);
        let both = ["--rate", "80mbit", "--delay", "10ms", "--queue", "1bdp,9p"];
        assert_eq!(settings(&both).unwrap().way.queue_packets_max, 9);
    }

    #[test]
    fn what_cannot_be_names_its_flag() {
        for (arguments, error) in [
            ("--delay 11s", SettingsError::Delay),
            ("--mtu 500", SettingsError::Mtu { least: 576 }),
            ("--mtu 1279 --v6", SettingsError::Mtu { least: 1_280 }),
            ("--path-mtu 1501", SettingsError::PathMtu { least: 576 }),
            ("--path-mtu 1250 --v6", SettingsError::PathMtuV6),
            (
                "--rate 1mbit --queue 1000b",
                SettingsError::QueueTooSmall { bytes: 1_000 },
            ),
            (
                "--rate 10gbit --delay 1s --queue 64kb",
                SettingsError::TooMuch {
                    bytes: 1_562_564_000,
                },
            ),
        ] {
            let words: Vec<&str> = arguments.split(' ').collect();
            assert_eq!(settings(&words).unwrap_err(), error, "{arguments}");
        }
        assert_eq!(
            settings(&["--far", " "]).unwrap_err(),
            SettingsError::NoCommand("--far")
        );
    }

    #[test]
    fn a_path_as_wide_as_the_devices_drops_nothing() {
        let settings = settings(&["--path-mtu", "1500"]).unwrap();
        assert_eq!(settings.filter.path_mtu, None);
    }

    #[test]
    fn settings_of_the_namespace_are_below_net() {
        let read = |text: &str| text.parse::<Sysctl>();
        let buffers = read("net.ipv4.tcp_wmem=4096 16384 33554432").unwrap();
        assert_eq!(
            (&buffers.name[..], &buffers.value[..]),
            ("net.ipv4.tcp_wmem", "4096 16384 33554432")
        );
        for text in [
            "",
            "net.ipv4.tcp_wmem",
            "kernel.hostname=a",
            "net..x=1",
            "net.a/../b=1",
            "net.x=",
        ] {
            assert_eq!(read(text), Err(SysctlError(text.to_owned())), "{text}");
        }
    }
}
