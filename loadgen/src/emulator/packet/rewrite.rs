//! What routers on a path do to packets besides forwarding: they lower the segment size that TCP's ends agree on, and they
//! answer a packet that is too big.

use super::checksum::{self, set_word, word_at};
use super::headers::{self, Headers, V4_BYTES, V6_BYTES, Version};
use super::offload::{OFFLOAD_BYTES, Offload};

/// Bytes of a TCP header without options.
const TCP_BYTES: usize = 20;

/// Bit of TCP's flags: the first packet of each direction.
const SYN: u8 = 0x02;

/// Kinds of TCP's options.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const SEGMENT_SIZE: u8 = 2;

/// Bytes of an answer of ICMP in front of the packet that it quotes.
const ICMP_BYTES: usize = 8;

/// Most bytes of an answer: RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4.
const ANSWER_V4_BYTES_MAX: usize = 576;
const ANSWER_V6_BYTES_MAX: usize = 1_280;

/// Lowers the segment size in a SYN, so that a packet of `mtu` bytes carries a segment.
pub(crate) fn clamp_segment_size(
    packet: &mut [u8],
    headers: &Headers,
    offload: &Offload,
    mtu: usize,
) {
    if headers.protocol != headers::TCP || headers.is_later_fragment {
        return;
    }
    let network_bytes = match headers.version {
        Version::V4 => V4_BYTES,
        Version::V6 => V6_BYTES,
    };
    let largest = u16::try_from(mtu.saturating_sub(network_bytes + TCP_BYTES)).unwrap_or(u16::MAX);
    let Some(tcp) = packet.get_mut(headers.network_bytes..) else {
        return;
    };
    let Some(at) = segment_size_at(tcp) else {
        return;
    };
    let old = word_at(tcp, at);
    if old <= largest {
        return;
    }
    set_word(tcp, at, largest);
    if !offload.needs_checksum() {
        // A word at an odd place counts with its bytes exchanged.
        let exchange = |word: u16| match at % 2 {
            0 => word,
            _ => word.swap_bytes(),
        };
        let sum = checksum::replaced(!word_at(tcp, 16), exchange(old), exchange(largest));
        set_word(tcp, 16, !sum);
    }
}

/// Place of the segment size in a TCP header that is a SYN.
fn segment_size_at(tcp: &[u8]) -> Option<usize> {
    if tcp.get(13)? & SYN == 0 {
        return None;
    }
    let end = usize::from(tcp.get(12)? >> 4) * 4;
    let header = tcp.get(..end)?;
    let mut at = TCP_BYTES;
    loop {
        match *header.get(at)? {
            END_OF_OPTIONS => return None,
            NO_OPERATION => at += 1,
            SEGMENT_SIZE => return (at + 4 <= end).then_some(at + 2),
            _ => at += usize::from(*header.get(at + 1)?).max(2),
        }
    }
}

/// The answer of a router to `packet`, which is one packet on the wire and larger than `mtu`: with the virtual-network
/// header in front, to the sender. `None` if no router answers.
pub(crate) fn answer_too_big(packet: &[u8], headers: &Headers, mtu: u16) -> Option<Vec<u8>> {
    if !headers.is_uncut || headers.is_later_fragment || headers.is_icmp_error(packet) {
        return None;
    }
    let mut answer = Offload::default().encode().to_vec();
    match headers.version {
        Version::V4 => answer_v4(packet, mtu, &mut answer),
        Version::V6 => answer_v6(packet, mtu, &mut answer),
    }
    Some(answer)
}

/// Destination unreachable, fragmentation needed (RFC 1191).
fn answer_v4(packet: &[u8], mtu: u16, answer: &mut Vec<u8>) {
    let quote = packet
        .len()
        .min(ANSWER_V4_BYTES_MAX - V4_BYTES - ICMP_BYTES);
    let total = length(V4_BYTES + ICMP_BYTES + quote);
    answer.extend_from_slice(&[0x45, 0xc0]);
    answer.extend_from_slice(&total.to_be_bytes());
    answer.extend_from_slice(&[0, 0, 0, 0, 64, headers::ICMP, 0, 0]);
    // From the packet's destination, which the sender can reach, to its source.
    answer.extend_from_slice(&packet[16..20]);
    answer.extend_from_slice(&packet[12..16]);
    answer.extend_from_slice(&[3, 4, 0, 0, 0, 0]);
    answer.extend_from_slice(&mtu.to_be_bytes());
    answer.extend_from_slice(&packet[..quote]);
    let own = &mut answer[OFFLOAD_BYTES..];
    let sum = checksum::of(&own[..V4_BYTES], 0);
    set_word(own, 10, sum);
    let sum = checksum::of(&own[V4_BYTES..], 0);
    set_word(own, V4_BYTES + 2, sum);
}

/// Packet too big (RFC 4443, section 3.2).
fn answer_v6(packet: &[u8], mtu: u16, answer: &mut Vec<u8>) {
    let quote = packet
        .len()
        .min(ANSWER_V6_BYTES_MAX - V6_BYTES - ICMP_BYTES);
    let payload = length(ICMP_BYTES + quote);
    answer.extend_from_slice(&[0x60, 0, 0, 0]);
    answer.extend_from_slice(&payload.to_be_bytes());
    answer.extend_from_slice(&[headers::ICMP_V6, 64]);
    answer.extend_from_slice(&packet[24..40]);
    answer.extend_from_slice(&packet[8..24]);
    answer.extend_from_slice(&[2, 0, 0, 0]);
    answer.extend_from_slice(&u32::from(mtu).to_be_bytes());
    answer.extend_from_slice(&packet[..quote]);
    let own = &mut answer[OFFLOAD_BYTES..];
    let pseudo =
        checksum::sum(&own[8..V6_BYTES]) + u64::from(payload) + u64::from(headers::ICMP_V6);
    let sum = checksum::of(&own[V6_BYTES..], pseudo);
    set_word(own, V6_BYTES + 2, sum);
}

