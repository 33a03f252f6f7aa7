//! HTTP/1.1 on one connection: checks what the bridge does not, hands requests to it and forms its answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tieline_bridge::{Caller, HttpMethod, RequestHead, ResponseHead};
use tokio::net::TcpStream;

use super::answer::{Answer, AnswerBody};
use super::queue::Broken;
use super::state::Shared;
use super::upload::{Upload, UploadError};

/// Paths of the server.
const PATHS: [&str; 2] = ["/mcp", "/mcp/"];

/// Names the caller, in hexadecimal digits. The relay sets it, and drops what a caller sends under this name.
const CALLER: &str = "tieline-caller";

/// Names the session of a legacy caller.
const SESSION: &str = "mcp-session-id";

/// Tells proxies such as nginx to hand on each event at once.
const BUFFERING: &str = "x-accel-buffering";

/// Most bytes of a request's head: the relay lets through less.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Memory for reads, and for answers besides those that wait in their queues.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Wait that a caller is told while there is no room for its request: lines are written within milliseconds.
const NO_ROOM_WAIT_S: u64 = 1;

/// Serves the requests of a connection, one after the other, until its peer closes it.
///
/// No deadline ends a quiet connection: its other end is a session of this agent, whose relay knows when it is idle.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let service = service_fn(move |request| respond(Arc::clone(&shared), request));
    let connection = Builder::new()
        .header_read_timeout(None::<Duration>)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the server of a program has ended early");
    }
}

/// Answers a request. An error closes the connection, so that an answer that has begun looks cut.
async fn respond(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Broken> {
    let (head, body) = request.into_parts();
    let caller = match check(&head) {
        Ok(caller) => caller,
        Err(refusal) => return Ok(refusal.response()),
    };
    let upload = match Upload::read(body, &shared.room).await {
        Ok(upload) => upload,
        Err(error) => return Ok(Refusal::Upload(error).response()),
    };
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let request = tieline_bridge::Request {
        method: method(&head.method),
        head: RequestHead::read(fields),
        caller,
        body: upload.text,
    };
    let answer = Answer::begin(shared, request, upload.place);
    let head = answer.head().await?;
    Ok(response(head, answer))
}

/// Checks where a request goes to, and which caller it is of.
fn check(head: &Parts) -> Result<Caller, Refusal> {
    match PATHS.contains(&head.uri.path()) {
        true => caller(&head.headers).ok_or(Refusal::Caller),
        false => Err(Refusal::Path),
    }
}

/// The caller that the relay names.
fn caller(fields: &HeaderMap) -> Option<Caller> {
    let mut values = fields.get_all(CALLER).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let name = value.to_str().ok()?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_name {
        true => Caller::new(name).ok(),
        false => None,
    }
}

fn method(method: &Method) -> HttpMethod {
    match *method {
        Method::GET => HttpMethod::Get,
        Method::POST => HttpMethod::Post,
        Method::DELETE => HttpMethod::Delete,
        _ => HttpMethod::Other,
    }
}

/// The response with the bridge's answer.
fn response(head: ResponseHead, answer: Answer) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(AnswerBody::Answer(answer));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(content_type) = head.content_type {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(session) = head.session
        && let Ok(session) = HeaderValue::from_str(session.as_str())
    {
        fields.insert(SESSION, session);
    }
    if let Some(seconds) = head.retry_after_s {
        fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(methods) = head.allow {
        fields.insert(ALLOW, HeaderValue::from_static(methods));
    }
    if head.is_stream {
        fields.insert(BUFFERING, HeaderValue::from_static("no"));
    }
    response
}

/// Why a request does not reach the bridge.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// The server has another path.
    #[error("there is nothing at this path; the server is at /mcp")]
    Path,
    /// The request names no caller, or several.
    #[error("the relay does not name the caller; it must be of a version that knows stdio targets")]
    Caller,
    /// The request has no body that can be taken.
    #[error(transparent)]
    Upload(UploadError),
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Caller | Self::Upload(UploadError::Cut(_)) => StatusCode::BAD_REQUEST,
            Self::Upload(UploadError::TooLong) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Upload(UploadError::Late) => StatusCode::REQUEST_TIMEOUT,
            Self::Upload(UploadError::NoRoom(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn response(&self) -> Response<AnswerBody> {
        let text = Bytes::from(format!("{self}\n"));
        let mut response = Response::new(AnswerBody::Text(text));
        *response.status_mut() = self.status();
        let fields = response.headers_mut();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        fields.insert(CONTENT_TYPE, content_type);
        if matches!(self, Self::Upload(UploadError::NoRoom(_))) {
            fields.insert(RETRY_AFTER, HeaderValue::from(NO_ROOM_WAIT_S));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|&value| HeaderValue::from_static(value));
        let name = http::HeaderName::from_static(CALLER);
        values.map(|value| (name.clone(), value)).collect()
    }

    #[test]
    fn a_request_names_one_caller_in_hexadecimal_digits() {
        let name = "0123456789abcdef0123456789abcdef";
        let found = caller(&fields(&[name]));
        assert_eq!(found.as_ref().map(Caller::as_str), Some(name));
        assert!(caller(&fields(&["a"])).is_some());
        let both = [name, name];
        let refused: [&[&'static str]; 5] = [&[], &[""], &["ann"], &["a b"], &both];
        for values in refused {
            assert_eq!(caller(&fields(values)), None, "{values:?}");
        }
    }

    #[test]
    fn the_server_has_one_path() {
        let at = |uri: &str| {
            let request = Request::get(uri).header(CALLER, "a").body(()).unwrap();
            check(&request.into_parts().0).map_err(|refusal| refusal.status())
        };
        let ann = Caller::new("a").unwrap();
        assert_eq!(at("/mcp"), Ok(ann.clone()));
        assert_eq!(at("/mcp/?a=b"), Ok(ann));
        for uri in ["/", "/mcp/x", "/MCP", "*"] {
            assert_eq!(at(uri), Err(StatusCode::NOT_FOUND), "{uri}");
        }
    }
}
