//! Violations of the protocol by a peer, and the code and reason that the peer gets for each.

use std::io;

use super::code;

/// What a peer did wrong; the cause of an [`io::Error`] of kind [`io::ErrorKind::InvalidData`].
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A client did not mask a frame, or a server did (RFC 6455, section 5.1).
    #[error("a WebSocket frame is masked by a server, or not masked by a client")]
    Masking,
    /// A reserved bit is set, which only an extension could mean.
    #[error("a WebSocket frame has a reserved bit set")]
    ReservedBits,
    /// The opcode is reserved.
    #[error("a WebSocket frame has a reserved opcode")]
    Opcode,
    /// The length is above 2^63, or written in more bytes than it needs.
    #[error("the length of a WebSocket frame is not valid")]
    Length,
    /// A control frame is a fragment.
    #[error("a WebSocket control frame is fragmented")]
    FragmentedControl,
    /// A control frame has more than 125 bytes.
    #[error("a WebSocket control frame is too long")]
    LongControl,
    /// A continuation outside a message, or the beginning of a message within another.
    #[error("the fragments of WebSocket messages are out of order")]
    Continuation,
    /// A text message: only binary ones are accepted.
    #[error("a WebSocket message is text instead of binary")]
    Text,
    /// A Close frame has a code that may not be sent, or only one byte of a code.
    #[error("a WebSocket Close frame has a code that is not valid")]
    CloseCode,
    /// The reason in a Close frame is not UTF-8.
    #[error("the reason in a WebSocket Close frame is not UTF-8")]
    CloseReason,
}

impl Violation {
    /// The violation that caused `error`, if one did.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }

    /// Stable word for metrics, logs and the peer.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Masking => "masking",
            Self::ReservedBits => "reserved_bits",
            Self::Opcode => "opcode",
            Self::Length => "length",
            Self::FragmentedControl => "fragmented_control",
            Self::LongControl => "long_control",
            Self::Continuation => "continuation",
            Self::Text => "text",
            Self::CloseCode => "close_code",
            Self::CloseReason => "close_reason",
        }
    }

    /// Code of the Close frame that the peer gets.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Text => code::UNSUPPORTED,
            Self::CloseReason => code::INVALID,
            _ => code::PROTOCOL,
        }
    }
}

impl From<Violation> for io::Error {
    fn from(violation: Violation) -> Self {
        Self::new(io::ErrorKind::InvalidData, violation)
    }
}
