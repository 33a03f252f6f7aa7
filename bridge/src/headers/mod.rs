//! The header fields of a request that the bridge looks at, and the names that both eras of the protocol give to
//! versions and metadata.
//!
//! A modern request repeats parts of its body in its head, and both must agree, or else a gateway that reads the head
//! would let through what the server then reads differently (streamable-http.mdx, Server Validation).

use std::borrow::Cow;

use data_encoding::BASE64;
use thiserror::Error;

use crate::message::{Kind, Message, raw};
use crate::sse;

#[cfg(test)]
mod tests;

/// The version of the modern era that the bridge speaks.
pub const MODERN_VERSION: &str = "2026-07-28";

/// The legacy versions that the bridge speaks, latest first.
pub const LEGACY_VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// What the keys of `_meta` that the modern era has added start with.
pub const META_PREFIX: &str = "io.modelcontextprotocol/";

/// Key of the version of a request.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// Key of the client's name and version.
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";

/// Key of the client's capabilities.
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// Key of the lowest level of log messages that a request asks for.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// Key of the subscription that a message belongs to.
pub const META_SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Key of the server's name and version, in results.
pub const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// Longest value of a header field, in bytes: the longest is a tool's name or a resource's URI in Base64.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

const ACCEPT: &str = "Accept";
const CONTENT_TYPE: &str = "Content-Type";
const PROTOCOL_VERSION: &str = "MCP-Protocol-Version";
const SESSION: &str = "Mcp-Session-Id";
const LAST_EVENT_ID: &str = "Last-Event-ID";
const METHOD: &str = "Mcp-Method";
const NAME: &str = "Mcp-Name";

/// Media type of one message.
const JSON: &str = "application/json";

/// Start and end of a value that is the Base64 of its text (streamable-http.mdx, Value Encoding).
const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// The two eras of the protocol (versioning.mdx, Terminology).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Versions up to 2025-11-25, with `initialize` and sessions.
    Legacy,
    /// Versions from 2026-07-28 on, where each request stands alone.
    Modern,
}

impl Era {
    /// The era of a version. A text that is not a date counts as legacy.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        let is_dash = |index: usize| matches!(index, 4 | 7);
        let is_date = version.len() == MODERN_VERSION.len()
            && version
                .bytes()
                .enumerate()
                .all(|(index, byte)| match is_dash(index) {
                    true => byte == b'-',
                    false => byte.is_ascii_digit(),
                });
        match is_date && version >= MODERN_VERSION {
            true => Self::Modern,
            false => Self::Legacy,
        }
    }
}

/// The header fields of a request that the bridge looks at.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// `Accept`; several fields are joined.
    pub accept: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `MCP-Protocol-Version`.
    pub protocol_version: Option<String>,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
    /// `Last-Event-ID`.
    pub last_event_id: Option<String>,
    /// `Mcp-Method`.
    pub method: Option<String>,
    /// `Mcp-Name`, perhaps encoded.
    pub name: Option<String>,
    /// What is wrong with the first of these fields that could not be read.
    pub fault: Option<HeaderError>,
}

