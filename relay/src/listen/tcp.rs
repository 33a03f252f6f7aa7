//! Raw frontends, over TCP or a stream of QUIC: `[u16 big endian: length][tunnel id]`, then the target's bytes. A newline
//! and a token may follow the tunnel id; the length covers all three.

use bytes::{Buf, BytesMut};
use tieline_wire::TunnelId;
use tieline_wire::limits::{TOKEN_BYTES_MAX, TUNNEL_ID_BYTES_MAX};

use crate::io::Received;
use crate::splice::Frontend;

/// Size of the length field.
const LENGTH_BYTES: usize = 2;

/// Longest tunnel id and token, with the newline between them.
const PREAMBLE_BYTES_MAX: usize = TUNNEL_ID_BYTES_MAX + 1 + TOKEN_BYTES_MAX;

/// Most bytes of one read of the preamble; the rest stays in the kernel, or in QUIC.
const READ_BYTES_MAX: usize = 4096;

/// First message of a raw caller.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Preamble {
    /// Tunnel that the caller asks for.
    pub(crate) tunnel: TunnelId,
    /// The tunnel's name as the caller wrote it, which may have capitals.
    pub(crate) name: String,
    /// The caller's token, if it sent one.
    pub(crate) token: Option<String>,
}

/// Reads the preamble, and puts back what was read behind it; `None` if the preamble is malformed or the caller closed
/// the connection.
pub(crate) async fn preamble(stream: &impl Frontend) -> Option<Preamble> {
    let mut read = BytesMut::new();
    loop {
        stream.readable().await;
        match stream.recv(&mut read, READ_BYTES_MAX).ok()? {
            Received::Bytes(_) => {}
            Received::Nothing => continue,
            Received::End => return None,
        }
        match parse(&read) {
            Parsed::Short => {}
            Parsed::Garbage => return None,
            Parsed::Whole {
                tunnel,
                name,
                token,
                len,
            } => {
                let preamble = Preamble {
                    tunnel,
                    name: name.to_owned(),
                    token: token.map(str::to_owned),
                };
                read.advance(len);
                stream.put_back(read.freeze());
                return Some(preamble);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    /// More bytes are needed.
    Short,
    Garbage,
    /// A complete preamble; `len` is its total length.
    Whole {
        tunnel: TunnelId,
        name: &'a str,
        token: Option<&'a str>,
        len: usize,
    },
}

fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Parsed::Short;
    };
    let length = usize::from(u16::from_be_bytes(*length));
    let mut preamble = rest.iter().take(length);
    let newline = preamble.position(|byte| *byte == b'\n');
    let name_len = newline.unwrap_or(rest.len().min(length));
    if length == 0 || length > PREAMBLE_BYTES_MAX || name_len > TUNNEL_ID_BYTES_MAX {
        return Parsed::Garbage;
    }
    // Checked before the whole token has arrived, so that an invalid name is refused at once.
    let is_text = rest[..name_len]
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if !is_text {
        return Parsed::Garbage;
    }
    let Some(preamble) = rest.get(..length) else {
        return Parsed::Short;
    };
    let Ok(preamble) = str::from_utf8(preamble) else {
        return Parsed::Garbage;
    };
    let (name, token) = match preamble.split_once('\n') {
        Some((name, token)) => (name, Some(token.trim())),
        None => (preamble, None),
    };
    match TunnelId::parse(name) {
        Ok(tunnel) => Parsed::Whole {
            tunnel,
            name,
            token,
            len: LENGTH_BYTES + length,
        },
        Err(_) => Parsed::Garbage,
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
        let whole = |token, len| Parsed::Whole {
            tunnel: maya.clone(),
            name: "maya",
            token,
            len,
        };
        assert_eq!(parse(b"\0\x04mayaGET /"), whole(None, 6));
        assert_eq!(parse(b"\0\x08maya\nabcGET /"), whole(Some("abc"), 10));
        assert_eq!(parse(b"\0\x06maya\r\n"), Parsed::Garbage);
        assert_eq!(parse(b"\0\x05maya\n"), whole(Some(""), 7));
    }

    #[test]
    fn a_token_may_be_long_and_has_an_end() {
        let preamble = |token: usize| {
            let length = u16::try_from(5 + token).unwrap().to_be_bytes();
            [&length[..], b"maya\n", &vec![b'x'; token]].concat()
        };
        let whole = preamble(TOKEN_BYTES_MAX);
        assert!(
            matches!(parse(&whole), Parsed::Whole { token: Some(token), .. } if token.len() == TOKEN_BYTES_MAX)
        );
        assert_eq!(parse(&whole[..whole.len() - 1]), Parsed::Short);
        let longest = PREAMBLE_BYTES_MAX - 5;
        assert!(matches!(parse(&preamble(longest)), Parsed::Whole { .. }));
        assert_eq!(parse(&preamble(longest + 1)), Parsed::Garbage);
    }

    #[test]
    fn garbage_is_told_from_its_first_bytes() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::Garbage);
        assert_eq!(parse(b"\0\0"), Parsed::Garbage);
        assert_eq!(
            parse(&[&b"\0\x40"[..], &[b'a'; 64]].concat()),
            Parsed::Garbage
        );
        assert_eq!(parse(b"\0\x02a b"), Parsed::Garbage);
        assert_eq!(parse(b"\0\x02\xff\xff"), Parsed::Garbage);
    }
}
