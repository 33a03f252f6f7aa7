//! Callers over HTTP: what they send and receive over HTTP/1.1, over HTTPS and over HTTP/2.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tieline_e2e::behaviour::{Digest, Framing, HttpStream, LONG_BYTES, noise, soon};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Front;
use super::streams::Stream;
use super::targets::{ANSWER, Targets};

/// Seed of what callers send.
const REQUEST: u64 = 1;

/// What carries a caller over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebCaller {
    Http,
    Https,
    H2,
}

/// An answer whose body is still to be read. Dropping it cancels the request, and closes the connection.
struct Answer {
    status: u16,
    rest: Rest,
}

enum Rest {
    One(HttpStream<Stream>, Framing),
    Two {
        body: Incoming,
        /// Keeps the connection.
        _requests: SendRequest<Full<Bytes>>,
    },
}

impl WebCaller {
    pub(crate) const ALL: [Self; 3] = [Self::Http, Self::Https, Self::H2];

    /// Posts `body` to `path` on a connection of its own; returns the answer once its head is there.
    async fn post(self, front: &Front, path: &str, body: Vec<u8>) -> Result<Answer> {
        let addresses = front.relay.relay().http_addresses();
        let (plain, tls) = (addresses[0], addresses[1]);
        let certificate = &front.certificate;
        match self {
            Self::Http => one(Box::new(TcpStream::connect(plain).await?), path, body).await,
            Self::Https => {
                let stream = certificate.connect(tls, Some("http/1.1")).await?;
                one(Box::new(stream), path, body).await
            }
            Self::H2 => {
                let stream = certificate.connect(tls, Some("h2")).await?;
                two(Box::new(stream), tls.port(), path, body).await
            }
        }
    }
}

async fn one(stream: Stream, path: &str, body: Vec<u8>) -> Result<Answer> {
    let mut http = HttpStream::new(stream);
    let len = body.len();
    http.write(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n"
    ))
    .await?;
    http.write(body).await?;
    http.stream().flush().await?;
    let head = http.head().await?.context("closed without an answer")?;
    Ok(Answer {
        status: head.status(),
        rest: Rest::One(http, HttpStream::framing(&head)?),
    })
}

async fn two(stream: Stream, port: u16, path: &str, body: Vec<u8>) -> Result<Answer> {
    let io = TokioIo::new(stream);
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    // Ends with its requests; a failure is seen by them.
    tokio::spawn(connection);
    let request = Request::post(format!("https://localhost:{port}{path}"));
    let request = request.body(Full::new(Bytes::from(body)))?;
    let answer = requests.send_request(request).await?;
    Ok(Answer {
        status: answer.status().as_u16(),
        rest: Rest::Two {
            body: answer.into_body(),
            _requests: requests,
        },
    })
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        match &mut self.rest {
            Rest::One(http, framing) => http.piece(framing).await,
            Rest::Two { body, .. } => loop {
                match body.frame().await.transpose()? {
                    None => return Ok(None),
                    Some(frame) => {
                        if let Ok(piece) = frame.into_data() {
                            return Ok(Some(piece));
                        }
                    }
                }
            },
        }
    }

    /// Reads the body to its end.
    async fn body(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// All that callers of one kind do over one link.
pub(crate) async fn cell(
    front: &Front,
    caller: WebCaller,
    tunnel: &str,
    targets: &mut Targets,
    len: usize,
) -> Result<()> {
    let path = |name: &str| format!("/w/{tunnel}/{name}");
    let mut answer = caller
        .post(front, &path("echo"), noise(REQUEST, len))
        .await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let heard = Digest::of(&answer.body().await.context("the echo")?);
    ensure!(heard == Digest::of_noise(REQUEST, len), "echo: {heard:?}");

    let mut answer = caller.post(front, &path("reset"), Vec::new()).await?;
    let heard = soon("the end of what is reset", answer.body()).await?;
    ensure!(heard.is_err(), "what the target has reset looks complete");

    let before = front.bytes_to_callers().await?;
    let mut answer = caller.post(front, &path("long"), Vec::new()).await?;
    front.bytes_wait(before).await?;
    let heard = soon("what waits", answer.body()).await?;
    let heard = Digest::of(&heard.context("the slow reader")?);
    ensure!(heard == Digest::of_noise(ANSWER, LONG_BYTES), "{heard:?}");

    let mut answer = caller.post(front, &path("cancel"), Vec::new()).await?;
    soon("a first piece", answer.piece()).await??;
    drop(answer);
    let gone = soon("the target's end", targets.gone.recv()).await?;
    gone.context("the target is gone")
}
