//! Machine, commit, command line, method and settings of a run: the last section of every report.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;

use crate::machine::{Machine, command_line, commit, utc};
use crate::path::peer::known::PeerFacts;
use crate::path::relay::RelayFacts;
use crate::path::set::PathSet;
use crate::scenario::Method;

/// Conditions under which the numbers of a run were measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Circumstances {
    pub(crate) version: &'static str,
    /// Start of the run, in UTC.
    pub(crate) date: String,
    /// Commit of the working directory.
    pub(crate) commit: String,
    /// Command line of the run.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    /// Whether each role had its own cores.
    pub(crate) pinned: bool,
    /// Number of rounds, durations and seed.
    pub(crate) method: Method,
    /// Settings and drivers of the relays that were started.
    pub(crate) relays: Vec<RelayFacts>,
    /// Versions and configurations of the peers that were started.
    pub(crate) peers: Vec<PeerFacts>,
    /// Notes for the reader, such as a path that was left out.
    pub(crate) notes: Vec<String>,
}

impl Circumstances {
    /// Collects the facts from the machine and from the started processes.
    pub(crate) fn new(machine: Machine, date: SystemTime, method: Method, set: &PathSet) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            date: utc(date),
            commit: commit(),
            command: command_line(),
            machine,
            pinned: set.is_pinned(),
            method,
            relays: set.relay_facts(),
            peers: set.peer_facts(),
            notes: set.notes.clone(),
        }
    }

    /// Facts of the run, as (name, value).
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let pinned = if self.pinned {
            "client, target, near hop and far hop pinned to separate cores"
        } else {
            "not pinned: all processes share the cores"
        };
        let Method {
            rounds,
            warm_up_s,
            measured_s,
            threads,
            repeat_noisy,
            seed,
        } = self.method;
        let repeats = if repeat_noisy > 0 {
            format!(", up to {repeat_noisy} noisy rounds of a scenario run again")
        } else {
            String::new()
        };
        vec![
            ("date", self.date.clone()),
            ("commit", self.commit.clone()),
            ("command", format!("`{}`", self.command)),
            ("machine", self.machine.to_string()),
            ("kernel", self.machine.system()),
            ("processes", pinned.to_owned()),
            (
                "rounds",
                format!(
                    "{rounds} of {measured_s} s after {warm_up_s} s of warm-up, in random order \
                     (seed {seed}), {threads} generator thread(s){repeats}"
                ),
            ),
        ]
    }

    /// Each relay with its settings in effect. Default values are printed for the first relay only,
    /// because all relays share them.
    pub(super) fn relays(&self) -> impl Iterator<Item = (&RelayFacts, String)> {
        let relays = self.relays.iter().enumerate();
        relays.map(|(place, facts)| match place {
            0 => (facts, facts.settings.join("\n")),
            _ => (facts, facts.commands().join("\n")),
        })
    }

    /// Formats the facts as the last section of a Markdown document.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::from("\n## Where and how\n\n");
        for (name, value) in self.facts() {
            let _ = writeln!(out, "- {name}: {value}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "- note: {note}");
        }
        for (relay, settings) in self.relays() {
            let (path, what) = (relay.path, relay.described());
            let _ = writeln!(out, "\n{path}: {what}:\n\n```text\n{settings}\n```");
            if let Some(health) = &relay.health {
                let _ = writeln!(
                    out,
                    "\nIts answer to /healthz?verbose:\n\n```text\n{health}\n```"
                );
            }
        }
        for peer in &self.peers {
            let _ = writeln!(out, "\n{} ({}):\n", peer.name, peer.version);
            for hop in &peer.hops {
                let _ = writeln!(out, "```text\n{}\n```", hop.trim_end());
            }
        }
        out
    }

    /// Formats the facts for the end of the terminal output.
    pub(super) fn text(&self) -> String {
        let mut out = String::from("\n");
        for (name, value) in self.facts() {
            let _ = writeln!(out, "{name}: {value}");
        }
        for (relay, settings) in self.relays() {
            let _ = writeln!(out, "{}: {}", relay.path, relay.described());
            for line in settings.lines().chain(relay.health.as_deref()) {
                let _ = writeln!(out, "  {line}");
            }
        }
        for peer in &self.peers {
            let _ = writeln!(out, "peer {}: {}", peer.name, peer.version);
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}
