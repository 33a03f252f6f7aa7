//! PROXY protocol, version 2: the header in which a proxy in front of the relay gives the caller's
//! address.

use std::net::SocketAddr;

use bytes::BytesMut;
use proxy_header::{Error, ParseConfig, ProxyHeader};

use crate::io::{Received, Stream};

/// Size of the fixed part: signature, version, family and length.
const FIXED_BYTES: usize = 16;

/// Most bytes behind the fixed part: addresses take at most 216, the rest is for the balancer's extension fields.
const BODY_BYTES_MAX: usize = 2048;

/// First bytes of a header of version 2, and of later ones.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// First bytes of a header of version 1.
const VERSION_1: &[u8] = b"PROXY ";

/// Version 1 is refused: it is text of unknown length, so its end would have to be searched byte by byte.
const CONFIG: ParseConfig = ParseConfig {
    include_tlvs: false,
    allow_v1: false,
    allow_v2: true,
};

/// Source of a connection, of a caller or an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The connection's own peer: no header came in front.
    Peer(SocketAddr),
    /// The address in the header of a trusted proxy.
    Announced(SocketAddr),
    /// The address of a trusted proxy whose header names none: the proxy checks the relay's health, or its caller has
    /// no IP address. The header says nothing of who wrote the bytes behind it.
    Hidden(SocketAddr),
}

impl Source {
    /// Address that limits and the audit log use.
    pub(crate) const fn address(self) -> SocketAddr {
        match self {
            Self::Peer(address) | Self::Announced(address) | Self::Hidden(address) => address,
        }
    }

    /// Whether a proxy's header came in front.
    pub(crate) const fn is_proxied(self) -> bool {
        !matches!(self, Self::Peer(_))
    }

    /// Whether the connection was opened on this machine. A proxy's header never proves that: a loopback address in it
    /// belongs to the proxy's machine, and the address of a proxy on this machine is not its caller's.
    pub(crate) fn is_this_machine(self) -> bool {
        !self.is_proxied() && self.address().ip().to_canonical().is_loopback()
    }
}

/// Why a proxied connection has no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSource {
    /// The connection ended before the header was whole: a balancer may only look whether the relay listens.
    Ended,
    /// The connection begins with a header of version 1.
    Version1,
    /// The connection begins with other bytes.
    NoHeader,
    /// The header has more than [`BODY_BYTES_MAX`] behind its fixed part.
    TooLong,
    /// The header's version, command, address family or length is wrong.
    Malformed,
}

impl NoSource {
    /// What the proxy sent, and what to change there, for the log.
    pub(crate) const fn texts(self) -> (&'static str, &'static str) {
        let other = "proxy_protocol demands one of version 2 (HAProxy: send-proxy-v2)";
        match self {
            Self::Ended => ("no whole PROXY protocol header", other),
            Self::Version1 => ("a PROXY protocol header of version 1", other),
            Self::NoHeader => ("no PROXY protocol header", other),
            Self::TooLong => (
                "a PROXY protocol header with more than 2048 bytes behind its first 16",
                "let it send fewer extension fields (TLVs)",
            ),
            Self::Malformed => (
                "a PROXY protocol header that is not understood",
                "its version, command, address family or length is not one of version 2",
            ),
        }
    }
}

