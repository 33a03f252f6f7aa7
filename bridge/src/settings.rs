//! Settings of a bridge, and its limits.

use std::time::Duration;

/// Which callers share a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// A modern child serves all callers, because it keeps nothing of them; a legacy child serves one session.
    #[default]
    Auto,
    /// Each legacy session has a child of its own, and so has each modern caller per set of capabilities.
    Never,
    /// All sessions of a caller share a child.
    Caller,
    /// One child serves all callers.
    Always,
}

/// Settings that a driver may choose.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which callers share a child.
    pub share: Share,
    /// Most children at a time.
    pub children_max: usize,
    /// Time without use after which a session or a child ends.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            share: Share::default(),
            children_max: 32,
            idle: Duration::from_secs(30 * 60),
        }
    }
}

/// Most sessions of legacy callers: each keeps up to 1 MiB of events.
pub(crate) const SESSIONS_MAX: usize = 1024;

/// Most calls under way at one child, with the bridge's own; also most requests of a child that one session may owe.
pub(crate) const CALLS_MAX: usize = 1024;

/// Most requests that wait for one child to start.
pub(crate) const WAITING_MAX: usize = 64;

/// Most bytes of the requests that wait for one child to start: one message of the largest size.
pub(crate) const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for which an answer may become one JSON object; after it, a stream shows the caller that the call goes on.
pub(crate) const JSON_WAIT: Duration = Duration::from_secs(1);

/// Interval of comments on a quiet stream: proxies close connections that are quiet for 30 s or more.
pub(crate) const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// Time without use after which an idle child makes room for another one.
pub(crate) const EVICTION_AGE: Duration = Duration::from_secs(60);

/// Wait that a caller is told when there is no room for a child or a session.
pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(10);
