//! The virtual-network header in front of a packet: work that the kernel left to the device, here to the other end.

/// Bytes of the header: `struct virtio_net_hdr` of linux/virtio_net.h, the size that a TUN device starts with.
pub(crate) const OFFLOAD_BYTES: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field has only the sum of the pseudo header.
pub(crate) const NEEDS_CHECKSUM: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_NONE`: a packet as it is on the wire.
pub(crate) const ONE_PACKET: u8 = 0;

/// `VIRTIO_NET_HDR_GSO_TCPV4`: segments of TCP over IPv4.
pub(crate) const TCP_V4: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_TCPV6`: segments of TCP over IPv6.
pub(crate) const TCP_V6: u8 = 4;

/// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams of UDP of one size, the last may be shorter.
pub(crate) const UDP: u8 = 5;

/// Fields of the header. In memory they have the machine's byte order, unless a device asks for another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Offload {
    pub(crate) flags: u8,
    /// How the packet is to be cut, such as [`TCP_V4`].
    pub(crate) kind: u8,
    /// Bytes of all headers; a hint, which must not exceed the packet.
    pub(crate) header_bytes: u16,
    /// Payload of each segment.
    pub(crate) segment_bytes: u16,
    /// Where the bytes begin that the checksum covers.
    pub(crate) checksum_start: u16,
    /// Place of the checksum, from `checksum_start` on.
    pub(crate) checksum_offset: u16,
}

impl Offload {
    pub(crate) fn decode(bytes: &[u8; OFFLOAD_BYTES]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            kind: bytes[1],
            header_bytes: word(2),
            segment_bytes: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    pub(crate) fn encode(&self) -> [u8; OFFLOAD_BYTES] {
        let mut bytes = [0; OFFLOAD_BYTES];
        bytes[0] = self.flags;
        bytes[1] = self.kind;
        let words = [
            self.header_bytes,
            self.segment_bytes,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Whether the checksum field has only the sum of the pseudo header.
    pub(crate) fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CHECKSUM != 0
    }

    /// Place of the checksum in the packet.
    pub(crate) fn checksum_at(&self) -> usize {
        usize::from(self.checksum_start) + usize::from(self.checksum_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_header_is_read_back() {
        let offload = Offload {
            flags: NEEDS_CHECKSUM,
            kind: TCP_V6,
            header_bytes: 72,
            segment_bytes: 1428,
            checksum_start: 40,
            checksum_offset: 16,
        };
        assert_eq!(Offload::decode(&offload.encode()), offload);
        assert_eq!(Offload::default().encode(), [0; OFFLOAD_BYTES]);
        assert_eq!(offload.checksum_at(), 56);
    }
}
