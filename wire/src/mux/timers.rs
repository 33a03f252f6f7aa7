//! Heartbeat, probe, stale and handshake deadlines as plain data.

use std::time::Duration;

use super::progress::{Ahead, SendProgress};
use crate::error::Error;
use crate::ids::Moment;
use crate::limits::{HANDSHAKE_TIMEOUT, PROBE_AFTER, PROBE_TIMEOUT};
use crate::reason::LinkEnd;

/// Interval between checks of a link whose probe waits for an answer.
const PROBE_LOOK: Duration = Duration::from_millis(500);

/// Time without an answer to a ping after which the peer's other links may be dead as well. Short, so that they are
/// checked and given up hardly later than this one; far above the round trip of most links. Two round trips count if
/// they are more.
const DOUBT_AFTER: Duration = Duration::from_millis(250);

/// The same for the longest round trips: a round trip that was measured behind a queue tells little.
const DOUBT_AFTER_MAX: Duration = Duration::from_secs(1);

/// Silence behind the peer's data from which on an answered ping shows that the peer has no more to send at present.
/// Shorter pauses occur within a transfer.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest normal time between two checks. After a longer one this process was halted or far too
/// busy, and answers may wait in the socket, unread.
const HALTED_MIN: Duration = Duration::from_secs(1);

