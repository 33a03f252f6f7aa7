//! The relay's own answers: a stable error code and a message, both in JSON.
//! Long because all error answers of the relay stand in one file, with their messages.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Response, StatusCode};
use tieline_hop::{Delivery, Refusal, json_answer};
use tieline_wire::SessionEnd;

use crate::auth::TokenRefusal;
use crate::config::PublicUrl;
use crate::limits::Limited;

/// `Retry-After` for an offline tunnel, in seconds: an agent that lost its link reconnects within a few
/// seconds.
const RETRY_AFTER_SECONDS: &str = "5";

/// `Retry-After` while the relay stops, in seconds: its successor listens already, or will soon.
const RETRY_SOON_SECONDS: &str = "1";

/// Methods for metadata at the relay's root (RFC 9728, section 3.1, and RFC 8414, section 3.1, require only
/// GET).
const METADATA_METHODS: &str = "GET, HEAD, OPTIONS";

/// An error answer of the relay itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Stable error code; scripts match on it.
    pub(super) word: &'static str,
    message: String,
    /// The failed part behind the relay: `target` or `agent`.
    down: Option<&'static str>,
    /// Whether the target may have received the request; set for 502, 503 and 504, and once a target was found.
    delivery: Option<Delivery>,
    /// `WWW-Authenticate` value (RFC 6750, section 3).
    challenge: Option<&'static str>,
    /// The exceeded rate limit, with the time of the next try.
    limited: Option<Limited>,
    /// `Retry-After` of a 503, in seconds.
    retry_after: &'static str,
}

