//! Heads that hyper refuses with an empty answer of its own. The relay replaces that answer by one with a
//! message, and writes the refusal to the audit log like every other.
//!
//! hyper has no hook for this. It writes its answer last and then ends with the parser's error, so bytes
//! that look like its answer are held back until the connection has ended or goes on.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use hyper::rt::Write;
use tieline_hop::RequestLine;

use crate::audit::Call;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::ended::Ended;
use crate::listen::http::gateway::settings::HTTP_BUFFER_BYTES_MAX;
use crate::listen::http::policy::origin::{self, Page};
use crate::listen::http::problem::Problem;

/// Longest answer that hyper makes by itself, in bytes.
const ANSWER_BYTES_MAX: usize = 128;

/// First bytes of every HTTP/1.x answer.
const START: &[u8] = b"HTTP/1.";

/// Time limit for writing the last answer.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// The answer that was held back until hyper dropped the connection, and what is known of the head that it refused.
pub(crate) struct HeldAnswer {
    /// hyper's own answer to a head that it refused, or bytes that look like one; not written yet.
    pub(crate) bytes: Vec<u8>,
    /// Request line of the head that was not served; `None` if it is not known.
    pub(super) request_line: Option<RequestLine>,
    /// The rule for which the scanner made hyper refuse the head.
    pub(crate) rule: Option<&'static str>,
}

/// Offset of hyper's own answer in `bytes`, if they end with one.
pub(super) fn answer_start(bytes: &[u8]) -> Option<usize> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(ANSWER_BYTES_MAX);
    let tail = &bytes[from..];
    let start = tail.windows(START.len()).rposition(|it| it == START)?;
    let text = str::from_utf8(&tail[start..]).ok()?;
    let mut lines = text.trim_end().split("\r\n");
    let status = lines.next().and_then(status_in)?;
    let is_plain = |line: &str| matches!(line, "connection: close" | "content-length: 0");
    (is_hypers(status) && lines.all(is_plain)).then_some(from + start)
}

fn is_hypers(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::URI_TOO_LONG
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    )
}

fn status_in(line: &str) -> Option<StatusCode> {
    line.split(' ').nth(1)?.parse().ok()
}

/// Writes the held-back answer and closes the connection. If hyper refused a head, an answer of the relay
/// with the reason replaces hyper's.
pub(crate) async fn write_answer<IO: Write + Unpin, G: Gateway>(
    io: &mut IO,
    gateway: &G,
    address: IpAddr,
    held: HeldAnswer,
    ended: (Ended, Option<String>),
) {
    let status = str::from_utf8(&held.bytes).ok().and_then(status_in);
    // hyper has one limit for the whole head; the URL decides between 414 and 431.
    let line = held.request_line.as_ref();
    let is_url_long = line.is_some_and(|it| it.target_bytes() > HTTP_BUFFER_BYTES_MAX / 2);
    let status = status.map(|status| match (status, is_url_long) {
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, true) => StatusCode::URI_TOO_LONG,
        (status, _) => status,
    });
    let bytes = match (status, ended) {
        (Some(status), (Ended::Malformed, Some(why))) => {
            let problem = Problem::refused_head(status, held.rule.unwrap_or_else(|| rule_of(&why)));
            let word = problem.word;
            gateway.answered(status, Some(word));
            if gateway.is_audited() {
                gateway.note(
                    Call::with_refused_head(address),
                    None,
                    Some(status),
                    Some(word),
                );
            }
            let mut response = problem.into_response();
            // The page's origin is unknown, so this answer gets no CORS permission.
            origin::add_cors(response.headers_mut(), Page::Own);
            in_http1(response, line.map(RequestLine::is_head))
        }
        _ => held.bytes,
    };
    write(io, gateway, &bytes).await;
}

/// The rule that hyper's parser error stands for.
fn rule_of(why: &str) -> &str {
    if why.contains("invalid HTTP header") {
        return "a header line is folded, has no colon, has a blank or another invalid character in its name, or has a \
                control character in its value";
    }
    why
}

/// The last answer of a connection, encoded for HTTP/1.1; `is_head` tells whether it answers HEAD. If that is not known,
/// the answer has neither a length nor a body: to HEAD it is complete, to others its body is empty.
fn in_http1(mut response: Response<Bytes>, is_head: Option<bool>) -> Vec<u8> {
    if is_head.is_none() {
        response.headers_mut().remove(CONTENT_TYPE);
    }
    let mut out = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"connection: close\r\n");
    if is_head.is_some() {
        let length = format!("content-length: {}\r\n", response.body().len());
        out.extend_from_slice(length.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if is_head == Some(false) {
        out.extend_from_slice(response.body());
    }
    out
}

async fn write<IO: Write + Unpin, G: Gateway>(io: &mut IO, gateway: &G, bytes: &[u8]) {
    let mut rest = bytes;
    let writing = pin!(poll_fn(|cx| {
        while !rest.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, rest)) {
                Ok(count @ 1..) => rest = &rest[count..],
                _ => return Poll::Ready(()),
            }
        }
        if ready!(Pin::new(&mut *io).poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        Pin::new(&mut *io).poll_shutdown(cx).map(|_| ())
    }));
    gateway.within(WRITE_MAX, writing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hyper_says_by_itself_looks_like_it() {
        let end = "connection: close\r\ncontent-length: 0\r\n\r\n";
        for status in [
            "400 Bad Request",
            "414 URI Too Long",
            "431 Request Header Fields Too Large",
        ] {
            let answer = format!("HTTP/1.1 {status}\r\n{end}");
            assert_eq!(answer_start(answer.as_bytes()), Some(0));
            let behind = format!("the end of another one{answer}");
            assert_eq!(answer_start(behind.as_bytes()), Some(22));
            let longer = answer.replace(end, &format!("server: x\r\n{end}"));
            assert_eq!(answer_start(longer.as_bytes()), None);
            assert_eq!(answer_start(&answer.as_bytes()[..answer.len() - 1]), None);
        }
        assert_eq!(
            answer_start(format!("HTTP/1.1 404 Not Found\r\n{end}").as_bytes()),
            None
        );
        assert_eq!(answer_start(b"\r\n\r\n"), None);
    }

    #[test]
    fn an_answer_to_an_unknown_method_suits_head_and_get() {
        let answer = |is_head| {
            let mut response = Response::new(Bytes::from_static(b"{}"));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            String::from_utf8(in_http1(response, is_head)).unwrap()
        };
        let start = "HTTP/1.1 400 Bad Request\r\n";
        let fields = "content-type: application/json\r\nconnection: close\r\ncontent-length: 2\r\n";
        assert_eq!(answer(Some(true)), format!("{start}{fields}\r\n"));
        assert_eq!(answer(Some(false)), format!("{start}{fields}\r\n{{}}"));
        assert_eq!(answer(None), format!("{start}connection: close\r\n\r\n"));
    }
}
