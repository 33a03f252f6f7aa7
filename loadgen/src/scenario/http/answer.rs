//! Incremental reader of an HTTP/1.1 answer: its head, the bytes of its body, its end.

use httparse::{EMPTY_HEADER, Response, Status};

use crate::exchange::{FIELDS_MAX, HEAD_BYTES_MAX};
use crate::scenario::failure::ConnectionError;

/// Longest accepted chunk-size line, extensions included, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Length and content of a parsed piece, or `Partial` if the input does not contain the whole piece.
type Read<T> = Result<Status<(usize, T)>, ConnectionError>;

/// Position of the reader in an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Position {
    Head,
    /// Bytes left of a body with Content-Length.
    Length(u64),
    ChunkLine,
    /// Bytes left of the current chunk.
    Chunk(u64),
    /// Bytes left of the line end after the chunk.
    ChunkEnd(u64),
    Trailers,
    Over,
}

/// Next thing that the reader found in its input.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Found<'a> {
    /// All input is consumed, or the answer is over.
    Nothing,
    /// Bytes of the body.
    Body(&'a [u8]),
    /// End of the answer.
    End,
}

/// Reader of one answer.
#[derive(Debug)]
pub(super) struct Answer {
    place: Position,
    /// Start of a head or line whose end has not arrived yet.
    held: Vec<u8>,
}

impl Answer {
    /// A reader in front of an answer's first byte.
    pub(super) fn new() -> Self {
        Self {
            place: Position::Head,
            held: Vec::new(),
        }
    }

    /// Whether the end of the answer was found.
    pub(super) fn is_over(&self) -> bool {
        self.place == Position::Over
    }

    /// Consumes the next part of the answer from `input`.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Found<'a>, ConnectionError> {
        loop {
            self.place = match self.place {
                Position::Over => return Ok(Found::Nothing),
                Position::Length(0) => {
                    self.place = Position::Over;
                    return Ok(Found::End);
                }
                _ if input.is_empty() => return Ok(Found::Nothing),
                Position::Length(left) => {
                    let body = take(input, left);
                    self.place = Position::Length(left - body.len() as u64);
                    return Ok(Found::Body(body));
                }
                Position::Chunk(0) => Position::ChunkEnd(2),
                Position::Chunk(left) => {
                    let body = take(input, left);
                    self.place = Position::Chunk(left - body.len() as u64);
                    return Ok(Found::Body(body));
                }
                Position::ChunkEnd(0) => Position::ChunkLine,
                Position::ChunkEnd(left) => {
                    let end = take(input, left);
                    if end != &b"\r\n"[usize::try_from(2 - left).unwrap_or(0)..][..end.len()] {
                        return Err(ConnectionError::NotHttp("a chunk is longer than its size"));
                    }
                    Position::ChunkEnd(left - end.len() as u64)
                }
                Position::Head => match self.piece(input, HEAD_BYTES_MAX, head)? {
                    Some(place) => place,
                    None => return Ok(Found::Nothing),
                },
                Position::ChunkLine => match self.piece(input, CHUNK_LINE_BYTES_MAX, chunk_line)? {
                    Some(0) => Position::Trailers,
                    Some(length) => Position::Chunk(length),
                    None => return Ok(Found::Nothing),
                },
                Position::Trailers => match self.piece(input, HEAD_BYTES_MAX, trailers)? {
                    Some(()) => {
                        self.place = Position::Over;
                        return Ok(Found::End);
                    }
                    None => return Ok(Found::Nothing),
                },
            };
        }
    }

    /// Parses a piece that can only be read as a whole; buffers its start until the rest arrives.
    fn piece<T>(
        &mut self,
        input: &mut &[u8],
        bytes_max: usize,
        read: fn(&[u8]) -> Read<T>,
    ) -> Result<Option<T>, ConnectionError> {
        let before = self.held.len();
        let found = if before == 0 {
            read(input)?
        } else {
            self.held.extend_from_slice(input);
            read(&self.held)?
        };
        let Status::Complete((len, piece)) = found else {
            if before == 0 {
                self.held.extend_from_slice(input);
            }
            *input = &[];
            if self.held.len() > bytes_max {
                return Err(ConnectionError::NotHttp("a head or line is too long"));
            }
            return Ok(None);
        };
        *input = input.get(len - before..).unwrap_or_default();
        self.held.clear();
        Ok(Some(piece))
    }
}

