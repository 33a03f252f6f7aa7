//! Heartbeat, stale and handshake deadlines as plain data.

use std::time::Duration;

use crate::error::{Error, Reason};
use crate::ids::Moment;
use crate::limits::HANDSHAKE_TIMEOUT;

/// What a link waits for.
#[derive(Debug)]
pub(super) struct Timers {
    heartbeat: Duration,
    stale: Duration,
    started_at: Moment,
    received_at: Moment,
    /// When the next ping is due.
    ping_at: Moment,
    /// The first and the last ping that still await a pong: the peer may answer only the last of
    /// several that reached it at once.
    pings_sent: Option<(Moment, Moment)>,
    shaken: bool,
    rtt: Option<Duration>,
}

impl Timers {
    pub(super) fn new(heartbeat: Duration, stale: Duration, now: Moment) -> Self {
        Self {
            heartbeat,
            stale,
            started_at: now,
            received_at: now,
            ping_at: now,
            pings_sent: None,
            shaken: false,
            rtt: None,
        }
    }

    /// The hello exchange is over; the first ping follows at once, for a first round trip.
    pub(super) fn shaken(&mut self, now: Moment) {
        self.shaken = true;
        self.ping_at = now;
    }

    /// The relay said how often it wants to hear from us.
    pub(super) fn pace(&mut self, heartbeat: Duration, now: Moment) {
        self.heartbeat = heartbeat;
        self.stale = heartbeat * 3;
        self.ping_at = self.ping_at.min(now + heartbeat);
    }

    pub(super) fn received(&mut self, now: Moment) {
        self.received_at = now;
    }

    pub(super) const fn last_received(&self) -> Moment {
        self.received_at
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(super) const fn is_shaken(&self) -> bool {
        self.shaken
    }

    /// Whether a ping is due.
    pub(super) fn check(&self, now: Moment) -> Result<bool, Error> {
        if !self.shaken {
            if now >= self.started_at + HANDSHAKE_TIMEOUT {
                return Err(Error::peer(Reason::HandshakeTimeout, "no hello in time"));
            }
            return Ok(false);
        }
        if now >= self.received_at + self.stale {
            let silent = now.saturating_since(self.received_at);
            return Err(Error::peer(
                Reason::Stale,
                format!("silent for {:.1} s", silent.as_secs_f64()),
            ));
        }
        Ok(now >= self.ping_at)
    }

    /// A ping leaves now; its stamp.
    pub(super) fn ping(&mut self, now: Moment) -> u64 {
        self.ping_at = now + self.heartbeat;
        let first = self.pings_sent.map_or(now, |(first, _)| first);
        self.pings_sent = Some((first, now));
        now.as_micros()
    }

    /// The round trip, if `stamp` answers a ping of ours.
    pub(super) fn pong(&mut self, stamp: u64, now: Moment) -> Option<Duration> {
        let (first, last) = self.pings_sent?;
        let sent = Moment::from_micros(stamp);
        if sent < first || sent > last {
            return None;
        }
        self.pings_sent = (sent < last).then(|| (sent + Duration::from_micros(1), last));
        let rtt = now.saturating_since(sent);
        self.rtt = Some(rtt);
        Some(rtt)
    }

    pub(super) fn next(&self) -> Moment {
        if self.shaken {
            self.ping_at.min(self.received_at + self.stale)
        } else {
            self.started_at + HANDSHAKE_TIMEOUT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn timers() -> Timers {
        let mut timers = Timers::new(Duration::from_secs(15), Duration::from_secs(45), at(0));
        timers.shaken(at(1));
        timers
    }

    #[test]
    fn silence_is_stale_and_any_traffic_is_life() {
        let mut timers = timers();
        assert!(timers.check(at(44)).is_ok());
        assert_eq!(timers.check(at(45)).unwrap_err().reason, Reason::Stale);
        timers.received(at(44));
        assert!(timers.check(at(88)).is_ok());
    }

    #[test]
    fn pings_leave_at_the_heartbeat_and_measure_the_round_trip() {
        let mut timers = timers();
        assert!(timers.check(at(1)).unwrap());
        let stamp = timers.ping(at(1));
        assert!(!timers.check(at(15)).unwrap());
        assert!(timers.check(at(16)).unwrap());
        assert_eq!(timers.pong(stamp + 1, at(2)), None);
        assert_eq!(timers.pong(stamp, at(3)), Some(Duration::from_secs(2)));
        assert_eq!(timers.pong(stamp, at(4)), None);
    }

    #[test]
    fn a_handshake_has_a_deadline() {
        let timers = Timers::new(Duration::from_secs(15), Duration::from_secs(45), at(0));
        assert_eq!(timers.next(), at(5));
        assert_eq!(
            timers.check(at(5)).unwrap_err().reason,
            Reason::HandshakeTimeout
        );
    }
}
