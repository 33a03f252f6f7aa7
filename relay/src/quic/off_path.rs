//! What a connection sends to addresses other than its own. `quinn_proto` answers a PATH_CHALLENGE at the address that it
//! came from, with 1200 bytes whatever its length: a peer that writes the address of a victim into short packets would
//! have the relay send the victim thirty times as much. So such an address gets at most three times what came from it
//! (RFC 9000, section 8).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes for each byte that came (RFC 9000, section 8.1).
const FACTOR: u64 = 3;

/// Time after which a new address of the connection counts as proved: the check of a path lasts three probe timeouts,
/// after which `quinn_proto` goes back to the address before.
const SETTLED: Duration = Duration::from_secs(10);

/// Where the packets of one connection may go.
#[derive(Debug)]
pub(super) struct OffPath {
    /// The connection's address, and since when.
    current: SocketAddr,
    since: Instant,
    /// The last address that the peer has proved.
    proved: SocketAddr,
    /// Whether the proved address may get a datagram: after a change, one asks whether the peer is still there (RFC 9000,
    /// section 9.3.3).
    asks: bool,
    /// Another address from which a packet came, the last one, and the bytes that may go there.
    other: Option<(SocketAddr, u64)>,
}

impl OffPath {
    /// For a connection with the peer at `address`, which the handshake proves.
    pub(super) const fn new(address: SocketAddr, now: Instant) -> Self {
        Self {
            current: address,
            since: now,
            proved: address,
            asks: false,
            other: None,
        }
    }

    /// Notes the connection's address.
    pub(super) fn is_at(&mut self, address: SocketAddr, now: Instant) {
        if address == self.current {
            return;
        }
        if now.saturating_duration_since(self.since) >= SETTLED {
            self.proved = self.current;
        }
        (self.current, self.since) = (address, now);
        self.asks = self.proved != address;
    }

    /// Notes a datagram of `len` bytes from an address that is not the connection's.
    pub(super) fn received(&mut self, from: SocketAddr, len: usize) {
        let more = FACTOR.saturating_mul(len as u64);
        let before = match self.other {
            Some((address, left)) if address == from => left,
            _ => 0,
        };
        self.other = Some((from, before.saturating_add(more)));
    }

    /// Whether `len` bytes may go to an address that is not the connection's; if so, they count as sent.
    pub(super) fn may_send(&mut self, to: SocketAddr, len: usize) -> bool {
        if to == self.proved && std::mem::take(&mut self.asks) {
            return true;
        }
        match &mut self.other {
            Some((address, left)) if *address == to => match left.checked_sub(len as u64) {
                Some(rest) => {
                    *left = rest;
                    true
                }
                None => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 9).into()
    }

    #[test]
    fn another_address_gets_three_times_what_came_from_it() {
        let mut paths = OffPath::new(address(1), Instant::now());
        assert!(!paths.may_send(address(2), 1));
        paths.received(address(2), 100);
        assert!(!paths.may_send(address(2), 301));
        assert!(paths.may_send(address(2), 200));
        assert!(!paths.may_send(address(2), 101));
        assert!(paths.may_send(address(2), 100));
        assert!(!paths.may_send(address(3), 1));
        // Only the last one has an allowance.
        paths.received(address(2), 100);
        paths.received(address(3), 1);
        assert!(!paths.may_send(address(2), 1));
    }

    #[test]
    fn after_a_change_the_proved_address_is_asked_once() {
        let start = Instant::now();
        let mut paths = OffPath::new(address(1), start);
        assert!(!paths.may_send(address(1), 1200));
        paths.is_at(address(2), start);
        assert!(paths.may_send(address(1), 1200));
        assert!(!paths.may_send(address(1), 1200));
        // Back again: the second address has proved nothing.
        paths.is_at(address(1), start);
        assert!(!paths.may_send(address(2), 1200));
        paths.is_at(address(2), start);
        paths.is_at(address(3), start + SETTLED);
        assert!(!paths.may_send(address(1), 1200));
        assert!(paths.may_send(address(2), 1200));
    }
}