/// Takes up to `most` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let len = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(len);
    *input = rest;
    piece
}

fn head(bytes: &[u8]) -> Read<Position> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    let Status::Complete(len) = response.parse(bytes).map_err(not_http)? else {
        return Ok(Status::Partial);
    };
    let status = response.code.unwrap_or(0);
    if status != 200 {
        return Err(ConnectionError::Status(status));
    }
    let field = |name: &str| {
        let mut fields = response.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let is_chunked = field("transfer-encoding").is_some_and(|value| value.trim() == "chunked");
    let length = field("content-length").and_then(|value| value.trim().parse().ok());
    match (is_chunked, length) {
        (true, None) => Ok(Status::Complete((len, Position::ChunkLine))),
        (false, Some(length)) => Ok(Status::Complete((len, Position::Length(length)))),
        _ => Err(ConnectionError::NotHttp(
            "it needs a length or chunks, and not both",
        )),
    }
}

fn chunk_line(bytes: &[u8]) -> Read<u64> {
    httparse::parse_chunk_size(bytes).map_err(|_| ConnectionError::NotHttp("a chunk has no length"))
}

fn trailers(bytes: &[u8]) -> Read<()> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let found = httparse::parse_headers(bytes, &mut fields).map_err(not_http)?;
    Ok(match found {
        Status::Complete((len, _)) => Status::Complete((len, ())),
        Status::Partial => Status::Partial,
    })
}

fn not_http(_: httparse::Error) -> ConnectionError {
    ConnectionError::NotHttp("its head cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const IN_CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                             2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nvary: x\r\n\r\n";

    /// Reads `text` in pieces and returns the body; asserts that the answer ends with the text.
    fn body(text: &[u8], piece: usize) -> Result<Vec<u8>, ConnectionError> {
        let mut answer = Answer::new();
        let (mut body, mut ends) = (Vec::new(), 0);
        for mut input in text.chunks(piece) {
            loop {
                match answer.next(&mut input)? {
                    Found::Body(bytes) => body.extend_from_slice(bytes),
                    Found::End => ends += 1,
                    Found::Nothing => break,
                }
            }
            assert!(input.is_empty());
        }
        assert!(answer.is_over() && ends == 1);
        Ok(body)
    }

    #[test]
    fn answers_may_come_in_any_pieces() {
        for text in [WITH_LENGTH, IN_CHUNKS] {
            for piece in 1..=text.len() {
                assert_eq!(body(text.as_bytes(), piece).unwrap(), b"hello", "{piece}");
            }
        }
    }

    #[test]
    fn an_empty_body_has_its_end_behind_the_head() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(body(text, text.len()).unwrap(), b"");
    }

    #[test]
    fn what_belongs_to_the_next_answer_is_left() {
        let text = [WITH_LENGTH, "HTTP"].concat();
        let (mut answer, mut input) = (Answer::new(), text.as_bytes());
        while answer.next(&mut input).unwrap() != Found::End {}
        assert_eq!(answer.next(&mut input).unwrap(), Found::Nothing);
        assert_eq!(input, b"HTTP");
    }

    #[test]
    fn other_answers_are_refused() {
        for (text, word) in [
            ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
            ("HTTP/1.1 200 OK\r\n\r\n", "length"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "not both",
            ),
            ("220 smtp\r\n\r\n", "head"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
                "longer",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                "no length",
            ),
        ] {
            let error = body(text.as_bytes(), text.len()).unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        let endless = "HTTP/1.1 200 OK\r\nx: y".repeat(2_000);
        assert!(body(endless.as_bytes(), 1000).is_err());
    }
}
