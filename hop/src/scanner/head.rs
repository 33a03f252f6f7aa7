//! A request's head: what its first line asks for, its lines, and the two of them that frame a body.

use memchr::memchr;

use super::{BARE_LINE_FEED, Step};
use crate::escape::is_escaped;

/// The rule of lengths.
const NO_LENGTH: &str = "its Content-Length is not a number";

/// A head, up to a byte in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// There was more than empty lines.
    is_begun: bool,
    framing: Framing,
    line: Line,
    target_bytes: usize,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Where in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    /// Behind a return at the start.
    Empty,
    /// In the method of a request line.
    Method,
    /// In what a request line asks for.
    Target,
    /// So many bytes are those of this field's name.
    Name(Field, usize),
    Length(Digits),
    /// Anywhere else; what it says is hyper's alone to judge.
    Rest {
        after_return: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
}

impl Field {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Length => b"content-length",
            Self::Coding => b"transfer-encoding",
        }
    }
}

/// Where in a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Before,
    Among,
    Behind,
}

impl Head {
    pub(super) const fn new() -> Self {
        Self {
            is_begun: false,
            framing: Framing::None,
            line: Line::Start,
            target_bytes: 0,
        }
    }

    /// What follows a whole head, if hyper takes it: of a coding it takes none but `chunked`, and
    /// none at all in HTTP/1.0.
    pub(super) const fn framing(&self) -> Framing {
        self.framing
    }

    /// Bytes of what the first line asks for, and of the method in front of it, as far as they came.
    pub(super) const fn target_bytes(&self) -> usize {
        self.target_bytes
    }

    pub(super) fn pass(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Line::Rest { after_return } = self.line {
                let Some(length) = memchr(b'\n', &bytes[at..]) else {
                    let after_return = bytes.ends_with(b"\r");
                    self.line = Line::Rest { after_return };
                    return Step::Inside;
                };
                let before = bytes[at..at + length].last();
                if !before.map_or(after_return, |byte| *byte == b'\r') {
                    return Step::Doubtful(at + length, BARE_LINE_FEED);
                }
                self.line = Line::Start;
                at += length + 1;
                continue;
            }
            if matches!(self.line, Line::Method | Line::Target) {
                let plain = bytes[at..].iter().take_while(|byte| is_plain(**byte));
                let count = plain.count();
                if count > 0 {
                    self.target_bytes += count;
                    at += count;
                    continue;
                }
            }
            if self.line == Line::Target && is_escaped(byte) {
                return Step::Escaped(at);
            }
            match self.next(byte) {
                Next::Line(line) => {
                    self.target_bytes += usize::from(matches!(line, Line::Method | Line::Target));
                    self.line = line;
                    at += 1;
                }
                Next::Rest => {
                    let after_return = false;
                    self.line = Line::Rest { after_return };
                }
                Next::Ended => return Step::Ended(at + 1),
                Next::Doubtful(rule) => return Step::Doubtful(at, rule),
            }
        }
        Step::Inside
    }

    /// Where a byte leads from anywhere but the rest of a line.
    fn next(&mut self, byte: u8) -> Next {
        match self.line {
            Line::Start => self.start(byte),
            Line::Empty if byte != b'\n' => Next::Rest,
            Line::Empty if self.is_begun => Next::Ended,
            Line::Empty => Next::Line(Line::Start),
            Line::Method | Line::Target => match (self.line, byte) {
                (_, b'\r' | b'\n') | (Line::Target, b' ') => Next::Rest,
                (_, b' ') => Next::Line(Line::Target),
                (line, _) => Next::Line(line),
            },
            Line::Name(field, known) => match field.name().get(known) {
                Some(expected) if byte.eq_ignore_ascii_case(expected) => {
                    Next::Line(Line::Name(field, known + 1))
                }
                None if byte == b':' => self.frame(field),
                _ => Next::Rest,
            },
            Line::Length(digits) => self.digit(digits, byte),
            Line::Rest { .. } => Next::Rest,
        }
    }

    fn start(&mut self, byte: u8) -> Next {
        match byte {
            b'\r' => Next::Line(Line::Empty),
            b'\n' => Next::Doubtful(BARE_LINE_FEED),
            // The request line has no name.
            _ if !self.is_begun => {
                self.is_begun = true;
                Next::Line(Line::Method)
            }
            b'c' | b'C' => Next::Line(Line::Name(Field::Length, 1)),
            b't' | b'T' => Next::Line(Line::Name(Field::Coding, 1)),
            _ => Next::Rest,
        }
    }

    /// At the colon behind a name that frames a body.
    fn frame(&mut self, field: Field) -> Next {
        match (field, self.framing) {
            (Field::Length, Framing::None) => {
                self.framing = Framing::Length(0);
                Next::Line(Line::Length(Digits::Before))
            }
            // Two lines make one list; hyper looks for `chunked` at its end.
            (Field::Coding, Framing::None | Framing::Chunked) => {
                self.framing = Framing::Chunked;
                let after_return = false;
                Next::Line(Line::Rest { after_return })
            }
            (Field::Length, Framing::Length(_)) => {
                Next::Doubtful("it has more than one Content-Length")
            }
            _ => Next::Doubtful("it has a Content-Length and a Transfer-Encoding"),
        }
    }

    /// A byte of a length, that is nothing but digits with blanks around them.
    fn digit(&mut self, digits: Digits, byte: u8) -> Next {
        let digits = match (digits, byte) {
            (Digits::Before, b' ' | b'\t') => Digits::Before,
            (Digits::Before | Digits::Among, b'0'..=b'9') => {
                let Framing::Length(length) = self.framing else {
                    return Next::Doubtful(NO_LENGTH);
                };
                let tenfold = length.checked_mul(10);
                let Some(length) = tenfold.and_then(|it| it.checked_add((byte - b'0').into()))
                else {
                    return Next::Doubtful(NO_LENGTH);
                };
                self.framing = Framing::Length(length);
                Digits::Among
            }
            (Digits::Among | Digits::Behind, b' ' | b'\t') => Digits::Behind,
            (Digits::Among | Digits::Behind, b'\r') => {
                let after_return = true;
                return Next::Line(Line::Rest { after_return });
            }
            (_, b'\n') => return Next::Doubtful(BARE_LINE_FEED),
            _ => return Next::Doubtful(NO_LENGTH),
        };
        Next::Line(Line::Length(digits))
    }
}

/// True for a byte inside a method or a URL that says nothing of where either ends.
const fn is_plain(byte: u8) -> bool {
    !is_escaped(byte) && !matches!(byte, b' ' | b'\r' | b'\n')
}

/// Where a byte leads.
enum Next {
    /// It is taken.
    Line(Line),
    /// It is the first one of the rest of its line.
    Rest,
    Ended,
    /// It breaks this rule.
    Doubtful(&'static str),
}
