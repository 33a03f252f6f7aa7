//! Counts the live tunnels of each registrant, for all shards, so that one token holder cannot take every place.
//!
//! Two rows of counters, each indexed by a keyed hash of its own. A registrant has at most as many tunnels as the lower
//! of its two counters; it has fewer if other registrants share both. So counting needs no lock and no memory per
//! registrant, and a count is never too low. Two registrants share both counters by chance once in four thousand
//! million pairs.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::counted_part;
use crate::auth::Owner;
use crate::config::Config;

/// Counters per row; a row takes 256 KiB.
const PLACES: usize = 64 * 1024;

/// Token holder or address whose live tunnels are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Registrant {
    /// Holder of the token that registered the tunnels.
    Holder(Arc<str>),
    /// Counted part of the address of an agent without a token holder.
    Address(IpAddr),
}

impl Registrant {
    /// Registrant of tunnels that agents without a token holder registered before the relay started.
    pub(crate) const UNKNOWN: Self = Self::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    /// Registrant of a tunnel that an agent at `address` registers for `owner`.
    pub(crate) fn of(owner: Option<&Owner>, address: IpAddr) -> Self {
        match owner {
            Some(owner) => Self::Holder(owner.sub.as_str().into()),
            None => Self::Address(counted_part(address)),
        }
    }
}

/// Numbers of live tunnels, by registrant.
#[derive(Debug)]
pub(crate) struct LiveTunnels {
    rows: [(RandomState, Box<[AtomicU32]>); 2],
    of_holder_max: u32,
    of_address_max: u32,
}

impl LiveTunnels {
    /// Counters with the limits of `config`; 0 means no limit.
    pub(crate) fn new(config: &Config) -> Self {
        let row = || (0..PLACES).map(|_| AtomicU32::new(0)).collect();
        Self {
            rows: std::array::from_fn(|_| (RandomState::new(), row())),
            of_holder_max: config.limits.tunnels_of_sub(config.max_tunnels),
            of_address_max: config.limits.tunnels_of_address(),
        }
    }

    /// Counts a tunnel of a registrant; false if the registrant has reached its limit.
    pub(crate) fn enter(&self, account: &Registrant) -> bool {
        let max = match account {
            Registrant::Holder(_) => self.of_holder_max,
            Registrant::Address(_) => self.of_address_max,
        };
        let before = self.counters(account);
        let before = before.map(|counter| counter.fetch_add(1, Ordering::Relaxed));
        let is_free = max == 0 || before.iter().any(|count| *count < max);
        if !is_free {
            self.leave(account);
        }
        is_free
    }

    /// Uncounts a tunnel that was counted.
    pub(crate) fn leave(&self, account: &Registrant) {
        for counter in self.counters(account) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counters(&self, account: &Registrant) -> [&AtomicU32; 2] {
        self.rows.each_ref().map(|(hasher, row)| {
            // The remainder is below PLACES, so it fits a usize.
            let place = hasher.hash_one(account) % PLACES as u64;
            &row[usize::try_from(place).unwrap_or(0)]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(sub: &str) -> Registrant {
        Registrant::Holder(sub.into())
    }

    fn limited(max_tunnels: usize) -> LiveTunnels {
        LiveTunnels::new(&Config {
            max_tunnels,
            ..Config::default()
        })
    }

    #[test]
    fn one_holder_leaves_half_of_the_places_to_others_and_most_of_many() {
        for (max_tunnels, share) in [(1, 1), (10, 5), (1000, 500), (4096, 1024), (65_536, 8192)] {
            let live = limited(max_tunnels);
            let entered = (0..max_tunnels).filter(|_| live.enter(&holder("eve")));
            assert_eq!(entered.count(), share, "{max_tunnels}");
            assert!(live.enter(&holder("ada")));
        }
    }

    #[test]
    fn a_tunnel_that_ends_makes_room_and_a_refusal_takes_none() {
        let live = limited(4);
        assert!(live.enter(&holder("ada")) && live.enter(&holder("ada")));
        for _ in 0..5 {
            assert!(!live.enter(&holder("ada")));
        }
        live.leave(&holder("ada"));
        assert!(live.enter(&holder("ada")));
        assert!(!live.enter(&holder("ada")));
    }

    #[test]
    fn agents_without_a_holder_count_by_address_or_network() {
        let at = |address: &str| Registrant::of(None, address.parse().unwrap());
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        let mut config = Config::default();
        config.limits.address_tunnels = Some(1);
        let live = LiveTunnels::new(&config);
        assert!(live.enter(&at("192.0.2.1")) && !live.enter(&at("192.0.2.1")));
        assert!(live.enter(&at("192.0.2.2")));
        config.limits.address_tunnels = Some(0);
        let live = LiveTunnels::new(&config);
        assert!((0..100).all(|_| live.enter(&at("192.0.2.1"))));
    }
}