/// Deadlines of a link.
#[derive(Debug)]
pub(super) struct Timers {
    heartbeat: Duration,
    stale: Duration,
    started_at: Moment,
    received_at: Moment,
    /// When anything but the peer's own pings last arrived: those also arrive over a path that
    /// takes nothing to the peer.
    heard_at: Moment,
    /// When the first frame was sent that no ping has followed yet.
    asked_at: Option<Moment>,
    /// When the ping after such a frame, or after silence behind data, was sent, while its answer is due.
    probed_at: Option<Moment>,
    /// The bytes in front of the ping of `probed_at`, once the driver has told of them.
    ahead: Option<Ahead>,
    /// When such bytes were last found to have been acknowledged.
    passed_at: Moment,
    /// The ping of `probed_at` has raised no doubt about the peer's other links yet.
    may_doubt: bool,
    /// When data of the peer last arrived, until a ping into the silence behind it is answered.
    data_at: Option<Moment>,
    /// When the deadlines were last checked.
    looked_at: Moment,
    /// When the next ping is due.
    ping_at: Moment,
    /// The first and the last ping that still await a pong: the peer may answer only the last of
    /// several pings that reached it together.
    pings_sent: Option<(Moment, Moment)>,
    /// When the latest answered ping was sent.
    answered_at: Option<Moment>,
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
            heard_at: now,
            asked_at: None,
            probed_at: None,
            ahead: None,
            passed_at: now,
            may_doubt: false,
            data_at: None,
            looked_at: now,
            ping_at: now,
            pings_sent: None,
            answered_at: None,
            shaken: false,
            rtt: None,
        }
    }

    /// The hello exchange is over; the first ping follows at once, to measure a first round trip.
    pub(super) fn shaken(&mut self, now: Moment) {
        self.shaken = true;
        self.ping_at = now;
    }

    /// Adopts the heartbeat that the relay asked for.
    pub(super) fn pace(&mut self, heartbeat: Duration, now: Moment) {
        self.heartbeat = heartbeat;
        self.stale = heartbeat * 3;
        self.ping_at = self.ping_at.min(now + heartbeat);
    }

    pub(super) fn received(&mut self, now: Moment) {
        self.received_at = now;
    }

    /// Anything but a ping of the peer arrived.
    pub(super) fn heard(&mut self, now: Moment) {
        self.heard_at = now;
    }

    /// Data of a session arrived: more may be under way, and only silence tells that it is lost.
    pub(super) fn data(&mut self, now: Moment) {
        self.data_at = Some(now);
    }

    /// When anything but a ping of the peer last arrived.
    pub(super) const fn last_heard(&self) -> Moment {
        self.heard_at
    }

    /// A frame was sent whose arrival must be confirmed.
    pub(super) fn asked(&mut self, now: Moment) {
        self.asked_at.get_or_insert(now);
    }

    /// Whether a ping is due now that ends the link if nothing answers it; false if such a ping is under way.
    pub(super) fn confirm(&mut self, now: Moment) -> bool {
        if !self.shaken || self.probed_at.is_some() {
            return false;
        }
        self.probed_at = Some(now);
        self.ahead = None;
        self.may_doubt = false;
        // The process runs now, so a later check must not take the time before for a halt.
        self.looked_at = now;
        true
    }

    /// True once for each ping after sent frames, or after silence behind data, if nothing has arrived for
    /// [`DOUBT_AFTER`] or two round trips since.
    pub(super) fn take_doubt(&mut self, now: Moment) -> bool {
        let is_silent = self.doubt_at().is_some_and(|at| now >= at);
        self.may_doubt &= !is_silent;
        is_silent
    }

    /// When [`Timers::take_doubt`] becomes true if nothing arrives; `None` while no ping may raise a doubt.
    pub(super) fn doubt_at(&self) -> Option<Moment> {
        let probed_at = self.probed_at.filter(|_| self.may_doubt)?;
        let round_trips = 2 * self.rtt.unwrap_or_default();
        let patience = round_trips.clamp(DOUBT_AFTER, DOUBT_AFTER_MAX);
        Some(self.silent_since(probed_at) + patience)
    }

    /// Since when nothing shows that a ping sent at `probed_at` is on its way or that the peer is alive.
    fn silent_since(&self, probed_at: Moment) -> Moment {
        self.heard_at.max(self.passed_at).max(probed_at)
    }

    /// Whether a ping with a deadline has had no answer for so long that the bytes in front of it matter.
    pub(super) fn wants_progress(&self, now: Moment) -> bool {
        self.probed_at
            .is_some_and(|probed_at| now >= self.silent_since(probed_at) + PROBE_LOOK)
    }

    /// How far the link's bytes have come, see [`Ahead`]. If those in front of the ping move, its deadline does too.
    pub(super) fn progressed(&mut self, now: Moment, progress: SendProgress) {
        if self.probed_at.is_none() {
            return;
        }
        let ahead = self.ahead.get_or_insert_with(|| Ahead::new(progress));
        if ahead.passes(progress) {
            self.passed_at = now;
        }
    }

    /// True while bytes that were sent are not known to have arrived, or while more of the peer's data may be due.
    pub(super) const fn is_asking(&self) -> bool {
        let is_waiting = self.asked_at.is_some() || self.probed_at.is_some();
        self.shaken && (is_waiting || self.data_at.is_some())
    }

    /// True if all bytes sent before `moment` have arrived: a ping sent after them was answered.
    pub(super) fn has_arrived(&self, moment: Moment) -> bool {
        self.answered_at.is_some_and(|answered| moment < answered)
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

    /// Checks all deadlines; true if a ping is due.
    pub(super) fn check(&mut self, now: Moment) -> Result<bool, Error> {
        if !self.shaken {
            if now >= self.started_at + HANDSHAKE_TIMEOUT {
                return Err(Error::peer(LinkEnd::HandshakeTimeout, "no hello in time"));
            }
            return Ok(false);
        }
        if now >= self.received_at + self.stale {
            let silent = now.saturating_since(self.received_at);
            return Err(Error::peer(
                LinkEnd::Stale,
                format!("silent for {:.1} s", silent.as_secs_f64()),
            ));
        }
        let was_halted = now.saturating_since(self.looked_at) > HALTED_MIN;
        self.looked_at = now;
        if let Some(probed_at) = self.probed_at {
            if was_halted {
                self.probed_at = Some(now);
                self.ahead = None;
                return Ok(true);
            }
            let since = self.silent_since(probed_at);
            if now >= since + PROBE_TIMEOUT {
                let silent = now.saturating_since(since);
                return Err(Error::peer(
                    LinkEnd::Stale,
                    format!("no answer to a ping for {:.1} s", silent.as_secs_f64()),
                ));
            }
        }
        let probes = [self.probe_at(), self.quiet_at()];
        Ok(now >= self.ping_at || probes.into_iter().flatten().any(|at| now >= at))
    }

    /// When a ping is due that confirms sent frames.
    fn probe_at(&self) -> Option<Moment> {
        self.asked_at
            .filter(|_| self.probed_at.is_none())
            .map(|asked_at| asked_at + PROBE_AFTER)
    }

    /// When a ping is due because data of the peer arrived and nothing after it: over a path that takes nothing to
    /// this side, silence is all that shows.
    fn quiet_at(&self) -> Option<Moment> {
        self.data_at
            .filter(|_| self.probed_at.is_none())
            .map(|data_at| self.received_at.max(data_at) + PROBE_AFTER)
    }

    /// Notes that a ping is sent now; returns its stamp.
    pub(super) fn ping(&mut self, now: Moment) -> u64 {
        self.ping_at = now + self.heartbeat;
        // A heartbeat's ping serves as a probe too: it follows the sent frames.
        let follows = self.asked_at.take().is_some();
        let is_probe = follows || self.quiet_at().is_some_and(|at| now >= at);
        if is_probe && self.probed_at.is_none() {
            self.probed_at = Some(now);
            self.ahead = None;
            self.may_doubt = true;
        }
        let first = self.pings_sent.map_or(now, |(first, _)| first);
        self.pings_sent = Some((first, now));
        now.as_micros()
    }

    /// The round-trip time, if `stamp` answers a ping of this side.
    pub(super) fn pong(&mut self, stamp: u64, now: Moment) -> Option<Duration> {
        let (first, last) = self.pings_sent?;
        let sent = Moment::from_micros(stamp);
        if sent < first || sent > last {
            return None;
        }
        self.pings_sent = (sent < last).then(|| (sent + Duration::from_micros(1), last));
        // An answer to an earlier ping proves nothing about frames sent since.
        self.probed_at = self.probed_at.filter(|probed_at| sent < *probed_at);
        self.answered_at = self.answered_at.max(Some(sent));
        self.data_at = self.data_at.filter(|data_at| sent < *data_at + PAUSE_MIN);
        let rtt = now.saturating_since(sent);
        self.rtt = Some(rtt);
        Some(rtt)
    }

    pub(super) fn next(&self) -> Moment {
        if self.shaken {
            let probe_at = self.probe_at();
            let look_at = self.probed_at.map(|probed_at| {
                let overdue_at = self.silent_since(probed_at) + PROBE_TIMEOUT;
                overdue_at.min(self.looked_at + PROBE_LOOK)
            });
            let heartbeat = self.ping_at.min(self.received_at + self.stale);
            let probes = [probe_at, look_at, self.quiet_at()];
            probes.into_iter().flatten().fold(heartbeat, Moment::min)
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
        assert_eq!(timers.check(at(45)).unwrap_err().reason, LinkEnd::Stale);
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

    /// Timers that know a first round trip, with nothing to confirm.
    fn settled() -> Timers {
        let mut timers = timers();
        let stamp = timers.ping(at(1));
        timers.pong(stamp, at(1));
        timers
    }

    const fn at_ms(milliseconds: u64) -> Moment {
        Moment::from_micros(milliseconds * 1_000)
    }

    /// Goes from one deadline to the next, as a driver does; returns when the link is given up.
    fn ends_at(timers: &mut Timers, until: Moment) -> Option<Moment> {
        while timers.next() < until {
            let now = timers.next();
            match timers.check(now) {
                Ok(true) => drop(timers.ping(now)),
                Ok(false) => {}
                Err(_) => return Some(now),
            }
        }
        None
    }

    #[test]
    fn what_is_asked_in_vain_ends_the_link_within_five_seconds() {
        let mut timers = settled();
        timers.asked(at(10));
        assert!(timers.is_asking());
        assert_eq!(timers.next(), at(11));
        assert_eq!(ends_at(&mut timers, at(30)), Some(at(14)));
    }

    #[test]
    fn pings_of_the_peer_prove_no_way_to_it_and_anything_else_does() {
        let mut timers = settled();
        timers.asked(at(10));
        assert_eq!(ends_at(&mut timers, at(13)), None);
        // A ping of the peer arrives.
        timers.received(at(13));
        assert_eq!(ends_at(&mut timers, at(20)), Some(at(14)));

        let mut timers = settled();
        timers.asked(at(10));
        assert_eq!(ends_at(&mut timers, at(13)), None);
        // Bytes of a stream arrive; the answer waits its turn behind them.
        timers.received(at(13));
        timers.heard(at(13));
        assert_eq!(ends_at(&mut timers, at(20)), Some(at(16)));
    }

    #[test]
    fn an_answer_settles_it_and_the_next_frame_asks_anew() {
        let mut timers = settled();
        timers.asked(at(10));
        assert!(timers.check(at(11)).unwrap());
        let stamp = timers.ping(at(11));
        timers.asked(at_ms(11_500));
        timers.pong(stamp, at(12));
        assert!(timers.is_asking(), "the second frame left after the ping");
        assert_eq!(timers.next(), at_ms(12_500));
        assert!(timers.check(at_ms(12_500)).unwrap());
        let stamp = timers.ping(at_ms(12_500));
        timers.pong(stamp, at(13));
        assert!(!timers.is_asking());
        assert_eq!(timers.next(), at_ms(27_500), "only the heartbeat is due");
    }

    #[test]
    fn a_ping_that_leaves_anyway_serves_as_probe() {
        let mut timers = settled();
        timers.asked(at_ms(15_500));
        assert!(timers.check(at(16)).unwrap());
        timers.ping(at(16));
        assert!(timers.next() > at_ms(16_499));
        assert_eq!(ends_at(&mut timers, at(30)), Some(at(19)));
    }

    /// Goes from one deadline to the next over a path that passes `rate` bytes a second until `until`, with `queued`
    /// bytes in front of the first ping; returns when the link is given up.
    fn ends_behind(queued: u64, rate: u64, until: Moment) -> Option<Moment> {
        let mut timers = settled();
        timers.asked(at(10));
        while timers.next() < at(60) {
            let now = timers.next();
            // The peer's pings, for as long as anything passes.
            timers.received(now.min(until));
            if timers.wants_progress(now) {
                let passed = now.min(until).saturating_since(at(10)).as_millis();
                let acked = (u64::try_from(passed).unwrap() * rate / 1000).min(queued);
                let waiting = queued - acked;
                timers.progressed(now, SendProgress { acked, waiting });
            }
            match timers.check(now) {
                Ok(true) => drop(timers.ping(now)),
                Ok(false) => {}
                Err(_) => return Some(now),
            }
        }
        None
    }

    #[test]
    fn a_ping_that_waits_behind_bytes_which_pass_has_time_until_it_is_through() {
        assert_eq!(ends_behind(10_000_000, 60_000, at(60)), None);
        // The bytes take 10 s, so the ping is through at 20 s, and has 3 s from the look that finds it.
        assert_eq!(ends_behind(600_000, 60_000, at(60)), Some(at(23)));
    }

    #[test]
    fn bytes_that_pass_no_more_end_the_link_as_soon_as_silence_does() {
        // The last look that finds progress is within half a second of the path's end.
        let ended = ends_behind(10_000_000, 60_000, at(20)).unwrap();
        assert!(ended >= at(23) && ended <= at_ms(23_500), "{ended:?}");
        assert_eq!(ends_behind(0, 60_000, at(60)), Some(at(14)));
        assert_eq!(ends_behind(600_000, 0, at(60)), Some(at(14)));
    }

    #[test]
    fn a_process_that_was_halted_asks_again_before_it_judges() {
        let mut timers = settled();
        timers.asked(at(10));
        assert!(timers.check(at(11)).unwrap());
        timers.ping(at(11));
        assert!(!timers.check(at_ms(11_500)).unwrap());
        // The process was halted and continued: the answer may be in the socket.
        assert!(timers.check(at(30)).unwrap());
        let stamp = timers.ping(at(30));
        timers.pong(stamp, at_ms(30_001));
        assert!(!timers.is_asking());
    }

    /// Data arrives.
    fn fed(timers: &mut Timers, now: Moment) {
        timers.received(now);
        timers.heard(now);
        timers.data(now);
    }

    #[test]
    fn data_that_stops_without_a_trace_ends_the_link_within_five_seconds() {
        let mut timers = settled();
        for half_seconds in 20..30 {
            fed(&mut timers, at_ms(500 * half_seconds));
            assert!(!timers.check(at_ms(500 * half_seconds)).unwrap());
        }
        assert!(timers.is_asking());
        assert_eq!(timers.next(), at_ms(15_500));
        assert_eq!(ends_at(&mut timers, at(30)), Some(at_ms(18_500)));
    }

    #[test]
    fn a_peer_that_pauses_costs_one_ping_and_nothing_until_it_goes_on() {
        let mut timers = settled();
        for paused_at in [3, 7] {
            fed(&mut timers, at(paused_at));
            // The peer's own ping, which follows its data.
            timers.received(at(paused_at + 1));
            assert_eq!(timers.next(), at(paused_at + 2));
            assert!(timers.check(at(paused_at + 2)).unwrap());
            let stamp = timers.ping(at(paused_at + 2));
            timers.received(at(paused_at + 2));
            timers.heard(at(paused_at + 2));
            timers.pong(stamp, at(paused_at + 2));
            assert!(!timers.is_asking());
            assert_eq!(
                timers.next(),
                at(paused_at + 2 + 15),
                "only the heartbeat is due"
            );
        }
    }

    #[test]
    fn an_answer_to_a_ping_covers_the_silence_that_it_fell_into_and_no_pause_of_a_transfer() {
        for (pinged_ms, is_covered) in [(10_800, true), (10_200, false)] {
            let mut timers = settled();
            timers.asked(at_ms(pinged_ms - 1_000));
            fed(&mut timers, at(10));
            assert!(timers.check(at_ms(pinged_ms)).unwrap());
            let stamp = timers.ping(at_ms(pinged_ms));
            timers.received(at_ms(pinged_ms));
            timers.heard(at_ms(pinged_ms));
            timers.pong(stamp, at_ms(pinged_ms));
            assert_eq!(timers.is_asking(), !is_covered, "{pinged_ms}");
        }
    }

    #[test]
    fn a_ping_without_an_answer_raises_one_doubt_and_an_answered_one_raises_none() {
        let mut timers = settled();
        timers.asked(at(10));
        assert!(timers.check(at(11)).unwrap());
        let stamp = timers.ping(at(11));
        assert!(!timers.take_doubt(at_ms(11_249)));
        assert!(timers.take_doubt(at_ms(11_250)));
        assert!(!timers.take_doubt(at_ms(11_500)));
        timers.pong(stamp, at_ms(11_600));

        timers.asked(at(20));
        assert!(timers.check(at(21)).unwrap());
        let stamp = timers.ping(at(21));
        timers.pong(stamp, at_ms(21_100));
        assert!(!timers.take_doubt(at(22)));

        // Bytes arrive while the answer waits behind them, and then nothing.
        timers.asked(at(30));
        assert!(timers.check(at(31)).unwrap());
        timers.ping(at(31));
        timers.heard(at(32));
        assert!(!timers.take_doubt(at_ms(32_200)));
        assert!(timers.take_doubt(at_ms(32_300)));
    }

    #[test]
    fn a_doubt_comes_after_two_round_trips_and_after_a_second_at_most() {
        for (rtt_ms, doubt_ms) in [(1, 250), (300, 600), (2_000, 1_000)] {
            let mut timers = settled();
            assert_eq!(timers.doubt_at(), None);
            timers.asked(at(10));
            let stamp = timers.ping(at(11));
            timers.pong(stamp, at(11) + Duration::from_millis(rtt_ms));
            assert_eq!(timers.doubt_at(), None);

            timers.asked(at(20));
            timers.ping(at(21));
            let doubt_at = at(21) + Duration::from_millis(doubt_ms);
            assert_eq!(timers.doubt_at(), Some(doubt_at));
            assert!(timers.take_doubt(doubt_at));
            assert_eq!(timers.doubt_at(), None);
        }
    }

    #[test]
    fn a_link_that_must_confirm_has_three_seconds_and_raises_no_doubt() {
        let mut timers = settled();
        // No check for longer than a process that runs goes without.
        assert!(!timers.check(at(8)).unwrap());
        assert!(timers.confirm(at(10)));
        let stamp = timers.ping(at(10));
        assert!(!timers.confirm(at_ms(10_100)), "its ping is under way");
        assert!(!timers.take_doubt(at(12)));
        assert_eq!(ends_at(&mut timers, at(30)), Some(at(13)));
        timers.pong(stamp, at(13));
        assert!(!timers.is_asking());

        let mut new = Timers::new(Duration::from_secs(15), Duration::from_secs(45), at(0));
        assert!(!new.confirm(at(1)), "the handshake has its own deadline");
    }

    #[test]
    fn a_handshake_has_a_deadline() {
        let mut timers = Timers::new(Duration::from_secs(15), Duration::from_secs(45), at(0));
        assert_eq!(timers.next(), at(5));
        assert_eq!(
            timers.check(at(5)).unwrap_err().reason,
            LinkEnd::HandshakeTimeout
        );
    }
}
