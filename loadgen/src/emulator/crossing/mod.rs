//! Takes packets of a device across one direction: filters, cuts, and says what arrives at the other device and when.
//!
//! Every segment of a large packet has its own fate, as on a wire. Segments that arrive shortly after each other stay
//! together, so that the receiver's kernel takes them in one piece, as it does with segments that a network card has
//! collected.

use std::ops::Range;

use super::counts::Counts;
use super::packet::cut::cut;
use super::packet::headers::{self, Headers};
use super::packet::offload::{OFFLOAD_BYTES, Offload};
use super::packet::rewrite::{answer_too_big, clamp_segment_size};
use super::packet::segments::Segments;
use super::way::{Fate, Way, WaySettings};

/// Longest time from the first to the last arrival of segments that stay together. All arrive with the last, so this is
/// also the error of the first one's delay; the emulator promises 0.5 ms.
const TOGETHER_NS: u64 = 250_000;

/// Which packets do not pass at all, and what routers change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Filter {
    /// Drop UDP.
    pub(crate) no_udp: bool,
    /// Drop ICMP, of both versions; then a packet that is too big gets no answer either.
    pub(crate) no_icmp: bool,
    /// Largest packet that passes, if smaller than the devices'.
    pub(crate) path_mtu: Option<u16>,
    /// Lower the segment size in SYNs to the path's MTU.
    pub(crate) clamps: bool,
}

/// Bytes for a device, the virtual-network header first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Delivery {
    /// When they are due.
    pub(crate) at_ns: u64,
    pub(crate) bytes: Vec<u8>,
}

/// One direction between two devices.
#[derive(Debug)]
pub(crate) struct Crossing {
    filter: Filter,
    way: Way,
    delay_ns: u64,
    counts: Counts,
}

/// A packet of a device, and the packets on the wire that it stands for.
struct Packet<'a> {
    bytes: &'a [u8],
    headers: Option<Headers>,
    offload: Offload,
    segments: Segments,
}

impl Packet<'_> {
    /// The segments `range` for a device.
    fn part(&self, range: Range<usize>) -> Vec<u8> {
        let headers = self.headers.as_ref();
        cut(self.bytes, headers, &self.offload, &self.segments, range)
    }
}

/// A run of segments that stay together.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: usize,
    end: usize,
    first_at_ns: u64,
    at_ns: u64,
    is_held_back: bool,
}

impl Crossing {
    pub(crate) fn new(filter: Filter, settings: WaySettings, seed: u64) -> Self {
        Self {
            filter,
            way: Way::new(settings, seed),
            delay_ns: settings.delay_ns,
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Counters that the devices' owner fills.
    pub(crate) fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// Takes what a device gave at `now_ns`, which never goes back; adds to `deliveries` what the other device gets.
    /// With `has_room` false, packets are dropped as by a full queue. Returns a router's answer to the sender, if any.
    pub(crate) fn offer(
        &mut self,
        from_device: &mut [u8],
        now_ns: u64,
        has_room: bool,
        deliveries: &mut Vec<Delivery>,
    ) -> Option<Delivery> {
        let (offload, bytes) = from_device.split_first_chunk_mut::<OFFLOAD_BYTES>()?;
        let offload = Offload::decode(offload);
        let headers = Headers::read(bytes);
        let segments = Segments::of(bytes, headers.as_ref(), &offload);
        let count = segments.count() as u64;
        self.counts.packets += count;
        self.counts.bytes += segments.total_bytes() as u64;
        if self.is_filtered(headers.as_ref(), count) {
            return None;
        }
        if !has_room {
            self.counts.queue_full += count;
            return None;
        }
        if let (Some(headers), Some(mtu), true) =
            (&headers, self.filter.path_mtu, self.filter.clamps)
        {
            clamp_segment_size(bytes, headers, &offload, usize::from(mtu));
        }
        let packet = Packet {
            bytes,
            headers,
            offload,
            segments,
        };
        let too_big = self.cross(&packet, now_ns, deliveries);
        let bytes = self.answer(&packet, too_big?)?;
        // As from a router in the middle: half of the delay there, and half back.
        let at_ns = now_ns + self.delay_ns;
        Some(Delivery { at_ns, bytes })
    }

    /// Decides on each segment and adds those that arrive to `deliveries`; returns the first one that is too big.
    fn cross(
        &mut self,
        packet: &Packet<'_>,
        now_ns: u64,
        deliveries: &mut Vec<Delivery>,
    ) -> Option<usize> {
        let mut too_big = None;
        let mut runs: Vec<Run> = Vec::new();
        for index in 0..packet.segments.count() {
            let fate = self.fate_of(packet.segments.bytes(index), now_ns);
            if fate.is_none() {
                too_big = too_big.or(Some(index));
            }
            let Some(Fate::Arrives {
                at_ns,
                is_held_back,
                ..
            }) = fate
            else {
                continue;
            };
            match runs.last_mut() {
                Some(run)
                    if run.end == index
                        && !run.is_held_back
                        && !is_held_back
                        && at_ns <= run.first_at_ns + TOGETHER_NS =>
                {
                    run.end = index + 1;
                    run.at_ns = at_ns;
                }
                _ => runs.push(Run {
                    first: index,
                    end: index + 1,
                    first_at_ns: at_ns,
                    at_ns,
                    is_held_back,
                }),
            }
        }
        deliveries.extend(runs.into_iter().map(|run| Delivery {
            at_ns: run.at_ns,
            bytes: packet.part(run.first..run.end),
        }));
        too_big
    }

    /// Whether the packet is of a kind that does not pass; counts it.
    fn is_filtered(&mut self, headers: Option<&Headers>, packets: u64) -> bool {
        let Some(headers) = headers else {
            return false;
        };
        if self.filter.no_udp && headers.protocol == headers::UDP {
            self.counts.udp_dropped += packets;
            return true;
        }
        if self.filter.no_icmp && headers.is_icmp() {
            self.counts.icmp_dropped += packets;
            return true;
        }
        false
    }

    /// Decides on one packet on the wire and counts it; `None` if it is too big.
    fn fate_of(&mut self, bytes: usize, now_ns: u64) -> Option<Fate> {
        if self
            .filter
            .path_mtu
            .is_some_and(|mtu| bytes > usize::from(mtu))
        {
            self.counts.too_big += 1;
            return None;
        }
        let bytes = bytes as u64;
        let fate = self.way.offer(bytes, now_ns);
        match fate {
            Fate::Lost => self.counts.lost += 1,
            Fate::QueueFull => self.counts.queue_full += 1,
            Fate::Arrives {
                queued_ns,
                is_held_back,
                ..
            } => {
                self.counts.passed_packets += 1;
                self.counts.passed_bytes += bytes;
                self.counts.held_back += u64::from(is_held_back);
                self.counts.queue_ns_max = self.counts.queue_ns_max.max(queued_ns);
            }
        }
        Some(fate)
    }

    /// A router's answer about the segment `too_big`. One answer stands for all segments of a packet of a device.
    fn answer(&self, packet: &Packet<'_>, too_big: usize) -> Option<Vec<u8>> {
        if self.filter.no_icmp {
            return None;
        }
        let (headers, mtu) = (packet.headers.as_ref()?, self.filter.path_mtu?);
        let segment = packet.part(too_big..too_big + 1);
        answer_too_big(segment.get(OFFLOAD_BYTES..)?, headers, mtu)
    }
}

#[cfg(test)]
mod tests;
