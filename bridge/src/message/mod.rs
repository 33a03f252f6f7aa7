//! JSON-RPC messages as their texts: a [`Message`] knows where its parts are, an [`Edit`] makes a [`Line`] that shares
//! its memory, and [`raw`] reads the values of parts.
//!
//! Payloads pass as they are: numbers keep their digits, and objects the order of their members. Only the members that
//! JSON-RPC and MCP themselves name are looked at.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};
use thiserror::Error;

mod edit;
mod line;
mod parts;
pub mod raw;

#[cfg(test)]
mod tests;

pub use edit::Edit;
pub use line::Line;
use parts::{Envelope, Part, Span};

/// Largest message, in bytes: a 48 MB file in Base64 fits.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most levels of arrays and objects. Parsers that call themselves for each level overflow their stack at some
/// thousands, and a server that such a message ends may serve other callers, too.
pub const DEPTH_MAX: usize = 512;

/// Longest id, in bytes of its raw text: ids are kept for as long as their requests are under way.
pub const ID_BYTES_MAX: usize = 256;

/// Longest method, in bytes: the longest of the protocol has 40.
pub const METHOD_BYTES_MAX: usize = 256;

/// Most members of `params`, and of `_meta` in it: a message keeps a table of their places.
pub const MEMBERS_MAX: usize = 1024;

/// Key of the metadata in params and results.
const META: &str = "_meta";

/// Key of the token that connects progress notifications with their request.
const PROGRESS_TOKEN: &str = "progressToken";

/// The raw value `null`.
const NULL: &str = "null";

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has a method and an id.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has a result or an error.
    Response,
}

/// One JSON-RPC message: its text, and the places of the parts that the bridge looks at.
#[derive(Clone, Debug)]
pub struct Message {
    text: Bytes,
    kind: Kind,
    /// Place of the id, also of an id that is `null`.
    id: Option<Span>,
    method: Option<Box<str>>,
    params: Part,
    /// `_meta` in `params`.
    meta: Part,
    result: Option<Span>,
    error: Option<Span>,
}

impl Message {
    /// Reads a message. CR and LF between its tokens become spaces, so that it is one line.
    ///
    /// # Errors
    /// The text is not a JSON-RPC 2.0 message of MCP, or exceeds a limit.
    pub fn parse(text: Bytes) -> Result<Self, MessageError> {
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        if raw::is_deeper_than(&text, DEPTH_MAX) {
            return Err(MessageError::TooDeep);
        }
        let json = std::str::from_utf8(&text).map_err(|_| MessageError::NotUtf8)?;
        let envelope = Envelope::read(json)?;
        let (kind, method) = (envelope.kind(json)?, envelope.method(json)?);
        let params = match kind {
            Kind::Request | Kind::Notification => Part::params(json, envelope.params)?,
            Kind::Response => Part::Missing,
        };
        let meta = Part::meta(json, params.member(&text, META))?;
        let (result, error) = envelope.outcome(json);
        Ok(Self {
            kind,
            id: envelope.id,
            method,
            params,
            meta,
            result,
            error,
            text: one_line(text),
        })
    }

