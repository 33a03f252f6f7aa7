//! A network between two endpoints: datagrams take time, and some are lost, overtaken or doubled. Seeded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What happens to datagrams on their way.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) delay: Duration,
    pub(super) lost_percent: u64,
    pub(super) doubled_percent: u64,
    /// Datagrams that are held back, and overtaken by others.
    pub(super) late_percent: u64,
    pub(super) seed: u64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(5),
            lost_percent: 0,
            doubled_percent: 0,
            late_percent: 0,
            seed: 1,
        }
    }
}

impl Path {
    /// A path on which everything happens that may.
    pub(super) fn bad(seed: u64) -> Self {
        Self {
            delay: Duration::from_millis(10),
            lost_percent: 3,
            doubled_percent: 3,
            late_percent: 5,
            seed,
        }
    }
}

pub(super) struct Network {
    path: Path,
    /// State of the random numbers.
    state: u64,
    /// Datagrams on their way, by arrival: the end that gets them, and their bytes.
    flying: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    /// Bytes a second in each direction, if there is a limit; the others wait in a queue of any length.
    rate: Option<u64>,
    /// When the queue to each end is empty.
    empty_at: [Option<Instant>; 2],
}

impl Network {
    pub(super) fn new(path: Path) -> Self {
        Self {
            path,
            state: path.seed,
            flying: BTreeMap::new(),
            sent: 0,
            rate: None,
            empty_at: [None; 2],
        }
    }

    /// SplitMix64, as in the simulation of the mux.
    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn send(&mut self, now: Instant, to: usize, datagram: &[u8]) {
        let path = self.path;
        let copies = 1 + u64::from(self.percent(path.doubled_percent));
        for _ in 0..copies {
            if self.percent(path.lost_percent) {
                continue;
            }
            let late = match self.percent(path.late_percent) {
                true => self.below(30_000),
                false => 0,
            };
            let leaves = self.through_queue(now, to, datagram.len());
            let arrives = leaves + path.delay + Duration::from_micros(late);
            self.sent += 1;
            let key = (arrives, self.sent);
            self.flying.insert(key, (to, datagram.to_vec()));
        }
    }

    /// When a datagram of `len` bytes leaves the queue to an end.
    fn through_queue(&mut self, now: Instant, to: usize, len: usize) -> Instant {
        let Some(rate) = self.rate else {
            return now;
        };
        let begins = self.empty_at[to].map_or(now, |at| at.max(now));
        let leaves = begins + Duration::from_micros(len as u64 * 1_000_000 / rate);
        self.empty_at[to] = Some(leaves);
        leaves
    }

    /// From now on the path carries `rate` bytes a second in each direction.
    pub(super) fn narrows(&mut self, rate: u64) {
        self.rate = Some(rate);
    }

    /// A datagram that has arrived, and the end that gets it.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// From now on no datagram arrives.
    pub(super) fn cut(&mut self) {
        self.path.lost_percent = 100;
        self.path.doubled_percent = 0;
        self.flying.clear();
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(at, _)| *at)
    }
}
