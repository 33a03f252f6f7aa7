//! What the emulator reads of an IP header: version, transport protocol and where its header begins.

use super::checksum::word_at;

/// Protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP_V6: u8 = 58;

/// Bytes of an IPv4 header without options, and of an IPv6 header without extensions.
pub(crate) const V4_BYTES: usize = 20;
pub(crate) const V6_BYTES: usize = 40;

/// Most extension headers that are passed over to find the transport protocol.
const EXTENSIONS_MAX: usize = 8;

/// Version of IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    V4,
    V6,
}

/// Facts of an IP header and its extensions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Headers {
    pub(crate) version: Version,
    /// Bytes in front of the transport header.
    pub(crate) network_bytes: usize,
    /// Number of the transport protocol; a fragment has that of its packet.
    pub(crate) protocol: u8,
    /// Whether the transport header is in another fragment.
    pub(crate) is_later_fragment: bool,
    /// Whether a router must answer instead of cutting the packet, which is always so with IPv6.
    pub(crate) is_uncut: bool,
}

impl Headers {
    /// Reads the headers; `None` for a packet that is not whole or not IP.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(packet: &[u8]) -> Option<Self> {
        let network_bytes = usize::from(packet.first()? & 0xf) * 4;
        if network_bytes < V4_BYTES || packet.len() < network_bytes {
            return None;
        }
        let fragment = word_at(packet, 6);
        Some(Self {
            version: Version::V4,
            network_bytes,
            protocol: packet[9],
            is_later_fragment: fragment & 0x1fff != 0,
            is_uncut: fragment & 0x4000 != 0,
        })
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        if packet.len() < V6_BYTES {
            return None;
        }
        let mut headers = Self {
            version: Version::V6,
            network_bytes: V6_BYTES,
            protocol: packet[6],
            is_later_fragment: false,
            is_uncut: true,
        };
        for _ in 0..EXTENSIONS_MAX {
            // Lengths as in RFC 8200; that of an authentication header is RFC 4302's.
            let at = headers.network_bytes;
            let length = usize::from(packet.get(at + 1).copied().unwrap_or(0));
            let bytes = match headers.protocol {
                0 | 43 | 60 => (length + 1) * 8,
                44 => 8,
                51 => (length + 2) * 4,
                _ => return Some(headers),
            };
            if packet.len() < at + bytes {
                return None;
            }
            if headers.protocol == 44 {
                headers.is_later_fragment = word_at(packet, at + 2) >> 3 != 0;
            }
            headers.protocol = packet[at];
            headers.network_bytes += bytes;
            if headers.is_later_fragment {
                return Some(headers);
            }
        }
        None
    }

    /// Whether the packet is ICMP, of either version of IP.
    pub(crate) fn is_icmp(&self) -> bool {
        match self.version {
            Version::V4 => self.protocol == ICMP,
            Version::V6 => self.protocol == ICMP_V6,
        }
    }

    /// Whether the packet reports an error, which no router answers (RFC 1122, section 3.2.2, and RFC 4443).
    pub(crate) fn is_icmp_error(&self, packet: &[u8]) -> bool {
        let kind = packet.get(self.network_bytes).copied().unwrap_or(0);
        self.is_icmp()
            && match self.version {
                Version::V4 => matches!(kind, 3..=5 | 11 | 12),
                Version::V6 => kind < 128,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests as samples;
    use super::*;

    #[test]
    fn tcp_and_udp_are_found_in_both_versions() {
        let packet = samples::tcp_v4(0, 10);
        let headers = Headers::read(&packet).unwrap();
        assert_eq!(
            (headers.version, headers.protocol, headers.network_bytes),
            (Version::V4, TCP, 20)
        );
        assert!(headers.is_uncut && !headers.is_later_fragment && !headers.is_icmp());
        let packet = samples::udp_v6(10);
        let headers = Headers::read(&packet).unwrap();
        assert_eq!(
            (headers.version, headers.protocol, headers.network_bytes),
            (Version::V6, UDP, 40)
        );
    }

    #[test]
    fn extensions_and_fragments_of_ipv6_are_passed_over() {
        let mut packet = samples::udp_v6(8);
        // Hop-by-hop options of 8 bytes, then a first fragment, then UDP.
        packet[6] = 0;
        let extensions = [44, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 0, 1, 0, 0, 0, 7];
        drop(packet.splice(40..40, extensions));
        let headers = Headers::read(&packet).unwrap();
        assert_eq!((headers.protocol, headers.network_bytes), (UDP, 56));
        assert!(!headers.is_later_fragment);
        // A later fragment of the same packet.
        packet[50..52].copy_from_slice(&(185_u16 << 3).to_be_bytes());
        let headers = Headers::read(&packet).unwrap();
        assert!(headers.is_later_fragment && headers.protocol == UDP);
    }

    #[test]
    fn later_fragments_of_ipv4_have_the_protocol_of_their_packet() {
        let mut packet = samples::tcp_v4(0, 10);
        packet[6..8].copy_from_slice(&185_u16.to_be_bytes());
        packet[9] = UDP;
        let headers = Headers::read(&packet).unwrap();
        assert!(headers.is_later_fragment && headers.protocol == UDP && !headers.is_uncut);
    }

    #[test]
    fn what_is_not_whole_is_not_read() {
        for packet in [&samples::tcp_v4(0, 10), &samples::udp_v6(10)] {
            let version = packet[0] >> 4;
            let header = if version == 4 { V4_BYTES } else { V6_BYTES };
            for len in 0..header {
                assert_eq!(Headers::read(&packet[..len]), None);
            }
        }
        assert_eq!(Headers::read(&[0x15; 40]), None);
        assert_eq!(Headers::read(&[0x44; 40]), None);
        // Endless extension headers.
        let mut packet = [0; 2_000];
        packet[0] = 0x60;
        assert_eq!(Headers::read(&packet), None);
    }

    #[test]
    fn errors_of_icmp_differ_from_echoes() {
        let mut packet = samples::tcp_v4(0, 8);
        packet[9] = ICMP;
        for (kind, is_error) in [(0, false), (8, false), (3, true), (11, true)] {
            packet[20] = kind;
            let headers = Headers::read(&packet).unwrap();
            assert_eq!(headers.is_icmp_error(&packet), is_error, "{kind}");
        }
        let mut packet = samples::udp_v6(8);
        packet[6] = ICMP_V6;
        for (kind, is_error) in [(1, true), (2, true), (128, false), (135, false)] {
            packet[40] = kind;
            let headers = Headers::read(&packet).unwrap();
            assert!(headers.is_icmp());
            assert_eq!(headers.is_icmp_error(&packet), is_error, "{kind}");
        }
    }
}
