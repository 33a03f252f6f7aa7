//! A chunked body, with its trailers, in the steps in which hyper decodes it. hyper refuses all
//! that is out of step here, but for a bare line feed in the trailers.

use memchr::memchr2;

use super::{BARE_LINE_FEED, Step, skip};

/// A chunked body, up to a byte in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Of the chunk: its size as far as that is read, and then what is left of it.
    left: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In front of a size.
    Start,
    Size,
    /// Behind a size, in blanks.
    Blanks,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the start of a trailer, or of the empty line behind them.
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

    /// The size with one more digit; `None` if it is beyond all sizes.
    fn with_digit(&self, digit: u8) -> Option<u64> {
        let value = char::from(digit).to_digit(16)?;
        self.left.checked_mul(16)?.checked_add(value.into())
    }
}
