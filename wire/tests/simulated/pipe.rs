//! One direction of a link: ordered, with a delay and a rate.

use std::collections::VecDeque;
use std::time::Duration;

use tieline_wire::Moment;

/// Bytes that a simulated socket buffers for its link.
const SOCKET_BYTES: u64 = 128 * 1024;

/// One direction of the link.
pub(crate) struct Pipe {
    pub(crate) delay: Duration,
    pub(crate) bytes_per_second: u64,
    /// When the last byte in the socket will have left it.
    pub(crate) busy_until: Moment,
    pub(crate) flying: VecDeque<(Moment, Vec<u8>)>,
    pub(crate) cut: bool,
}

impl Pipe {
    pub(crate) fn new(delay: Duration, bytes_per_second: u64) -> Self {
        Self {
            delay,
            bytes_per_second,
            busy_until: Moment::default(),
            flying: VecDeque::new(),
            cut: false,
        }
    }

    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_micros((bytes * 1_000_000).div_ceil(self.bytes_per_second))
    }

    /// Bytes that the socket takes now.
    pub(crate) fn room(&self, now: Moment) -> usize {
        let waiting = self.busy_until.saturating_since(now).as_micros();
        let waiting = u64::try_from(waiting).unwrap() * self.bytes_per_second / 1_000_000;
        let room = SOCKET_BYTES.saturating_sub(waiting);
        // A real socket does not report the last few free bytes either.
        usize::try_from(if room < 4096 { 0 } else { room }).unwrap()
    }

    /// When the socket has room again.
    pub(crate) fn room_at(&self) -> Moment {
        let half = self.time_for(SOCKET_BYTES / 2);
        let busy = Duration::from_micros(self.busy_until.as_micros());
        Moment::default() + busy.saturating_sub(half)
    }

    pub(crate) fn push(&mut self, now: Moment, bytes: Vec<u8>) {
        self.busy_until = self.busy_until.max(now) + self.time_for(bytes.len() as u64);
        if !self.cut {
            let arrives = self.busy_until + self.delay;
            self.flying.push_back((arrives, bytes));
        }
    }

    pub(crate) fn arrived(&mut self, now: Moment) -> Option<Vec<u8>> {
        let due = self.flying.front().is_some_and(|(at, _)| *at <= now);
        due.then(|| self.flying.pop_front())
            .flatten()
            .map(|it| it.1)
    }
}
