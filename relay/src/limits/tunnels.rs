//! How many tunnels each account has at a time, for all shards: so that one holder of tokens cannot
//! take every place.
//!
//! Two rows of counters, each found by a keyed hash of its own. An account has as many tunnels as the
//! lower of its two counters says, or fewer, where others share both. So nothing is locked, allocated
//! or forgotten, and a count is never too low; that two accounts share both counters happens by chance
//! once in four thousand million pairs.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::auth::Owner;
use crate::config::Config;

/// Counters of one row: 256 KiB.
const PLACES: usize = 64 * 1024;

/// Who tunnels are counted for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Account {
    /// The holder of the token that they were registered with.
    Holder(Arc<str>),
    /// The address of an agent that shows no holder; of IPv6 the first 64 bits, as a network gives one
    /// machine as many of the others as it likes.
    Address(IpAddr),
}

impl Account {
    /// The account of what an agent without a holder registered before the relay started.
    pub(crate) const UNKNOWN: Self = Self::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    /// The account of a tunnel that an agent at `address` registers for `owner`.
    pub(crate) fn of(owner: Option<&Owner>, address: IpAddr) -> Self {
        if let Some(owner) = owner {
            return Self::Holder(owner.sub.as_str().into());
        }
        Self::Address(match address.to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 => v4,
        })
    }
}

/// The live tunnels of every account.
#[derive(Debug)]
pub(crate) struct LiveTunnels {
    rows: [(RandomState, Box<[AtomicU32]>); 2],
    of_holder_max: u32,
    of_address_max: u32,
}

impl LiveTunnels {
    /// As `config` limits them; 0 is any number.
    pub(crate) fn new(config: &Config) -> Self {
        let row = || (0..PLACES).map(|_| AtomicU32::new(0)).collect();
        Self {
            rows: std::array::from_fn(|_| (RandomState::new(), row())),
            of_holder_max: config.limits.tunnels_of_sub(config.max_tunnels),
            of_address_max: config.limits.tunnels_of_address(),
        }
    }

    /// Counts one more tunnel of an account, unless it has as many as it may.
    pub(crate) fn enter(&self, account: &Account) -> bool {
        let max = match account {
            Account::Holder(_) => self.of_holder_max,
            Account::Address(_) => self.of_address_max,
        };
        let before = self.counters(account);
        let before = before.map(|counter| counter.fetch_add(1, Ordering::Relaxed));
        let is_free = max == 0 || before.iter().any(|count| *count < max);
        if !is_free {
            self.leave(account);
        }
        is_free
    }

    /// Counts one tunnel less of an account that was counted.
    pub(crate) fn leave(&self, account: &Account) {
        for counter in self.counters(account) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counters(&self, account: &Account) -> [&AtomicU32; 2] {
        self.rows.each_ref().map(|(hasher, row)| {
            // The remainder is below PLACES, a usize.
            let place = hasher.hash_one(account) % PLACES as u64;
            &row[usize::try_from(place).unwrap_or(0)]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(sub: &str) -> Account {
        Account::Holder(sub.into())
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
        let at = |address: &str| Account::of(None, address.parse().unwrap());
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
