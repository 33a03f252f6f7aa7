//! The bridge's own answers in place of a server's: JSON-RPC errors with their codes and HTTP statuses.

use std::time::Duration;

use thiserror::Error;

use crate::headers::{Era, HeaderError};
use crate::message::{Line, MessageError, raw};

/// The message is not JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;

/// The message is not a valid request.
pub(crate) const INVALID_REQUEST: i32 = -32600;

/// The method is unknown, or the server lacks its capability.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;

/// The params are not as the method demands.
pub(crate) const INVALID_PARAMS: i32 = -32602;

/// The server failed. The bridge's own failures have this code, too, because those from -32000 to -32019 are closed to
/// new implementations, and those from -32020 on belong to the specification (basic/index.mdx, Error Codes).
pub(crate) const INTERNAL_ERROR: i32 = -32603;

/// Head and body of a modern request differ.
pub(crate) const HEADER_MISMATCH: i32 = -32020;

/// The request needs a capability that the client has not declared.
pub(crate) const MISSING_CAPABILITY: i32 = -32021;

/// The server does not speak the version of the request.
pub(crate) const UNSUPPORTED_VERSION: i32 = -32022;

/// Wait that a caller is told when a limit is reached: calls under way end within seconds.
const OVERLOADED_WAIT: Duration = Duration::from_secs(1);

