//! Where the parts of a message are in its text, found while it is parsed.

use std::collections::HashSet;

use super::{ID_BYTES_MAX, Kind, MEMBERS_MAX, META, METHOD_BYTES_MAX, MessageError, NULL, raw};

/// Name of the params in errors.
const PARAMS: &str = "params";

/// Place of a raw value in the text of a message, from the start up to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// The place of `part`, a slice of `text`.
    pub(super) fn in_text(part: &str, text: &[u8]) -> Self {
        let start = part.as_ptr().addr() - text.as_ptr().addr();
        Self {
            start,
            end: start + part.len(),
        }
    }

    /// The place of `part` if it is a slice of `text`.
    pub(super) fn within(part: &str, text: &[u8]) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
        let end = start.checked_add(part.len())?;
        (end <= text.len()).then_some(Self { start, end })
    }

    /// The raw value at this place of `text`.
    pub(super) fn of(self, text: &[u8]) -> &str {
        std::str::from_utf8(&text[self.start..self.end])
            .expect("the parts of a message are UTF-8, because the whole of it is")
    }
}

/// Places of a member's raw key and raw value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) key: Span,
    pub(super) value: Span,
}

/// A part of a message that is to be an object.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// The message does not have the part.
    Missing,
    /// The part is `null`.
    Null(Span),
    /// The part's place and its members. No two have the same key.
    Object(Span, Vec<Member>),
}

impl Part {
    /// Reads the params of a message.
    pub(super) fn params(json: &str, span: Option<Span>) -> Result<Self, MessageError> {
        Self::read(json, span, PARAMS, MessageError::ParamsNotObject)
    }

    /// Reads the member `_meta` of the params.
    pub(super) fn meta(json: &str, member: Option<Member>) -> Result<Self, MessageError> {
        let span = member.map(|member| member.value);
        Self::read(json, span, META, MessageError::MetaNotObject)
    }

    fn read(
        json: &str,
        span: Option<Span>,
        name: &'static str,
        not_object: MessageError,
    ) -> Result<Self, MessageError> {
        let Some(span) = span else {
            return Ok(Self::Missing);
        };
        let object = &json[span.start..span.end];
        if object == NULL {
            return Ok(Self::Null(span));
        }
        let (mut members, mut is_too_large) = (Vec::new(), false);
        let walked = raw::walk(object, |key, value| match members.len() < MEMBERS_MAX {
            true => members.push(Member {
                key: Span::in_text(key, json.as_bytes()),
                value: Span::in_text(value, json.as_bytes()),
            }),
            false => is_too_large = true,
        });
        walked.map_err(|_| not_object)?;
        if is_too_large {
            return Err(MessageError::TooManyMembers(name));
        }
        let mut keys = HashSet::with_capacity(members.len());
        let decoded = |member: &Member| raw::decoded(&json[member.key.start..member.key.end]);
        match members
            .iter()
            .filter_map(decoded)
            .all(|key| keys.insert(key))
        {
            true => Ok(Self::Object(span, members)),
            false => Err(MessageError::DuplicateIn(name)),
        }
    }

    /// The member with this key.
    pub(super) fn member(&self, text: &[u8], key: &str) -> Option<Member> {
        let Self::Object(_, members) = self else {
            return None;
        };
        let mut members = members.iter();
        let is_named =
            |member: &&Member| raw::decoded(member.key.of(text)).is_some_and(|name| name == key);
        members.find(is_named).copied()
    }
}

/// Places of the members that JSON-RPC names.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    version: Option<Span>,
    pub(super) id: Option<Span>,
    method: Option<Span>,
    pub(super) params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
}

impl Envelope {
    /// Reads the members of a message; others may have any name and value.
    pub(super) fn read(json: &str) -> Result<Self, MessageError> {
        let (mut envelope, mut repeated) = (Self::default(), None);
        let walked = raw::walk(json, |key, value| {
            let Some(key) = raw::decoded(key) else {
                return;
            };
            let (name, place) = match &*key {
                "jsonrpc" => ("jsonrpc", &mut envelope.version),
                "id" => ("id", &mut envelope.id),
                "method" => ("method", &mut envelope.method),
                PARAMS => (PARAMS, &mut envelope.params),
                "result" => ("result", &mut envelope.result),
                "error" => ("error", &mut envelope.error),
                _ => return,
            };
            if place
                .replace(Span::in_text(value, json.as_bytes()))
                .is_some()
            {
                repeated = Some(name);
            }
        });
        if walked.is_err() {
            return Err(fault_of(json));
        }
        match repeated {
            Some(name) => Err(MessageError::Duplicate(name)),
            None => Ok(envelope),
        }
    }

    /// Tells the kind by the members that are there.
    pub(super) fn kind(&self, json: &str) -> Result<Kind, MessageError> {
        let text = json.as_bytes();
        if self.version.map(|version| version.of(text)) != Some("\"2.0\"") {
            return Err(MessageError::NotVersion2);
        }
        let id = self.id.map(|id| id.of(text));
        let has_id = match id {
            None | Some(NULL) => false,
            Some(id) => {
                check_id(id)?;
                true
            }
        };
        match (self.method, self.outcome(json)) {
            (Some(_), (None, None)) if has_id => Ok(Kind::Request),
            (Some(_), (None, None)) if id.is_some() => Err(MessageError::BadId),
            (Some(_), (None, None)) => Ok(Kind::Notification),
            (None, (Some(_), None)) if has_id => Ok(Kind::Response),
            (None, (Some(_), None)) => Err(MessageError::MissingId),
            // The id is missing or null if the request could not be read (JSON-RPC 2.0, section 5).
            (None, (None, Some(_))) => Ok(Kind::Response),
            (None, (None, None)) => Err(MessageError::NoKind),
            _ => Err(MessageError::MixedKinds),
        }
    }

    /// The decoded method.
    pub(super) fn method(&self, json: &str) -> Result<Option<Box<str>>, MessageError> {
        let Some(method) = self.method else {
            return Ok(None);
        };
        let method = raw::decoded(method.of(json.as_bytes()));
        match method.filter(|method| method.len() <= METHOD_BYTES_MAX) {
            Some(method) => Ok(Some(method.into())),
            None => Err(MessageError::BadMethod),
        }
    }

    /// The result and the error. Some servers send both, one of them as `null`, which does not count.
    pub(super) fn outcome(&self, json: &str) -> (Option<Span>, Option<Span>) {
        let is_null = |span: Span| span.of(json.as_bytes()) == NULL;
        match (self.result, self.error) {
            (Some(result), Some(error)) if is_null(error) => (Some(result), None),
            (Some(result), Some(error)) if is_null(result) => (None, Some(error)),
            outcome => outcome,
        }
    }
}

/// Checks that an id is an integer or a string, as MCP demands.
fn check_id(id: &str) -> Result<(), MessageError> {
    if id.len() > ID_BYTES_MAX {
        return Err(MessageError::LongId);
    }
    let is_integer = || id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    match id.starts_with('"') || is_integer() {
        true => Ok(()),
        false => Err(MessageError::BadId),
    }
}

/// The fault of a text that is not an object.
fn fault_of(text: &str) -> MessageError {
    match raw::is_json(text) {
        true if text.trim_start().starts_with('[') => MessageError::Batch,
        true => MessageError::NotObject,
        false => MessageError::NotJson,
    }
}
