//! Event streams (WHATWG HTML, "Server-sent events"): where one event ends and the next may begin,
//! and the first event of servers of MCP's older transport, which names a second URL.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

/// A line that says nothing, and keeps whatever lies between from taking the stream for dead.
pub(super) const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Longest first event that is looked at, in bytes: a URL and its name.
const OPENING_BYTES_MAX: usize = 8 * 1024;

/// Bytes at the end of a piece that decide whether an event ends with it: two line ends.
const BORDER_BYTES: usize = 4;

/// True if an answer is an event stream that can be read on its way, so not a compressed one.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = media_type.and_then(|it| it.split(|b| *b == b';').next());
    let is_plain = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    essence.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")) && is_plain
}

/// How lines begin that do not decide what the first event is, or not before they end.
const UNDECIDED: [&[u8]; 4] = [b"event:", b"retry:", b":", b"\r"];

/// Whether what has passed of a stream ends with an event's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Border {
    is_reached: bool,
    is_line_empty: bool,
    after_return: bool,
}

impl Default for Border {
    /// In front of the first event.
    fn default() -> Self {
        Self {
            is_reached: true,
            is_line_empty: true,
            after_return: false,
        }
    }
}

impl Border {
    pub(super) fn pass(&mut self, piece: &[u8]) {
        let start = piece.len().saturating_sub(BORDER_BYTES);
        if start > 0 {
            // Whatever was before: two line ends are no longer than what is left.
            (self.is_line_empty, self.after_return) = (false, false);
        }
        for byte in &piece[start..] {
            match byte {
                b'\n' if self.after_return => self.after_return = false,
                b'\n' | b'\r' => {
                    self.is_reached = self.is_line_empty;
                    self.is_line_empty = true;
                    self.after_return = *byte == b'\r';
                }
                _ => {
                    (self.is_reached, self.is_line_empty) = (false, false);
                    self.after_return = false;
                }
            }
        }
    }

    pub(super) fn is_reached(self) -> bool {
        self.is_reached
    }
}

/// Looks for an `endpoint` event at a stream's beginning (MCP 2024-11-05, "HTTP with SSE"), and
/// holds back no more than that event.
#[derive(Debug, Default)]
pub(super) struct Opening {
    held: BytesMut,
    is_over: bool,
}

/// A line of a stream, and how many bytes it takes with its end.
struct Line<'a> {
    text: &'a [u8],
    len: usize,
}

/// What a field at a stream's beginning means for what follows.
enum First {
    /// Nothing: a comment, an empty line, or a field of no weight.
    Pass,
    /// An event that names an endpoint.
    Endpoint,
    /// Another event.
    Other,
}

impl Opening {
    /// Takes a piece, and gives what may go on. `map` gets an endpoint's URL, and says what to put
    /// in its place; `None` if it can stay.
    pub(super) fn pass(&mut self, piece: Bytes, map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Bytes {
        if self.is_over {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        let mut passed = 0;
        while let Some(line) = line(&self.held[passed..]) {
            match first(line.text) {
                First::Pass => passed += line.len,
                First::Other => return self.end(),
                First::Endpoint => {
                    let event = &self.held[passed..];
                    if let Some(mapped) = mapped_event(event, map) {
                        let head = self.held.split_to(passed);
                        self.is_over = true;
                        self.held.clear();
                        return [&head[..], &mapped].concat().into();
                    }
                    return self.hold(passed);
                }
            }
        }
        let partial = &self.held[passed..];
        let is_open = UNDECIDED
            .iter()
            .any(|start| start.starts_with(partial) || partial.starts_with(start));
        if is_open {
            self.hold(passed)
        } else {
            self.end()
        }
    }

    /// True if there are bytes that it has not let go.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was held back when the stream ended.
    pub(super) fn rest(&mut self) -> Bytes {
        self.end()
    }

    fn hold(&mut self, passed: usize) -> Bytes {
        if self.held.len() - passed > OPENING_BYTES_MAX {
            return self.end();
        }
        self.held.split_to(passed).freeze()
    }

    fn end(&mut self) -> Bytes {
        self.is_over = true;
        self.held.split().freeze()
    }
}

fn first(line: &[u8]) -> First {
    if line.is_empty() || line.starts_with(b":") || line.starts_with(b"retry:") {
        return First::Pass;
    }
    match field(line, b"event") {
        Some(b"endpoint") => First::Endpoint,
        _ => First::Other,
    }
}

/// The value of a field, if the line is one of that name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// The first line, if it is complete. A return at the very end may be half of a line's end.
fn line(bytes: &[u8]) -> Option<Line<'_>> {
    let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n'))?;
    let len = match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => end + 2,
        (b'\r', None) => return None,
        _ => end + 1,
    };
    Some(Line {
        text: &bytes[..end],
        len,
    })
}

