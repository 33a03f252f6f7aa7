//! The packets on the wire that one packet of the kernel stands for.

use super::headers::{self, Headers, Version};
use super::offload::{self, Offload};

/// Bytes of a TCP header without options, and of a UDP header.
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

/// Sizes of the segments of a packet; a packet that is not to be cut has one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Segments {
    /// Bytes of the headers, which each segment has. A packet that is not to be cut is all header here.
    pub(crate) header_bytes: usize,
    /// Bytes behind the headers.
    pub(crate) payload_bytes: usize,
    /// Payload of each segment but the last.
    pub(crate) segment_bytes: usize,
}

impl Segments {
    /// Segments of `packet`, which begins with its IP header.
    pub(crate) fn of(packet: &[u8], headers: Option<&Headers>, offload: &Offload) -> Self {
        let cut = headers.and_then(|headers| Self::cut(packet, headers, offload));
        cut.unwrap_or(Self {
            header_bytes: packet.len(),
            payload_bytes: 0,
            segment_bytes: 1,
        })
    }

    /// Segments of a packet that the kernel left to be cut; `None` for one that is on the wire as it is.
    fn cut(packet: &[u8], headers: &Headers, offload: &Offload) -> Option<Self> {
        let transport = packet.get(headers.network_bytes..)?;
        let transport_bytes = match (offload.kind, headers.version, headers.protocol) {
            (offload::TCP_V4, Version::V4, headers::TCP)
            | (offload::TCP_V6, Version::V6, headers::TCP) => {
                usize::from(transport.get(12)? >> 4) * 4
            }
            (offload::UDP, _, headers::UDP) => UDP_BYTES,
            _ => return None,
        };
        let least = match headers.protocol {
            headers::TCP => TCP_BYTES,
            _ => UDP_BYTES,
        };
        let header_bytes = headers.network_bytes + transport_bytes;
        let segment_bytes = usize::from(offload.segment_bytes);
        let payload_bytes = packet.len().checked_sub(header_bytes)?;
        let is_right = transport_bytes >= least
            && !headers.is_later_fragment
            && offload.needs_checksum()
            && usize::from(offload.checksum_start) == headers.network_bytes
            && offload.checksum_at() + 2 <= header_bytes
            && segment_bytes > 0
            && payload_bytes > segment_bytes;
        is_right.then_some(Self {
            header_bytes,
            payload_bytes,
            segment_bytes,
        })
    }

    /// Number of segments, at least 1.
    pub(crate) fn count(&self) -> usize {
        self.payload_bytes.div_ceil(self.segment_bytes).max(1)
    }

    /// Bytes of the segment `index` on the wire, headers included; `index` is below [`Segments::count`].
    pub(crate) fn bytes(&self, index: usize) -> usize {
        let rest = self
            .payload_bytes
            .saturating_sub(index * self.segment_bytes);
        self.header_bytes + rest.min(self.segment_bytes)
    }

    /// Bytes of all segments on the wire.
    pub(crate) fn total_bytes(&self) -> usize {
        self.header_bytes * self.count() + self.payload_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests as samples;
    use super::*;

    fn segments(packet: &[u8], offload: &Offload) -> Segments {
        Segments::of(packet, Headers::read(packet).as_ref(), offload)
    }

    #[test]
    fn a_large_packet_of_tcp_is_cut_and_the_last_segment_is_shorter() {
        let packet = samples::tcp_v4(0, 3_000);
        let segments = segments(&packet, &samples::offload_tcp_v4(1_448));
        assert_eq!(segments.count(), 3);
        let sizes: Vec<usize> = (0..3).map(|index| segments.bytes(index)).collect();
        assert_eq!(sizes, [1_500, 1_500, 52 + 104]);
        assert_eq!(segments.total_bytes(), 3_156);
    }

    #[test]
    fn a_large_packet_of_udp_is_cut_into_datagrams() {
        let packet = samples::udp_v6(2_400);
        let segments = segments(&packet, &samples::offload_udp_v6(1_200));
        assert_eq!(segments.count(), 2);
        assert_eq!(segments.bytes(1), 40 + 8 + 1_200);
    }

    #[test]
    fn what_does_not_fit_together_is_one_packet() {
        let packet = samples::tcp_v4(0, 3_000);
        let right = samples::offload_tcp_v4(1_448);
        let wrong = [
            Offload::default(),
            Offload {
                kind: offload::UDP,
                ..right
            },
            Offload { flags: 0, ..right },
            Offload {
                segment_bytes: 0,
                ..right
            },
            Offload {
                segment_bytes: 3_000,
                ..right
            },
            Offload {
                checksum_start: 24,
                ..right
            },
            Offload {
                checksum_offset: 60,
                ..right
            },
        ];
        for offload in wrong {
            let segments = segments(&packet, &offload);
            assert_eq!(
                (segments.count(), segments.bytes(0)),
                (1, packet.len()),
                "{offload:?}"
            );
            assert_eq!(segments.total_bytes(), packet.len());
        }
        assert_eq!(Segments::of(&[7; 90], None, &right).count(), 1);
    }
}
