//! The frame header: its kinds, and the checks of each.

use crate::error::Error;
use crate::generated;
use crate::ids::SessionId;
use crate::limits::{DATA_BYTES_MAX, HEADER_BYTES, TABLE_BYTES_MAX};
use crate::reason::LinkEnd;

/// Flag: the frame ends a message (`Data` only).
pub const END_OF_MESSAGE: u8 = 0x01;
/// Flag: a receiver that does not know the kind skips the frame.
pub const OPTIONAL: u8 = 0x80;

/// Offset of the flags in a header, in bytes.
pub(crate) const FLAGS_OFFSET: usize = 9;

macro_rules! kinds {
    ($($name:ident = $code:literal, $place:ident, $len_min:expr, $len_max:expr;)*) => {
        /// Kind of a frame: what its payload is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each kind is documented with its message")]
        pub enum Kind {
            $($name = $code,)*
        }

        impl Kind {
            const fn from_code(code: u8) -> Option<Self> {
                Some(match code {
                    $($code => Self::$name,)*
                    _ => return None,
                })
            }

            const fn shape(self) -> Shape {
                let (of_link, len_min, len_max) = match self {
                    $(Self::$name => (kinds!(@ $place), $len_min, $len_max),)*
                };
                Shape { of_link, len_min, len_max }
            }
        }
    };
    (@ link) => { true };
    (@ session) => { false };
}

// Code, what the frame concerns, and bounds of its payload in bytes; equal bounds for a struct.
kinds! {
    Data = 0, session, 0, DATA_BYTES_MAX;
    Credit = 1, session, 4, 4;
    CreditReturn = 2, session, 4, 4;
    Ping = 3, link, 8, 8;
    Pong = 4, link, 8, 8;
    Finish = 5, session, 8, 8;
    Reset = 6, session, 2, 2;
    Hello = 16, link, 0, TABLE_BYTES_MAX;
    Register = 17, link, 0, TABLE_BYTES_MAX;
    RegisterAck = 18, link, 0, TABLE_BYTES_MAX;
    Unregister = 19, link, 0, TABLE_BYTES_MAX;
    Open = 20, session, 0, TABLE_BYTES_MAX;
    Opened = 21, session, 0, TABLE_BYTES_MAX;
    GoAway = 22, link, 0, TABLE_BYTES_MAX;
    BulkOffer = 23, session, 0, TABLE_BYTES_MAX;
    Bulk = 24, session, 0, TABLE_BYTES_MAX;
    Lost = 25, link, 0, TABLE_BYTES_MAX;
}

/// Whether frames of a kind concern the link or a session, and the bounds of their payload in bytes.
#[derive(Clone, Copy)]
struct Shape {
    of_link: bool,
    len_min: u32,
    len_max: u32,
}

/// A frame header that passed every check that needs no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow the header.
    pub payload_len: u32,
    /// The session; 0 means the link itself.
    pub session: SessionId,
    /// Kind of the payload; `None` for an optional kind that this build does not know.
    pub kind: Option<Kind>,
    /// True for the last frame of a message.
    pub end_of_message: bool,
}

/// Writes the header of a frame to send.
#[must_use]
pub fn encode(
    kind: Kind,
    session: SessionId,
    payload_len: u32,
    end_of_message: bool,
) -> [u8; HEADER_BYTES] {
    let flags = if end_of_message { END_OF_MESSAGE } else { 0 };
    generated::FrameHeader::new(payload_len, session.0, kind as u8, flags, 0).0
}

