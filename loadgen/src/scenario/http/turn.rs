//! One request and its answer, whose bytes are all known in advance.

use std::io::{ErrorKind, IoSlice};

use super::answer::{Answer, Found};
use crate::exchange::{self, RequestKind, TEXT_UP_BYTES};
use crate::pattern::Pattern;
use crate::scenario::failure::ConnectionError;
use crate::scenario::seat::Seat;

/// Parse state of an SSE comment between events: a hop may send comments to keep a stream alive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comment {
    None,
    Line,
    /// After the line feed of the comment; another line feed ends it.
    LineEnd,
}

/// A request and its answer, in progress or complete.
#[derive(Debug)]
pub(super) struct Turn {
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that the socket has taken.
    sent: usize,
    /// Expected body of the answer.
    expected: Vec<u8>,
    /// Offsets in `expected` at which events end; empty for an answer that is not an event stream.
    borders: Vec<usize>,
    /// Bytes of `expected` that have been received.
    checked: usize,
    comment: Comment,
    answer: Answer,
}

impl Turn {
    /// A turn without a request.
    pub(super) fn none() -> Self {
        Self {
            outgoing: Vec::new(),
            sent: 0,
            expected: Vec::new(),
            borders: Vec::new(),
            checked: 0,
            comment: Comment::None,
            answer: Answer::new(),
        }
    }

    /// Starts the next request and computes its expected answer.
    pub(super) fn begin(
        &mut self,
        ask: RequestKind,
        at: (&str, &str),
        (connection, sequence): (u64, u64),
        pattern: &Pattern,
    ) {
        let number = exchange::number(connection, sequence);
        let message = pattern.message(connection, sequence);
        let (up, rest) = message.split_at(TEXT_UP_BYTES);
        // The printable pattern contains only ASCII.
        let text = std::str::from_utf8(up).unwrap_or_default();
        self.outgoing.clear();
        self.sent = 0;
        self.expected.clear();
        self.borders.clear();
        self.checked = 0;
        self.answer = Answer::new();
        exchange::request(ask, at, number, text, &mut self.outgoing);
        match ask {
            RequestKind::Call | RequestKind::Publish => {
                exchange::answer(number, up, rest, &mut self.expected)
            }
            RequestKind::Report => {
                exchange::progress(number, 0, up, &mut self.expected);
                self.borders.push(self.expected.len());
                exchange::result(number, 1, up, rest, &mut self.expected);
                self.borders.push(self.expected.len());
            }
            RequestKind::Stream => self.add_event(connection, pattern),
        }
    }

    /// Adds one more event to the expected body of this stream.
    pub(super) fn add_event(&mut self, connection: u64, pattern: &Pattern) {
        let place = self.borders.len() as u64;
        let number = exchange::number(connection, 0);
        let text = pattern.message(number, place);
        exchange::progress(number, place, text, &mut self.expected);
        self.borders.push(self.expected.len());
    }

    /// Whether no request is in progress.
    pub(super) fn is_over(&self) -> bool {
        self.outgoing.is_empty() || self.answer.is_over()
    }

    /// Complete events received.
    pub(super) fn events(&self) -> usize {
        let is_there = |border: &&usize| **border <= self.checked;
        self.borders.iter().take_while(is_there).count()
    }

    /// Bytes of the expected body that have not been received.
    pub(super) fn missing(&self) -> usize {
        self.expected.len() - self.checked
    }

    /// Sends as much as the socket takes. Returns whether the whole request has been sent.
    pub(super) fn send(&mut self, seat: &mut Seat) -> Result<bool, ConnectionError> {
        while self.sent < self.outgoing.len() {
            let rest = [IoSlice::new(&self.outgoing[self.sent..])];
            match seat.stream.write(&rest) {
                Ok(taken) => self.sent += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(seat.broken(error)),
            }
        }
        Ok(true)
    }

    /// Checks received bytes. `answered` is the number of complete answers, for error messages.
    pub(super) fn check(&mut self, mut input: &[u8], answered: u64) -> Result<(), ConnectionError> {
        if self.is_over() && !input.is_empty() {
            let surplus = input.len();
            return Err(ConnectionError::Surplus { surplus });
        }
        loop {
            match self.answer.next(&mut input)? {
                Found::Body(bytes) => self.compare(bytes, answered)?,
                Found::End if self.missing() > 0 => {
                    let missing = self.missing();
                    return Err(ConnectionError::Closed { answered, missing });
                }
                Found::End => {}
                Found::Nothing if input.is_empty() => return Ok(()),
                Found::Nothing => {
                    let surplus = input.len();
                    return Err(ConnectionError::Surplus { surplus });
                }
            }
        }
    }

