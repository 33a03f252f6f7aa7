//! What is remembered of QUIC to a relay from each local network, and when lost links speak against it. Pure: the caller
//! brings the time, and keeps the file.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::identity::store::FILE_BYTES_MAX;

/// Time for which an observation counts: firewalls and relays change.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Age after which an observation that was made again is written again.
const REFRESHED: Duration = Duration::from_secs(3600);

/// Limit on observations; the oldest leaves. A laptop is in a few networks a day.
const ENTRIES_MAX: usize = 24;

/// Lost links in a row after which QUIC counts as dead, although its handshake gets through.
const LOSSES_MAX: u32 = 3;

/// Time within which several lost links count as one: all links of an agent may be lost to one event.
const LOSSES_APART: Duration = Duration::from_secs(2);

/// Whether QUIC gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// A link over QUIC has registered.
    Works,
    /// The handshake has failed while a WebSocket got through, or link after link was lost.
    Dead,
}

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    relay: String,
    network: String,
    quic: Verdict,
    /// Second since 1970 at which the observation no longer counts.
    until_s: u64,
}

/// What is remembered, the latest observation last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Outlook(Vec<Entry>);

impl Outlook {
    /// Reads what [`Outlook::encode`] has written; `None` for any other text.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut read: Self = serde_json::from_slice(text).ok()?;
        read.limit();
        Some(read)
    }

    /// The text to keep, at most [`FILE_BYTES_MAX`] bytes long: the oldest observations are left out.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut left = self.clone();
        loop {
            let text = serde_json::to_vec(&left).unwrap_or_default();
            if text.len() as u64 <= FILE_BYTES_MAX || left.0.is_empty() {
                return text;
            }
            left.0.remove(0);
        }
    }

    /// What is remembered of `relay` in `network` at `now_s`, in seconds since 1970.
    pub(super) fn verdict(&self, relay: &str, network: &str, now_s: u64) -> Option<Verdict> {
        let found = self.0.iter().find(|it| it.is_of(relay, network));
        found.filter(|it| it.counts(now_s)).map(|it| it.quic)
    }

    /// Notes an observation; true if it is worth to be written.
    pub(super) fn note(&mut self, relay: &str, network: &str, quic: Verdict, now_s: u64) -> bool {
        let until_s = now_s + REMEMBERED.as_secs();
        let is_known = |it: &Entry| {
            it.is_of(relay, network)
                && it.quic == quic
                && it.counts(now_s)
                && it.until_s + REFRESHED.as_secs() > until_s
        };
        if self.0.iter().any(is_known) {
            return false;
        }
        self.0
            .retain(|it| it.counts(now_s) && !it.is_of(relay, network));
        self.0.push(Entry {
            relay: relay.to_owned(),
            network: network.to_owned(),
            quic,
            until_s,
        });
        self.limit();
        true
    }

    fn limit(&mut self) {
        let surplus = self.0.len().saturating_sub(ENTRIES_MAX);
        self.0.drain(..surplus);
    }
}

impl Entry {
    fn is_of(&self, relay: &str, network: &str) -> bool {
        self.relay == relay && self.network == network
    }

    /// True within a day of the observation, also if the clock was set back since.
    const fn counts(&self, now_s: u64) -> bool {
        now_s < self.until_s && self.until_s <= now_s + REMEMBERED.as_secs()
    }
}

/// Links over QUIC that were lost in a row, in one network.
#[derive(Debug, Default)]
pub(super) struct Losses {
    network: String,
    count: u32,
    last: Option<Instant>,
}

impl Losses {
    /// Counts a link that was lost in `network`; true if QUIC counts as dead there now.
    pub(super) fn lost(&mut self, network: &str, now: Instant) -> bool {
        if self.network != network {
            *self = Self {
                network: network.to_owned(),
                ..Self::default()
            };
        }
        if self.last.is_some_and(|last| now < last + LOSSES_APART) {
            return false;
        }
        self.last = Some(now);
        self.count += 1;
        let is_dead = self.count >= LOSSES_MAX;
        if is_dead {
            self.count = 0;
        }
        is_dead
    }

