//! One message as pieces, so that an edit shares the memory of the message that it changes.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// One message as pieces, without the newline that ends it on a byte stream.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// No piece is empty.
    pieces: Vec<Bytes>,
    len: usize,
}

impl Line {
    /// A line without pieces.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pieces: Vec::new(),
            len: 0,
        }
    }

    /// The line with another piece at its end.
    #[must_use]
    pub fn with(mut self, piece: impl Into<Bytes>) -> Self {
        self.push(piece);
        self
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: impl Into<Bytes>) {
        let piece = piece.into();
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Appends the pieces of another line.
    pub(super) fn append(&mut self, other: Self) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if the line has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The pieces, in order.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// The line in one piece; a line of several pieces is copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if let [piece] = &self.pieces[..] {
            return piece.clone();
        }
        let mut joined = BytesMut::with_capacity(self.len);
        for piece in &self.pieces {
            joined.extend_from_slice(piece);
        }
        joined.freeze()
    }

    fn bytes(&self) -> impl Iterator<Item = &u8> {
        self.pieces.iter().flatten()
    }
}

impl From<Bytes> for Line {
    fn from(text: Bytes) -> Self {
        Self::new().with(text)
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Self::new().with(text)
    }
}

impl From<&'static str> for Line {
    fn from(text: &'static str) -> Self {
        Self::new().with(text)
    }
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.bytes().eq(other.bytes())
    }
}

impl Eq for Line {}

impl fmt::Display for Line {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_the_same_text_are_equal_whatever_their_pieces() {
        let line = Line::new()
            .with("{")
            .with(String::from("\"a\""))
            .with(":1}");
        assert_eq!(line, Line::from(r#"{"a":1}"#));
        assert_ne!(line, Line::from(r#"{"a":2}"#));
        assert_ne!(line, Line::from("{"));
        assert_eq!(line.to_string(), r#"{"a":1}"#);
        assert_eq!(line.len(), 7);
    }

    #[test]
    fn a_line_of_one_piece_is_not_copied() {
        let text = Bytes::from(vec![b'x'; 9]);
        let line = Line::new().with("").with(text.clone()).with(Bytes::new());
        assert_eq!(line.pieces().len(), 1);
        assert_eq!(line.to_bytes().as_ptr(), text.as_ptr());
        assert!(Line::new().is_empty());
        assert!(Line::new().to_bytes().is_empty());
    }
}
