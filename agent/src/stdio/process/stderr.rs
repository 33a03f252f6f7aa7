//! What a child writes to its standard error: the last part is kept for messages and for `tieline status --logs`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::plain::{Plain, masked};

/// Most bytes that a ring holds besides an unfinished line.
const RING_BYTES_MAX: usize = 64 * 1024;

/// Most bytes kept of one line, so that a child that writes no line ends does not displace all other lines.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Most characters of the line that a message quotes.
const QUOTE_CHARS_MAX: usize = 200;

/// Bytes that one read takes at most: what a pipe of Linux holds.
const READ_BYTES: usize = 64 * 1024;

/// Stands at the end of a line that was longer.
const CUT: &str = "…";

/// The last lines of a child's standard error, which its reader and others share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Ring>>);

impl Log {
    /// The last line that is not blank, made printable and at most 200 characters long.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.ring().last_line()
    }

    /// The lines that are kept, without blank ones, made printable.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.ring().lines()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads `pipe` into `log` to its end, as fast as the child writes: a full pipe would stop the child.
pub(super) async fn listen(mut pipe: impl AsyncRead + Unpin, log: Log) {
    let mut memory = vec![0; READ_BYTES];
    // After an error, no more will come either.
    while let Ok(count @ 1..) = pipe.read(&mut memory).await {
        log.ring().push(&memory[..count]);
    }
}

/// The last 64 KiB of a text, in whole lines.
#[derive(Debug, Default)]
struct Ring {
    /// Lines with their ends, and the beginning of a line that has no end yet.
    bytes: VecDeque<u8>,
    /// Bytes kept of the line that has no end yet.
    unfinished: usize,
    /// True if bytes of that line were dropped.
    is_cut: bool,
}

impl Ring {
    /// Appends bytes, and drops the oldest lines.
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_BYTES_MAX - self.unfinished;
            let (kept, dropped) = text.split_at(room.min(text.len()));
            self.bytes.extend(kept);
            self.unfinished += kept.len();
            self.is_cut |= !dropped.is_empty();
            if text.len() < piece.len() {
                self.finish_line();
            }
            while self.bytes.len() - self.unfinished > RING_BYTES_MAX {
                self.drop_first_line();
            }
        }
    }

    fn finish_line(&mut self) {
        if std::mem::take(&mut self.is_cut) {
            self.bytes.extend(CUT.as_bytes());
        }
        self.bytes.push_back(b'\n');
        self.unfinished = 0;
    }

    fn drop_first_line(&mut self) {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(self.bytes.len(), |end| end + 1);
        self.bytes.drain(..count);
    }

    fn lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let lines = bytes.split(|byte| *byte == b'\n').map(printable);
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn last_line(&self) -> Option<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let mut lines = bytes.rsplit(|byte| *byte == b'\n').map(printable);
        let line = lines.find(|line| !line.is_empty())?;
        let line = line.trim_start();
        Some(match line.char_indices().nth(QUOTE_CHARS_MAX) {
            Some(_) => line.chars().take(QUOTE_CHARS_MAX - 1).collect::<String>() + CUT,
            None => line.to_owned(),
        })
    }
}

/// A line without colours, tokens and hidden characters; empty if the line is blank.
fn printable(line: &[u8]) -> String {
    let text = without_colours(&String::from_utf8_lossy(line));
    Plain(masked(text.trim_end())).to_string()
}

/// Leaves out the sequences that make a terminal colour its text or move its cursor (ECMA-48, control sequences).
fn without_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\x1b[") {
        out.push_str(before);
        let last = sequence.trim_start_matches(|c: char| matches!(c, ' '..='?'));
        let behind = last.strip_prefix(|c: char| matches!(c, '@'..='~'));
        rest = behind.unwrap_or(last);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(pieces: &[&[u8]]) -> Ring {
        let mut ring = Ring::default();
        pieces.iter().for_each(|piece| ring.push(piece));
        ring
    }

    #[test]
    fn lines_come_out_as_they_went_in_whatever_the_pieces() {
        let text = b"first\r\n\n  second\n third";
        let expected = ["first", "  second", " third"];
        assert_eq!(ring(&[text]).lines(), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(ring(&bytes).lines(), expected);
        assert_eq!(ring(&bytes).last_line().as_deref(), Some("third"));
    }

    #[test]
    fn nothing_is_quoted_of_a_silent_child() {
        assert_eq!(ring(&[]).last_line(), None);
        assert_eq!(ring(&[b"\n \n\r\n"]).last_line(), None);
        assert!(ring(&[b"\n\n"]).lines().is_empty());
    }

    #[test]
    fn a_flood_keeps_the_last_whole_lines_and_no_more_memory() {
        let mut ring = Ring::default();
        for number in 0..100_000 {
            ring.push(format!("line {number}\n").as_bytes());
        }
        let lines = ring.lines();
        assert_eq!(lines.last().map(String::as_str), Some("line 99999"));
        assert!(lines.len() > 5_000 && lines[0].starts_with("line "));
        assert!(ring.bytes.len() <= RING_BYTES_MAX);
        // A queue doubles its memory when it grows.
        let most = 2 * (RING_BYTES_MAX + LINE_BYTES_MAX + READ_BYTES);
        assert!(ring.bytes.capacity() <= most, "{}", ring.bytes.capacity());
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_displaces_no_other() {
        let mut ring = ring(&[b"before\n"]);
        for _ in 0..1_000 {
            ring.push(&[b'x'; 1024]);
        }
        assert_eq!(ring.bytes.len(), "before\n".len() + LINE_BYTES_MAX);
        ring.push(b"x\nafter\n");
        let lines = ring.lines();
        assert_eq!(lines.len(), 3);
        assert_eq!((&*lines[0], &*lines[2]), ("before", "after"));
        assert!(lines[1].ends_with("x…"));
    }

    #[test]
    fn a_quoted_line_is_short_and_plain() {
        let long = "ü".repeat(300);
        let quoted = ring(&[long.as_bytes()]).last_line().unwrap();
        assert_eq!(quoted.chars().count(), QUOTE_CHARS_MAX);
        assert!(quoted.ends_with("ü…"));
        let coloured = ring(&[b"\x1b[1;31mError:\x1b[0m no\x07 key \xff\n"]);
        assert_eq!(
            coloured.last_line().as_deref(),
            Some("Error: no\\u{7} key \u{fffd}")
        );
        assert_eq!(without_colours("a\x1b["), "a");
        assert_eq!(without_colours("a\x1b[31ü"), "aü");
    }

    #[tokio::test]
    async fn a_pipe_is_read_to_its_end() {
        let log = Log::default();
        let text: &[u8] = b"one\ntwo";
        listen(text, log.clone()).await;
        assert_eq!(log.lines(), ["one", "two"]);
    }
}
