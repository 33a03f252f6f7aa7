//! Chooses the target that serves as the example in the instructions for callers.

use std::collections::HashSet;

use tieline_agent::config::Config;

/// State of one run: tunnels already handled, HTTP targets not yet looked at, and the example.
pub(super) struct Begun {
    tunnels: HashSet<String>,
    /// Indices of HTTP targets that were neither looked at nor refused a tunnel.
    unseen: HashSet<usize>,
    /// The first HTTP target that was looked at, while no target so far speaks MCP.
    example: Option<Seen>,
    /// True once the example was chosen: the first target that speaks MCP, else the first that was looked at.
    is_chosen: bool,
}

/// An HTTP target that was looked at.
pub(super) struct Seen {
    pub(super) index: usize,
    pub(super) tunnel: String,
    pub(super) urls: Vec<String>,
    /// True if the target speaks MCP's older transport.
    pub(super) is_older: bool,
}

impl Begun {
    pub(super) fn new(config: &Config) -> Self {
        let targets = (0..).zip(&config.targets);
        let http = targets.filter(|(_, it)| it.target.is_http());
        Self {
            tunnels: HashSet::new(),
            unseen: http.map(|(index, _)| index).collect(),
            example: None,
            is_chosen: false,
        }
    }

    /// True if `tunnel` came up for the first time in this run.
    pub(super) fn is_new(&mut self, tunnel: &str) -> bool {
        self.tunnels.insert(tunnel.to_owned())
    }

    /// Excludes a target that got no tunnel; returns the example if it is decided now.
    pub(super) fn refused(&mut self, index: usize) -> Option<Seen> {
        match self.unseen.remove(&index) {
            true => self.last_resort(),
            false => None,
        }
    }

    /// Records a look at a target; returns the example if it is decided now.
    pub(super) fn seen(&mut self, seen: Seen, is_mcp: bool) -> Option<Seen> {
        self.unseen.remove(&seen.index);
        if is_mcp && !self.is_chosen {
            self.is_chosen = true;
            return Some(seen);
        }
        self.example.get_or_insert(seen);
        self.last_resort()
    }

    /// The first HTTP target that was looked at, once no other target can be a better example.
    fn last_resort(&mut self) -> Option<Seen> {
        if self.is_chosen || !self.unseen.is_empty() {
            return None;
        }
        self.is_chosen = self.example.is_some();
        self.example.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_agent::config::TargetConfig;

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

        // The target at index 2 is refused a tunnel.
        let mut refused = begun();
        assert_eq!(index(refused.seen(seen(0), false)), None);
        assert_eq!(index(refused.seen(seen(1), false)), None);
        assert_eq!(index(refused.refused(2)), Some(0));
        assert_eq!(index(refused.refused(2)), None);
    }
}