impl RequestHead {
    /// Reads the fields of a request, names in any case; other fields are ignored.
    #[must_use]
    pub fn read<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut head = Self::default();
        for (name, value) in fields {
            if let Err(error) = head.add(name, value) {
                head.fault.get_or_insert(error);
            }
        }
        head
    }

    /// The era in which a request is to be answered; `message` is its body, if it has one.
    ///
    /// `initialize` opens a legacy session, unless the request itself has the metadata of the modern era.
    #[must_use]
    pub fn era(&self, message: Option<&Message>) -> Era {
        if message.is_some_and(|message| message.meta(META_VERSION).is_some()) {
            return Era::Modern;
        }
        if message.is_some_and(|message| message.method() == Some("initialize")) {
            return Era::Legacy;
        }
        let version = self.protocol_version.as_deref();
        version.map_or(Era::Legacy, Era::of_version)
    }

    /// True if the caller takes one JSON object as the answer.
    #[must_use]
    pub fn accepts_json(&self) -> bool {
        self.accepts(JSON, "application/*")
    }

    /// True if the caller takes a stream of events as the answer.
    #[must_use]
    pub fn accepts_events(&self) -> bool {
        self.accepts(sse::CONTENT_TYPE, "text/*")
    }

    /// True if the body is JSON. A page of another site cannot send such a request without the server's leave, unlike
    /// one without a content type.
    #[must_use]
    pub fn has_json_body(&self) -> bool {
        let content_type = self.content_type.as_deref();
        content_type.is_some_and(|value| MediaRange::read(value).is(JSON))
    }

    /// Checks that the head of a modern request agrees with its body.
    ///
    /// A version that the body lacks is not an error here, nor are missing fields of a notification beside the version.
    ///
    /// # Errors
    /// The first field that is missing, malformed or different.
    pub fn check_modern(&self, message: &Message) -> Result<(), HeaderError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let Some(version) = &self.protocol_version else {
            return Err(HeaderError::Missing(PROTOCOL_VERSION));
        };
        let in_body = message.meta(META_VERSION);
        if in_body.is_some_and(|raw| raw::text(raw).as_ref() != Some(version)) {
            return Err(HeaderError::Mismatch(PROTOCOL_VERSION));
        }
        let is_request = message.kind() == Kind::Request;
        match self.method.as_deref() {
            None if is_request => return Err(HeaderError::Missing(METHOD)),
            Some(method) if message.method() != Some(method) => {
                return Err(HeaderError::Mismatch(METHOD));
            }
            _ => {}
        }
        match name_key(message.method()) {
            Some(key) if is_request => self.check_name(message.param(key)),
            _ => Ok(()),
        }
    }

    /// Checks the name of a tool or a prompt, or a resource's URI; `in_body` is raw.
    fn check_name(&self, in_body: Option<&str>) -> Result<(), HeaderError> {
        let Some(name) = &self.name else {
            return Err(HeaderError::Missing(NAME));
        };
        let name = decoded(name).ok_or(HeaderError::BadEncoding(NAME))?;
        match in_body.and_then(raw::text).as_deref() == Some(&*name) {
            true => Ok(()),
            false => Err(HeaderError::Mismatch(NAME)),
        }
    }

    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let places = [
            (ACCEPT, &mut self.accept),
            (CONTENT_TYPE, &mut self.content_type),
            (PROTOCOL_VERSION, &mut self.protocol_version),
            (SESSION, &mut self.session),
            (LAST_EVENT_ID, &mut self.last_event_id),
            (METHOD, &mut self.method),
            (NAME, &mut self.name),
        ];
        let known = |(known, _): &(&str, _)| known.eq_ignore_ascii_case(name);
        let Some((name, place)) = places.into_iter().find(known) else {
            return Ok(());
        };
        let value = readable(name, value)?;
        *place = Some(match place.take() {
            None => value.to_owned(),
            // A list may come in several fields (RFC 9110, section 5.3).
            Some(earlier) if name == ACCEPT => {
                let list = format!("{earlier}, {value}");
                readable(name, list.as_bytes())?;
                list
            }
            Some(_) => return Err(HeaderError::Repeated(name)),
        });
        Ok(())
    }

    /// True if `Accept` has the media type; the most specific range that fits counts (RFC 9110, section 12.5.1).
    fn accepts(&self, media_type: &str, family: &str) -> bool {
        let Some(accept) = self.accept.as_deref().filter(|it| !it.trim().is_empty()) else {
            return true;
        };
        let ranges: Vec<_> = accept.split(',').map(MediaRange::read).collect();
        let fitting = [media_type, family, "*/*"].into_iter();
        let mut fitting = fitting.filter_map(|it| ranges.iter().find(|range| range.is(it)));
        fitting.next().is_some_and(|range| !range.is_refused)
    }
}

/// One element of `Accept`, or a content type.
struct MediaRange<'a> {
    name: &'a str,
    /// Its weight is 0.
    is_refused: bool,
}

impl<'a> MediaRange<'a> {
    fn read(text: &'a str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let is_zero = |parameter: &str| match parameter.trim().split_once('=') {
            Some(("q" | "Q", weight)) => weight.trim().parse::<f32>() == Ok(0.0),
            _ => false,
        };
        Self {
            name: name.trim(),
            is_refused: parameters.split(';').any(is_zero),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// What is wrong with a header field.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The request must have the field.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// The value is longer than [`VALUE_BYTES_MAX`].
    #[error("the header {0} is longer than {VALUE_BYTES_MAX} bytes")]
    TooLong(&'static str),
    /// The value has other bytes than visible ASCII, spaces and tabs.
    #[error("the header {0} has characters that are not visible ASCII")]
    BadBytes(&'static str),
    /// The request has the field twice.
    #[error("the header {0} occurs twice")]
    Repeated(&'static str),
    /// The value is marked as Base64, and is not the Base64 of UTF-8.
    #[error("the header {0} is not the Base64 of a text")]
    BadEncoding(&'static str),
    /// The body has another value.
    #[error("the header {0} does not match the body")]
    Mismatch(&'static str),
}

/// The member of the params that `Mcp-Name` repeats (streamable-http.mdx, Standard Request Headers).
fn name_key(method: Option<&str>) -> Option<&'static str> {
    match method? {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        _ => None,
    }
}

/// The text of a value, decoded if it is marked as Base64; `None` if it then is not the Base64 of UTF-8.
fn decoded(value: &str) -> Option<Cow<'_, str>> {
    let (start, end) = ENCODED;
    let code = value
        .strip_prefix(start)
        .and_then(|rest| rest.strip_suffix(end));
    let Some(code) = code else {
        return Some(Cow::Borrowed(value));
    };
    let text = BASE64.decode(code.as_bytes()).ok()?;
    String::from_utf8(text).ok().map(Cow::Owned)
}

/// The value of the field `name` as a text.
fn readable<'a>(name: &'static str, value: &'a [u8]) -> Result<&'a str, HeaderError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(HeaderError::TooLong(name));
    }
    let is_allowed = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    let text = std::str::from_utf8(value).ok();
    let text = text.filter(|text| text.as_bytes().iter().all(is_allowed));
    text.ok_or(HeaderError::BadBytes(name))
}
