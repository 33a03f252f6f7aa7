//! Event streams on their way through a hop: decompressed, with the URLs in `endpoint` events mapped.

use std::io::{self, Write};

use bytes::{Buf, Bytes};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderValue, Method};

use crate::answer::EventStream;
use crate::endpoints::Endpoints;
use crate::headers::{media_type, without_parameters};

/// Media type of an event stream.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Most input decoded at a time, in bytes. The decoder yields at most 72 KiB for it: its output buffer and its
/// window, 32 KiB each, and 8 KiB from the 64 bits that it has read ahead.
const INPUT_BYTES_MAX: usize = 512;

/// The reason why an event stream cannot be read.
const UNKNOWN_CODING: &str = "its event stream has a Content-Encoding that cannot be decoded; have the \
                              server send event streams uncompressed, or with gzip";

/// True if an answer's media type is `text/event-stream`.
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    media_type(headers).eq_ignore_ascii_case(EVENT_STREAM)
}

/// Asks the next hop for an uncompressed event stream if the caller asks for an event stream: not
/// every compressed one can be mapped. Leaves other requests as they are.
pub fn ask_for_plain(method: &Method, headers: &mut HeaderMap) {
    let is_events = |it: &[u8]| without_parameters(it).eq_ignore_ascii_case(EVENT_STREAM);
    let accepts = |value: &HeaderValue| value.as_bytes().split(|b| *b == b',').any(is_events);
    if *method == Method::GET && headers.get_all(ACCEPT).iter().any(accepts) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Compression of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// No compression.
    Plain,
    /// The gzip format (RFC 1952).
    Gzip,
    /// The zlib format (RFC 1950), which HTTP calls `deflate`.
    Deflate,
}

impl Coding {
    /// Reads an answer's head; `None` for an unknown coding, and for several.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let codings = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
        let mut codings = codings
            .map(|coding| coding.trim_ascii().to_ascii_lowercase())
            .filter(|coding| !coding.is_empty() && coding != b"identity");
        let coding = match codings.next().as_deref() {
            None => Self::Plain,
            Some(b"gzip" | b"x-gzip") => Self::Gzip,
            Some(b"deflate") => Self::Deflate,
            Some(_) => return None,
        };
        codings.next().is_none().then_some(coding)
    }
}

/// The endpoint that an event stream may name.
pub trait Endpoint: 'static {
    /// The caller's form of the endpoint's URL; `None` if the URL stays.
    fn for_caller(&self, url: &[u8]) -> Option<Vec<u8>>;
}

/// One event stream between the next hop and the caller.
pub struct Events<E> {
    endpoints: Endpoints,
    decoder: Option<Decoder>,
    /// Bytes that were pushed and are not decoded yet.
    input: Bytes,
    endpoint: E,
}

impl<E> Events<E> {
    /// Adapts an answer's head to its decoded and mapped body.
    ///
    /// # Errors
    /// The coding of the body is unknown: URLs of endpoints in it could not be mapped.
    pub fn begin(headers: &mut HeaderMap, endpoint: E) -> Result<Self, &'static str> {
        let decoder = Decoder::new(Coding::of(headers).ok_or(UNKNOWN_CODING)?);
        if decoder.is_some() {
            headers.remove(CONTENT_ENCODING);
            // An ETag identifies the coded bytes (RFC 9110, section 8.8.3).
            headers.remove(ETAG);
        }
        headers.remove(CONTENT_LENGTH);
        Ok(Self {
            endpoints: Endpoints::default(),
            decoder,
            input: Bytes::new(),
            endpoint,
        })
    }

    /// True if a comment may be inserted between events: no part of a byte order mark is held back,
    /// which has to come before everything else.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.endpoints.has_begun()
    }
}

impl<E: Endpoint> EventStream for Events<E> {
    fn push(&mut self, piece: Bytes) {
        self.input = piece;
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let map = |url: &[u8]| self.endpoint.for_caller(url);
        while !self.input.is_empty() {
            let out = match &mut self.decoder {
                None => self.endpoints.pass(&std::mem::take(&mut self.input), map),
                Some(decoder) => {
                    let plain = decoder.decode(&mut self.input)?;
                    self.endpoints.pass(&plain, map)
                }
            };
            if !out.is_empty() {
                return Ok(Some(out));
            }
        }
        Ok(None)
    }

    fn rest(&mut self) -> Bytes {
        self.endpoints.rest()
    }

    fn is_holding(&self) -> bool {
        self.endpoints.is_holding() || !self.input.is_empty()
    }
}

