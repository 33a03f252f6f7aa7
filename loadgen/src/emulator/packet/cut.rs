//! Cuts a run of segments out of a large packet of the kernel. The result is again a packet of the kernel: one segment, or
//! several that the receiver takes in one piece.
//!
//! The checksum stays the receiver's work. Its field has the sum of the pseudo header, which contains the length, so the
//! length is replaced in that sum.

use std::ops::Range;

use super::checksum::{self, set_word, word_at};
use super::headers::{self, Headers, V6_BYTES, Version};
use super::offload::{OFFLOAD_BYTES, ONE_PACKET, Offload};
use super::segments::Segments;

/// Bits of TCP's flags in the byte 13 of its header.
const FIN_AND_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// The segments `range` of `packet`, with the virtual-network header in front. `segments` are those of the packet, and
/// `range` is not empty and within them.
pub(crate) fn cut(
    packet: &[u8],
    headers: Option<&Headers>,
    offload: &Offload,
    segments: &Segments,
    range: Range<usize>,
) -> Vec<u8> {
    let Some(headers) = headers.filter(|_| range != (0..segments.count())) else {
        let mut whole = Vec::with_capacity(OFFLOAD_BYTES + packet.len());
        whole.extend_from_slice(&offload.encode());
        whole.extend_from_slice(packet);
        return whole;
    };
    let Segments {
        header_bytes,
        segment_bytes,
        ..
    } = *segments;
    let from = (header_bytes + range.start * segment_bytes).min(packet.len());
    let to = (header_bytes + range.end * segment_bytes).min(packet.len());
    let is_one = range.len() == 1;
    let own = Offload {
        kind: if is_one { ONE_PACKET } else { offload.kind },
        // The kernel's hint may be longer than a part, and a hint that is too long is refused.
        header_bytes: length(header_bytes),
        segment_bytes: if is_one { 0 } else { offload.segment_bytes },
        ..*offload
    };
    let mut part = Vec::with_capacity(OFFLOAD_BYTES + header_bytes + to - from);
    part.extend_from_slice(&own.encode());
    part.extend_from_slice(&packet[..header_bytes]);
    part.extend_from_slice(&packet[from..to]);
    let place = Place {
        first: range.start,
        skipped_bytes: range.start * segment_bytes,
        is_last: range.end == segments.count(),
        old_bytes: packet.len(),
        checksum_at: offload.checksum_at(),
    };
    place.write_headers(&mut part[OFFLOAD_BYTES..], headers);
    part
}

/// Where a part was in its packet.
struct Place {
    /// Number of its first segment.
    first: usize,
    /// Payload in front of it.
    skipped_bytes: usize,
    /// Whether the packet's last segment is in it.
    is_last: bool,
    /// Bytes of the whole packet.
    old_bytes: usize,
    checksum_at: usize,
}

impl Place {
    /// Turns the headers of the whole packet into those of the part.
    fn write_headers(&self, part: &mut [u8], headers: &Headers) {
        let network_bytes = headers.network_bytes;
        let transport_bytes = part.len() - network_bytes;
        match headers.version {
            Version::V4 => {
                let total = length(part.len());
                set_word(part, 2, total);
                // As the kernel's own segmentation does.
                let id = word_at(part, 4).wrapping_add(length(self.first));
                set_word(part, 4, id);
                set_word(part, 10, 0);
                let sum = checksum::of(&part[..network_bytes], 0);
                set_word(part, 10, sum);
            }
            Version::V6 => {
                let payload = length(part.len() - V6_BYTES);
                set_word(part, 4, payload);
            }
        }
        let sum = checksum::replaced(
            word_at(part, self.checksum_at),
            length(self.old_bytes - network_bytes),
            length(transport_bytes),
        );
        set_word(part, self.checksum_at, sum);
        let transport = &mut part[network_bytes..];
        if headers.protocol == headers::UDP {
            set_word(transport, 4, length(transport_bytes));
            return;
        }
        let mut sequence = [0; 4];
        sequence.copy_from_slice(&transport[4..8]);
        let skipped = u32::from(length(self.skipped_bytes));
        let sequence = u32::from_be_bytes(sequence).wrapping_add(skipped);
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !self.is_last {
            transport[13] &= !FIN_AND_PSH;
        }
        if self.first > 0 {
            transport[13] &= !CWR;
        }
    }
}

