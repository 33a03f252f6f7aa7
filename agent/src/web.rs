//! One request to a server, over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::response::Parts;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::address::{HostPort, deadline_in};
use crate::connect::tls::Tls;

/// How long one answer may take.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Most that is read of an answer's body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A request without a body.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// What the server is called.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Question<'_> {
    /// Head and body of the answer; in words what went wrong. The body is left out where it is long
    /// or breaks off, and where only the head is wanted.
    pub(crate) async fn ask(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        wants_body: bool,
    ) -> Result<(Parts, Bytes), String> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, self.authority)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        if let Some(value) = self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request).await;
            let answer = match answer {
                Ok(answer) => {
                    let (parts, body) = answer.into_parts();
                    let body = match wants_body {
                        true => Limited::new(body, BODY_BYTES_MAX).collect().await.ok(),
                        false => None,
                    };
                    Ok((parts, body.map(|it| it.to_bytes()).unwrap_or_default()))
                }
                Err(error) => Err(error),
            };
            connection.abort();
            answer
        };
        match timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answer) => answer.map_err(|error: hyper::Error| error.to_string()),
            Err(_) => Err(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
        }
    }

    /// The same at a server to be dialled first, over TLS if there is any.
    pub(crate) async fn ask_at(
        self,
        address: &HostPort,
        tls: Option<&Tls>,
        wants_body: bool,
    ) -> Result<(Parts, Bytes), String> {
        let connected = address.connect(deadline_in(ANSWER_TIMEOUT)).await;
        let stream = connected.map_err(|error| error.to_string())?;
        let Some(tls) = tls else {
            return self.ask(stream, wants_body).await;
        };
        match timeout(ANSWER_TIMEOUT, tls.connect(stream)).await {
            Ok(Ok(stream)) => self.ask(stream, wants_body).await,
            Ok(Err(error)) => Err(tls.explain(&error).unwrap_or_else(|| error.to_string())),
            Err(_) => Err("the TLS handshake took too long".to_owned()),
        }
    }
}
