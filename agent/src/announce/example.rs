//! By which of an agent's targets callers are told what to type.

use std::collections::HashSet;

use crate::config::Config;
use crate::target::Target;

/// What was begun in this run, and is not done again.
pub(super) struct Begun {
    tunnels: HashSet<String>,
    /// HTTP targets that were neither looked at nor refused a tunnel.
    unseen: HashSet<usize>,
    example: Example,
}

/// The target by which callers are told what to type: the first that speaks MCP, else the first over HTTP.
enum Example {
    None,
    /// No target that was looked at speaks MCP; this is the first of them.
    Other(Seen),
    /// Callers were told.
    Told,
}

/// A target over HTTP that was looked at.
pub(super) struct Seen {
    pub(super) index: usize,
    pub(super) tunnel: String,
    pub(super) urls: Vec<String>,
    /// It speaks MCP's older transport.
    pub(super) is_older: bool,
}

impl Begun {
    pub(super) fn new(config: &Config) -> Self {
        let targets = (0..).zip(&config.targets);
        let http = targets.filter(|(_, it)| matches!(it.target, Target::Http(_)));
        Self {
            tunnels: HashSet::new(),
            unseen: http.map(|(index, _)| index).collect(),
            example: Example::None,
        }
    }

    /// Whether a tunnel came up for the first time in this run.
    pub(super) fn is_new(&mut self, tunnel: &str) -> bool {
        self.tunnels.insert(tunnel.to_owned())
    }

    /// The example to tell now, after a target got no tunnel: it is none.
    pub(super) fn refused(&mut self, index: usize) -> Option<Seen> {
        match self.unseen.remove(&index) {
            true => self.last_resort(),
            false => None,
        }
    }

    /// The example to tell now, after a target was looked at.
    pub(super) fn seen(&mut self, seen: Seen, is_mcp: bool) -> Option<Seen> {
        self.unseen.remove(&seen.index);
        if matches!(self.example, Example::Told) {
            return None;
        }
        if is_mcp {
            self.example = Example::Told;
            return Some(seen);
        }
        if matches!(self.example, Example::None) {
            self.example = Example::Other(seen);
        }
        self.last_resort()
    }

    /// The first target over HTTP, once no other one can be a better example.
    fn last_resort(&mut self) -> Option<Seen> {
        if !self.unseen.is_empty() || !matches!(self.example, Example::Other(_)) {
            return None;
        }
        match std::mem::replace(&mut self.example, Example::Told) {
            Example::Other(seen) => Some(seen),
            Example::None | Example::Told => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TargetConfig;

    #[test]
    fn callers_are_told_by_a_target_that_speaks_mcp_if_there_is_one() {
        let seen = |index| Seen {
            index,
            tunnel: format!("t{index}"),
            urls: Vec::new(),
            is_older: false,
        };
        let urls = ["http://h:1/a", "http://h:2", "http://h:3"];
        let targets = urls.map(|url| TargetConfig::new(url).unwrap());
        let config = Config::of("tcp://127.0.0.1:9", targets.to_vec()).unwrap();
        let begun = || Begun::new(&config);
        let index = |example: Option<Seen>| example.map(|it| it.index);

        let mut with_mcp = begun();
        assert_eq!(index(with_mcp.seen(seen(0), false)), None);
        assert_eq!(index(with_mcp.seen(seen(1), true)), Some(1));
        assert_eq!(index(with_mcp.seen(seen(2), true)), None);

        let mut without = begun();
        assert_eq!(index(without.seen(seen(1), false)), None);
        assert_eq!(index(without.seen(seen(0), false)), None);
        assert_eq!(index(without.seen(seen(2), false)), Some(1));

        // The last one gets no tunnel.
        let mut refused = begun();
        assert_eq!(index(refused.seen(seen(0), false)), None);
        assert_eq!(index(refused.seen(seen(1), false)), None);
        assert_eq!(index(refused.refused(2)), Some(0));
        assert_eq!(index(refused.refused(2)), None);
    }
}
