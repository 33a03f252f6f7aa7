//! The line in which dials wait for the permission to send a login.

use tokio::sync::{Mutex, Notify};

/// A line of dials, served in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Held by the first dial in the line.
    pub(super) first: Mutex<()>,
    /// Tells the first dial that a login has ended.
    pub(super) ended: Notify,
}
