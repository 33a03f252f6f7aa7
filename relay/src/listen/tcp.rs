//! Raw TCP frontends: `[u16 big endian: length][tunnel id]`, then the target's bytes.

use bytes::{Bytes, BytesMut};
use tieline_wire::TunnelId;
use tieline_wire::limits::TUNNEL_ID_BYTES_MAX;

use crate::io::{Received, Socket};

/// Bytes of the length.
const LENGTH_BYTES: usize = 2;

/// Most that is read along with the preamble; the rest waits in the kernel.
const READ_BYTES_MAX: usize = 4096;

/// Reads the preamble; `None` if it is garbage or the caller went away. What was read behind it
/// comes along.
pub(crate) async fn preamble(socket: &Socket) -> Option<(TunnelId, Bytes)> {
    let mut read = BytesMut::new();
    loop {
        socket.readable().await;
        match socket.recv(&mut read, READ_BYTES_MAX).ok()? {
            Received::Bytes(_) => {}
            Received::Nothing => continue,
            Received::End => return None,
        }
        match parse(&read) {
            Parsed::Short => {}
            Parsed::Garbage => return None,
            Parsed::Tunnel(tunnel, len) => {
                // Copied: the rest of the memory would live as long as the session.
                return Some((tunnel, Bytes::copy_from_slice(&read[len..])));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// More bytes are needed.
    Short,
    Garbage,
    /// The name, and the length of the whole preamble.
    Tunnel(TunnelId, usize),
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Parsed::Short;
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > TUNNEL_ID_BYTES_MAX {
        return Parsed::Garbage;
    }
    let Some(name) = rest.get(..length) else {
        return Parsed::Short;
    };
    match std::str::from_utf8(name)
        .ok()
        .and_then(|name| TunnelId::parse(name).ok())
    {
        Some(tunnel) => Parsed::Tunnel(tunnel, LENGTH_BYTES + length),
        None => Parsed::Garbage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_read_to_the_byte() {
        assert_eq!(parse(b""), Parsed::Short);
        assert_eq!(parse(b"\0"), Parsed::Short);
        assert_eq!(parse(b"\0\x04may"), Parsed::Short);
        let maya = TunnelId::parse("maya").unwrap();
        assert_eq!(parse(b"\0\x04mayaGET /"), Parsed::Tunnel(maya, 6));
    }

    #[test]
    fn garbage_is_told_from_its_first_bytes() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::Garbage);
        assert_eq!(parse(b"\0\0"), Parsed::Garbage);
        assert_eq!(parse(b"\0\x40"), Parsed::Garbage);
        assert_eq!(parse(b"\0\x02a b"), Parsed::Garbage);
        assert_eq!(parse(b"\0\x02\xff\xff"), Parsed::Garbage);
    }
}
