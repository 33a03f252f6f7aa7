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

/// Kind of a frame: what its payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each kind is documented with its message")]
pub enum Kind {
    Data = 0,
    Credit = 1,
    CreditReturn = 2,
    Ping = 3,
    Pong = 4,
    Finish = 5,
    Reset = 6,
    Hello = 16,
    Register = 17,
    RegisterAck = 18,
    Unregister = 19,
    Open = 20,
    Opened = 21,
    GoAway = 22,
    BulkOffer = 23,
    Bulk = 24,
    Lost = 25,
}

/// Length of a kind's payload, and whether the frame concerns the link or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Data,
    LinkStruct(u32),
    SessionStruct(u32),
    LinkTable,
    SessionTable,
}

impl Kind {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Data,
            1 => Self::Credit,
            2 => Self::CreditReturn,
            3 => Self::Ping,
            4 => Self::Pong,
            5 => Self::Finish,
            6 => Self::Reset,
            16 => Self::Hello,
            17 => Self::Register,
            18 => Self::RegisterAck,
            19 => Self::Unregister,
            20 => Self::Open,
            21 => Self::Opened,
            22 => Self::GoAway,
            23 => Self::BulkOffer,
            24 => Self::Bulk,
            25 => Self::Lost,
            _ => return None,
        })
    }

    const fn shape(self) -> Shape {
        match self {
            Self::Data => Shape::Data,
            Self::Ping | Self::Pong => Shape::LinkStruct(8),
            Self::Credit | Self::CreditReturn => Shape::SessionStruct(4),
            Self::Finish => Shape::SessionStruct(8),
            Self::Reset => Shape::SessionStruct(2),
            Self::Hello
            | Self::Register
            | Self::RegisterAck
            | Self::Unregister
            | Self::GoAway
            | Self::Lost => Shape::LinkTable,
            Self::Open | Self::Opened | Self::BulkOffer | Self::Bulk => Shape::SessionTable,
        }
    }
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
    let kind = Kind::from_code(code);
    if kind.is_none() && flags & OPTIONAL == 0 {
        return Err(Error::peer(
            LinkEnd::Protocol,
            format!("unknown frame kind {code}"),
        ));
    }
    let allowed = OPTIONAL
        | if kind == Some(Kind::Data) {
            END_OF_MESSAGE
        } else {
            0
        };
    if flags & !allowed != 0 || raw.reserved() != 0 {
        return Err(Error::peer(
            LinkEnd::Protocol,
            format!(
                "frame kind {code} with invalid flags {flags:#04x} or reserved bits {}",
                raw.reserved()
            ),
        ));
    }
    let Some(shape) = kind.map(Kind::shape) else {
        if len > TABLE_BYTES_MAX {
            return Err(too_long(code, len));
        }
        return Ok(Header {
            payload_len: len,
            session: SessionId(session),
            kind,
            end_of_message: false,
        });
    };
    let longest = match shape {
        Shape::Data => DATA_BYTES_MAX,
        Shape::LinkStruct(exact) | Shape::SessionStruct(exact) => exact,
        Shape::LinkTable | Shape::SessionTable => TABLE_BYTES_MAX,
    };
    if len > longest {
        return Err(too_long(code, len));
    }
    let exact = matches!(shape, Shape::LinkStruct(_) | Shape::SessionStruct(_));
    if exact && len != longest {
        return Err(Error::peer(
            LinkEnd::Protocol,
            format!("frame kind {code} has {len} bytes, not {longest}"),
        ));
    }
    let of_link = matches!(shape, Shape::LinkStruct(_) | Shape::LinkTable);
    if of_link != (session == 0) {
        return Err(Error::peer(
            LinkEnd::Protocol,
            format!("frame kind {code} is not valid on session {session}"),
        ));
    }
    Ok(Header {
        payload_len: len,
        session: SessionId(session),
        kind,
        end_of_message: flags & END_OF_MESSAGE != 0,
    })
}

fn too_long(code: u8, len: u32) -> Error {
    Error::peer(
        LinkEnd::FrameTooLong,
        format!("frame kind {code} has {len} bytes"),
    )
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
