//! What a server of children can tell of itself.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tieline_bridge::{Era, State};

/// Status of a target that is a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StdioStatus {
    /// Children that serve callers.
    pub running: usize,
    /// Children that were started and have not answered yet.
    pub starting: usize,
    /// Sessions of callers whose protocol version has sessions.
    pub sessions: usize,
    /// Calls of callers under way.
    pub calls: usize,
    /// Era of the protocol that the program speaks, `legacy` or `modern`, once it has shown it.
    pub era: Option<String>,
    /// Children started so far.
    pub starts: u64,
    /// Children that ended although they were not asked to.
    pub ends: u64,
    /// Seconds since the program counts as failed, so that it is not started for a while.
    pub failed_for_s: Option<u64>,
    /// How the latest of these children ended.
    pub last_end: Option<String>,
    /// Lines of children's standard output that are not messages.
    pub stray_lines: u64,
    /// Messages of children that belong to no call under way.
    pub unmatched: u64,
}

impl StdioStatus {
    /// The status of a bridge; `strays` are lines that it has not seen.
    pub(super) fn of(state: State, now: Instant, strays: u64) -> Self {
        let era = state.era.map(|era| match era {
            Era::Legacy => "legacy".to_owned(),
            Era::Modern => "modern".to_owned(),
        });
        let failed_for = state
            .failed_since
            .map(|since| now.saturating_duration_since(since));
        Self {
            running: state.children.saturating_sub(state.starting),
            starting: state.starting,
            sessions: state.sessions,
            calls: state.calls,
            era,
            starts: state.starts,
            ends: state.ends,
            failed_for_s: failed_for.map(|time| time.as_secs()),
            last_end: state.last_end,
            stray_lines: state.strays + strays,
            unmatched: state.unmatched,
        }
    }
}
