//! A byte-exact HTTP/1.1 peer for callers and targets: it sends exactly what the test writes and parses input
//! strictly. An HTTP library would hide the faults that the tests look for.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Digest;
use super::bytes::Digester;

/// Longest accepted head or chunk line, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// An HTTP/1.1 connection, on the client's or the server's side.
#[derive(Debug)]
pub struct HttpStream<S = TcpStream> {
    stream: S,
    /// Bytes read ahead and not parsed yet.
    ahead: BytesMut,
}

/// First line and header fields of a request or an answer, as received.
#[derive(Clone, Debug)]
pub struct Head {
    /// Request line or status line.
    pub first: String,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
}

/// A body that was read to its end.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Bytes of the body, without framing.
    pub bytes: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

/// Rest of a body that is still to be read.
#[derive(Clone, Debug)]
pub enum Framing {
    /// Content-Length: bytes left.
    Length(u64),
    /// Bytes left of this chunk; more chunks follow.
    Chunk(u64),
    /// All bytes until the connection closes.
    Close,
    /// End of the body, with its trailer fields.
    Done(Vec<(String, String)>),
}

impl Head {
    /// Status code of an answer.
    ///
    /// # Panics
    /// The head is not an answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        let status = self.first.split(' ').nth(1);
        status
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no status in {:?}", self.first))
    }

    /// Method and path of a request.
    ///
    /// # Panics
    /// The head is not a request.
    #[must_use]
    pub fn request(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        match (words.next(), words.next()) {
            (Some(method), Some(path)) => (method, path),
            _ => panic!("no request in {:?}", self.first),
        }
    }

    /// Value of a header field; `None` if it is missing.
    ///
    /// # Panics
    /// The field occurs more than once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} occurs twice: {self:?}");
        value
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = headers(lines)?;
        Ok(Self { first, headers })
    }

    fn framing(&self) -> Result<Framing> {
        if self
            .header("transfer-encoding")
            .is_some_and(|it| it.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Framing::Chunk(0));
        }
        if let Some(length) = self.header("content-length") {
            return Ok(match length.parse()? {
                0 => Framing::Done(Vec::new()),
                length => Framing::Length(length),
            });
        }
        let is_answer = self.first.starts_with("HTTP/");
        let is_bare = is_answer && matches!(self.status(), 100..=199 | 204 | 304);
        if is_answer && !is_bare {
            Ok(Framing::Close)
        } else {
            Ok(Framing::Done(Vec::new()))
        }
    }
}

