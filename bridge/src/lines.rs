//! The lines of a byte stream, in any pieces in which it comes.

use bytes::{Buf, Bytes};
use memchr::memchr;
use thiserror::Error;

use crate::message::MESSAGE_BYTES_MAX;

/// Longest line, in bytes: that of a message.
pub const LINE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Least memory by which the begin of a line grows, in bytes, so that single bytes do not move it each time.
const GROWTH_BYTES_MIN: usize = 1024;

/// A line's memory grows by this part of its length: it is at most a tenth too large, and bytes move ten times on
/// average until a line is complete, less where an allocation grows in its place.
const GROWTH_DIVISOR: usize = 10;

/// The mark of UTF-8 that some programs write at the start of a stream.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Splits a stream into lines that end with LF or CR LF. Empty lines are dropped.
///
/// A line that comes in one piece shares its memory.
#[derive(Debug, Default)]
pub struct Lines {
    /// What was pushed last and is not split yet.
    input: Bytes,
    /// The begin of a line whose end has not come.
    line: Vec<u8>,
    /// The begin of the current line was too long and is gone.
    is_skipping: bool,
    /// The first line has ended, so that a byte order mark is text.
    has_begun: bool,
}

impl Lines {
    /// A stream of which nothing has come.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream; call [`Self::next_line`] until `None` before the next bytes.
    pub fn push(&mut self, bytes: Bytes) {
        self.input = match self.input.is_empty() {
            true => bytes,
            false => [&self.input[..], &bytes[..]].concat().into(),
        };
    }

    /// The next line, without its end. A line that is too long is reported once and skipped.
    ///
    /// # Errors
    /// [`LineError::TooLong`] in place of a line longer than [`LINE_BYTES_MAX`]; the lines after it follow.
    pub fn next_line(&mut self) -> Option<Result<Bytes, LineError>> {
        while !self.input.is_empty() {
            let end = memchr(b'\n', &self.input);
            let piece = self.input.split_to(end.unwrap_or(self.input.len()));
            if end.is_some() {
                self.input.advance(1);
            }
            let is_too_long = self.line.len() + piece.len() > LINE_BYTES_MAX;
            let is_skipped = self.is_skipping;
            self.is_skipping = end.is_none() && (is_skipped || is_too_long);
            if is_skipped {
                continue;
            }
            if is_too_long {
                self.line = Vec::new();
                self.has_begun = true;
                return Some(Err(LineError::TooLong));
            }
            if end.is_none() {
                self.extend(&piece);
                continue;
            }
            let line = match self.line.is_empty() {
                true => piece,
                false => {
                    self.extend(&piece);
                    Bytes::from(std::mem::take(&mut self.line))
                }
            };
            if let Some(line) = self.trimmed(line) {
                return Some(Ok(line));
            }
        }
        // An empty rest would keep the memory of the piece.
        self.input = Bytes::new();
        None
    }

    /// The last line of a stream that has ended without LF, once [`Self::next_line`] has returned `None`.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.is_skipping = false;
        let line = Bytes::from(std::mem::take(&mut self.line));
        self.trimmed(line)
    }

    fn extend(&mut self, piece: &[u8]) {
        let line = &mut self.line;
        if line.capacity() - line.len() < piece.len() {
            let growth = (line.len() / GROWTH_DIVISOR).max(GROWTH_BYTES_MIN);
            line.reserve_exact(growth.max(piece.len()));
        }
        line.extend_from_slice(piece);
    }

    /// The line without what does not belong to it; `None` if nothing is left.
    fn trimmed(&mut self, mut line: Bytes) -> Option<Bytes> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first && line.starts_with(BYTE_ORDER_MARK) {
            line.advance(BYTE_ORDER_MARK.len());
        }
        if line.ends_with(b"\r") {
            line.truncate(line.len() - 1);
        }
        (!line.is_empty()).then_some(line)
    }
}