    fn compare(&mut self, mut bytes: &[u8], answered: u64) -> Result<(), ConnectionError> {
        while let [first, rest @ ..] = bytes {
            let is_border = self.checked == 0 || self.borders.contains(&self.checked);
            match self.comment {
                Comment::None if !is_border || self.borders.is_empty() || *first != b':' => {}
                Comment::LineEnd if *first == b'\n' => {
                    (self.comment, bytes) = (Comment::None, rest);
                    continue;
                }
                _ => {
                    let is_end = *first == b'\n';
                    self.comment = if is_end {
                        Comment::LineEnd
                    } else {
                        Comment::Line
                    };
                    bytes = rest;
                    continue;
                }
            }
            let mut ahead = self.borders.iter().filter(|end| **end > self.checked);
            let end = ahead.next().copied().unwrap_or(self.expected.len());
            let expected = &self.expected[self.checked..end];
            if expected.is_empty() {
                let surplus = bytes.len();
                return Err(ConnectionError::Surplus { surplus });
            }
            let (piece, rest) = bytes.split_at(expected.len().min(bytes.len()));
            if piece != &expected[..piece.len()] {
                let same = std::iter::zip(piece, expected).take_while(|(a, b)| a == b);
                let offset = self.checked + same.count();
                return Err(ConnectionError::WrongByte { answered, offset });
            }
            self.checked += piece.len();
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::TEXT_BYTES;

    fn asked(ask: RequestKind) -> (Turn, Pattern) {
        let pattern = Pattern::printable(TEXT_BYTES);
        let mut turn = Turn::none();
        assert!(turn.is_over());
        turn.begin(ask, ("host", "/mcp"), (3, 1), &pattern);
        assert!(!turn.is_over());
        (turn, pattern)
    }

    /// An HTTP answer whose body has one chunk per part; parts may be comments.
    fn in_chunks(parts: &[&[u8]], has_end: bool) -> Vec<u8> {
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in parts {
            text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            text.extend_from_slice(part);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(if has_end { b"0\r\n\r\n" } else { b"" });
        text
    }

    #[test]
    fn an_answer_may_come_in_any_pieces_and_with_comments_between_events() {
        let (turn, _) = asked(RequestKind::Report);
        let (first, second) = turn.expected.split_at(turn.borders[0]);
        let text = in_chunks(&[b":\n\n", first, b": still here\n\n", second], true);
        for piece in [1, 2, 7, 100, text.len()] {
            let (mut turn, _) = asked(RequestKind::Report);
            text.chunks(piece)
                .for_each(|bytes| turn.check(bytes, 0).unwrap());
            assert!(turn.is_over() && turn.events() == 2, "{piece}");
        }
    }

    #[test]
    fn the_first_event_counts_before_the_second_has_come() {
        let (turn, _) = asked(RequestKind::Report);
        let first = turn.expected[..turn.borders[0]].to_vec();
        let (mut turn, _) = asked(RequestKind::Report);
        turn.check(&in_chunks(&[&first[..9]], false), 0).unwrap();
        assert_eq!(turn.events(), 0);
        let rest = first.len() - 9;
        let chunk = [format!("{rest:x}\r\n").as_bytes(), &first[9..], b"\r\n"].concat();
        turn.check(&chunk, 0).unwrap();
        assert!(turn.events() == 1 && !turn.is_over());
    }

    #[test]
    fn a_wrong_a_missing_and_a_spare_byte_are_errors() {
        let (turn, _) = asked(RequestKind::Call);
        let body = turn.expected;
        let check = |text: Vec<u8>| asked(RequestKind::Call).0.check(&text, 4).unwrap_err();
        let mut wrong = body.clone();
        wrong[77] ^= 1;
        let error = check(in_chunks(&[&wrong], true));
        let expected = ConnectionError::WrongByte {
            answered: 4,
            offset: 77,
        };
        assert_eq!(error.to_string(), expected.to_string());
        let error = check(in_chunks(&[&body[..body.len() - 1]], true));
        assert!(matches!(error, ConnectionError::Closed { missing: 1, .. }));
        for text in [
            in_chunks(&[&body, b"x"], true),
            [in_chunks(&[&body], true), b"x".to_vec()].concat(),
        ] {
            let error = check(text);
            assert!(matches!(error, ConnectionError::Surplus { surplus: 1 }));
        }
        // A comment is accepted only between events, not in front of a JSON answer.
        let error = check(in_chunks(&[b":\n\n", &body], true));
        assert!(matches!(error, ConnectionError::WrongByte { .. }));
    }

    #[test]
    fn an_event_that_nobody_asked_for_is_surplus_and_one_that_is_due_is_not() {
        let (mut turn, pattern) = asked(RequestKind::Stream);
        let first = turn.expected.clone();
        turn.check(&in_chunks(&[&first], false), 0).unwrap();
        assert_eq!((turn.events(), turn.missing()), (1, 0));
        turn.add_event(3, &pattern);
        let second = turn.expected[first.len()..].to_vec();
        let chunk = |bytes: &[u8]| in_chunks(&[bytes], false).split_off(47);
        turn.check(&chunk(&second), 0).unwrap();
        assert_eq!(turn.events(), 2);
        let error = turn.check(&chunk(&second), 0).unwrap_err();
        assert!(matches!(error, ConnectionError::Surplus { .. }), "{error}");
    }
}
