//! Sends one HTTP request over a connection of its own.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::response::Parts;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tieline_agent::HostPort;
use tieline_agent::address::deadline_in;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tls::Tls;

/// Time limit for each step: the connection, the TLS handshake, the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Limit on the bytes of an answer's body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Why there was no answer, with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The connection failed.
    #[error("{0}")]
    Away(String),
    /// The server's certificate is not trusted.
    #[error("{0}")]
    Untrusted(String),
    /// The server closed the connection.
    #[error("{0}")]
    Closed(String),
    /// The server's answer is not HTTP.
    #[error("{0}")]
    Strange(String),
    /// The server did not answer in time.
    #[error("{0}")]
    Silent(String),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        use std::error::Error;
        let cause = error.source().and_then(|it| it.downcast_ref::<io::Error>());
        let is_cut = |kind| {
            matches!(
                kind,
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        };
        let text = error.to_string();
        match error.is_incomplete_message() || cause.is_some_and(|it| is_cut(it.kind())) {
            true => Self::Closed(text),
            false => Self::Strange(text),
        }
    }
}

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

    /// Connects to `address`, over TLS if `tls` is given, and sends the request.
    pub(crate) async fn ask_at(
        self,
        address: &HostPort,
        tls: Option<&Tls>,
        wants_body: bool,
    ) -> Result<(Parts, Bytes), Failure> {
        let connected = address.connect(deadline_in(ANSWER_TIMEOUT)).await;
        let stream = connected.map_err(|error| Failure::Away(error.to_string()))?;
        let Some(tls) = tls else {
            return self.ask(stream, wants_body).await;
        };
        match timeout(ANSWER_TIMEOUT, tls.connect(stream)).await {
            Ok(Ok(stream)) => self.ask(stream, wants_body).await,
            Ok(Err(error)) => Err(match tls.explain(&error) {
                Some(why) => Failure::Untrusted(why),
                None => Failure::Closed(error.to_string()),
            }),
            Err(_) => Err(Failure::Silent(
                "the TLS handshake did not end in time".to_owned(),
            )),
        }
    }
}
