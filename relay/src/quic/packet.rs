//! What a datagram is by its first bytes, before any connection is looked for. Datagrams that no connection can use are
//! dropped here.

use quinn_proto::VarInt;
use quinn_proto::coding::Codec;

use crate::metrics::QuicDrop;

/// Bits of the first byte (RFC 8999, section 5.1; RFC 9000, section 17.2).
const LONG_HEADER: u8 = 0x80;
const LONG_TYPE: u8 = 0x30;

/// The version of QUIC that the relay speaks (RFC 9000, section 15).
const VERSION: u32 = 1;

/// Least length of a datagram with a client's first packet (RFC 9000, section 14.1).
const INITIAL_BYTES_MIN: usize = 1200;

/// Least length of a packet with a short header, which a stateless reset seems to be, too: 5 bytes that look random,
/// and its token (RFC 9000, section 10.3).
const SHORT_BYTES_MIN: usize = 5 + 16;

/// Longest connection ID of this version (RFC 9000, section 17.2).
const ID_BYTES_MAX: usize = 20;

/// Kind of the first packet in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of a client that begins a connection, or has just begun one.
    Initial,
    /// Any other packet.
    Later,
    /// Of a version that the relay does not speak.
    OtherVersion,
}

/// The kind of a datagram.
///
/// # Errors
/// Why the datagram is dropped.
pub(super) fn kind(datagram: &[u8]) -> Result<Kind, QuicDrop> {
    let first = *datagram.first().ok_or(QuicDrop::Malformed)?;
    if first & LONG_HEADER == 0 {
        return match datagram.len() >= SHORT_BYTES_MIN {
            true => Ok(Kind::Later),
            false => Err(QuicDrop::Malformed),
        };
    }
    let version = datagram.get(1..5).and_then(|it| it.try_into().ok());
    let version = u32::from_be_bytes(version.ok_or(QuicDrop::Malformed)?);
    let id_bytes = usize::from(*datagram.get(5).ok_or(QuicDrop::Malformed)?);
    let is_initial_size = datagram.len() >= INITIAL_BYTES_MIN;
    match version {
        // Version negotiation, which only servers send.
        0 => Err(QuicDrop::Malformed),
        VERSION if id_bytes > ID_BYTES_MAX => Err(QuicDrop::Malformed),
        VERSION if first & LONG_TYPE != 0 => Ok(Kind::Later),
        VERSION if is_initial_size && !has_whole_head(datagram) => Err(QuicDrop::Malformed),
        VERSION if is_initial_size => Ok(Kind::Initial),
        VERSION => Err(QuicDrop::ShortInitial),
        // Smaller datagrams get no answer (RFC 9000, section 5.2.2).
        _ if is_initial_size => Ok(Kind::OtherVersion),
        _ => Err(QuicDrop::Version),
    }
}

/// True if the head of an Initial packet, and the packet by its length, end within the datagram (RFC 9000, section 17.2.2).
fn has_whole_head(datagram: &[u8]) -> bool {
    let read = || {
        // Behind the first byte and the version: two connection IDs, the token, and the rest of the packet.
        let mut rest = datagram.get(5..)?;
        for _ in 0..2 {
            let (len, behind) = rest.split_first()?;
            rest = behind.get(usize::from(*len)..)?;
        }
        for _ in 0..2 {
            let len = VarInt::decode(&mut rest).ok()?.into_inner();
            rest = rest.get(usize::try_from(len).ok()?..)?;
        }
        Some(())
    };
    read().is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(head: &[u8], len: usize) -> Vec<u8> {
        let mut datagram = head.to_vec();
        datagram.resize(len, 0);
        datagram
    }

    #[test]
    fn datagrams_are_told_apart_by_their_first_bytes() {
        let initial = [0xc3, 0, 0, 0, 1, 8];
        for (head, len, wanted) in [
            (&initial[..], 1200, Ok(Kind::Initial)),
            (&initial, 1199, Err(QuicDrop::ShortInitial)),
            (&initial, 5, Err(QuicDrop::Malformed)),
            (&[0xc3, 0, 0, 0, 1, 21], 1200, Err(QuicDrop::Malformed)),
            // A handshake packet, and one with a short header.
            (&[0xe0, 0, 0, 0, 1, 8], 60, Ok(Kind::Later)),
            (&[0x40], 21, Ok(Kind::Later)),
            (&[0x40], 20, Err(QuicDrop::Malformed)),
            (
                &[0xc3, 0x6b, 0x33, 0x43, 0xcf, 8],
                1200,
                Ok(Kind::OtherVersion),
            ),
            (
                &[0xc3, 0x6b, 0x33, 0x43, 0xcf, 8],
                1199,
                Err(QuicDrop::Version),
            ),
            (&[0xc3, 0, 0, 0, 0, 8], 1200, Err(QuicDrop::Malformed)),
            (&[], 0, Err(QuicDrop::Malformed)),
            (b"GET / HTTP/1.1\r\n", 18, Err(QuicDrop::Malformed)),
        ] {
            assert_eq!(kind(&datagram(head, len)), wanted, "{head:?}, {len}");
        }
    }

    #[test]
    fn a_first_packet_that_is_longer_than_its_datagram_is_malformed() {
        // A connection ID of 8 bytes and an empty one, then the lengths of the token and of the packet.
        for (lengths, wanted) in [
            (&[0x00, 0x44, 0x9e][..], Ok(Kind::Initial)),
            (&[0x00, 0x44, 0x9f], Err(QuicDrop::Malformed)),
            (&[0x44, 0x9e], Ok(Kind::Initial)),
            (&[0x44, 0x9f], Err(QuicDrop::Malformed)),
            (&[0xbf, 0xff, 0xff, 0xff], Err(QuicDrop::Malformed)),
        ] {
            let head = [&[0xc3, 0, 0, 0, 1, 8][..], &[0; 9], lengths].concat();
            assert_eq!(kind(&datagram(&head, 1200)), wanted, "{lengths:?}");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let _ = kind(&bytes);
        }
    }
}
