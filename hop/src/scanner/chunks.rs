//! A chunked body with its trailers, scanned in the same states as hyper's decoder. hyper refuses every
//! deviation itself, except a bare line feed in the trailers.

use memchr::memchr2;

use super::{BARE_LINE_FEED, Step, skip};

/// State of the scan of one chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Bytes left of the chunk; while its size is being read, the size so far.
    left: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a chunk's size.
    Start,
    Size,
    /// In the blanks after a chunk's size.
    Blanks,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the start of a trailer, or of the empty line that ends the trailers.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self {
            left: 0,
            place: Place::Start,
        }
    }

    pub(super) fn pass(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.place {
                Place::Data => match skip(&mut self.left, &bytes[at..]) {
                    Step::Ended(count) => {
                        self.place = Place::DataReturn;
                        at += count;
                        continue;
                    }
                    inside => return inside,
                },
                Place::Extension | Place::Trailer => match memchr2(b'\r', b'\n', &bytes[at..]) {
                    Some(0) => {}
                    Some(count) => {
                        at += count;
                        continue;
                    }
                    None => return Step::Inside,
                },
                _ => {}
            }
            self.place = match (self.place, byte) {
                (Place::Start | Place::Size, _) if byte.is_ascii_hexdigit() => {
                    match self.with_digit(byte) {
                        Some(size) => self.left = size,
                        None => return Step::Broken(at),
                    }
                    Place::Size
                }
                (Place::Size | Place::Blanks, b' ' | b'\t') => Place::Blanks,
                (Place::Size | Place::Blanks, b';') => Place::Extension,
                (Place::Size | Place::Blanks | Place::Extension, b'\r') => Place::SizeEnd,
                (Place::SizeEnd, b'\n') if self.left == 0 => Place::Line,
                (Place::SizeEnd, b'\n') => Place::Data,
                (Place::DataReturn, b'\r') => Place::DataEnd,
                (Place::DataEnd, b'\n') => Place::Start,
                (Place::Line, b'\r') => Place::LastEnd,
                (Place::LastEnd, b'\n') => return Step::Ended(at + 1),
                (Place::Trailer, b'\r') => Place::TrailerEnd,
                (Place::TrailerEnd, b'\n') => Place::Line,
                (Place::Line | Place::Trailer, b'\n') => return Step::Doubtful(at, BARE_LINE_FEED),
                (Place::Line, _) => Place::Trailer,
                _ => return Step::Broken(at),
            };
            at += 1;
        }
        Step::Inside
    }

    /// The size with one more digit; `None` if it does not fit in 64 bits.
    fn with_digit(&self, digit: u8) -> Option<u64> {
        let value = char::from(digit).to_digit(16)?;
        self.left.checked_mul(16)?.checked_add(value.into())
    }
}
