//! What happened to the packets of one direction.

use serde::Serialize;

/// Counters of one direction. A packet is one on the wire: each segment of a large packet of the kernel counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Packets that the sender gave to the path.
    pub(crate) packets: u64,
    /// Their bytes, headers of IP included.
    pub(crate) bytes: u64,
    /// Packets on their way to the receiver, or arrived.
    pub(crate) passed_packets: u64,
    /// Their bytes, headers of IP included.
    pub(crate) passed_bytes: u64,
    /// Packets that the loss took.
    pub(crate) lost: u64,
    /// Packets that met a full queue.
    pub(crate) queue_full: u64,
    /// Packets that were held back, so that later ones could overtake them.
    pub(crate) held_back: u64,
    /// Packets of UDP that were dropped.
    pub(crate) udp_dropped: u64,
    /// Packets of ICMP that were dropped.
    pub(crate) icmp_dropped: u64,
    /// Packets that were larger than the path's MTU.
    pub(crate) too_big: u64,
    /// Longest time in the queue, in nanoseconds, the packet's own transmission included.
    pub(crate) queue_ns_max: u64,
    /// Largest delay that the emulator itself added to an arrival, in nanoseconds: a busy machine wakes it late.
    pub(crate) late_ns_max: u64,
    /// Arrivals that the receiver's device refused.
    pub(crate) refused: u64,
    /// Packets that the sender's device dropped before the emulator could read them.
    pub(crate) unread: u64,
}