/// Decodes a stream piece by piece. The output of one step is bounded, so a small piece that grows
/// a thousandfold costs only its own caller time.
enum Decoder {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Decoder {
    fn new(coding: Coding) -> Option<Self> {
        match coding {
            Coding::Plain => None,
            Coding::Gzip => Some(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            Coding::Deflate => Some(Self::Deflate(Box::new(ZlibDecoder::new(Vec::new())))),
        }
    }

    /// Decodes the first bytes of `input`.
    fn decode(&mut self, input: &mut Bytes) -> io::Result<Vec<u8>> {
        let piece = &input[..input.len().min(INPUT_BYTES_MAX)];
        let (taken, out) = match self {
            Self::Gzip(it) => {
                let taken = it.write(piece)?;
                it.flush()?;
                (taken, it.get_mut())
            }
            Self::Deflate(it) => {
                let taken = it.write(piece)?;
                it.flush()?;
                (taken, it.get_mut())
            }
        };
        if taken == 0 {
            // Bytes behind the end of the compressed data are dropped.
            input.clear();
        }
        input.advance(taken);
        Ok(std::mem::take(out))
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn event_streams_are_known_in_any_spelling() {
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            " text/event-stream ;x",
        ] {
            assert!(
                is_event_stream(&headers(&[("content-type", kind)])),
                "{kind}"
            );
        }
        assert!(!is_event_stream(&headers(&[(
            "content-type",
            "text/event-streams"
        )])));
        assert!(!is_event_stream(&headers(&[])));
    }

    #[test]
    fn codings_are_known_in_any_spelling() {
        let of = |values: &[&'static str]| {
            let lines: Vec<_> = values.iter().map(|it| ("content-encoding", *it)).collect();
            Coding::of(&headers(&lines))
        };
        assert_eq!(of(&[]), Some(Coding::Plain));
        assert_eq!(of(&["", "identity"]), Some(Coding::Plain));
        assert_eq!(of(&["GZIP"]), Some(Coding::Gzip));
        assert_eq!(of(&["identity, x-gzip"]), Some(Coding::Gzip));
        assert_eq!(of(&["deflate"]), Some(Coding::Deflate));
        assert_eq!(of(&["br"]), None);
        assert_eq!(of(&["gzip", "gzip"]), None);
        assert_eq!(of(&["gzip, br"]), None);
    }

    #[test]
    fn only_who_asks_for_a_stream_asks_for_a_plain_one() {
        let asked = |method: Method, accept: &'static str| {
            let mut headers = headers(&[("accept", accept), ("accept-encoding", "gzip, br")]);
            ask_for_plain(&method, &mut headers);
            headers[ACCEPT_ENCODING] == "identity"
        };
        assert!(asked(Method::GET, "text/event-stream"));
        assert!(asked(
            Method::GET,
            "application/json, Text/Event-Stream;q=0.9"
        ));
        assert!(!asked(Method::GET, "*/*"));
        assert!(!asked(Method::POST, "application/json, text/event-stream"));
    }

    /// Most output of one step of the decoder, in bytes; see [`INPUT_BYTES_MAX`].
    const STEP_BYTES_MAX: usize = 72 * 1024;

    /// The endpoint of a tunnel that callers know by a prefix.
    struct Prefixed;

    impl Endpoint for Prefixed {
        fn for_caller(&self, url: &[u8]) -> Option<Vec<u8>> {
            Some([b"/w/maya", url].concat())
        }
    }

    /// Output for a stream that is coded by `coding` and comes in `pieces`.
    fn passed(coding: &'static str, pieces: &[&[u8]]) -> io::Result<String> {
        let mut headers = headers(&[("content-encoding", coding), ("content-length", "9")]);
        let mut events = Events::begin(&mut headers, Prefixed).unwrap();
        assert!(headers.is_empty());
        let mut out = Vec::new();
        for piece in pieces {
            events.push(Bytes::copy_from_slice(piece));
            while let Some(bytes) = events.next()? {
                assert!(bytes.len() <= STEP_BYTES_MAX, "{}", bytes.len());
                out.extend_from_slice(&bytes);
            }
        }
        assert!(!events.is_holding());
        Ok(String::from_utf8(out).unwrap())
    }

    const STREAM: &str = "id: 7\nevent: endpoint\ndata: /m?s=1\n\n";
    const MAPPED: &str = "id: 7\nevent: endpoint\ndata: /w/maya/m?s=1\n\n";

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_compressed_stream_is_mapped_at_every_cut() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(STREAM.as_bytes()).unwrap();
        for (coding, coded) in [("gzip", gzip(STREAM)), ("deflate", zlib.finish().unwrap())] {
            for cut in 0..coded.len() {
                let (front, back) = coded.split_at(cut);
                assert_eq!(passed(coding, &[front, back]).unwrap(), MAPPED, "{cut}");
            }
            let bytes: Vec<_> = coded.chunks(1).collect();
            assert_eq!(passed(coding, &bytes).unwrap(), MAPPED);
        }
    }

    #[test]
    fn an_event_that_was_flushed_leaves_before_the_stream_ends() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(STREAM.as_bytes()).unwrap();
        encoder.flush().unwrap();
        assert_eq!(passed("gzip", &[encoder.get_ref()]).unwrap(), MAPPED);
    }

    #[test]
    fn what_grows_a_thousandfold_comes_in_small_pieces() {
        let long = "data: ".to_owned() + &"x".repeat(8_000_000) + "\n\n";
        assert_eq!(passed("gzip", &[&gzip(&long)]).unwrap(), long);
    }

    #[test]
    fn what_is_not_coded_as_it_says_breaks_off() {
        assert!(passed("gzip", &[STREAM.as_bytes()]).is_err());
    }
}
