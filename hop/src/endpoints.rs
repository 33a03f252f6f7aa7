//! Event streams (WHATWG HTML, "Server-sent events") on their way through a hop: the URL in an
//! `endpoint` event of MCP's older transport (2024-11-05, "HTTP with SSE") is mapped, all other
//! bytes pass unchanged.
//!
//! Long because each legal order of an event's lines is a test case at the end of this file.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr2;

/// Longest event that is searched, in bytes: a URL, with fields and comments beside it.
const EVENT_BYTES_MAX: usize = 8 * 1024;

/// Optional start of a stream, which belongs to no line.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Finds `endpoint` events anywhere in a stream, however the stream is cut.
///
/// A client acts on an event only once the event is complete, so holding an event back until then
/// causes no delay. Comments in front of an event are never held back, and neither are events longer
/// than [`EVENT_BYTES_MAX`].
#[derive(Default)]
pub(crate) struct Endpoints {
    /// Bytes of the current event, from its beginning.
    held_back: BytesMut,
    /// Index in `held_back` where the incomplete line begins.
    line: usize,
    /// The last `event` field of the current event is `endpoint`.
    is_endpoint: bool,
    /// The last byte was a carriage return: a line feed after it belongs to the same line end.
    after_return: bool,
    at: At,
}

/// Position of a reader in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the first byte that is not part of a byte order mark.
    #[default]
    Start,
    /// In an event, or before one.
    Event,
    /// In a comment before an event; comments pass at once.
    Comment,
    /// In an event that is too long to be searched; `is_line_empty`: the event ends if a line end
    /// comes next.
    Long { is_line_empty: bool },
}

impl Endpoints {
    /// Takes a piece and returns the bytes that may go on. `map` gets an endpoint's URL and returns its
    /// replacement, or `None` if the URL stays.
    pub(crate) fn pass(&mut self, piece: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Bytes {
        let mut out = BytesMut::new();
        let mut rest = piece;
        if self.at == At::Start {
            self.begin(&mut rest, &mut out);
        }
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                // It belongs to the same line end as the carriage return.
                if self.held_back.is_empty() {
                    out.extend_from_slice(b"\n");
                } else {
                    self.held_back.extend_from_slice(b"\n");
                    self.line += 1;
                }
                rest.advance(1);
                continue;
            }
            match self.at {
                At::Start => break,
                At::Event => self.event(&mut rest, &mut out, &map),
                At::Comment => self.comment(&mut rest, &mut out),
                At::Long { is_line_empty } => self.long(&mut rest, &mut out, is_line_empty),
            }
        }
        out.freeze()
    }

    /// True if bytes are held back.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// True unless a part of a byte order mark is held back.
    pub(crate) fn has_begun(&self) -> bool {
        self.at != At::Start || self.held_back.is_empty()
    }

    /// Bytes that were held back when the stream ended. Their event is incomplete: no client acts on it.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.line = 0;
        std::mem::take(&mut self.held_back).freeze()
    }

    /// Passes a byte order mark in front of the first line.
    fn begin(&mut self, rest: &mut &[u8], out: &mut BytesMut) {
        while let (Some(byte), Some(wanted)) =
            (rest.first(), BYTE_ORDER_MARK.get(self.held_back.len()))
        {
            if byte != wanted {
                break;
            }
            self.held_back.extend_from_slice(&[*byte]);
            rest.advance(1);
        }
        if self.held_back.len() == BYTE_ORDER_MARK.len() {
            out.extend_from_slice(&std::mem::take(&mut self.held_back));
        } else if rest.is_empty() {
            return;
        }
        self.at = At::Event;
    }

    /// Reads a line of an event, or the part of the line that has come.
    fn event(
        &mut self,
        rest: &mut &[u8],
        out: &mut BytesMut,
        map: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) {
        if self.held_back.is_empty() && rest[0] == b':' {
            self.at = At::Comment;
            return;
        }
        let (piece, is_whole) = self.line_in(rest);
        self.held_back.extend_from_slice(piece);
        if !is_whole {
            if self.held_back.len() > EVENT_BYTES_MAX {
                self.let_go(out, self.line == self.held_back.len());
            }
            return;
        }
        let line = &self.held_back[self.line..self.held_back.len() - 1];
        if line.is_empty() {
            let is_endpoint = std::mem::take(&mut self.is_endpoint);
            let mapped = is_endpoint.then(|| mapped(&self.held_back, map)).flatten();
            out.extend_from_slice(mapped.as_deref().unwrap_or(&self.held_back));
            self.held_back = BytesMut::new();
            self.line = 0;
            return;
        }
        if let Some(kind) = field(line, b"event") {
            self.is_endpoint = kind == b"endpoint";
        }
        self.line = self.held_back.len();
        if self.held_back.len() > EVENT_BYTES_MAX {
            self.let_go(out, true);
        }
    }

    /// Stops searching an event that is too long, and lets its held bytes go.
    fn let_go(&mut self, out: &mut BytesMut, is_line_empty: bool) {
        out.extend_from_slice(&self.rest());
        self.is_endpoint = false;
        self.at = At::Long { is_line_empty };
    }

    fn comment(&mut self, rest: &mut &[u8], out: &mut BytesMut) {
        let (piece, is_whole) = self.line_in(rest);
        out.extend_from_slice(piece);
        if is_whole {
            self.at = At::Event;
        }
    }

    fn long(&mut self, rest: &mut &[u8], out: &mut BytesMut, is_line_empty: bool) {
        let (piece, is_whole) = self.line_in(rest);
        out.extend_from_slice(piece);
        self.at = match is_whole && is_line_empty && piece.len() == 1 {
            true => At::Event,
            false => At::Long {
                is_line_empty: is_whole,
            },
        };
    }

    /// Takes a line up to its first line end, or the part of it that has come; true if its end has come.
    fn line_in<'a>(&mut self, rest: &mut &'a [u8]) -> (&'a [u8], bool) {
        let end = memchr2(b'\r', b'\n', rest);
        let (line, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        self.after_return = end.is_some() && line.ends_with(b"\r");
        *rest = behind;
        (line, end.is_some())
    }
}