/// Reads exactly the header that `proxy` sends.
///
/// # Errors
/// There is no header of version 2.
pub(crate) async fn source(stream: &Stream, proxy: SocketAddr) -> Result<Source, NoSource> {
    let mut read = BytesMut::new();
    let mut wanted = FIXED_BYTES;
    loop {
        stream.readable().await;
        let missing = wanted - read.len();
        match stream.recv(&mut read, missing) {
            Ok(Received::Bytes(_)) => {}
            Ok(Received::Nothing) => continue,
            Ok(Received::End) | Err(_) => return Err(NoSource::Ended),
        }
        if read.len() < wanted {
            continue;
        }
        match parse(&read)? {
            Parsed::Whole(address) => {
                return Ok(address.map_or(Source::Hidden(proxy), Source::Announced));
            }
            Parsed::Of(length) => wanted = length,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// The source's address, if the header names one.
    Whole(Option<SocketAddr>),
    /// More bytes are needed; the header has this length.
    Of(usize),
}

/// Parses the fixed part alone or the whole header.
fn parse(bytes: &[u8]) -> Result<Parsed, NoSource> {
    match ProxyHeader::parse(bytes, CONFIG) {
        Ok((header, _)) => {
            let source = header.proxied_address().map(|it| it.source);
            Ok(Parsed::Whole(source))
        }
        Err(Error::BufferTooShort) => match body_length(bytes) {
            Some(body) if body > BODY_BYTES_MAX => Err(NoSource::TooLong),
            Some(body) if FIXED_BYTES + body > bytes.len() => Ok(Parsed::Of(FIXED_BYTES + body)),
            _ => Err(NoSource::Malformed),
        },
        Err(_) if bytes.starts_with(VERSION_1) => Err(NoSource::Version1),
        Err(_) if bytes.starts_with(SIGNATURE) => Err(NoSource::Malformed),
        Err(_) => Err(NoSource::NoHeader),
    }
}

/// Number of bytes behind the fixed part, which `bytes` begins with.
fn body_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(FIXED_BYTES - 2..)?.first_chunk()?;
    Some(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    /// Parses a header in two steps: the fixed part, then all of it.
    fn read(header: &[u8]) -> Result<Option<SocketAddr>, NoSource> {
        match parse(&header[..FIXED_BYTES])? {
            Parsed::Whole(address) => Ok(address),
            Parsed::Of(length) => match parse(&header[..length])? {
                Parsed::Whole(address) => Ok(address),
                Parsed::Of(_) => Err(NoSource::Malformed),
            },
        }
    }

    #[test]
    fn a_proxy_says_whom_it_connects() {
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 0, 80];
        let address = Some("192.0.2.7:40000".parse().unwrap());
        assert_eq!(read(&header(0x21, 0x11, &four)), Ok(address));
        let more = [&four[..], &[4, 0, 1, 0]].concat();
        assert_eq!(read(&header(0x21, 0x11, &more)), Ok(address));
        let mut six = [0; 36];
        (six[15], six[33]) = (1, 9);
        let address = Some("[::1]:9".parse().unwrap());
        assert_eq!(read(&header(0x21, 0x21, &six)), Ok(address));
    }

    #[test]
    fn a_header_of_the_proxy_itself_or_of_a_caller_without_an_ip_address_names_none() {
        assert_eq!(read(&header(0x20, 0, &[])), Ok(None));
        assert_eq!(read(&header(0x20, 0x11, &[0; 12])), Ok(None));
        assert_eq!(read(&header(0x21, 0, &[])), Ok(None));
        assert_eq!(read(&header(0x21, 0x31, &[0; 216])), Ok(None));
    }

    #[test]
    fn what_a_proxy_announces_is_never_this_machine() {
        for (ip, is_local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.1", false),
            ("::ffff:10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            let address = SocketAddr::new(ip.parse().unwrap(), 40_000);
            assert_eq!(Source::Peer(address).is_this_machine(), is_local, "{ip}");
            for source in [Source::Announced(address), Source::Hidden(address)] {
                assert!(!source.is_this_machine(), "{source:?}");
                assert_eq!(source.address(), address);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_first_bytes() {
        for (bad, why) in [
            (b"GET /w/maya/mcp HTTP/1.1\r\n".to_vec(), NoSource::NoHeader),
            // Another version, command or family, or a length too small for its addresses.
            (header(0x31, 0x11, &[0; 12]), NoSource::Malformed),
            (header(0x22, 0x11, &[0; 12]), NoSource::Malformed),
            (header(0x21, 0x41, &[0; 12]), NoSource::Malformed),
            (header(0x21, 0x11, &[0; 4]), NoSource::Malformed),
            (header(0x21, 0x11, &[0; 2049]), NoSource::TooLong),
        ] {
            assert_eq!(read(&bad), Err(why), "{bad:?}");
        }
        assert!(read(&header(0x21, 0x11, &[0; 2048])).is_ok());
        for first in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"[..],
            b"PROXY UNKNOWN\r\n\x16\x03\x01",
        ] {
            assert_eq!(read(first), Err(NoSource::Version1));
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
            let _ = parse(&[SIGNATURE, &bytes].concat());
        }
    }
}
