//! Credit: how many bytes one direction of a session may still carry.
//!
//! `Data` costs its length and its header, so that tiny frames cannot fill a receiver with
//! bookkeeping. The receiver grants the bytes that its socket took. While a session uses its window up
//! within a round trip, the grant grows, drawn from the link's budget.

use std::time::Duration;

use super::budget::Budget;
use crate::error::Error;
use crate::ids::Moment;
use crate::limits::{
    DATA_BYTES_SENT_MAX, HEADER_BYTES, SESSION_CREDIT_BYTES, SESSION_WINDOW_BYTES_MAX,
};
use crate::reason::LinkEnd;

/// Credit that a frame costs beside its payload.
pub(super) const HEADER: u32 = 12;
const _: () = assert!(HEADER as usize == HEADER_BYTES);

/// Scheduling delay beyond the round trip that does not count as a slow reader.
const TURNAROUND: Duration = Duration::from_millis(2);

/// The sender's side of one direction.
#[derive(Debug)]
pub(super) struct SendCredit {
    credit: u32,
    /// Credit that a piece costs beside its payload: [`HEADER`], or 0 where the peer sees no pieces.
    header: u32,
    /// When credit was last spent or granted.
    active_at: Moment,
}

impl SendCredit {
    pub(super) fn new(header: u32, now: Moment) -> Self {
        Self {
            credit: SESSION_CREDIT_BYTES,
            header,
            active_at: now,
        }
    }

    /// Credit that a payload of `len` bytes costs, header included.
    fn cost(&self, len: u32) -> u32 {
        len.saturating_add(self.header)
    }

    /// True if pieces are frames, or stay pieces on a stream: they cost more than their payload.
    pub(super) const fn has_pieces(&self) -> bool {
        self.header > 0
    }

    /// Payload bytes that may be queued now, with `room` bytes for payload and headers.
    pub(super) fn capacity(&self, room: usize) -> usize {
        let full_cost = DATA_BYTES_SENT_MAX + HEADER_BYTES;
        let bytes = room.min(self.credit as usize);
        if self.header == 0 {
            return bytes;
        }
        (bytes / full_cost) * DATA_BYTES_SENT_MAX + (bytes % full_cost).saturating_sub(HEADER_BYTES)
    }

    /// True if there is credit for a frame of `len` payload bytes.
    pub(super) fn covers(&self, len: u32) -> bool {
        self.credit >= self.cost(len)
    }

    /// Spends the credit of a frame of `len` payload bytes; false if there is too little.
    pub(super) fn spend(&mut self, len: u32, now: Moment) -> bool {
        let Some(left) = self.credit.checked_sub(self.cost(len)) else {
            return false;
        };
        self.credit = left;
        self.active_at = now;
        true
    }

    #[cfg(test)]
    pub(super) const fn left(&self) -> u32 {
        self.credit
    }

    /// Adds a grant.
    pub(super) fn granted(&mut self, bytes: u32, now: Moment) -> Result<(), Error> {
        self.active_at = now;
        self.credit = self
            .credit
            .checked_add(bytes)
            .filter(|credit| *credit <= SESSION_WINDOW_BYTES_MAX)
            .ok_or_else(|| {
                Error::peer(
                    LinkEnd::Protocol,
                    format!("a grant of {bytes} bytes exceeds the largest window"),
                )
            })?;
        Ok(())
    }

    /// When credit was last spent or granted.
    pub(super) const fn active_at(&self) -> Moment {
        self.active_at
    }

    /// True while the credit is above the floor.
    pub(super) fn is_above_floor(&self) -> bool {
        self.credit > SESSION_CREDIT_BYTES
    }

    /// When the credit above the floor must be returned, unless it is spent before.
    pub(super) fn idle_deadline(&self, timeout: Duration) -> Moment {
        self.active_at + timeout
    }

    /// Takes away all credit above the floor; returns its amount.
    pub(super) fn give_back(&mut self) -> u32 {
        let above = self.credit.saturating_sub(SESSION_CREDIT_BYTES);
        self.credit -= above;
        above
    }
}

/// The receiver's side of one direction.
///
/// `allowed + unconsumed + overhead + due == window` holds at any time.
#[derive(Debug)]
pub(super) struct RecvCredit {
    /// Credit that the peer may still spend.
    allowed: u32,
    /// Payload bytes received that the receiving socket has not taken yet.
    unconsumed: u32,
    /// Header cost of the unconsumed bytes.
    overhead: u32,
    /// Credit that was consumed and is not granted again yet.
    due: u32,
    window: u32,
    /// Credit that a piece costs beside its payload: [`HEADER`], or 0 where this side sees no pieces.
    header: u32,
    /// When the last grant was made.
    granted_at: Moment,
}

