//! Sends one HTTP request over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::response::Parts;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tieline_agent::address::deadline_in;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dial::Dial;
use super::failure::Failure;

/// Time limit for each step: the connection with its TLS handshake, and the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Limit on the bytes of an answer's body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A request without a body.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// Value of the Host header field.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Question<'_> {
    /// Sends the request over `stream`; returns head and body of the answer. The body is empty if it is too long or
    /// breaks off, or without `wants_body`.
    pub(crate) async fn ask(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        wants_body: bool,
    ) -> Result<(Parts, Bytes), Failure> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, self.authority)
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Strange(error.to_string()))?;
        if let Some(value) = self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Dropping the set closes the connection.
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = match wants_body {
                true => Limited::new(body, BODY_BYTES_MAX).collect().await.ok(),
                false => None,
            };
            let body = body.map(|it| it.to_bytes()).unwrap_or_default();
            Ok::<_, Failure>((parts, body))
        };
        timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or_else(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Err(Failure::Silent(format!("no answer in {seconds} s")))
        })
    }

    /// Connects with `dial`, and sends the request.
    pub(crate) async fn ask_over(
        self,
        dial: &Dial,
        wants_body: bool,
    ) -> Result<(Parts, Bytes), Failure> {
        let stream = dial.connect(deadline_in(ANSWER_TIMEOUT)).await?;
        self.ask(stream, wants_body).await
    }
}
