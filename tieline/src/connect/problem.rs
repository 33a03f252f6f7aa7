//! The proxy's own error answers: a stable code and a message for people, both in JSON.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tieline_hop::{Delivery, Refusal, json_answer};

/// An error that the proxy answers with, in place of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    /// Stable code; scripts match on it.
    word: &'static str,
    /// The message for people.
    pub(super) message: String,
    /// Whether the relay may have received the request; `None` for requests that the proxy refuses.
    delivery: Option<Delivery>,
    /// Time until a proxy on the way may be sent the login again; zero for other problems.
    pub(super) login_wait: Duration,
}

impl Problem {
    fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            word,
            message: message.into(),
            delivery: None,
            login_wait: Duration::ZERO,
        }
    }

    /// Says whether the relay may have received the request.
    pub(super) fn delivered(self, delivery: Delivery) -> Self {
        Self {
            delivery: Some(delivery),
            ..self
        }
    }

    /// Whether another attempt may help: the relay is unreachable and has received nothing of the request.
    pub(super) fn may_pass(&self) -> bool {
        self.word == "relay_unreachable"
    }

    /// The request is for a host that is not the proxy's.
    pub(super) fn host_refused(host: &str) -> Self {
        let message = format!(
            "this proxy answers to localhost and its own address, not to {host:?} \
             (a guard against DNS rebinding); \
             tieline connect --allow-host NAME lets clients use another name"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "host_refused", message)
    }

    /// The request comes from a web page that may not use the proxy.
    pub(super) fn origin_refused(origin: &str) -> Self {
        let message = format!(
            "pages of {origin:?} may not use this proxy; \
             tieline connect --allow-origin ORIGIN allows an origin"
        );
        Self::new(StatusCode::FORBIDDEN, "origin_refused", message)
    }

    /// The request asks for the link of an agent.
    pub(super) fn link_refused() -> Self {
        let message =
            "this proxy is for callers: an agent dials the relay itself, see tieline serve --relay";
        Self::new(StatusCode::FORBIDDEN, "link_refused", message)
    }

    /// No connection to the relay could be made.
    pub(super) fn relay_unreachable(message: String) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "relay_unreachable", message)
            .delivered(Delivery::NotSent)
    }

    /// A proxy on the way to the relay refuses the login, or does not answer it; it is sent again after `login_wait`.
    pub(super) fn proxy_login(message: String, login_wait: Duration) -> Self {
        let problem = Self::new(StatusCode::BAD_GATEWAY, "proxy_login", message);
        Self {
            login_wait,
            ..problem.delivered(Delivery::NotSent)
        }
    }

    /// The TLS handshake with the relay failed, for example because its certificate is not trusted.
    pub(super) fn relay_tls(message: String) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "relay_tls", message).delivered(Delivery::NotSent)
    }

    /// The connection to the relay ended before the answer's head.
    pub(super) fn relay_closed(delivery: Delivery) -> Self {
        let message = match delivery {
            Delivery::Sent => {
                "the relay closed the connection before it answered; \
                 whether it carried the request out is not known"
            }
            Delivery::NotSent => "the relay closed the connection before it had the request",
        };
        Self::new(StatusCode::BAD_GATEWAY, "relay_closed", message).delivered(delivery)
    }

    /// The relay's answer is not valid HTTP.
    pub(super) fn relay_invalid(why: &str) -> Self {
        let message = format!("the relay's answer is not usable: {why}");
        Self::new(StatusCode::BAD_GATEWAY, "relay_invalid", message).delivered(Delivery::Sent)
    }

    /// True if the relay could not be reached, or could not be trusted.
    pub(super) fn is_relay_away(&self) -> bool {
        matches!(self.word, "relay_unreachable" | "relay_tls" | "proxy_login")
    }

    /// The answer's body.
    pub(super) fn body(&self) -> Bytes {
        let mut body = serde_json::json!({ "error": self.word, "message": self.message });
        if let Some(delivery) = self.delivery {
            body["request"] = delivery.word().into();
        }
        Bytes::from(body.to_string())
    }

    /// The answer for the caller.
    pub(super) fn into_response(self) -> Response<Bytes> {
        json_answer(self.status, self.body())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.word, refusal.why)
    }
}

/// Answer to a connection beyond the limit.
pub(super) const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
content-type: application/json\r\n\
content-length: 123\r\n\
retry-after: 1\r\n\
connection: close\r\n\
\r\n\
{\"error\":\"too_many_connections\",\"message\":\"the connection limit of this proxy is reached, at most 256; close a connection\"}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_resort_is_whole_http_and_json() {
        let text = str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], "too_many_connections");
        let message = body["message"].as_str().unwrap();
        let count = format!("at most {}", super::super::CONNECTIONS_MAX);
        assert!(message.contains(&count), "{message}");
    }

    #[test]
    fn a_message_with_quotes_is_json_all_the_same() {
        let problem = Problem::host_refused("\"x\\");
        let body: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
        assert_eq!(body["error"], "host_refused");
        assert_eq!(problem.into_response().status(), 421);
    }
}
