//! A target that records every request and is stricter than RFC 9112: where the RFC lets a recipient be lenient,
//! this target records a violation.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use tieline_e2e::behaviour::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest accepted head, in bytes.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// Framing of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked,
}

/// A request as this target parsed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) framing: Framing,
    pub(crate) body: String,
}

/// An event at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Whole(Request),
    /// Input that a strict parser rejects, with the reason.
    Violation(String),
}

/// Events at a target, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Event>>>);

impl Record {
    /// Takes the events recorded since the last call.
    pub(crate) fn take(&self) -> Vec<Event> {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut events)
    }

    fn push(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }
}

/// Starts a recording target, which answers each complete request with its path.
pub(crate) async fn target(record: &Record) -> Result<Target> {
    let record = record.clone();
    Target::http(move |mut http| {
        let record = record.clone();
        async move {
            let mut connection = Connection {
                stream: http.stream(),
                read: Vec::new(),
            };
            while let Some(request) = connection.request(&record).await? {
                let Request { path, .. } = &request;
                let length = path.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}");
                record.push(Event::Whole(request));
                connection.stream.write_all(answer.as_bytes()).await?;
            }
            Ok(())
        }
    })
    .await
}

struct Connection<'a> {
    stream: &'a mut TcpStream,
    read: Vec<u8>,
}

impl Connection<'_> {
    /// Reads the next complete request; `None` at the end of the connection.
    async fn request(&mut self, record: &Record) -> Result<Option<Request>> {
        let outcome = self.strictly().await;
        if let Err(error) = &outcome {
            record.push(Event::Violation(format!("{error:#}: {}", self.shown())));
        }
        outcome
    }

    async fn strictly(&mut self) -> Result<Option<Request>> {
        let Some(head) = self.until(b"\r\n\r\n").await? else {
            ensure!(self.read.is_empty(), "the connection ended within a head");
            return Ok(None);
        };
        let mut lines = head.strip_suffix("\r\n\r\n").unwrap_or(&head).split("\r\n");
        let line = lines.next().unwrap_or_default();
        let words: Vec<_> = line.split(' ').collect();
        let [method, path, "HTTP/1.1"] = words[..] else {
            bail!("request line {line:?}");
        };
        ensure!(is_token(method), "method {method:?}");
        ensure!(path.starts_with('/'), "path {path:?}");
        ensure!(path.bytes().all(|b| b.is_ascii_graphic()), "path {path:?}");
        let fields = lines.map(field).collect::<Result<Vec<_>>>()?;
        let all = |name: &str| {
            let named = fields.iter().filter(|(key, _)| key == name);
            named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        ensure!(all("host").len() == 1, "{} hosts", all("host").len());
        let mut request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            framing: Framing::None,
            body: String::new(),
        };
        let whole = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
            ([], []) => true,
            ([length], []) => {
                request.framing = Framing::Length;
                let is_plain = length.bytes().all(|b| b.is_ascii_digit()) && !length.is_empty();
                ensure!(is_plain, "length {length:?}");
                self.some(length.parse()?, &mut request.body).await?
            }
            ([], ["chunked"]) => {
                request.framing = Framing::Chunked;
                self.chunks(&mut request.body).await?
            }
            (lengths, codings) => bail!("framed by {lengths:?} and {codings:?}"),
        };
        if whole {
            return Ok(Some(request));
        }
        // The connection ended within the body: an incomplete request is not recorded.
        Ok(None)
    }

    /// Reads a chunked body; false if the connection ended first.
    async fn chunks(&mut self, body: &mut String) -> Result<bool> {
        loop {
            let Some(line) = self.until(b"\r\n").await? else {
                return Ok(false);
            };
            let size = line.trim_end_matches("\r\n");
            let is_plain =
                size.bytes().all(|b| b.is_ascii_hexdigit()) && (1..=8).contains(&size.len());
            ensure!(is_plain, "chunk size {size:?}");
            let size = usize::from_str_radix(size, 16)?;
            if size == 0 {
                break;
            }
            let mut end = String::new();
            if !self.some(size, body).await? || !self.some(2, &mut end).await? {
                return Ok(false);
            }
            ensure!(end == "\r\n", "end of a chunk is {end:?}");
        }
        while let Some(line) = self.until(b"\r\n").await? {
            if line == "\r\n" {
                return Ok(true);
            }
            let (name, _) = field(line.trim_end_matches("\r\n"))?;
            let frames = ["content-length", "transfer-encoding", "host", "trailer"];
            ensure!(!frames.contains(&&*name), "trailer {name:?}");
        }
        Ok(false)
    }

    /// Reads up to and including `end`; `None` if the connection ended first.
    async fn until(&mut self, end: &[u8]) -> Result<Option<String>> {
        loop {
            let found = self.read.windows(end.len()).position(|it| it == end);
            if let Some(at) = found {
                let taken: Vec<u8> = self.read.drain(..at + end.len()).collect();
                return Ok(Some(String::from_utf8(taken)?));
            }
            ensure!(self.read.len() < HEAD_BYTES_MAX, "head or line is too long");
            if !self.fill().await {
                return Ok(None);
            }
        }
    }

    /// Reads `count` bytes of a body; false if the connection ended first.
    async fn some(&mut self, count: usize, body: &mut String) -> Result<bool> {
        while self.read.len() < count {
            if !self.fill().await {
                return Ok(false);
            }
        }
        body.push_str(str::from_utf8(&self.read[..count])?);
        self.read.drain(..count);
        Ok(true)
    }

    /// Reads once; false at the end of the connection or after an error.
    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }

    fn shown(&self) -> String {
        let start = &self.read[..self.read.len().min(200)];
        start.escape_ascii().to_string()
    }
}

/// Parses a header line; the name is returned in lower case.
fn field(line: &str) -> Result<(String, String)> {
    let Some((name, value)) = line.split_once(':') else {
        bail!("header {line:?}");
    };
    ensure!(is_token(name), "header {line:?}");
    let is_plain = |b: u8| b >= b' ' && b != 0x7f || b == b'\t';
    ensure!(value.bytes().all(is_plain), "header {line:?}");
    let value = value.strip_prefix(' ').unwrap_or(value);
    ensure!(value.trim() == value, "header {line:?}");
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// Whether `text` is a token (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_inside = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_inside)
}
