//! Names of what the bridge deals with: children, HTTP exchanges, sessions and callers.

use std::fmt;

use data_encoding::HEXLOWER;
use thiserror::Error;

/// A source of unpredictable bytes, which fills the slice.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// Longest name of a caller, in bytes: a digest or an identifier fits, and each session keeps one.
pub const CALLER_BYTES_MAX: usize = 128;

/// Length of a session's key, in bytes: 128 bits cannot be guessed.
const SESSION_KEY_BYTES: usize = 16;

/// One child process; a number is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u64);

impl fmt::Display for ChildId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}", self.0)
    }
}

/// One HTTP request and its answer; a number is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

impl fmt::Display for ExchangeId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}", self.0)
    }
}

/// Number of a session in its bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionNumber(pub(crate) u64);

/// The key of a legacy session, the value of `Mcp-Session-Id`: a caller that has it uses the session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey(Box<str>);

impl SessionKey {
    /// A new key.
    #[must_use]
    pub fn new(random: &mut Random) -> Self {
        let mut bits = [0_u8; SESSION_KEY_BYTES];
        random(&mut bits);
        Self(HEXLOWER.encode(&bits).into())
    }

    /// Reads the value of the header; `None` if it cannot be a key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_key = text.len() == 2 * SESSION_KEY_BYTES && text.bytes().all(is_digit);
        is_key.then(|| Self(text.into()))
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("SessionKey(..)")
    }
}

/// Who calls, as the driver knows it. Equal names are the same caller; the empty name is that of all unknown callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(Box<str>);

impl Caller {
    /// The caller of this name.
    ///
    /// # Errors
    /// The name is longer than [`CALLER_BYTES_MAX`]; a part of it could be the name of another caller.
    pub fn new(name: &str) -> Result<Self, CallerError> {
        match name.len() <= CALLER_BYTES_MAX {
            true => Ok(Self(name.into())),
            false => Err(CallerError::TooLong { len: name.len() }),
        }
    }

    /// The caller's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text cannot be the name of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallerError {
    /// The name is longer than [`CALLER_BYTES_MAX`].
    #[error("the caller's name has {len} bytes, and {CALLER_BYTES_MAX} are allowed")]
    TooLong {
        /// Length of the name, in bytes.
        len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_key_reads_as_it_is_written() {
        let mut last = 0_u8;
        let mut random: Random = Box::new(move |bytes: &mut [u8]| {
            for byte in bytes {
                last = last.wrapping_add(0x11);
                *byte = last;
            }
        });
        let key = SessionKey::new(&mut random);
        assert_eq!(&key.as_str()[..8], "11223344");
        assert_eq!(SessionKey::parse(key.as_str()), Some(key.clone()));
        assert_eq!(format!("{key:?}"), "SessionKey(..)");
        let long = format!("{}0", key.as_str());
        let upper = "A".repeat(2 * SESSION_KEY_BYTES);
        for other in ["", &key.as_str()[1..], &long, &upper] {
            assert_eq!(SessionKey::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_name_of_a_caller_has_a_limit() {
        let longest = "x".repeat(CALLER_BYTES_MAX);
        assert_eq!(Caller::new(&longest).unwrap().as_str(), longest);
        let error = CallerError::TooLong { len: 129 };
        assert_eq!(Caller::new(&format!("{longest}x")), Err(error));
        assert_eq!(Caller::new(""), Ok(Caller::default()));
    }

    #[test]
    fn ids_are_written_as_their_numbers() {
        assert_eq!(
            (ChildId(7).to_string(), ExchangeId(8).to_string()),
            ("7".into(), "8".into())
        );
    }
}