/// The field's value, if `line` is a field of this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// A complete event with its URL mapped; `None` if the event stays as it is.
fn mapped(event: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    // A URL in several `data` lines is one URL: URL parsers drop line ends (WHATWG URL, "basic URL
    // parser").
    let data = lines(event).filter_map(|(line, _)| field(line, b"data"));
    let url = data.collect::<Vec<_>>().concat();
    let mapped = map(url.trim_ascii())?;
    let mut mapped = Some(mapped);
    let mut out = Vec::with_capacity(event.len() + 64);
    for (line, end) in lines(event) {
        match field(line, b"data") {
            Some(_) => {
                if let Some(mapped) = mapped.take() {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(&mapped);
                    out.extend_from_slice(end);
                }
            }
            None => {
                out.extend_from_slice(line);
                out.extend_from_slice(end);
            }
        }
    }
    Some(out)
}

/// Lines of a complete event, each with its line end.
fn lines(event: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = event;
    std::iter::from_fn(move || {
        let end = memchr2(b'\r', b'\n', rest)?;
        let is_pair = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
        let (whole, behind) = rest.split_at(end + 1 + usize::from(is_pair));
        rest = behind;
        Some(whole.split_at(end))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(url: &[u8]) -> Option<Vec<u8>> {
        url.starts_with(b"/").then(|| [b"/w/maya", url].concat())
    }

    /// Output for each of `pieces`, followed by the rest.
    fn passed(pieces: &[&[u8]]) -> Vec<String> {
        let mut endpoints = Endpoints::default();
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        let mut out: Vec<_> = pieces
            .iter()
            .map(|piece| text(endpoints.pass(piece, map)))
            .collect();
        out.push(text(endpoints.rest()));
        out
    }

    fn whole(text: &str) -> String {
        passed(&[text.as_bytes()]).concat()
    }

    #[test]
    fn an_endpoint_is_mapped_in_every_legal_order_and_at_every_cut() {
        for (given, expected) in [
            (
                "event: endpoint\ndata: /m?s=1\n\ndata: /x\n\n",
                "event: endpoint\ndata: /w/maya/m?s=1\n\ndata: /x\n\n",
            ),
            (
                "id: 7\nevent: endpoint\ndata: /m\n\n",
                "id: 7\nevent: endpoint\ndata: /w/maya/m\n\n",
            ),
            (
                "data: /m\nevent: endpoint\n\n",
                "data: /w/maya/m\nevent: endpoint\n\n",
            ),
            (
                "event: ping\ndata: 1\n\nevent: endpoint\ndata: /m\n\n",
                "event: ping\ndata: 1\n\nevent: endpoint\ndata: /w/maya/m\n\n",
            ),
            (
                "\u{FEFF}event: endpoint\ndata: /m\n\n",
                "\u{FEFF}event: endpoint\ndata: /w/maya/m\n\n",
            ),
            (
                ": hello\r\n\r\nevent: endpoint\r\ndata:/m?s=1\r\n\r\n",
                ": hello\r\n\r\nevent: endpoint\r\ndata: /w/maya/m?s=1\r\n\r\n",
            ),
            (
                ":\nevent:endpoint\n: between\ndata:/m\nretry: 5\n\n",
                ":\nevent:endpoint\n: between\ndata: /w/maya/m\nretry: 5\n\n",
            ),
            (
                "retry: 5\revent:endpoint\rdata: /m\r\rdata: 1\r\r",
                "retry: 5\revent:endpoint\rdata: /w/maya/m\r\rdata: 1\r\r",
            ),
            (
                "event: endpoint\ndata: /m\r\ndata: ?s=1\ndata\n\n",
                "event: endpoint\ndata: /w/maya/m?s=1\r\n\n",
            ),
            (
                "event: message\nevent: endpoint\ndata: /m\n\n",
                "event: message\nevent: endpoint\ndata: /w/maya/m\n\n",
            ),
            (
                "event: endpoint\ndata: /a\n\nevent: endpoint\ndata: /b\n\n",
                "event: endpoint\ndata: /w/maya/a\n\nevent: endpoint\ndata: /w/maya/b\n\n",
            ),
        ] {
            assert_eq!(whole(given), expected);
            let given = given.as_bytes();
            for cut in 0..given.len() {
                let (front, back) = given.split_at(cut);
                assert_eq!(passed(&[front, back]).concat(), expected, "cut at {cut}");
            }
            let bytes: Vec<_> = given.chunks(1).collect();
            assert_eq!(passed(&bytes).concat(), expected);
        }
    }

    #[test]
    fn what_names_no_endpoint_stays() {
        for text in [
            "event: endpoint\ndata: http://elsewhere/m\n\n",
            "event: endpoints\ndata: /m\n\n",
            "Event: endpoint\ndata: /m\n\n",
            " event: endpoint\ndata: /m\n\n",
            "event: endpoint\nevent: message\ndata: /m\n\n",
            "event: endpoint\nevent\ndata: /m\n\n",
            "event: endpoint\n\ndata: /m\n\n",
            "\n\u{FEFF}event: endpoint\ndata: /m\n\n",
            "event: endpoint\nxdata: /m\n\n",
            "event: endpoint\ndata: /m\n",
        ] {
            assert_eq!(whole(text), text, "{text:?}");
        }
    }

    #[test]
    fn an_event_leaves_with_its_last_byte_and_a_comment_at_once() {
        let mut endpoints = Endpoints::default();
        let mut pass = |piece: &str| endpoints.pass(piece.as_bytes(), map);
        assert_eq!(pass("event: endpoint\rdata: /m\r"), "");
        assert_eq!(pass("\r"), "event: endpoint\rdata: /w/maya/m\r\r");
        assert_eq!(pass("\n: pi"), "\n: pi");
        assert_eq!(pass("ng"), "ng");
        assert_eq!(pass("\ndata: 1\n"), "\n");
        assert_eq!(pass("\ndata"), "data: 1\n\n");
        assert!(endpoints.is_holding());
    }

    #[test]
    fn a_long_event_is_let_go_and_the_next_one_is_read() {
        let long = format!("data: {}", "x".repeat(EVENT_BYTES_MAX));
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let endpoint = format!("event: endpoint{end}data: /m\n\n");
            let same = format!("{long}\nevent: endpoint\ndata: /m\n\n");
            assert_eq!(whole(&same), same);
            assert_eq!(whole(&endpoint), endpoint);
            let next = "event: endpoint\ndata: /m\n\n";
            let mapped = "event: endpoint\ndata: /w/maya/m\n\n";
            assert_eq!(
                whole(&[&long, end, next].concat()),
                [&long, end, mapped].concat()
            );
        }
        let mut endpoints = Endpoints::default();
        assert_eq!(endpoints.pass(long.as_bytes(), map), long);
        assert!(!endpoints.is_holding());
        let many = "id: 1\n".repeat(EVENT_BYTES_MAX);
        let mut endpoints = Endpoints::default();
        assert_eq!(endpoints.pass(many.as_bytes(), map), many);
        assert_eq!(
            endpoints
                .pass(b"\nevent: endpoint\ndata: /m\n\n", map)
                .len(),
            34
        );
    }

    proptest! {
        #[test]
        fn without_an_endpoint_nothing_is_changed_and_cuts_make_no_difference(
            text in "(event: endpoint\n|data: /m\r|[a-z:\r\n ]{0,20}){0,6}",
            cuts in proptest::collection::vec(0_usize..90, 0..4),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(passed(&pieces).concat(), whole(&text));
            let mut endpoints = Endpoints::default();
            let mut same = Vec::new();
            for piece in pieces {
                same.extend_from_slice(&endpoints.pass(piece, |_| None));
            }
            same.extend_from_slice(&endpoints.rest());
            prop_assert_eq!(same, bytes);
        }
    }
}
