//! Who else joins a send.

use super::Mux;

/// So many sessions with something to send are a crowd, in which others are likely to be ready too.
const CROWD_SESSIONS: usize = 4;

/// Looks for more of them before one send.
const LOOKS_MAX: u8 = 8;

/// How long a driver goes on to look for what is ready already, before it sends what is queued.
///
/// A send and the receive at the other end cost much the same for one frame as for fifty. While
/// bytes of a crowd are read, those of others arrive; a look at what is ready costs a fraction of a
/// send. Nobody waits for what is not there: a look does not sleep, one that finds nobody new is the
/// last, and a few sessions alone are sent at once.
#[derive(Debug, Default)]
pub struct Joining {
    sessions: usize,
    looks: u8,
}

impl Joining {
    /// True if the driver should serve what is ready now, and then ask again.
    pub fn goes_on(&mut self, mux: &Mux) -> bool {
        let before = self.sessions.max(CROWD_SESSIONS - 1);
        self.sessions = mux.schedule.len();
        self.looks += 1;
        self.sessions > before && self.looks <= LOOKS_MAX
    }
}