/// A length as IP has it; those of answers are below [`ANSWER_V6_BYTES_MAX`].
fn length(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::checksum::{fold, sum};
    use super::super::tests as samples;
    use super::*;

    /// A SYN with a segment size of 1460, and the place of that size in the packet.
    fn syn(options: [u8; 12]) -> Vec<u8> {
        let mut packet = samples::tcp_v4(SYN, 0);
        packet[40..52].copy_from_slice(&options);
        packet
    }

    fn clamp(packet: &mut [u8], offload: &Offload, mtu: usize) {
        let headers = Headers::read(packet).unwrap();
        clamp_segment_size(packet, &headers, offload, mtu);
    }

    /// Sum over the transport header and its pseudo header, as a receiver computes it.
    fn received_sum(packet: &[u8]) -> u16 {
        let transport_bytes = packet.len() - 20;
        let pseudo = sum(&packet[12..20]) + u64::from(packet[9]) + transport_bytes as u64;
        fold(sum(&packet[20..]) + pseudo)
    }

    #[test]
    fn a_segment_size_that_is_too_large_is_lowered() {
        let even = [2, 4, 0x05, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1];
        let odd = [1, 2, 4, 0x05, 0xb4, 3, 3, 7, 4, 2, 1, 1];
        let behind = [4, 2, 1, 1, 2, 4, 0x05, 0xb4, 1, 3, 3, 7];
        for (options, at) in [(even, 42), (odd, 43), (behind, 46)] {
            let mut packet = syn(options);
            clamp(&mut packet, &samples::offload_tcp_v4(0), 1_250);
            assert_eq!(word_at(&packet, at), 1_210);
            // The checksum covers the pseudo header alone.
            assert!(samples::is_valid(&packet));

            let mut packet = syn(options);
            let whole = !fold(u64::from(received_sum(&packet)) + u64::from(!word_at(&packet, 36)));
            set_word(&mut packet, 36, whole);
            assert_eq!(received_sum(&packet), 0xffff);
            clamp(&mut packet, &Offload::default(), 1_250);
            assert_eq!(word_at(&packet, at), 1_210);
            assert_eq!(received_sum(&packet), 0xffff, "{options:?}");
        }
    }

    #[test]
    fn other_packets_keep_their_options() {
        let small = [2, 4, 0x02, 0x18, 1, 1, 1, 1, 1, 1, 1, 1];
        let broken = [8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0];
        let cut_off = [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 9];
        let ended = [0, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0, 0];
        for options in [small, broken, cut_off, ended] {
            let mut packet = syn(options);
            let before = packet.clone();
            clamp(&mut packet, &Offload::default(), 1_250);
            assert_eq!(packet, before, "{options:?}");
        }
        let mut data = syn([2, 4, 0x05, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1]);
        data[33] = 0x10;
        let before = data.clone();
        clamp(&mut data, &Offload::default(), 1_250);
        assert_eq!(data, before);
        clamp(&mut data[..30], &Offload::default(), 1_250);
    }

    #[test]
    fn an_answer_names_the_mtu_and_quotes_the_packet() {
        let packet = samples::tcp_v4(0x10, 1_448);
        let headers = Headers::read(&packet).unwrap();
        let answer = answer_too_big(&packet, &headers, 1_250).unwrap();
        let answer = &answer[OFFLOAD_BYTES..];
        assert_eq!(answer.len(), ANSWER_V4_BYTES_MAX);
        assert_eq!(usize::from(word_at(answer, 2)), answer.len());
        assert_eq!(answer[12..20], [10, 77, 0, 2, 10, 77, 0, 1]);
        assert_eq!((answer[20], answer[21], word_at(answer, 26)), (3, 4, 1_250));
        assert_eq!(answer[28..], packet[..548]);
        assert_eq!(fold(sum(&answer[..20])), 0xffff);
        assert_eq!(fold(sum(&answer[20..])), 0xffff);

        let packet = samples::udp_v6(1_400);
        let headers = Headers::read(&packet).unwrap();
        let answer = answer_too_big(&packet, &headers, 1_300).unwrap();
        let answer = &answer[OFFLOAD_BYTES..];
        assert_eq!(answer.len(), ANSWER_V6_BYTES_MAX);
        assert_eq!((answer[23], answer[39]), (2, 1));
        assert_eq!((answer[40], word_at(answer, 46)), (2, 1_300));
        let pseudo = sum(&answer[8..40]) + (answer.len() as u64 - 40) + 58;
        assert_eq!(fold(sum(&answer[40..]) + pseudo), 0xffff);
    }

    #[test]
    fn some_packets_get_no_answer() {
        let mut packet = samples::tcp_v4(0x10, 1_448);
        packet[6] = 0;
        let headers = Headers::read(&packet).unwrap();
        assert_eq!(answer_too_big(&packet, &headers, 1_250), None);
        let mut packet = samples::udp_v6(1_400);
        packet[6] = headers::ICMP_V6;
        packet[40] = 1;
        let headers = Headers::read(&packet).unwrap();
        assert_eq!(answer_too_big(&packet, &headers, 1_250), None);
    }
}
