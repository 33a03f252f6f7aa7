//! Settings of `scaling`, checked.

use super::{MEASURED_MIN, ROUND_TIME_MAX, UsageError, beside};
use crate::cli::{ScalingFlags, SeriesFlag};
use crate::path::PathKind;
use crate::path::set::{PathsWanted, RelaySource};
use crate::report::scaling::Load;
use crate::scenario::scaling::Plan;
use crate::scenario::{CONNECTIONS_MAX, Messages, Pacing, Scenario};

/// Most sessions or tunnels: their connections all come from one address.
const COUNT_MAX: usize = CONNECTIONS_MAX;

impl ScalingFlags {
    /// Checks the flags; returns what to measure and which programs to start.
    pub(crate) fn checked(&self) -> Result<Plan, UsageError> {
        let range = |flag, range: String| Err(UsageError::Range { flag, range });
        let counts = [
            ("--sessions", &self.sessions[..]),
            ("--tunnels", &self.tunnels),
            ("--callers", &[self.callers]),
        ];
        for (flag, list) in counts {
            if list.iter().any(|count| !(1..=COUNT_MAX).contains(count)) {
                return range(flag, format!("1 to {COUNT_MAX}"));
            }
        }
        if !(MEASURED_MIN..=ROUND_TIME_MAX).contains(&self.idle) {
            return range("--idle", format!("50ms to {}s", ROUND_TIME_MAX.as_secs()));
        }
        let messages = Messages {
            connections: 1,
            bytes: self.size,
        };
        let requests_per_s = self.rate;
        // Size and rate have the limits of any open loop.
        Scenario::RoundTrips {
            messages,
            pacing: Pacing::Open { requests_per_s },
        }
        .checked()?;
        let wanted = |list: &[usize], series| {
            let is_wanted = self.only.is_none_or(|only| only == series);
            let mut list = if is_wanted { list.to_vec() } else { Vec::new() };
            list.sort_unstable();
            list.dedup();
            list
        };
        Ok(Plan {
            sessions: wanted(&self.sessions, SeriesFlag::Sessions),
            tunnels: wanted(&self.tunnels, SeriesFlag::Tunnels),
            load: Load {
                message_bytes: self.size,
                requests_per_s,
                callers: self.callers,
                idle_s: self.idle.as_secs_f64(),
            },
            method: self.method.checked()?,
            wanted: PathsWanted {
                kinds: vec![PathKind::Direct, PathKind::Relay],
                target: None,
                relay: Some(RelaySource::Start(self.programs.binaries(1))),
                peers: Vec::new(),
                peer_pids: Vec::new(),
                known_peers: None,
                is_http: false,
                is_wrapped: false,
                pin: self.method.pin(),
            },
            fleet: self
                .fleet_bin
                .clone()
                .unwrap_or_else(|| beside(None, "examples").join("fleet")),
            files: self.output.files(&self.name)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn plan(arguments: &[&str]) -> Result<Plan, UsageError> {
        let words = ["tieline-loadgen", "scaling"].iter().chain(arguments);
        let Command::Scaling(flags) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not scaling");
        };
        flags.checked()
    }

    #[test]
    fn numbers_are_in_order_and_there_once() {
        let plan = plan(&["--sessions", "100,1,10,1", "--only", "sessions"]).unwrap();
        assert_eq!(plan.sessions, [1, 10, 100]);
        assert!(plan.tunnels.is_empty());
        assert!(plan.fleet.ends_with("examples/fleet"));
    }

    #[test]
    fn what_cannot_be_measured_names_its_flag() {
        for (arguments, word) in [
            (["--sessions", "0"], "--sessions"),
            (["--tunnels", "1,30000"], "--tunnels"),
            (["--callers", "0"], "--callers"),
            (["--idle", "1ms"], "--idle"),
            (["--rate", "0"], "rate of 0"),
            (["--size", "0"], "0 bytes"),
            (["--name", "a/b"], "--name"),
        ] {
            let error = plan(&arguments).unwrap_err().to_string();
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}