    /// The kind of the message.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The raw id. A request has one; a notification has none, nor has an error about a message without a readable id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.map(|id| self.at(id)).filter(|id| *id != NULL)
    }

    /// The decoded method; `None` for a response.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The raw params, an object; `None` if they are missing or `null`.
    #[must_use]
    pub fn params(&self) -> Option<&str> {
        match &self.params {
            Part::Object(span, _) => Some(self.at(*span)),
            Part::Missing | Part::Null(_) => None,
        }
    }

    /// The raw result, any JSON value; `None` if the message is not a response with a result.
    #[must_use]
    pub fn result(&self) -> Option<&str> {
        self.result.map(|result| self.at(result))
    }

    /// The raw error; `None` if the message is not a response with an error.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.map(|error| self.at(error))
    }

    /// The raw value of a member of `params`.
    #[must_use]
    pub fn param(&self, key: &str) -> Option<&str> {
        self.value(&self.params, key)
    }

    /// The raw value of a member of `_meta` in `params`.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.value(&self.meta, key)
    }

    /// The raw progress token: that of a request is in `_meta`, that of a notification in `params`.
    #[must_use]
    pub fn progress_token(&self) -> Option<&str> {
        match self.kind {
            Kind::Request => self.meta(PROGRESS_TOKEN),
            Kind::Notification | Kind::Response => self.param(PROGRESS_TOKEN),
        }
    }

    /// The raw value of a member of the result. Each call reads the whole result.
    #[must_use]
    pub fn result_member(&self, key: &str) -> Option<&str> {
        raw::member(self.result()?, key)
    }

    /// The raw value of a member of `_meta` in the result. Each call reads the whole result.
    #[must_use]
    pub fn result_meta(&self, key: &str) -> Option<&str> {
        raw::member(self.result_member(META)?, key)
    }

    /// The code of the error.
    #[must_use]
    pub fn error_code(&self) -> Option<i64> {
        self.error_member("code")?.parse().ok()
    }

    /// The raw value of a member of the error.
    #[must_use]
    pub fn error_member(&self, key: &str) -> Option<&str> {
        raw::member(self.error()?, key)
    }

    /// The whole message.
    #[must_use]
    pub const fn text(&self) -> &Bytes {
        &self.text
    }

    /// The memory of a part that another call of this message has returned; other texts are copied.
    #[must_use]
    pub fn piece(&self, part: &str) -> Bytes {
        match Span::within(part, &self.text) {
            Some(span) => self.text.slice(span.start..span.end),
            None => Bytes::copy_from_slice(part.as_bytes()),
        }
    }

    /// The message as it came.
    #[must_use]
    pub fn line(&self) -> Line {
        Line::from(self.text.clone())
    }

    /// The message with another raw id. A message without an id gets it in front.
    #[must_use]
    pub fn with_id(&self, id: &str) -> Line {
        self.edit().id(id.to_owned()).line()
    }

    /// Begins an edit of the message.
    pub fn edit(&self) -> Edit<'_> {
        Edit::new(self)
    }

    /// The place behind the brace that opens the message. At least one member follows.
    fn front(&self) -> usize {
        // Only spaces are before it.
        memchr(b'{', &self.text).map_or(0, |brace| brace + 1)
    }

    fn value(&self, part: &Part, key: &str) -> Option<&str> {
        let member = part.member(&self.text, key)?;
        Some(self.at(member.value))
    }

    fn at(&self, span: Span) -> &str {
        span.of(&self.text)
    }
}

/// Why a text is not a message that the bridge passes on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The text is longer than [`MESSAGE_BYTES_MAX`].
    #[error("the message is longer than 64 MiB")]
    TooLong,
    /// The text is nested deeper than [`DEPTH_MAX`].
    #[error("the message has more than {DEPTH_MAX} levels of arrays and objects")]
    TooDeep,
    /// The text is not UTF-8.
    #[error("the message is not UTF-8")]
    NotUtf8,
    /// The text is not JSON.
    #[error("the message is not JSON")]
    NotJson,
    /// The text is an array.
    #[error("the message is a batch; send each message alone")]
    Batch,
    /// The text is JSON, but not an object.
    #[error("the message is not a JSON object")]
    NotObject,
    /// The member `jsonrpc` is missing or has another value.
    #[error("the message lacks \"jsonrpc\": \"2.0\"")]
    NotVersion2,
    /// The id is neither a string nor an integer.
    #[error("the id is neither a string nor an integer")]
    BadId,
    /// The id is longer than [`ID_BYTES_MAX`].
    #[error("the id is longer than {ID_BYTES_MAX} bytes")]
    LongId,
    /// A result does not say which request it belongs to.
    #[error("the result has no id")]
    MissingId,
    /// The method is not a string, or longer than [`METHOD_BYTES_MAX`].
    #[error("the method is not a string of at most {METHOD_BYTES_MAX} bytes")]
    BadMethod,
    /// There is neither a method nor a result nor an error.
    #[error("the message has no method, no result and no error")]
    NoKind,
    /// There is more than one of method, result and error.
    #[error("the message has more than one of method, result and error")]
    MixedKinds,
    /// The params are an array or a single value.
    #[error("params is not an object")]
    ParamsNotObject,
    /// `_meta` in the params is an array or a single value.
    #[error("_meta is not an object")]
    MetaNotObject,
    /// A member of the message occurs twice: parsers differ in which of the two counts.
    #[error("the member {0} occurs twice")]
    Duplicate(&'static str),
    /// A member of this object occurs twice.
    #[error("a member of {0} occurs twice")]
    DuplicateIn(&'static str),
    /// This object has more than [`MEMBERS_MAX`] members.
    #[error("{0} has more than {MEMBERS_MAX} members")]
    TooManyMembers(&'static str),
}

/// Replaces CR and LF, which valid JSON has only between tokens, by spaces. Copies the text only if it is shared.
fn one_line(text: Bytes) -> Bytes {
    if memchr2(b'\r', b'\n', &text).is_none() {
        return text;
    }
    let text = text.try_into_mut();
    let mut text = text.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    for byte in text
        .iter_mut()
        .filter(|byte| matches!(**byte, b'\r' | b'\n'))
    {
        *byte = b' ';
    }
    text.freeze()
}