impl Problem {
    fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        // Default for errors without a session; errors of a session override it with `delivered`.
        let is_about_delivery = matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        Self {
            status,
            word,
            message: message.into(),
            down: None,
            delivery: is_about_delivery.then_some(Delivery::NotSent),
            challenge: None,
            limited: None,
            retry_after: RETRY_AFTER_SECONDS,
        }
    }

    fn down(mut self, what: &'static str) -> Self {
        self.down = Some(what);
        self
    }

    /// Says whether the target may have received the request.
    pub(super) fn delivered(mut self, delivery: Delivery) -> Self {
        self.delivery = Some(delivery);
        self
    }

    /// The path names no tunnel.
    pub(super) fn not_found() -> Self {
        let hint = "no tunnel at this path; a tunnel's URL is /w/<tunnel>/<path>";
        Self::new(StatusCode::NOT_FOUND, "not_found", hint)
    }

    /// The path names a kind without any tunnel.
    pub(super) fn no_such_kind(kind: &str) -> Self {
        let message = format!("there is no tunnel of kind {kind:?} here");
        Self::new(StatusCode::NOT_FOUND, "unknown_tunnel", message)
    }

    /// The `mcp_session` is unknown here; clients then start a new one.
    pub(super) fn session_gone() -> Self {
        let message = "this Mcp-Session-Id is not valid here: its agent left, or it belongs to another caller, \
                       or to an earlier run of the relay; initialize again";
        Self::new(StatusCode::NOT_FOUND, "unknown_session", message)
    }

    /// `place` holds a credential of the relay and cannot be dropped from the request; `word` is the error code.
    /// `is_unsure` says that the search for credentials was cut short.
    pub(super) fn token_in(place: &str, word: &'static str, is_unsure: bool) -> Self {
        let message = if is_unsure {
            format!(
                "the {place} may hold a token of this relay: the request has more than eight signatures \
                 to check, or too many texts that could be a token"
            )
        } else {
            format!(
                "the {place} holds a token of this relay, which targets must not see; send it as \
                 `Authorization: Bearer TOKEN`"
            )
        };
        Self::new(StatusCode::BAD_REQUEST, word, message)
    }

    /// The path is outside the part of the target that is exposed.
    pub(super) fn not_exposed(url: &str) -> Self {
        let message = format!("this tunnel serves only {url} and the paths below it");
        Self::new(StatusCode::NOT_FOUND, "not_exposed", message)
    }

    /// Refuses a method that metadata at the relay's root does not support.
    pub(super) fn check_metadata(method: &Method) -> Result<(), Self> {
        if METADATA_METHODS.split(", ").any(|it| it == method.as_str()) {
            return Ok(());
        }
        let message = format!("metadata is read-only; use one of {METADATA_METHODS}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Err(Self::new(status, "method_not_allowed", message))
    }

    /// The request names a host that does not belong to the relay.
    pub(super) fn misdirected() -> Self {
        let hint = "this relay does not serve that host name; its operator sets the name with --domain or \
                    --public-url";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", hint)
    }

    /// The caller is not allowed to do this; `why` is the message.
    pub(super) fn forbidden(word: &'static str, why: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, word, why)
    }

    /// The request for a WebSocket came in clear text; `own` is the URL of the same host under `https`.
    pub(super) fn https_required(own: &PublicUrl) -> Self {
        let own = own.to_string();
        let host = own.strip_prefix("https://").unwrap_or(&own);
        let message = format!(
            "this relay takes no WebSocket in clear text, where tokens can be read on the way: use wss://{host} (agents: \
             https://{host}), and replace a token that was sent with this request"
        );
        Self::new(StatusCode::FORBIDDEN, "https_required", message)
    }

    /// The caller's token is missing or refused.
    pub(super) fn token(refusal: TokenRefusal) -> Self {
        let message = refusal.to_string();
        let (status, word, challenge) = match refusal {
            TokenRefusal::Missing => (StatusCode::UNAUTHORIZED, "unauthorized", "Bearer"),
            TokenRefusal::Scope(_) => (
                StatusCode::FORBIDDEN,
                "insufficient_scope",
                "Bearer error=\"insufficient_scope\"",
            ),
            TokenRefusal::Unavailable(_) => {
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "auth_unavailable", message);
            }
            TokenRefusal::Bad(_)
            | TokenRefusal::Expired(_)
            | TokenRefusal::NotYet(_)
            | TokenRefusal::Revoked
            | TokenRefusal::NoTokens => (
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "Bearer error=\"invalid_token\"",
            ),
        };
        Self {
            challenge: Some(challenge),
            ..Self::new(status, word, message)
        }
    }

    /// The relay stops and the agent has left; another relay may serve the tunnel already.
    pub(super) fn stopping() -> Self {
        let message = "the relay is stopping, and the agent has left it; retry over a new \
                       connection";
        Self {
            retry_after: RETRY_SOON_SECONDS,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "relay_stopping", message)
        }
    }

    /// The relay stops and takes no new WebSocket, which would outlive it.
    pub(super) fn draining() -> Self {
        let message =
            "the relay is stopping and takes no new WebSockets; retry over a new connection";
        Self {
            retry_after: RETRY_SOON_SECONDS,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "relay_stopping", message)
        }
    }

    /// The request is not one for a WebSocket of the supported version; `why` is the message.
    pub(super) fn upgrade_required(why: &str) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", why)
    }

    /// The shard's memory budget is used up, and this connection already has several requests.
    pub(super) fn overload() -> Self {
        let text = "the relay has no memory for more concurrent requests on this connection";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overload", text)
    }

    /// The request cannot be passed on.
    pub(super) fn bad_request(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", why)
    }

    /// The request's head could not be parsed.
    pub(super) fn refused_head(status: StatusCode, why: &str) -> Self {
        let (word, message) = match status {
            StatusCode::URI_TOO_LONG => (
                "uri_too_long",
                "the URL is too long: the whole head, URL included, may have at most 64 KiB; send long values \
                 in a body"
                    .to_owned(),
            ),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
                "head_too_large",
                "the head of a request has at most 64 KiB and 100 fields".to_owned(),
            ),
            _ => ("bad_request", format!("the request cannot be read: {why}")),
        };
        Self::new(status, word, message)
    }

    /// The target's answer is not valid HTTP.
    pub(super) fn target_invalid(why: &str) -> Self {
        let message = format!("the target's answer is not usable: {why}");
        Self::new(StatusCode::BAD_GATEWAY, "target_invalid", message)
            .down("target")
            .delivered(Delivery::Sent)
    }

    /// The connection to the target ended before the answer's head.
    pub(super) fn target_closed(delivery: Delivery) -> Self {
        let message = match delivery {
            Delivery::Sent => {
                "the target closed the connection before it answered; \
                 whether it carried the request out is not known"
            }
            Delivery::NotSent => "the target closed the connection before it had the request",
        };
        Self::new(StatusCode::BAD_GATEWAY, "target_closed", message)
            .down("target")
            .delivered(delivery)
    }

    /// A session for `tunnel` could not be opened.
    pub(super) fn not_delivered(reason: SessionEnd, tunnel: &str) -> Self {
        Self::session(reason, tunnel, Delivery::NotSent)
    }

    /// A session for `tunnel` could not be opened, or ended before the answer's head.
    pub(super) fn session(reason: SessionEnd, tunnel: &str, delivery: Delivery) -> Self {
        let problem = Self::of_session(reason, tunnel, delivery);
        match problem.status {
            StatusCode::NOT_FOUND => problem,
            _ => problem.delivered(delivery),
        }
    }

    fn of_session(reason: SessionEnd, tunnel: &str, delivery: Delivery) -> Self {
        let sent = delivery == Delivery::Sent;
        match reason {
            SessionEnd::UnknownTunnel => Self::new(
                StatusCode::NOT_FOUND,
                "unknown_tunnel",
                format!("there is no tunnel named {tunnel:?} here"),
            ),
            SessionEnd::TargetRefused => Self::new(
                StatusCode::BAD_GATEWAY,
                "target_refused",
                "the agent is connected, but its target refuses the connection; \
                 is the server behind the tunnel running?",
            )
            .down("target"),
            SessionEnd::TargetUnreachable => Self::new(
                StatusCode::BAD_GATEWAY,
                "target_unreachable",
                "the agent is connected, but cannot reach its target",
            )
            .down("target"),
            SessionEnd::TargetTimeout => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "target_timeout",
                "the agent is connected, but its target did not answer in time",
            )
            .down("target"),
            SessionEnd::TargetReset => Self::target_closed(delivery),
            SessionEnd::SessionLimit | SessionEnd::Overload => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "overload",
                format!("the tunnel takes no more requests at the moment: {reason}"),
            ),
            SessionEnd::TunnelPaused if !sent => Self::paused(reason),
            SessionEnd::TunnelOffline
            | SessionEnd::Kicked
            | SessionEnd::LinkLost
            | SessionEnd::ShuttingDown
            | SessionEnd::Superseded
            | SessionEnd::TokenExpired
                if !sent =>
            {
                Self::offline()
            }
            SessionEnd::TunnelOffline
            | SessionEnd::TunnelPaused
            | SessionEnd::Kicked
            | SessionEnd::LinkLost
            | SessionEnd::ShuttingDown
            | SessionEnd::Superseded
            | SessionEnd::TokenExpired
            | SessionEnd::NameTaken
            | SessionEnd::NameBound
            | SessionEnd::Revoked
            | SessionEnd::AuthChanged
            | SessionEnd::AuthUnavailable
            | SessionEnd::ClaimTimeout
            | SessionEnd::TunnelLimit
            | SessionEnd::Limited
            | SessionEnd::Protocol
            | SessionEnd::LengthMismatch
            | SessionEnd::LaneLost
            | SessionEnd::FrontendGone
            | SessionEnd::FrontendReset
            | SessionEnd::Cancelled
            | SessionEnd::Internal => Self::failed(reason),
        }
    }

    fn paused(reason: SessionEnd) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "tunnel_paused",
            format!("this tunnel takes no requests at the moment: {reason}"),
        )
    }

    fn offline() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "tunnel_offline",
            "no agent serves this tunnel at the moment; it may be back in a few seconds",
        )
        .down("agent")
    }

    fn failed(reason: SessionEnd) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "tunnel_failed",
            format!("the tunnel failed before the answer came: {reason}"),
        )
        .down("agent")
    }

    /// The answer for the caller.
    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut body = serde_json::json!({ "error": self.word, "message": self.message });
        if let Some(down) = self.down {
            body["down"] = down.into();
        }
        if let Some(delivery) = self.delivery {
            body["request"] = delivery.word().into();
        }
        if let Some(limited) = self.limited {
            body["limit"] = limited.kind.word().into();
        }
        let mut response = json_answer(self.status, Bytes::from(body.to_string()));
        let headers = response.headers_mut();
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static(METADATA_METHODS));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if let Some(limited) = self.limited {
            // Rounded up to whole seconds: an earlier retry would be refused.
            let seconds = limited.retry_after.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                headers.insert(RETRY_AFTER, value);
            }
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(self.retry_after));
        }
        response
    }
}

impl From<Limited> for Problem {
    fn from(limited: Limited) -> Self {
        let message = limited.to_string();
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self {
            limited: Some(limited),
            ..Self::new(status, "too_many_requests", message)
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.word, refusal.why)
    }
}

/// The answer to a health check; it reveals nothing else.
pub(super) fn alive() -> Response<Bytes> {
    json_answer(StatusCode::OK, Bytes::from_static(b"{\"status\":\"ok\"}"))
}

/// The answer to a CA that checks a name.
pub(super) fn challenge(text: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(text));
    let headers = answer.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
#[path = "tests/problem.rs"]
mod tests;