/// An event with its URL mapped, and what was read behind it; `None` if it is not complete.
fn mapped_event(bytes: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut rest = bytes;
    loop {
        // The empty line that ends the event may be a lone return: what comes next does not matter.
        let it = line(rest).or_else(|| {
            let is_end = rest == b"\r";
            is_end.then_some(Line { text: b"", len: 1 })
        })?;
        let (whole, behind) = rest.split_at(it.len);
        match field(it.text, b"data").and_then(&map) {
            Some(mapped) => {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(&mapped);
                out.extend_from_slice(&whole[it.text.len()..]);
            }
            None => out.extend_from_slice(whole),
        }
        rest = behind;
        if it.text.is_empty() {
            out.extend_from_slice(rest);
            return Some(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn is_stream(lines: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        is_event_stream(&headers)
    }

    #[test]
    fn event_streams_are_known_in_any_spelling() {
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            " text/event-stream ;x",
        ] {
            assert!(is_stream(&[("content-type", kind)]), "{kind}");
        }
        assert!(!is_stream(&[("content-type", "text/event-streams")]));
        assert!(!is_stream(&[]));
        let kind = ("content-type", "text/event-stream");
        assert!(!is_stream(&[kind, ("content-encoding", "gzip")]));
        assert!(is_stream(&[kind, ("content-encoding", "identity")]));
    }

    fn at_border(pieces: &[&str]) -> bool {
        let mut border = Border::default();
        for piece in pieces {
            border.pass(piece.as_bytes());
        }
        border.is_reached()
    }

    #[test]
    fn an_event_ends_with_an_empty_line_in_any_style() {
        assert!(at_border(&[]));
        for pieces in [
            &["data: x\n\n"][..],
            &["data: x\r\n\r\n"],
            &["data: x\r\r"],
            &["data: x\n\r\n"],
            &["data: x\n", "\n"],
            &["data: x\r\n", "\r\n"],
            &["data: x\r", "\n\r", "\n"],
            &["\n"],
            &[": comment\n\n"],
        ] {
            assert!(at_border(pieces), "{pieces:?}");
        }
        for pieces in [
            &["data: x"][..],
            &["data: x\n"],
            &["data: x\r\n"],
            &["data: x\r", "\n"],
            &["data: x\n\ndata: y\n"],
            &["data: x\n\n", "e"],
        ] {
            assert!(!at_border(pieces), "{pieces:?}");
        }
    }

    fn map(url: &[u8]) -> Option<Vec<u8>> {
        url.starts_with(b"/").then(|| [b"/w/maya", url].concat())
    }

    /// What comes out of `pieces`, each by itself, and then the rest.
    fn passed(pieces: &[&str]) -> Vec<String> {
        let mut opening = Opening::default();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let mut out: Vec<_> = pieces
            .iter()
            .map(|piece| text(opening.pass(Bytes::copy_from_slice(piece.as_bytes()), map)))
            .collect();
        out.push(text(opening.rest()));
        out
    }

    #[test]
    fn an_endpoint_is_mapped_wherever_its_event_is_cut() {
        for (given, expected) in [
            (
                "event: endpoint\ndata: /messages/?session_id=1\n\ndata: /x\n\n",
                "event: endpoint\ndata: /w/maya/messages/?session_id=1\n\ndata: /x\n\n",
            ),
            (
                ": hello\r\n\r\nevent: endpoint\r\ndata:/m?s=1\r\n\r\n",
                ": hello\r\n\r\nevent: endpoint\r\ndata: /w/maya/m?s=1\r\n\r\n",
            ),
            (
                "retry: 5\revent:endpoint\rdata: /m\r\r",
                "retry: 5\revent:endpoint\rdata: /w/maya/m\r\r",
            ),
            (
                "event: endpoint\ndata: http://elsewhere/m\n\n",
                "event: endpoint\ndata: http://elsewhere/m\n\n",
            ),
        ] {
            assert_eq!(passed(&[given]).concat(), expected);
            for cut in 0..given.len() {
                let pieces = given.split_at(cut);
                let out = passed(&[pieces.0, pieces.1]).concat();
                assert_eq!(out, expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn only_the_first_event_can_name_an_endpoint() {
        let later = "data: {}\n\nevent: endpoint\ndata: /m\n\n";
        assert_eq!(passed(&[later]), [later, ""]);
    }

    #[test]
    fn what_is_no_endpoint_is_not_held_back() {
        for piece in [
            "event: message\n",
            "data: {\"jsonrpc\"",
            "id: 7\n",
            "d",
            "evil",
            "event: endpoints\n",
            ": ping\n\n",
        ] {
            assert_eq!(passed(&[piece])[0], piece);
        }
        assert_eq!(passed(&[": pi"]), ["", ": pi"]);
    }

    #[test]
    fn a_first_event_without_end_is_let_go() {
        let long = format!("event: endpoint\ndata: /{}", "x".repeat(OPENING_BYTES_MAX));
        assert_eq!(passed(&[&long]), [long.as_str(), ""]);
    }

    proptest! {
        #[test]
        fn without_an_endpoint_nothing_is_changed(
            text in "[a-z:\r\n ]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..4)
        ) {
            let mut opening = Opening::default();
            let mut out = Vec::new();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut start = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                let piece = Bytes::copy_from_slice(&text.as_bytes()[start..cut]);
                out.extend_from_slice(&opening.pass(piece, |_| None));
                start = cut;
            }
            out.extend_from_slice(&opening.rest());
            prop_assert_eq!(String::from_utf8(out).unwrap(), text);
        }

        #[test]
        fn cutting_a_stream_moves_no_border(text in "[x\r\n]{0,20}", cut in 0_usize..20) {
            let (front, back) = text.split_at(cut.min(text.len()));
            let mut byte_by_byte = Border::default();
            for byte in text.as_bytes() {
                byte_by_byte.pass(&[*byte]);
            }
            prop_assert_eq!(at_border(&[front, back]), byte_by_byte.is_reached());
        }
    }
}
