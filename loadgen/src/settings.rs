//! Flags to settings: checked once, before anything is started.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{BenchFlags, MethodFlags, PathFlag, RttFlags};
use crate::path::relay::Binaries;
use crate::path::set::{ExternalRelay, ExternalTarget, PathsWanted, RelaySource};
use crate::path::{PathKind, tunnel_preamble};
use crate::scenario::{Load, Method, Scenario, ScenarioError};

/// Most rounds of one run.
const ROUNDS_MAX: usize = 1_000;

/// Most threads of the generator.
const THREADS_MAX: usize = 64;

/// Longest measured or warm-up time of one round.
const ROUND_TIME_MAX: Duration = Duration::from_secs(600);

/// Shortest measured time: CPU time is counted in hundredths of a second.
const MEASURED_MIN: Duration = Duration::from_millis(50);

/// Flags that do not go together or are out of range: exit code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// A load that cannot be run.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A number out of range.
    #[error("{flag} must be {range}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What it may be.
        range: String,
    },
    /// The relay path without a relay.
    #[error(
        "--path relay needs --relay-tcp ADDR and --tunnel ID; `bench` starts a relay by itself"
    )]
    NoRelay,
    /// Not the name of a tunnel.
    #[error("--tunnel `{0}`: a tunnel's name has 1 to 63 bytes")]
    Tunnel(String),
    /// A name with a folder in it.
    #[error("--name `{0}` must be a plain file name of letters, digits, `-`, `_` and `.`")]
    Name(String),
}

impl MethodFlags {
    fn checked(&self) -> Result<Method, UsageError> {
        let range = |flag, range: String| Err(UsageError::Range { flag, range });
        if !(1..=ROUNDS_MAX).contains(&self.rounds) {
            return range("--rounds", format!("1 to {ROUNDS_MAX}"));
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return range("--threads", format!("1 to {THREADS_MAX}"));
        }
        if !(MEASURED_MIN..=ROUND_TIME_MAX).contains(&self.duration) {
            return range(
                "--duration",
                format!("50ms to {}s", ROUND_TIME_MAX.as_secs()),
            );
        }
        if self.warm_up > ROUND_TIME_MAX {
            return range(
                "--warm-up",
                format!("at most {}s", ROUND_TIME_MAX.as_secs()),
            );
        }
        Ok(Method {
            rounds: self.rounds,
            warm_up_s: self.warm_up.as_secs_f64(),
            measured_s: self.duration.as_secs_f64(),
            threads: self.threads,
            // Short enough to be typed again.
            seed: self.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000)),
        })
    }

    fn pin(&self) -> bool {
        !self.no_pin && self.threads == 1
    }
}

impl RttFlags {
    /// The load, the method and the paths.
    pub(crate) fn checked(&self) -> Result<(Scenario, Method, PathsWanted), UsageError> {
        let load = self
            .rate
            .map_or(Load::Closed, |requests_per_s| Load::Open { requests_per_s });
        let scenario = Scenario {
            connections: self.connections,
            message_bytes: self.size,
            load,
        }
        .checked()?;
        let relay = match (self.relay_tcp, &self.tunnel) {
            (Some(address), Some(tunnel)) => {
                if tunnel_preamble(tunnel).is_none() {
                    return Err(UsageError::Tunnel(tunnel.clone()));
                }
                Some(RelaySource::External(ExternalRelay {
                    address,
                    tunnel: tunnel.clone(),
                    relay_pid: self.relay_pid,
                    agent_pid: self.agent_pid,
                }))
            }
            _ => None,
        };
        let kinds = path_kinds(&self.paths, relay.is_some());
        if kinds.contains(&PathKind::Relay) && relay.is_none() {
            return Err(UsageError::NoRelay);
        }
        let target = self.target.map(|address| ExternalTarget {
            address,
            pid: self.target_pid,
        });
        let wanted = PathsWanted {
            kinds,
            target,
            relay,
            pin: self.method.pin(),
        };
        Ok((scenario, self.method.checked()?, wanted))
    }
}

impl BenchFlags {
    /// The method and the paths.
    pub(crate) fn checked(&self) -> Result<(Method, PathsWanted), UsageError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err(UsageError::Name(self.name.clone()));
        }
        let beside = |given: &Option<PathBuf>, name: &str| {
            given.clone().unwrap_or_else(|| {
                std::env::current_exe()
                    .map_or_else(|_| PathBuf::from(name), |own| own.with_file_name(name))
            })
        };
        let binaries = Binaries {
            relay: beside(&self.relay_bin, "tieline-relay"),
            agent: beside(&self.agent_bin, "tieline"),
            relay_arguments: self.relay_arguments.clone(),
            agent_arguments: self.agent_arguments.clone(),
        };
        let wanted = PathsWanted {
            kinds: path_kinds(&self.paths, true),
            target: None,
            relay: Some(RelaySource::Start(binaries)),
            pin: self.method.pin(),
        };
        Ok((self.method.checked()?, wanted))
    }
}

/// The paths in a fixed order, each once.
fn path_kinds(flags: &[PathFlag], relay_by_default: bool) -> Vec<PathKind> {
    let both = [PathKind::ForwarderTokio, PathKind::ForwarderTokioUring];
    let mut kinds: Vec<PathKind> = flags
        .iter()
        .flat_map(|flag| match flag {
            PathFlag::Direct => vec![PathKind::Direct],
            PathFlag::Forwarder => both.to_vec(),
            PathFlag::ForwarderTokio => vec![PathKind::ForwarderTokio],
            PathFlag::ForwarderTokioUring => vec![PathKind::ForwarderTokioUring],
            PathFlag::Relay => vec![PathKind::Relay],
        })
        .collect();
    if flags.is_empty() {
        kinds.push(PathKind::Direct);
        kinds.extend(both);
        kinds.extend(relay_by_default.then_some(PathKind::Relay));
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn rtt(arguments: &[&str]) -> Result<(Scenario, Method, PathsWanted), UsageError> {
        let words = ["tieline-loadgen", "rtt"].iter().chain(arguments);
        let Command::Rtt(flags) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not rtt");
        };
        flags.checked()
    }

    #[test]
    fn direct_and_both_forwarders_are_the_default() {
        let (_, _, wanted) = rtt(&[]).unwrap();
        use PathKind::{Direct, ForwarderTokio, ForwarderTokioUring, Relay};
        assert_eq!(wanted.kinds, [Direct, ForwarderTokio, ForwarderTokioUring]);
        let (_, _, wanted) = rtt(&["--relay-tcp", "127.0.0.1:1", "--tunnel", "maya"]).unwrap();
        assert_eq!(
            wanted.kinds,
            [Direct, ForwarderTokio, ForwarderTokioUring, Relay]
        );
        let (_, _, wanted) = rtt(&["--path", "forwarder,direct", "--path", "direct"]).unwrap();
        assert_eq!(wanted.kinds, [Direct, ForwarderTokio, ForwarderTokioUring]);
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        let (scenario, _, _) = rtt(&["-c", "16", "--rate", "3000"]).unwrap();
        assert_eq!(scenario.name(), "16x256@3000");
        assert!(rtt(&["--rate", "0"]).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (arguments, word) in [
            (["--rounds", "0"], "--rounds"),
            (["--threads", "0"], "--threads"),
            (["--duration", "1ms"], "--duration"),
            (["--warm-up", "1000s"], "--warm-up"),
            (["--connections", "100000"], "100000"),
            (["--size", "0"], "messages of 0"),
            (["--path", "relay"], "--relay-tcp"),
        ] {
            let error = rtt(&arguments).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
