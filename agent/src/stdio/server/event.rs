//! What is worth telling a person about the children of a target.

use std::sync::Arc;
use std::time::Duration;

/// Takes events. It is called outside of the server's lock, and returns soon.
pub(crate) type Told = Arc<dyn Fn(StdioEvent) + Send + Sync>;

/// Something that a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StdioEvent {
    /// A child runs.
    Started {
        /// The child's number.
        child: u64,
        /// The child's process id; `None` if it has ended already.
        pid: Option<u32>,
    },
    /// A child has ended, or could not be started.
    Ended {
        /// The child's number.
        child: u64,
        /// How it has ended, as the end of a sentence about it: `ended with exit code 1`.
        how: String,
        /// The last line of its standard error.
        last_line: Option<String>,
        /// True if the agent has asked it to end.
        is_asked: bool,
    },
    /// Children have ended so soon and so often that none is started for a while.
    Failed {
        /// How the latest child has ended.
        reason: String,
        /// Time for which none is started.
        pause: Duration,
    },
    /// A child has written a line to its standard output that is not a message. Told at most once a minute.
    Stray {
        /// The child's number.
        child: u64,
        /// The beginning of the line, made printable.
        line: String,
        /// Number of such lines, of any child, since the one that was told before.
        untold: u64,
    },
}
