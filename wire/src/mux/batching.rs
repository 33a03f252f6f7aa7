//! Decides whether a driver serves more sessions before it sends.

use super::Mux;

/// Number of sessions with frames to send from which further sessions are likely to be ready too.
const CROWD_SESSIONS: usize = 4;

/// Most looks for further sessions before one send.
const LOOKS_MAX: u8 = 8;

/// Decides how long a driver goes on serving ready sessions before it sends the queued frames.
///
/// A send, and the receive at the other end, cost about the same for one frame as for fifty. While
/// the bytes of many sessions are read, those of others arrive; a look for ready sessions costs a
/// fraction of a send. No session waits for bytes that are not there: a look does not sleep, a look
/// that finds no new session is the last, and the frames of a few sessions are sent at once.
#[derive(Debug, Default)]
pub struct SendBatching {
    sessions: usize,
    looks: u8,
}

impl SendBatching {
    /// True if the driver should serve the sessions that are ready now, and then ask again.
    pub fn goes_on(&mut self, mux: &Mux) -> bool {
        let before = self.sessions.max(CROWD_SESSIONS - 1);
        self.sessions = mux.schedule.len();
        self.looks += 1;
        self.sessions > before && self.looks <= LOOKS_MAX
    }
}
