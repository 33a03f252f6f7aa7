//! A request's head: its method and URL, its lines, the two fields that frame a body, and `Upgrade`.

use memchr::memchr;

use super::{BARE_LINE_FEED, Step};
use crate::escape::is_escaped;
use crate::method::{METHOD_BYTES, is_head};

/// The broken rule: a Content-Length is a number.
const NO_LENGTH: &str = "its Content-Length is not a number";

/// What is kept of a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine {
    pub(super) target_bytes: usize,
    /// First bytes of the line, with zeros behind a shorter one.
    pub(super) start: [u8; METHOD_BYTES],
}

impl RequestLine {
    /// A request line that has not begun.
    pub(super) const EMPTY: Self = Self {
        target_bytes: 0,
        start: [0; METHOD_BYTES],
    };

    /// Bytes of method and URL.
    #[must_use]
    pub const fn target_bytes(&self) -> usize {
        self.target_bytes
    }

    /// Whether the method is HEAD.
    #[must_use]
    pub fn is_head(&self) -> bool {
        is_head(&self.start) == Some(true)
    }

    /// Takes the next bytes of method and URL.
    fn take(&mut self, bytes: &[u8]) {
        let places = self.start.iter_mut().skip(self.target_bytes);
        for (place, byte) in places.zip(bytes) {
            *place = *byte;
        }
        self.target_bytes += bytes.len();
    }
}

/// State of the scan of one head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// A byte of the request line has come; before it there may be empty lines.
    is_begun: bool,
    framing: Framing,
    line: Line,
    request_line: RequestLine,
    /// The head has an `Upgrade`.
    is_upgrade: bool,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Position in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    /// After a carriage return at the start of the line.
    Empty,
    /// In the method of a request line.
    Method,
    /// In the URL of a request line.
    Target,
    /// This many bytes match the start of this field's name.
    Name(Field, usize),
    Length(Digits),
    /// Anywhere else in the line; hyper alone judges its content.
    Rest {
        after_return: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
    Upgrade,
}

impl Field {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Length => b"content-length",
            Self::Coding => b"transfer-encoding",
            Self::Upgrade => b"upgrade",
        }
    }
}

/// Position in the value of a Content-Length.
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
            request_line: RequestLine::EMPTY,
            is_upgrade: false,
        }
    }

    /// Framing of the body after a complete head. Holds if hyper accepts the head: hyper refuses any
    /// transfer coding but `chunked`, and all of them in HTTP/1.0.
    pub(super) const fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether a complete head asks to switch protocols, and no body follows it. Holds if hyper accepts the head.
    pub(super) const fn is_upgrade(&self) -> bool {
        self.is_upgrade && matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// The request line so far.
    pub(super) const fn request_line(&self) -> RequestLine {
        self.request_line
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
                    self.request_line.take(&bytes[at..at + count]);
                    at += count;
                    continue;
                }
            }
            if self.line == Line::Target && is_escaped(byte) {
                return Step::Escaped(at);
            }
            match self.next(byte) {
                Next::Line(line) => {
                    if matches!(line, Line::Method | Line::Target) {
                        self.request_line.take(&[byte]);
                    }
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

    /// Effect of a byte in any position but [`Line::Rest`].
    fn next(&mut self, byte: u8) -> Next {
        match self.line {
            Line::Start => self.start(byte),
            Line::Empty if byte != b'\n' => {
                // hyper refuses a head that begins with a lone carriage return: a later line is not its request line.
                self.is_begun = true;
                Next::Rest
            }
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
                None if byte == b':' => self.named(field),
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
            // The first line is the request line, which begins with a method instead of a field name.
            _ if !self.is_begun => {
                self.is_begun = true;
                Next::Line(Line::Method)
            }
            b'c' | b'C' => Next::Line(Line::Name(Field::Length, 1)),
            b't' | b'T' => Next::Line(Line::Name(Field::Coding, 1)),
            b'u' | b'U' => Next::Line(Line::Name(Field::Upgrade, 1)),
            _ => Next::Rest,
        }
    }

    /// Effect of the colon behind the name of a field that frames a body, or of `Upgrade`.
    fn named(&mut self, field: Field) -> Next {
        match (field, self.framing) {
            (Field::Upgrade, _) => {
                self.is_upgrade = true;
                let after_return = false;
                Next::Line(Line::Rest { after_return })
            }
            (Field::Length, Framing::None) => {
                self.framing = Framing::Length(0);
                Next::Line(Line::Length(Digits::Before))
            }
            // Several such fields form one list; hyper looks for `chunked` at the end of the list.
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

    /// Effect of a byte in the value of a Content-Length: only digits, with blanks around them.
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

/// True for a byte in a method or URL that neither ends it nor is escaped.
const fn is_plain(byte: u8) -> bool {
    !is_escaped(byte) && !matches!(byte, b' ' | b'\r' | b'\n')
}

/// Effect of a byte.
enum Next {
    /// The byte is consumed; carries the new position.
    Line(Line),
    /// The rest of the line begins with this byte.
    Rest,
    Ended,
    /// The byte makes the head ambiguous; carries the broken rule.
    Doubtful(&'static str),
}