    /// Starts over: a link over QUIC has lasted.
    pub(super) const fn lasted(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;
    const DAY: u64 = 86_400;

    #[test]
    fn an_observation_counts_for_a_day_for_its_relay_and_network() {
        let mut outlook = Outlook::default();
        assert!(outlook.note("relay:443", "home", Verdict::Dead, NOW));
        assert!(outlook.note("relay:443", "office", Verdict::Works, NOW));
        let of = |relay, network, now_s| outlook.verdict(relay, network, now_s);
        assert_eq!(of("relay:443", "home", NOW + 1), Some(Verdict::Dead));
        assert_eq!(of("relay:443", "office", NOW + 1), Some(Verdict::Works));
        assert_eq!(of("relay:443", "train", NOW + 1), None);
        assert_eq!(of("other:443", "home", NOW + 1), None);
        assert_eq!(of("relay:443", "home", NOW + DAY), None);
        // A clock that was set back by more than the day.
        assert_eq!(of("relay:443", "home", NOW - 1), None);
    }

    #[test]
    fn a_later_observation_replaces_the_earlier_and_the_same_is_written_once_an_hour() {
        let mut outlook = Outlook::default();
        assert!(outlook.note("relay", "", Verdict::Dead, NOW));
        assert!(!outlook.note("relay", "", Verdict::Dead, NOW + 60));
        assert!(outlook.note("relay", "", Verdict::Dead, NOW + 3600));
        assert!(outlook.note("relay", "", Verdict::Works, NOW + 3601));
        assert_eq!(
            outlook.verdict("relay", "", NOW + 3602),
            Some(Verdict::Works)
        );
        assert_eq!(outlook.0.len(), 1);
    }

    #[test]
    fn what_is_kept_fits_its_file_and_comes_back() {
        let mut outlook = Outlook::default();
        let long = "r".repeat(260);
        for network in 0..100 {
            outlook.note(&long, &network.to_string(), Verdict::Works, NOW + network);
        }
        assert_eq!(outlook.0.len(), ENTRIES_MAX);
        let text = outlook.encode();
        assert!(text.len() as u64 <= FILE_BYTES_MAX);
        let read = Outlook::parse(&text).unwrap();
        assert_eq!(read.verdict(&long, "99", NOW + 100), Some(Verdict::Works));
        assert_eq!(read.verdict(&long, "0", NOW + 100), None);
        for damaged in [&b""[..], b"[{}]", b"{", &text[..text.len() / 2]] {
            assert_eq!(Outlook::parse(damaged), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_losses_in_a_row_speak_against_quic_and_those_of_one_event_do_not() {
        let (mut losses, begun) = (Losses::default(), Instant::now());
        let after = |ms| begun + Duration::from_millis(ms);
        // All links of an agent at once.
        assert!((0..64).all(|ms| !losses.lost("home", after(ms))));
        assert!(!losses.lost("home", after(3_000)));
        assert!(losses.lost("home", after(6_000)));
        // The count has begun anew.
        assert!(!losses.lost("home", after(9_000)) && !losses.lost("home", after(12_000)));
        losses.lasted();
        assert!(!losses.lost("home", after(15_000)) && !losses.lost("home", after(18_000)));
        assert!(losses.lost("home", after(21_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn losses_in_one_network_do_not_speak_against_quic_in_another() {
        let (mut losses, begun) = (Losses::default(), Instant::now());
        let after = |ms| begun + Duration::from_millis(ms);
        assert!(!losses.lost("home", after(0)) && !losses.lost("home", after(3_000)));
        assert!(!losses.lost("train", after(6_000)));
        assert!(!losses.lost("train", after(9_000)));
        assert!(losses.lost("train", after(12_000)));
    }
}
