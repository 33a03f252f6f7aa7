//! Limits how many of something each address has at a time, for all shards.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use super::counted_part;
use super::table::{Index, Table};

/// Addresses that are counted separately, in 1 MiB. A further address replaces one that has nothing open.
const ADDRESSES: usize = 16 * 1024;

/// Current count of each address.
#[derive(Debug)]
pub(crate) struct PerAddress {
    table: Table,
    hasher: RandomState,
    max: u32,
}

impl PerAddress {
    /// A limit of `max` per address; `None` for 0, which means no limit.
    pub(crate) fn new(max: u32) -> Option<Arc<Self>> {
        (max > 0).then(|| {
            Arc::new(Self {
                table: Table::new(ADDRESSES),
                hasher: RandomState::new(),
                max,
            })
        })
    }

    /// Counts one more of `address` until the count is dropped; `None` if the address has reached its
    /// limit.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<AddressCount> {
        let Some(pin) = self.table.find(self.hasher.hash_one(counted_part(address))) else {
            // The table is full of addresses that have something open: this one goes uncounted.
            return Some(AddressCount(None));
        };
        let is_open = self.table.open(*pin, self.max);
        is_open.then(|| AddressCount(Some((Arc::clone(self), pin.keep()))))
    }
}

/// One counted item of an address; dropping it uncounts it.
#[derive(Debug, Default)]
pub(crate) struct AddressCount(Option<(Arc<PerAddress>, Index)>);

impl Drop for AddressCount {
    fn drop(&mut self) {
        if let Some((counted, at)) = &self.0 {
            counted.table.close(*at);
            counted.table.leave(*at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_a_network_of_ipv6_is_one_address() {
        let counted = PerAddress::new(2).unwrap();
        let enter = |address: &str| counted.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let _one = enter("2001:db8::1").unwrap();
        let _two = enter("2001:db8::2:3:4:5").unwrap();
        assert!(enter("2001:db8::ffff").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        assert!(PerAddress::new(0).is_none());
    }
}
