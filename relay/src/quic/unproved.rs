//! What a connection sends to addresses that its peer has not proved: at most three times what came from there (RFC 9000,
//! section 8). `quinn_proto` has such a limit, but lets a whole datagram pass while a single byte is left of it, and
//! answers a PATH_CHALLENGE at the address that it came from with 1200 bytes, whatever its length. So a peer that writes
//! a victim's address into short packets would have the relay send the victim thirty times as much.
//!
//! `quinn_proto` does not tell when an address is proved. It is once more is sent than the limit of `quinn_proto` lets
//! pass, for which this keeps the same numbers. `quinn_proto` sends probes of the path's MTU without a limit, so they prove
//! nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes for each byte that came (RFC 9000, section 8.1).
const FACTOR: u64 = 3;

/// Time after which a new address of the connection counts as proved: the check of a path lasts three probe timeouts,
/// after which `quinn_proto` goes back to the address before.
const SETTLED: Duration = Duration::from_secs(10);

/// Changes of the address for which a datagram may exceed the limit: the first packet from a new address may be short,
/// and the question whether the peer is there always has 1200 bytes. One more each [`SETTLED`].
const EXCESSES_MAX: u32 = 8;

/// Where the packets of one connection may go.
#[derive(Debug)]
pub(super) struct Unproved {
    /// The connection's address, and since when.
    current: SocketAddr,
    since: Instant,
    is_proved: bool,
    is_handshaking: bool,
    /// Bytes that came since then, from the address and from all, and bytes to it. Not counted once it is proved.
    came: u64,
    came_from_all: u64,
    sent: u64,
    excesses: u32,
    /// When `excesses` was last raised.
    raised: Instant,
    /// The last address before that the peer has proved.
    before: SocketAddr,
    /// Whether that address may get a datagram: after a change, one asks whether the peer is still there (RFC 9000,
    /// section 9.3.3).
    asks: bool,
    /// Another address from which a datagram came, the last one, and the bytes that may go there.
    other: Option<(SocketAddr, u64)>,
}

impl Unproved {
    /// For a connection that begins with `len` bytes from `address`, which a token may have proved.
    pub(super) const fn new(address: SocketAddr, is_proved: bool, len: u64, now: Instant) -> Self {
        Self {
            current: address,
            since: now,
            is_proved,
            is_handshaking: true,
            came: len,
            came_from_all: len,
            sent: 0,
            excesses: EXCESSES_MAX,
            raised: now,
            before: address,
            asks: false,
            other: None,
        }
    }

    /// Notes the connection's address; true if it is another one than before.
    pub(super) fn is_at(
        &mut self,
        address: SocketAddr,
        is_handshaking: bool,
        now: Instant,
    ) -> bool {
        // The end of the handshake proves the address.
        if self.is_handshaking && !is_handshaking {
            self.is_handshaking = false;
            self.is_proved = true;
        }
        if address == self.current {
            return false;
        }
        if self.counts_as_proved(now) {
            self.before = self.current;
        }
        (self.current, self.since, self.is_proved) = (address, now, false);
        (self.came, self.came_from_all, self.sent) = (0, 0, 0);
        self.asks = self.before != address;
        true
    }

    /// Notes a datagram of `len` bytes.
    pub(super) fn received(&mut self, from: SocketAddr, len: usize) {
        let len = len as u64;
        if !self.is_proved {
            self.came_from_all += len;
        }
        if from == self.current {
            self.came += len;
            return;
        }
        let before = match self.other {
            Some((address, left)) if address == from => left,
            _ => 0,
        };
        let more = FACTOR.saturating_mul(len);
        self.other = Some((from, before.saturating_add(more)));
    }

    /// How many of `len` bytes, datagrams of `stride` bytes, may go to an address; they count as sent.
    pub(super) fn allowed(
        &mut self,
        to: SocketAddr,
        len: usize,
        stride: usize,
        now: Instant,
    ) -> usize {
        match to == self.current {
            true if self.is_proved => len,
            true => self.on_path(len, stride.max(1), now),
            false if self.may_leave_path(to, len as u64) => len,
            false => 0,
        }
    }

    /// How many of the `len` bytes of a probe of the path's MTU may go to the connection's address; they count as sent.
    pub(super) fn allowed_probe(&mut self, len: usize, now: Instant) -> usize {
        if self.counts_as_proved(now) {
            return len;
        }
        let is_allowed = len as u64 <= self.room();
        self.sent += len as u64;
        if is_allowed { len } else { 0 }
    }

    fn counts_as_proved(&self, now: Instant) -> bool {
        self.is_proved || now.saturating_duration_since(self.since) >= SETTLED
    }

    /// Bytes that may still go to the connection's address, while it is not proved.
    const fn room(&self) -> u64 {
        (FACTOR * self.came).saturating_sub(self.sent)
    }

    fn on_path(&mut self, len: usize, stride: usize, now: Instant) -> usize {
        let before_last = len.saturating_sub(1) / stride * stride;
        let (sent, room) = (self.sent, self.room());
        self.sent += len as u64;
        if sent + before_last as u64 >= FACTOR * self.came_from_all {
            // `quinn_proto` would not have begun the last datagram.
            self.is_proved = true;
            return len;
        }
        if len as u64 <= room || (!self.is_handshaking && self.may_exceed(now)) {
            return len;
        }
        // Whole datagrams. The room is less than `len`, so it fits.
        usize::try_from(room).unwrap_or(0) / stride * stride
    }