/// Inputs that decide how far a window may grow.
#[derive(Debug)]
pub(super) struct Growth<'a> {
    pub(super) budget: &'a mut Budget,
    pub(super) rtt: Duration,
    pub(super) now: Moment,
}

impl RecvCredit {
    pub(super) fn new(header: u32, now: Moment) -> Self {
        Self {
            allowed: SESSION_CREDIT_BYTES,
            unconsumed: 0,
            overhead: 0,
            due: 0,
            window: SESSION_CREDIT_BYTES,
            header,
            granted_at: now,
        }
    }

    /// Charges a frame when its header arrives, before its payload is read.
    pub(super) fn charge(&mut self, len: u32, end_of_message: bool) -> Result<(), Error> {
        let cost = len.saturating_add(self.header);
        self.allowed = self.allowed.checked_sub(cost).ok_or_else(|| {
            Error::peer(
                LinkEnd::CreditOverrun,
                format!("a frame of {len} bytes with credit for {}", self.allowed),
            )
        })?;
        self.unconsumed += len;
        if len == 0 && !end_of_message {
            // Such a frame causes no event, so no call to `consume` will follow.
            self.due += self.header;
        } else {
            self.overhead += self.header;
        }
        Ok(())
    }

    /// The receiving socket took `len` payload bytes; 0 for an empty message.
    pub(super) fn consume(&mut self, len: usize) {
        if len == 0 {
            let header = self.overhead.min(self.header);
            self.overhead -= header;
            self.due += header;
        } else {
            self.release(u32::try_from(len).unwrap_or(u32::MAX).min(self.unconsumed));
        }
    }

    /// True if a grant is large enough to justify a frame.
    pub(super) const fn is_due(&self) -> bool {
        // Half a window: a sender at full speed never runs dry, and grants stay rare.
        self.due >= self.window / 2
    }

    fn release(&mut self, len: u32) {
        // Headers are released in proportion, so that one byte read does not pay for a thousand tiny frames.
        let headers = if len == self.unconsumed {
            self.overhead
        } else {
            let share = u64::from(self.overhead) * u64::from(len) / u64::from(self.unconsumed);
            u32::try_from(share).unwrap_or(self.overhead)
        };
        self.unconsumed -= len;
        self.overhead -= headers;
        self.due += len + headers;
    }

    /// The grant that is due now: larger if the session used its window up quickly, smaller or 0 if
    /// the window must shrink.
    pub(super) fn grant(&mut self, growth: Growth<'_>) -> u32 {
        let Growth { budget, rtt, now } = growth;
        let quick = self.is_limiting(now.saturating_since(self.granted_at), rtt);
        self.granted_at = now;
        let share = budget.share(self.window);
        if self.window > share {
            // More sessions share the budget than when this window grew.
            let less = self.due.min(self.window - share);
            self.due -= less;
            self.resize(self.window - less, budget);
        } else if quick {
            let more = budget.growth(self.window);
            self.due += more;
            self.resize(self.window + more, budget);
        }
        let grant = std::mem::take(&mut self.due);
        self.allowed += grant;
        grant
    }

    /// True if the window limits the rate at which the due bytes were consumed in `time`: it must hold
    /// the bytes of two round trips, since a grant waits until half of it is consumed.
    fn is_limiting(&self, time: Duration, rtt: Duration) -> bool {
        let window = u128::from(self.window);
        let time = time.saturating_sub(TURNAROUND);
        time.as_micros() * window <= 2 * rtt.as_micros() * u128::from(self.due)
    }

    fn resize(&mut self, window: u32, budget: &mut Budget) {
        budget.account(self.window, window);
        self.window = window;
    }

    /// Takes back credit that an idle sender returned.
    pub(super) fn returned(&mut self, bytes: u32, budget: &mut Budget) -> Result<(), Error> {
        if bytes > self.allowed || bytes > self.window - SESSION_CREDIT_BYTES {
            return Err(Error::peer(
                LinkEnd::Protocol,
                format!(
                    "{bytes} bytes of credit returned, too many of {}",
                    self.allowed
                ),
            ));
        }
        self.allowed -= bytes;
        let window = self.window - bytes;
        // Due credit that is not granted yet would only be returned the same way.
        let less = self.due.min(window - SESSION_CREDIT_BYTES);
        self.due -= less;
        self.resize(window - less, budget);
        Ok(())
    }

    /// The direction is over: keeps only credit for bytes that still wait for their socket.
    pub(super) fn settle(&mut self, budget: &mut Budget) {
        let waiting = self.unconsumed + self.overhead;
        let window = waiting.max(SESSION_CREDIT_BYTES);
        self.due = 0;
        self.allowed = window - waiting;
        self.resize(window, budget);
    }

