//! Packets for unit tests, with the checksums that the kernel leaves to a device.

use super::checksum::{fold, of, set_word, sum};
use super::headers::{Headers, TCP, UDP, Version};
use super::offload::{NEEDS_CHECKSUM, Offload, TCP_V4, UDP as OFFLOAD_UDP};

/// Sequence number of the first byte of [`tcp_v4`].
pub(crate) const SEQUENCE: u32 = 0xffff_ff00;

/// Sum of the pseudo header of a packet with `transport_bytes` from its transport header on.
fn pseudo(packet: &[u8], protocol: u8, transport_bytes: usize) -> u64 {
    let addresses = match packet[0] >> 4 {
        4 => &packet[12..20],
        _ => &packet[8..40],
    };
    sum(addresses) + u64::from(protocol) + transport_bytes as u64
}

fn payload(bytes: usize) -> impl Iterator<Item = u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap())
}

/// TCP over IPv4 with `flags`, 12 bytes of options and a payload; the checksum has the sum of the pseudo header.
pub(crate) fn tcp_v4(flags: u8, payload_bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; 52];
    packet[0] = 0x45;
    set_word(&mut packet, 2, u16::try_from(52 + payload_bytes).unwrap());
    set_word(&mut packet, 4, 0xfffe);
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = TCP;
    packet[12..20].copy_from_slice(&[10, 77, 0, 1, 10, 77, 0, 2]);
    let sum = of(&packet[..20], 0);
    set_word(&mut packet, 10, sum);
    set_word(&mut packet, 20, 40_000);
    set_word(&mut packet, 22, 443);
    packet[24..28].copy_from_slice(&SEQUENCE.to_be_bytes());
    packet[32] = 0x80;
    packet[33] = flags;
    packet[40..52].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
    let sum = fold(pseudo(&packet, TCP, 32 + payload_bytes));
    set_word(&mut packet, 36, sum);
    packet.extend(payload(payload_bytes));
    packet
}

/// The header in front of [`tcp_v4`] for segments of `segment_bytes`. Its length is the kernel's hint, here too long.
pub(crate) fn offload_tcp_v4(segment_bytes: u16) -> Offload {
    Offload {
        flags: NEEDS_CHECKSUM,
        kind: TCP_V4,
        header_bytes: 2_000,
        segment_bytes,
        checksum_start: 20,
        checksum_offset: 16,
    }
}

/// UDP over IPv6; the checksum has the sum of the pseudo header.
pub(crate) fn udp_v6(payload_bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; 48];
    packet[0] = 0x60;
    let bytes = u16::try_from(8 + payload_bytes).unwrap();
    set_word(&mut packet, 4, bytes);
    packet[6] = UDP;
    packet[7] = 64;
    packet[8] = 0xfd;
    packet[23] = 1;
    packet[24] = 0xfd;
    packet[39] = 2;
    set_word(&mut packet, 40, 40_000);
    set_word(&mut packet, 42, 443);
    set_word(&mut packet, 44, bytes);
    let sum = fold(pseudo(&packet, UDP, 8 + payload_bytes));
    set_word(&mut packet, 46, sum);
    packet.extend(payload(payload_bytes));
    packet
}

/// The header in front of [`udp_v6`] for datagrams of `segment_bytes`.
pub(crate) fn offload_udp_v6(segment_bytes: u16) -> Offload {
    Offload {
        flags: NEEDS_CHECKSUM,
        kind: OFFLOAD_UDP,
        header_bytes: 48,
        segment_bytes,
        checksum_start: 40,
        checksum_offset: 6,
    }
}

/// Whether lengths are right, the IP header's checksum is, and the transport's has the sum of its pseudo header.
pub(crate) fn is_valid(packet: &[u8]) -> bool {
    let headers = Headers::read(packet).unwrap();
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let is_header_right = match headers.version {
        Version::V4 => word(2) == packet.len() && fold(sum(&packet[..20])) == 0xffff,
        Version::V6 => word(4) + 40 == packet.len(),
    };
    let transport_bytes = packet.len() - headers.network_bytes;
    let (checksum_at, is_length_right) = match headers.protocol {
        UDP => (
            headers.network_bytes + 6,
            word(headers.network_bytes + 4) == transport_bytes,
        ),
        _ => (headers.network_bytes + 16, true),
    };
    let expected = fold(pseudo(packet, headers.protocol, transport_bytes));
    is_header_right && is_length_right && word(checksum_at) == usize::from(expected)
}