/// Reads a header.
///
/// # Errors
/// [`LinkEnd::FrameTooLong`] or [`LinkEnd::Protocol`]; the link must be closed.
pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Header, Error> {
    let raw = generated::FrameHeader(bytes);
    let (code, flags, session, len) = (raw.kind(), raw.flags(), raw.session(), raw.payload_len());
    let wrong = |detail: String| Err(Error::peer(LinkEnd::Protocol, detail));
    let kind = Kind::from_code(code);
    if kind.is_none() && flags & OPTIONAL == 0 {
        return wrong(format!("unknown frame kind {code}"));
    }
    let allowed = match kind {
        Some(Kind::Data) => OPTIONAL | END_OF_MESSAGE,
        _ => OPTIONAL,
    };
    if flags & !allowed != 0 || raw.reserved() != 0 {
        return wrong(format!(
            "frame kind {code} with invalid flags {flags:#04x} or reserved bits {}",
            raw.reserved()
        ));
    }
    let shape = kind.map(Kind::shape);
    let (len_min, len_max) = shape.map_or((0, TABLE_BYTES_MAX), |it| (it.len_min, it.len_max));
    if len > len_max {
        let detail = format!("frame kind {code} has {len} bytes");
        return Err(Error::peer(LinkEnd::FrameTooLong, detail));
    }
    if len < len_min {
        return wrong(format!("frame kind {code} has {len} bytes, not {len_min}"));
    }
    if shape.is_some_and(|it| it.of_link != (session == 0)) {
        return wrong(format!(
            "frame kind {code} is not valid on session {session}"
        ));
    }
    Ok(Header {
        payload_len: len,
        session: SessionId(session),
        kind,
        end_of_message: flags & END_OF_MESSAGE != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(len: u32, session: u32, kind: u8, flags: u8, reserved: u16) -> [u8; HEADER_BYTES] {
        generated::FrameHeader::new(len, session, kind, flags, reserved).0
    }

    fn reason(bytes: [u8; HEADER_BYTES]) -> LinkEnd {
        decode(bytes).unwrap_err().reason
    }

    #[test]
    fn a_header_is_twelve_little_endian_bytes() {
        assert_eq!(
            encode(Kind::Data, SessionId(0x0102_0304), 0x0a0b, true),
            [0x0b, 0x0a, 0, 0, 4, 3, 2, 1, 0, 1, 0, 0]
        );
    }

    #[test]
    fn a_frame_longer_than_its_kind_allows_is_refused_from_its_header() {
        assert!(decode(raw(DATA_BYTES_MAX, 1, 0, 0, 0)).is_ok());
        assert_eq!(
            reason(raw(DATA_BYTES_MAX + 1, 1, 0, 0, 0)),
            LinkEnd::FrameTooLong
        );
        assert_eq!(
            reason(raw(TABLE_BYTES_MAX + 1, 0, 16, 0, 0)),
            LinkEnd::FrameTooLong
        );
        assert_eq!(
            reason(raw(u32::MAX, 0, 99, OPTIONAL, 0)),
            LinkEnd::FrameTooLong
        );
        assert_eq!(reason(raw(9, 0, 3, 0, 0)), LinkEnd::FrameTooLong);
    }

    #[test]
    fn unknown_kinds_are_skipped_only_when_marked_optional() {
        assert_eq!(reason(raw(4, 0, 99, 0, 0)), LinkEnd::Protocol);
        assert_eq!(decode(raw(4, 0, 99, OPTIONAL, 0)).unwrap().kind, None);
    }

    #[test]
    fn flags_reserved_bits_and_session_zero_are_checked() {
        assert_eq!(reason(raw(4, 1, 0, 0x02, 0)), LinkEnd::Protocol);
        assert_eq!(reason(raw(4, 1, 1, END_OF_MESSAGE, 0)), LinkEnd::Protocol);
        assert_eq!(reason(raw(4, 1, 0, 0, 1)), LinkEnd::Protocol);
        assert_eq!(reason(raw(4, 0, 0, 0, 0)), LinkEnd::Protocol);
        assert_eq!(reason(raw(8, 1, 3, 0, 0)), LinkEnd::Protocol);
        assert_eq!(reason(raw(3, 1, 1, 0, 0)), LinkEnd::Protocol);
    }
}