    /// Returns the session's share of the budget when the session ends.
    pub(super) fn close(&self, budget: &mut Budget) {
        budget.account(self.window, SESSION_CREDIT_BYTES);
    }

    #[cfg(test)]
    pub(super) const fn window(&self) -> u32 {
        self.window
    }

    #[cfg(test)]
    fn is_conserved(&self) -> bool {
        self.allowed + self.unconsumed + self.overhead + self.due == self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn growth(budget: &mut Budget, micros: u64) -> Growth<'_> {
        Growth {
            budget,
            rtt: Duration::from_millis(1),
            now: Moment::from_micros(micros),
        }
    }

    #[test]
    fn a_quick_reader_gets_a_larger_window_and_a_slow_one_does_not() {
        let mut budget = Budget::new(1 << 20);
        let mut credit = RecvCredit::new(HEADER, Moment::default());
        credit.charge(10_000, false).unwrap();
        credit.consume(10_000);
        assert!(credit.is_due());
        assert!(credit.grant(growth(&mut budget, 100)) > 16 * 1024);
        assert_eq!(credit.window, 32 * 1024);
        credit.charge(20_000, false).unwrap();
        credit.consume(20_000);
        assert!(credit.is_due());
        let cost = 20_000 + HEADER;
        assert_eq!(credit.grant(growth(&mut budget, 10_000_000)), cost);
        assert_eq!(credit.window, 32 * 1024);
    }

    #[test]
    fn the_budget_bounds_all_windows_and_comes_back() {
        let mut budget = Budget::new(40 * 1024);
        let credit = || RecvCredit::new(HEADER, Moment::default());
        let mut credits: Vec<_> = (0..4).map(|_| credit()).collect();
        for round in 0..8 {
            for credit in &mut credits {
                let len = credit.allowed - HEADER;
                credit.charge(len, false).unwrap();
                credit.consume(len as usize);
                credit.grant(growth(&mut budget, round));
            }
        }
        assert!(budget.used() <= 40 * 1024);
        for credit in &credits {
            credit.close(&mut budget);
        }
        assert_eq!((budget.used(), budget.holders()), (0, 0));
    }

    #[test]
    fn an_idle_sender_keeps_the_floor() {
        let mut credit = SendCredit::new(HEADER, Moment::default());
        credit.granted(1000, Moment::default()).unwrap();
        assert!(credit.is_above_floor());
        assert_eq!(credit.give_back(), 1000);
        assert_eq!(credit.give_back(), 0);
        assert_eq!(
            credit.capacity(usize::MAX),
            SESSION_CREDIT_BYTES as usize - HEADER_BYTES
        );
    }

    #[test]
    fn capacity_is_what_can_be_spent_to_the_byte() {
        let amounts = [0_u32, 1, 12, 13, 32_768, 32_780, 32_781, 100_000];
        for (bytes, header) in amounts.into_iter().flat_map(|it| [(it, HEADER), (it, 0)]) {
            let mut credit = SendCredit {
                credit: bytes,
                header,
                active_at: Moment::default(),
            };
            let mut left = credit.capacity(usize::MAX);
            while left > 0 {
                let len = left.min(DATA_BYTES_SENT_MAX);
                assert!(
                    credit.spend(u32::try_from(len).unwrap(), Moment::default()),
                    "{bytes}"
                );
                left -= len;
            }
            assert_eq!(credit.capacity(usize::MAX), 0, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn credit_is_conserved(
            steps in prop::collection::vec((0_u8..6, 0_u32..70_000), 0..200),
            header in prop::sample::select(&[0, HEADER][..]),
        ) {
            let mut budget = Budget::new(1 << 20);
            let mut credit = RecvCredit::new(header, Moment::default());
            let mut now = 0;
            for (step, amount) in steps {
                match step {
                    0 => { let _ = credit.charge(amount, false); }
                    4 => { let _ = credit.charge(0, amount % 2 == 0); }
                    5 => credit.settle(&mut budget),
                    1 => credit.consume(amount as usize),
                    2 => {
                        now += u64::from(amount);
                        credit.grant(growth(&mut budget, now));
                    }
                    _ => { let _ = credit.returned(amount, &mut budget); }
                }
                prop_assert!(credit.is_conserved(), "{credit:?}");
                prop_assert!(credit.window >= SESSION_CREDIT_BYTES);
                prop_assert_eq!(budget.used(), u64::from(credit.window - SESSION_CREDIT_BYTES));
            }
        }
    }
}