/// A length or number of segments as IP has it, below 2^16.
fn length(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests as samples;
    use super::*;

    /// Cuts at `borders` and joins the payload of the parts; checks each part.
    fn cut_and_join(packet: &[u8], offload: &Offload, borders: &[usize]) -> Vec<u8> {
        let headers = Headers::read(packet).unwrap();
        let segments = Segments::of(packet, Some(&headers), offload);
        let mut joined = Vec::new();
        for pair in borders.windows(2) {
            let part = cut(packet, Some(&headers), offload, &segments, pair[0]..pair[1]);
            let (own, part) = part.split_at(OFFLOAD_BYTES);
            let own = Offload::decode(own.try_into().unwrap());
            assert!(samples::is_valid(part), "{pair:?}");
            let is_whole = borders.len() == 2;
            assert!(is_whole || usize::from(own.header_bytes) <= part.len());
            let again = Headers::read(part).unwrap();
            let count = Segments::of(part, Some(&again), &own).count();
            assert_eq!(count, pair[1] - pair[0]);
            if headers.protocol == headers::TCP {
                let at = headers.network_bytes + 4;
                let sequence = u32::from_be_bytes(part[at..at + 4].try_into().unwrap());
                let expected = samples::SEQUENCE.wrapping_add(u32::try_from(joined.len()).unwrap());
                assert_eq!(sequence, expected);
            }
            joined.extend_from_slice(&part[segments.header_bytes..]);
        }
        joined
    }

    #[test]
    fn only_the_last_part_ends_the_stream_and_only_the_first_has_cwr() {
        let packet = samples::tcp_v4(0x01 | 0x08 | 0x10 | 0x80, 3_000);
        let headers = Headers::read(&packet).unwrap();
        let offload = samples::offload_tcp_v4(1_000);
        let segments = Segments::of(&packet, Some(&headers), &offload);
        let flags = |range| cut(&packet, Some(&headers), &offload, &segments, range)[10 + 20 + 13];
        assert_eq!(flags(0..1), 0x10 | 0x80);
        assert_eq!(flags(1..2), 0x10);
        assert_eq!(flags(2..3), 0x10 | 0x08 | 0x01);
    }

    #[test]
    fn a_whole_packet_is_not_changed() {
        let packet = samples::tcp_v4(0x10, 3_000);
        let headers = Headers::read(&packet).unwrap();
        let offload = samples::offload_tcp_v4(1_000);
        let segments = Segments::of(&packet, Some(&headers), &offload);
        let whole = cut(&packet, Some(&headers), &offload, &segments, 0..3);
        assert_eq!(whole[..OFFLOAD_BYTES], offload.encode());
        assert_eq!(whole[OFFLOAD_BYTES..], packet);
        let foreign = cut(
            &[1, 2],
            None,
            &offload,
            &Segments::of(&[1, 2], None, &offload),
            0..1,
        );
        assert_eq!(foreign[OFFLOAD_BYTES..], [1, 2]);
    }

    #[test]
    fn identifications_of_ipv4_rise() {
        let packet = samples::tcp_v4(0x10, 3_000);
        let headers = Headers::read(&packet).unwrap();
        let offload = samples::offload_tcp_v4(1_000);
        let segments = Segments::of(&packet, Some(&headers), &offload);
        let id = |range| {
            word_at(
                &cut(&packet, Some(&headers), &offload, &segments, range),
                14,
            )
        };
        assert_eq!(id(2..3).wrapping_sub(id(0..1)), 2);
    }

    proptest! {
        #[test]
        fn parts_are_valid_and_join_to_the_payload(
            payload_bytes in 2_usize..20_000,
            segment_bytes in 1_usize..3_000,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            is_udp in any::<bool>(),
        ) {
            prop_assume!(payload_bytes > segment_bytes && payload_bytes / segment_bytes < 200);
            let size = u16::try_from(segment_bytes).unwrap();
            let (packet, offload) = match is_udp {
                true => (samples::udp_v6(payload_bytes), samples::offload_udp_v6(size)),
                false => (samples::tcp_v4(0x18, payload_bytes), samples::offload_tcp_v4(size)),
            };
            let count = payload_bytes.div_ceil(segment_bytes);
            let mut borders: Vec<usize> = cuts.iter().map(|cut| cut.index(count)).collect();
            borders.extend([0, count]);
            borders.sort_unstable();
            borders.dedup();
            let joined = cut_and_join(&packet, &offload, &borders);
            prop_assert_eq!(&joined[..], &packet[packet.len() - payload_bytes..]);
        }
    }
}