/// An answer of the bridge's own; its text is the message of the JSON-RPC error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BridgeError {
    /// The body is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The head is malformed, or differs from the body.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// The bridge does not speak the version of the request.
    #[error("unsupported protocol version")]
    UnsupportedVersion {
        /// The version of the request.
        requested: String,
        /// The versions that it may have.
        supported: Vec<String>,
    },
    /// The server needs a capability that the client has not declared.
    #[error("the server needs a capability that the client has not declared")]
    MissingCapability {
        /// The raw `ClientCapabilities` that are missing.
        required: String,
    },
    /// The request lacks this key of `_meta`.
    #[error("_meta lacks {0}")]
    MissingMeta(&'static str),
    /// The server has no such method.
    #[error("method not found: {0}")]
    MethodNotFound(String),
    /// The params are not as the method demands.
    #[error("invalid params: {0}")]
    InvalidParams(String),
    /// The request is not one that can be answered.
    #[error("{0}")]
    InvalidRequest(String),
    /// The request belongs to a session, and does not name it.
    #[error("the header Mcp-Session-Id is missing; send initialize first")]
    MissingSession,
    /// The session has ended, or never was.
    #[error("the session has ended or does not exist; send initialize without Mcp-Session-Id")]
    UnknownSession,
    /// The caller does not take this media type.
    #[error("the header Accept must allow {0}")]
    NotAcceptable(&'static str),
    /// The body's type is another.
    #[error("the header Content-Type must be application/json")]
    NotJsonBody,
    /// The HTTP method is another.
    #[error("the HTTP method must be POST, or GET or DELETE in a session")]
    HttpMethod,
    /// No server can be called now.
    #[error("the server is not available: {reason}")]
    Unavailable {
        /// Why it is not.
        reason: String,
        /// Time after which another try makes sense.
        retry_after: Option<Duration>,
    },
    /// The server ended before it answered.
    #[error("the server ended before it answered: {reason}")]
    Ended {
        /// How it ended.
        reason: String,
    },
    /// A limit of the bridge is reached.
    #[error("too many at once: {what}")]
    Overloaded {
        /// Of what there are too many.
        what: &'static str,
    },
}

impl BridgeError {
    /// The code of the JSON-RPC error for a caller of this era.
    pub(crate) const fn code(&self, era: Era) -> i32 {
        match (self, era) {
            (Self::Message(MessageError::NotUtf8 | MessageError::NotJson), _) => PARSE_ERROR,
            (Self::Headers(_), Era::Modern) => HEADER_MISMATCH,
            (Self::UnsupportedVersion { .. }, _) => UNSUPPORTED_VERSION,
            (Self::MissingCapability { .. }, _) => MISSING_CAPABILITY,
            (Self::MissingMeta(_) | Self::InvalidParams(_), _) => INVALID_PARAMS,
            (Self::MethodNotFound(_), _) => METHOD_NOT_FOUND,
            (Self::Unavailable { .. } | Self::Ended { .. } | Self::Overloaded { .. }, _) => {
                INTERNAL_ERROR
            }
            (
                Self::Message(_)
                | Self::Headers(_)
                | Self::InvalidRequest(_)
                | Self::MissingSession
                | Self::UnknownSession
                | Self::NotAcceptable(_)
                | Self::NotJsonBody
                | Self::HttpMethod,
                _,
            ) => INVALID_REQUEST,
        }
    }

    /// The HTTP status for a caller of this era, if the answer is not in a stream yet.
    ///
    /// Clients take a JSON-RPC error as an answer only with status 200; to other statuses they react on their own.
    pub(crate) const fn status(&self, era: Era) -> u16 {
        match (self, era) {
            (Self::Message(MessageError::TooLong), _) => 413,
            // Modern clients tell the unknown method from the unknown path by the error (streamable-http.mdx, Protocol
            // Version Header); to legacy ones 404 says that their session is gone.
            (Self::MethodNotFound(_), Era::Modern) | (Self::UnknownSession, _) => 404,
            (Self::MethodNotFound(_), Era::Legacy)
            | (Self::InvalidParams(_) | Self::Ended { .. }, _) => 200,
            (Self::HttpMethod, _) => 405,
            (Self::NotAcceptable(_), _) => 406,
            (Self::NotJsonBody, _) => 415,
            (Self::Unavailable { .. } | Self::Overloaded { .. }, _) => 503,
            (
                Self::Message(_)
                | Self::Headers(_)
                | Self::UnsupportedVersion { .. }
                | Self::MissingCapability { .. }
                | Self::MissingMeta(_)
                | Self::InvalidRequest(_)
                | Self::MissingSession,
                _,
            ) => 400,
        }
    }

    /// The raw data of the JSON-RPC error.
    pub(crate) fn data(&self) -> Option<String> {
        match self {
            Self::UnsupportedVersion {
                requested,
                supported,
            } => {
                let requested = raw::quoted(requested);
                let supported: Vec<_> = supported.iter().map(|it| raw::quoted(it)).collect();
                let supported = supported.join(",");
                Some(format!(
                    r#"{{"supported":[{supported}],"requested":{requested}}}"#
                ))
            }
            Self::MissingCapability { required } => {
                Some(format!(r#"{{"requiredCapabilities":{required}}}"#))
            }
            _ => None,
        }
    }

    /// Time after which the caller may try again.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Overloaded { .. } => Some(OVERLOADED_WAIT),
            _ => None,
        }
    }

    /// The JSON-RPC error for a caller of this era; `id` is the raw id of its request.
    ///
    /// Without an id, a legacy caller gets `null` (JSON-RPC 2.0, section 5), which the modern schema does not allow.
    pub(crate) fn line(&self, era: Era, id: Option<&str>) -> Line {
        let id = match era {
            Era::Legacy => id.or(Some("null")),
            Era::Modern => id,
        };
        let data = self.data();
        error_line(id, self.code(era), &self.to_string(), data.as_deref())
    }
}

/// A JSON-RPC error; `id` and `data` are raw.
pub(crate) fn error_line(id: Option<&str>, code: i32, message: &str, data: Option<&str>) -> Line {
    let id = id.map_or_else(String::new, |id| format!(r#""id":{id},"#));
    let data = data.map_or_else(String::new, |data| format!(r#","data":{data}"#));
    let message = raw::quoted(message);
    let error = format!(r#"{{"code":{code},"message":{message}{data}}}"#);
    Line::from(format!(r#"{{"jsonrpc":"2.0",{id}"error":{error}}}"#))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::headers::{META_VERSION, MODERN_VERSION};
    use crate::message::Message;

    /// Code, status, code and status of an error: for a legacy caller, then for a modern one.
    fn codes(error: impl Into<BridgeError>) -> [(i32, u16); 2] {
        let error = error.into();
        [Era::Legacy, Era::Modern].map(|era| (error.code(era), error.status(era)))
    }

    fn reason() -> String {
        "exit status 1".into()
    }

    #[test]
    fn errors_have_the_codes_and_statuses_of_their_era() {
        let ended = BridgeError::Ended { reason: reason() };
        let unavailable = BridgeError::Unavailable {
            reason: reason(),
            retry_after: None,
        };
        assert_eq!(codes(MessageError::NotJson), [(-32700, 400); 2]);
        assert_eq!(codes(MessageError::Batch), [(-32600, 400); 2]);
        assert_eq!(codes(MessageError::TooLong), [(-32600, 413); 2]);
        assert_eq!(
            codes(HeaderError::Missing("A")),
            [(-32600, 400), (-32020, 400)]
        );
        let unknown = BridgeError::MethodNotFound("ping".into());
        assert_eq!(codes(unknown), [(-32601, 200), (-32601, 404)]);
        assert_eq!(
            codes(BridgeError::MissingMeta(META_VERSION)),
            [(-32602, 400); 2]
        );
        assert_eq!(
            codes(BridgeError::InvalidParams(reason())),
            [(-32602, 200); 2]
        );
        assert_eq!(codes(BridgeError::UnknownSession), [(-32600, 404); 2]);
        assert_eq!(codes(BridgeError::NotAcceptable("a/b")), [(-32600, 406); 2]);
        assert_eq!(codes(ended), [(-32603, 200); 2]);
        assert_eq!(codes(unavailable), [(-32603, 503); 2]);
    }

    #[test]
    fn an_error_is_a_message_that_names_the_request() {
        let error = BridgeError::UnsupportedVersion {
            requested: "19\"00".into(),
            supported: vec![MODERN_VERSION.into(), "2025-11-25".into()],
        };
        let message = Message::parse(error.line(Era::Modern, Some("\"a\"")).to_bytes()).unwrap();
        assert_eq!(message.id(), Some("\"a\""));
        assert_eq!(message.error_code(), Some(-32022));
        let data = r#"{"supported":["2026-07-28","2025-11-25"],"requested":"19\"00"}"#;
        assert_eq!(message.error_member("data"), Some(data));
        let error = BridgeError::MissingCapability {
            required: r#"{"sampling":{}}"#.into(),
        };
        let data = r#"{"requiredCapabilities":{"sampling":{}}}"#;
        assert_eq!(error.data().as_deref(), Some(data));
    }

    #[test]
    fn an_error_about_an_unread_request_has_no_id() {
        let error = BridgeError::from(MessageError::NotJson);
        let text = r#""error":{"code":-32700,"message":"the message is not JSON"}}"#;
        let modern = format!(r#"{{"jsonrpc":"2.0",{text}"#);
        let legacy = format!(r#"{{"jsonrpc":"2.0","id":null,{text}"#);
        assert_eq!(error.line(Era::Modern, None).to_string(), modern);
        assert_eq!(error.line(Era::Legacy, None).to_string(), legacy);
        assert!(Message::parse(Bytes::from(legacy)).is_ok());
    }

    #[test]
    fn the_end_of_a_server_is_told_with_its_reason() {
        let error = BridgeError::Ended { reason: reason() };
        let text = "the server ended before it answered: exit status 1";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.retry_after(), None);
        let overloaded = BridgeError::Overloaded { what: "calls" };
        assert_eq!(overloaded.retry_after(), Some(OVERLOADED_WAIT));
    }
}