fn headers<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<(String, String)>> {
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("header {line:?}"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

impl HttpStream {
    /// Connects to a server.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// Sends a GET request for `path` and does not wait for the answer.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn get(&mut self, path: &str) -> Result<()> {
        // A server on loopback may reject foreign Host names.
        let host = self.stream.peer_addr()?;
        self.write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await
    }

    /// Framing of the body after `head`, to be read with [`HttpStream::piece`].
    ///
    /// # Errors
    /// Content-Length is not a number.
    pub fn framing(head: &Head) -> Result<Framing> {
        head.framing()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> HttpStream<S> {
    /// Wraps `stream`.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
        }
    }

    /// Returns the connection; bytes read ahead are lost.
    #[must_use]
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// The underlying connection.
    pub const fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// Sends one chunk of a chunked body.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn write_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(chunk).await
    }

    /// Sends an answer with Content-Length.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn respond(&mut self, status: &str, headers: &str, body: &[u8]) -> Result<()> {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.write([head.as_bytes(), body].concat()).await
    }

    /// Reads the next head; `None` if the peer closed the connection in order before it.
    ///
    /// # Errors
    /// The connection broke, or the input is not a head.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.ahead.split_to(at + 4);
                return Head::parse(std::str::from_utf8(&head)?).map(Some);
            }
            ensure!(self.ahead.len() < HEAD_BYTES_MAX, "the head is too long");
            if self.fill().await? == 0 {
                ensure!(
                    self.ahead.is_empty(),
                    "the connection ended within a head: {:?}",
                    self.ahead
                );
                return Ok(None);
            }
        }
    }

    /// Reads the next answer to its end.
    ///
    /// # Errors
    /// The connection ended within the answer.
    pub async fn answer(&mut self) -> Result<(Head, Body)> {
        let head = self.head().await?.context("closed without an answer")?;
        let body = self.body(&head).await?;
        Ok((head, body))
    }

    /// Reads the body after `head` to its end.
    ///
    /// # Errors
    /// The connection ended within the body.
    pub async fn body(&mut self, head: &Head) -> Result<Body> {
        let mut framing = head.framing()?;
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&mut framing).await? {
            bytes.extend_from_slice(&piece);
        }
        let trailers = trailers(framing);
        Ok(Body { bytes, trailers })
    }

    /// Reads the body after `head` and returns only its digest.
    ///
    /// # Errors
    /// The connection ended within the body.
    pub async fn body_digest(&mut self, head: &Head) -> Result<Digest> {
        let mut framing = head.framing()?;
        let mut digester = Digester::default();
        while let Some(piece) = self.piece(&mut framing).await? {
            digester.update(&piece);
        }
        Ok(digester.finish())
    }

    /// Reads the next piece of a body; `None` at its end.
    ///
    /// # Errors
    /// The connection ended within the body.
    pub async fn piece(&mut self, framing: &mut Framing) -> Result<Option<Bytes>> {
        if let Framing::Chunk(0) = framing {
            let size = self.line().await?;
            let size = u64::from_str_radix(&size, 16).with_context(|| format!("size {size:?}"))?;
            if size == 0 {
                let mut trailers = Vec::new();
                loop {
                    match self.line().await? {
                        line if line.is_empty() => break,
                        line => trailers.push(line),
                    }
                }
                *framing = Framing::Done(headers(trailers.iter().map(String::as_str))?);
            } else {
                *framing = Framing::Chunk(size);
            }
        }
        let left = match framing {
            Framing::Length(left) | Framing::Chunk(left) => *left,
            Framing::Close => u64::MAX,
            Framing::Done(_) => return Ok(None),
        };
        if self.ahead.is_empty() && self.fill().await? == 0 {
            if matches!(framing, Framing::Close) {
                *framing = Framing::Done(Vec::new());
                return Ok(None);
            }
            bail!("the connection ended {left} bytes before the body");
        }
        let len = self
            .ahead
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = self.ahead.split_to(len).freeze();
        match framing {
            Framing::Chunk(left) => {
                *left -= len as u64;
                if *left == 0 {
                    ensure!(self.line().await?.is_empty(), "a chunk is too long");
                }
            }
            Framing::Length(left) => {
                *left -= len as u64;
                if *left == 0 {
                    *framing = Framing::Done(Vec::new());
                }
            }
            Framing::Close | Framing::Done(_) => {}
        }
        Ok(Some(piece))
    }

    /// Waits until the peer closes the connection; returns the bytes it sent before.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn closed(&mut self) -> Result<Bytes> {
        while self.fill().await? > 0 {}
        Ok(self.ahead.split().freeze())
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line = self.ahead.split_to(at);
                self.ahead.advance(2);
                return Ok(String::from_utf8(line.to_vec())?);
            }
            ensure!(
                self.ahead.len() < HEAD_BYTES_MAX,
                "a chunk line is too long"
            );
            if self.fill().await? == 0 {
                return Err(anyhow!("the connection ended within a chunked body"));
            }
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        if self.ahead.capacity() - self.ahead.len() < 16 * 1024 {
            self.ahead.reserve(64 * 1024);
        }
        Ok(self.stream.read_buf(&mut self.ahead).await?)
    }
}

fn trailers(framing: Framing) -> Vec<(String, String)> {
    match framing {
        Framing::Done(trailers) => trailers,
        _ => Vec::new(),
    }
}
