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
use tieline_agent::transport::DIAL_TIMEOUT;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dial::Dial;
use super::failure::Failure;

/// Time limit for each step: the connection with its TLS handshake, and the answer. A connection through a proxy has
/// [`DIAL_TIMEOUT`].
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
        let limit = match dial.has_proxy() {
            // A slow login must not fail here that works for the requests of callers.
            true => DIAL_TIMEOUT,
            false => ANSWER_TIMEOUT,
        };
        let stream = dial.connect(deadline_in(limit)).await?;
        self.ask(stream, wants_body).await
    }
}

#[cfg(test)]
mod tests {
    use tieline_agent::Proxies;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::outbound::RelayOrigin;

    #[tokio::test]
    async fn a_login_at_a_proxy_has_as_long_as_for_the_requests_of_callers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://ada:secret@{}", listener.local_addr().unwrap());
        let relay = RelayOrigin::parse("http://relay.test:9080").unwrap();
        let proxies = Proxies::parse(&proxy).unwrap();
        let dial = Dial::of(&relay, None, &proxies).unwrap().for_one_run();
        for (answer, words) in [
            (Some("HTTP/1.1 502 Away\r\n\r\n"), "(502 Bad Gateway)"),
            (None, "each further run sends the password again"),
        ] {
            let question = Question {
                method: Method::GET,
                authority: "relay.test:9080",
                path: "/",
                authorization: None,
            };
            let answering = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                tokio::time::pause();
                tokio::time::advance(Duration::from_secs(7)).await;
                match answer {
                    Some(answer) => socket.write_all(answer.as_bytes()).await.unwrap(),
                    None => tokio::time::advance(DIAL_TIMEOUT).await,
                }
                tokio::time::resume();
                socket
            };
            let (asked, _socket) = tokio::join!(question.ask_over(&dial, false), answering);
            let Err(failure) = asked else {
                panic!("an answer of the relay, which the proxy does not reach");
            };
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}
