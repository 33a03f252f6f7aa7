//! Packets that came to another shard than that of their connection, on their way to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Packets per message to another shard, and messages on their way to one shard. With the longest datagrams of 9 KB that
/// is 2.3 MB; what goes beyond is lost, as on the network.
const PACKETS_MAX: usize = 32;
const MESSAGES_MAX: usize = 8;

/// A packet, and where it came from.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) source: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<u8>,
    pub(super) bytes: Vec<u8>,
}

/// Packets for another shard.
#[derive(Debug)]
pub(crate) struct Strays {
    /// Number of the address at which they came, in the order of the settings.
    pub(crate) address: usize,
    pub(super) packets: Vec<Stray>,
    /// Counts the messages on their way.
    _on_the_way: Arc<()>,
}

/// Collects the strays of one batch, for each other shard.
#[derive(Debug)]
pub(super) struct StrayTray {
    address: usize,
    /// By shard.
    slots: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    packets: Vec<Stray>,
    on_the_way: Arc<()>,
}

impl StrayTray {
    pub(super) fn new(address: usize, shards: usize) -> Self {
        Self {
            address,
            slots: (0..shards).map(|_| Slot::default()).collect(),
        }
    }

    /// Adds a packet for shard `to`; false if too many are on their way to it already.
    pub(super) fn add(&mut self, to: usize, stray: Stray) -> bool {
        let Some(slot) = self.slots.get_mut(to) else {
            return false;
        };
        // One reference is the slot's own.
        let has_room =
            slot.packets.len() < PACKETS_MAX && Arc::strong_count(&slot.on_the_way) <= MESSAGES_MAX;
        if has_room {
            slot.packets.push(stray);
        }
        has_room
    }

    /// Takes the messages out, each with its shard.
    pub(super) fn take(&mut self) -> Vec<(usize, Strays)> {
        let address = self.address;
        let full = self.slots.iter_mut().enumerate();
        let full = full.filter(|(_, slot)| !slot.packets.is_empty());
        let messages = full.map(|(shard, slot)| {
            let strays = Strays {
                address,
                packets: std::mem::take(&mut slot.packets),
                _on_the_way: Arc::clone(&slot.on_the_way),
            };
            (shard, strays)
        });
        messages.collect()
    }
}

impl Strays {
    /// Number of packets.
    pub(super) const fn len(&self) -> usize {
        self.packets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stray() -> Stray {
        Stray {
            source: ([127, 0, 0, 1], 1).into(),
            local_ip: None,
            ecn: None,
            bytes: vec![1],
        }
    }

    #[test]
    fn strays_on_their_way_to_a_shard_are_limited() {
        let mut tray = StrayTray::new(0, 2);
        let mut messages = Vec::new();
        for _ in 0..MESSAGES_MAX {
            assert!((0..PACKETS_MAX).all(|_| tray.add(1, stray())));
            assert!(!tray.add(1, stray()));
            messages.extend(tray.take());
        }
        assert!(
            messages
                .iter()
                .all(|(to, it)| (*to, it.len()) == (1, PACKETS_MAX))
        );
        assert!(!tray.add(1, stray()));
        // Another shard has a limit of its own.
        assert!(tray.add(0, stray()));
        drop(messages);
        assert!(tray.add(1, stray()));
        // There is no such shard.
        assert!(!tray.add(2, stray()));
    }
}