/// Why a line of a stream is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    /// The line was longer than [`LINE_BYTES_MAX`].
    #[error("a line is longer than 64 MiB")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines of a stream in `pieces`; `None` for one that was too long.
    fn split<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Option<Bytes>> {
        let (mut lines, mut found) = (Lines::new(), Vec::new());
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next_line() {
                found.push(line.ok());
            }
        }
        found.extend(lines.finish().map(Some));
        found
    }

    fn texts(lines: &[Option<Bytes>]) -> Vec<&[u8]> {
        lines.iter().flatten().map(|line| &line[..]).collect()
    }

    #[test]
    fn lines_end_with_lf_or_cr_lf() {
        let lines = split([b"a\nb\r\n\n\r\nc\rd\r\r\n e \n".as_slice()]);
        let expected: [&[u8]; 4] = [b"a", b"b", b"c\rd\r", b" e "];
        assert_eq!(texts(&lines), expected);
    }

    #[test]
    fn a_half_line_waits_for_its_end() {
        let mut lines = Lines::new();
        lines.push(Bytes::from_static(b"a"));
        assert_eq!(lines.next_line(), None);
        lines.push(Bytes::from_static(b"b\nc"));
        assert_eq!(lines.next_line(), Some(Ok(Bytes::from_static(b"ab"))));
        assert_eq!(lines.next_line(), None);
        assert_eq!(lines.finish(), Some(Bytes::from_static(b"c")));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_line_in_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"first\nsecond\n");
        let mut lines = Lines::new();
        lines.push(piece.clone());
        let line = lines.next_line().unwrap().unwrap();
        assert_eq!(line.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn only_the_start_of_the_stream_has_a_byte_order_mark() {
        let text = "\u{feff}a\n\u{feff}b\n".as_bytes();
        let expected: [&[u8]; 2] = [b"a", "\u{feff}b".as_bytes()];
        assert_eq!(texts(&split([text])), expected);
        assert_eq!(texts(&split(text.chunks(1))), expected);
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_once_and_skipped() {
        let (longest, half) = (
            vec![b'x'; LINE_BYTES_MAX],
            vec![b'y'; LINE_BYTES_MAX / 2 + 1],
        );
        let pieces: [&[u8]; 8] = [
            b"a\n", &half, &half, &half, b"\nb\n", &longest, b"\nc", b"\n",
        ];
        let lines = split(pieces);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[1], None);
        assert_eq!(lines[2].as_deref(), Some(b"b".as_slice()));
        assert_eq!(lines[3].as_ref().map(Bytes::len), Some(LINE_BYTES_MAX));
        assert_eq!(lines[4].as_deref(), Some(b"c".as_slice()));
        // Its end is in the piece that makes it too long.
        let lines = split([longest.as_slice(), b"x\nd\n"]);
        assert_eq!(lines, [None, Some(Bytes::from_static(b"d"))]);
    }

    #[test]
    fn memory_grows_with_the_line() {
        let mut lines = Lines::new();
        let piece = Bytes::from(vec![b'x'; 10_000]);
        for _ in 0..500 {
            lines.push(piece.clone());
            assert_eq!(lines.next_line(), None);
            let (len, capacity) = (lines.line.len(), lines.line.capacity());
            assert!(capacity <= len + len / 9 + 10_000, "{capacity} for {len}");
        }
        lines.push(Bytes::from_static(b"\n"));
        assert_eq!(lines.next_line().unwrap().unwrap().len(), 5_000_000);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_in_any_pieces(
            text in "[a\u{feff}\r\n]{0,40}",
            cuts in prop::collection::vec(0_usize..120, 0..8),
        ) {
            let text = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
            let lines = split(pieces);
            prop_assert_eq!(&lines, &split([text]));
            let plain = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
            let expected: Vec<_> = plain
                .split(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.is_empty())
                .collect();
            prop_assert_eq!(texts(&lines), expected);
        }

        #[test]
        fn pieces_may_be_pushed_ahead(pieces in prop::collection::vec("[ab\n]{0,9}", 0..9)) {
            let mut lines = Lines::new();
            for piece in &pieces {
                lines.push(Bytes::from(piece.clone()));
            }
            let mut found = Vec::new();
            while let Some(line) = lines.next_line() {
                found.push(line.ok());
            }
            found.extend(lines.finish().map(Some));
            prop_assert_eq!(found, split(pieces.iter().map(|piece| piece.as_bytes())));
        }
    }
}
