//! HTTP/1.1 to the byte, for callers and for targets: what is sent is what the test wrote, and what
//! arrives is read strictly. A library would smooth over what the tests look for.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Digest;
use super::bytes::Digester;

/// Longest head and longest line of a chunk, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection that speaks HTTP/1.1, on either side.
#[derive(Debug)]
pub struct HttpStream {
    stream: TcpStream,
    /// Read, and not yet looked at.
    ahead: BytesMut,
}

/// A request's or an answer's first line and its headers, as they came.
#[derive(Clone, Debug)]
pub struct Head {
    /// The first line.
    pub first: String,
    /// The headers in order.
    pub headers: Vec<(String, String)>,
}

/// A body that was read to its end.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Its bytes, without framing.
    pub bytes: Vec<u8>,
    /// Its trailers.
    pub trailers: Vec<(String, String)>,
}

/// How much of a body is still to come.
#[derive(Clone, Debug)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// So many bytes of this chunk, then more chunks.
    Chunk(u64),
    /// Everything until the connection ends.
    Close,
    /// Nothing; these were the trailers.
    Done(Vec<(String, String)>),
}

impl Head {
    /// An answer's status.
    ///
    /// # Panics
    /// It is no answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        let status = self.first.split(' ').nth(1);
        status
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no status in {:?}", self.first))
    }

    /// A request's method and path.
    ///
    /// # Panics
    /// It is no request.
    #[must_use]
    pub fn request(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        match (words.next(), words.next()) {
            (Some(method), Some(path)) => (method, path),
            _ => panic!("no request in {:?}", self.first),
        }
    }

    /// The value of a header that occurs once, if it occurs.
    ///
    /// # Panics
    /// It occurs more than once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self:?}");
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
    /// Speaks HTTP on `stream`.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
        }
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// The connection itself; what was read ahead is lost.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The connection itself.
    pub const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// Sends one chunk of a chunked body.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn write_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(chunk).await
    }

    /// Asks for `path`, without waiting for the answer.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn get(&mut self, path: &str) -> Result<()> {
        // A server on loopback may refuse names that are not its own.
        let host = self.stream.peer_addr()?;
        self.write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await
    }

    /// Sends an answer with a body of known length.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn respond(&mut self, status: &str, headers: &str, body: &[u8]) -> Result<()> {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.write([head.as_bytes(), body].concat()).await
    }

    /// The next head; `None` if the peer closed in order before it.
    ///
    /// # Errors
    /// The connection broke, or what came is no head.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.ahead.split_to(at + 4);
                return Head::parse(std::str::from_utf8(&head)?).map(Some);
            }
            ensure!(self.ahead.len() < HEAD_BYTES_MAX, "a head without an end");
            if self.fill().await? == 0 {
                ensure!(
                    self.ahead.is_empty(),
                    "ends within a head: {:?}",
                    self.ahead
                );
                return Ok(None);
            }
        }
    }

    /// The next answer, read to its end.
    ///
    /// # Errors
    /// The connection ended before that.
    pub async fn answer(&mut self) -> Result<(Head, Body)> {
        let head = self.head().await?.context("closed without an answer")?;
        let body = self.body(&head).await?;
        Ok((head, body))
    }

    /// The body behind `head`, read to its end.
    ///
    /// # Errors
    /// The connection ended before that.
    pub async fn body(&mut self, head: &Head) -> Result<Body> {
        let mut framing = head.framing()?;
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&mut framing).await? {
            bytes.extend_from_slice(&piece);
        }
        let trailers = trailers(framing);
        Ok(Body { bytes, trailers })
    }

    /// The digest of the body behind `head`, which is not kept.
    ///
    /// # Errors
    /// The connection ended before the body did.
    pub async fn body_digest(&mut self, head: &Head) -> Result<Digest> {
        let mut framing = head.framing()?;
        let mut digester = Digester::default();
        while let Some(piece) = self.piece(&mut framing).await? {
            digester.update(&piece);
        }
        Ok(digester.finish())
    }

    /// How the body behind `head` is framed, to be read by [`HttpStream::piece`].
    ///
    /// # Errors
    /// The head makes no sense.
    pub fn framing(head: &Head) -> Result<Framing> {
        head.framing()
    }

    /// Some more of a body; `None` at its end.
    ///
    /// # Errors
    /// The connection ended before the body did.
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

    /// Waits for the peer's end; what it sent before that.
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
            ensure!(self.ahead.len() < HEAD_BYTES_MAX, "a line without an end");
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