    fn may_exceed(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.raised).as_secs() / SETTLED.as_secs();
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(EXCESSES_MAX);
            self.excesses = self.excesses.saturating_add(more).min(EXCESSES_MAX);
            self.raised = now;
        }
        let left = self.excesses.checked_sub(1);
        self.excesses = left.unwrap_or(0);
        left.is_some()
    }

    fn may_leave_path(&mut self, to: SocketAddr, len: u64) -> bool {
        if to == self.before && std::mem::take(&mut self.asks) {
            return true;
        }
        let Some((address, left)) = &mut self.other else {
            return false;
        };
        let rest = left.checked_sub(len).filter(|_| *address == to);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 9).into()
    }

    /// After a handshake with the first address.
    fn shaken(now: Instant) -> Unproved {
        let mut unproved = Unproved::new(address(1), false, 1200, now);
        unproved.is_at(address(1), false, now);
        unproved
    }

    #[test]
    fn a_handshake_gets_whole_datagrams_up_to_three_times_what_came() {
        let now = Instant::now();
        let mut unproved = Unproved::new(address(1), false, 1250, now);
        // `quinn_proto` begins a fourth datagram, since 150 bytes are left.
        assert_eq!(unproved.allowed(address(1), 4800, 1200, now), 3600);
        unproved.received(address(1), 1250);
        assert_eq!(unproved.allowed(address(1), 1200, 1200, now), 1200);
        // Now the client has shown that it is there: otherwise there would be no more.
        unproved.received(address(1), 50);
        assert_eq!(unproved.allowed(address(1), 12_000, 1200, now), 12_000);
        assert!(unproved.is_proved);
        assert!(shaken(now).is_proved);
    }

    #[test]
    fn another_address_gets_three_times_what_came_from_it() {
        let now = Instant::now();
        let mut unproved = shaken(now);
        let mut may = |to, len| unproved.allowed(address(to), len, len, now) == len;
        assert!(may(1, 100_000));
        assert!(!may(2, 1));
        unproved.received(address(2), 100);
        let mut may = |to, len| unproved.allowed(address(to), len, len, now) == len;
        assert!(!may(2, 301));
        assert!(may(2, 200));
        assert!(!may(2, 101));
        assert!(may(2, 100));
        assert!(!may(3, 1));
        // Only the last one has an allowance.
        unproved.received(address(2), 100);
        unproved.received(address(3), 1);
        assert_eq!(unproved.allowed(address(2), 1, 1, now), 0);
    }

    #[test]
    fn a_new_address_gets_a_question_but_not_without_end() {
        let now = Instant::now();
        let mut unproved = shaken(now);
        let mut excesses = 0;
        for _ in 0..20 {
            for it in [2, 1] {
                assert!(unproved.is_at(address(it), false, now));
                assert!(!unproved.is_at(address(it), false, now));
                unproved.received(address(it), 40);
                excesses += u32::from(unproved.allowed(address(it), 1200, 1200, now) > 0);
            }
        }
        assert_eq!(excesses, EXCESSES_MAX);
        let later = now + SETTLED;
        unproved.is_at(address(3), false, later);
        unproved.received(address(3), 40);
        assert_eq!(unproved.allowed(address(3), 1200, 1200, later), 1200);
        // What follows shows that the peer is there.
        unproved.received(address(3), 1200);
        assert_eq!(unproved.allowed(address(3), 12_000, 1200, later), 12_000);
    }

    #[test]
    fn a_probe_of_the_mtu_proves_nothing_and_exceeds_nothing() {
        let now = Instant::now();
        let mut unproved = shaken(now);
        assert_eq!(unproved.allowed_probe(1452, now), 1452);
        unproved.is_at(address(2), false, now);
        unproved.received(address(2), 1200);
        assert_eq!(unproved.allowed(address(2), 1200, 1200, now), 1200);
        assert_eq!(unproved.allowed_probe(1452, now), 1452);
        assert_eq!(unproved.allowed_probe(1452, now), 0);
        assert!(!unproved.is_proved);
        // A quiet connection, which never exceeds the limit, finds the MTU too.
        assert_eq!(unproved.allowed_probe(1452, now + SETTLED), 1452);
    }

    #[test]
    fn after_a_change_the_proved_address_is_asked_once() {
        let start = Instant::now();
        let mut unproved = shaken(start);
        let mut asked = |at, before, now| {
            unproved.is_at(address(at), false, now);
            [0, 0].map(|_| unproved.allowed(address(before), 1200, 1200, now))
        };
        assert_eq!(asked(2, 1, start), [1200, 0]);
        // Back again: the second address has proved nothing.
        assert_eq!(asked(1, 2, start), [0, 0]);
        assert_eq!(asked(2, 1, start), [1200, 0]);
        assert_eq!(asked(3, 2, start + SETTLED), [1200, 0]);
    }
}
