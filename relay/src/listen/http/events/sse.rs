//! Event streams (WHATWG HTML, "Server-sent events"): where an event ends, so that a comment may follow.

use bytes::Bytes;

/// An empty comment, so that proxies in front of the relay do not close a quiet stream.
pub(super) const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Last bytes of a piece that decide whether an event ends there: two line ends.
const BORDER_BYTES: usize = 4;

/// Whether the stream's bytes so far end with a complete event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Border {
    is_reached: bool,
    is_line_empty: bool,
    after_return: bool,
}

impl Default for Border {
    /// Before the first event.
    fn default() -> Self {
        Self {
            is_reached: true,
            is_line_empty: true,
            after_return: false,
        }
    }
}

impl Border {
    pub(crate) fn pass(&mut self, piece: &[u8]) {
        let start = piece.len().saturating_sub(BORDER_BYTES);
        if start > 0 {
            // `BORDER_BYTES` can hold two line ends, so earlier bytes do not matter.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    proptest! {
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
