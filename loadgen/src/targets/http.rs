//! A stand-in for an MCP server over HTTP: tool calls answered with JSON or events, and event streams.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use httparse::{EMPTY_HEADER, Request, Status};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::exchange::{
    self, BODY_BYTES_MAX, FIELDS_MAX, HEAD_BYTES_MAX, RequestKind, STREAM_QUERY, TEXT_BYTES,
    TEXT_UP_BYTES,
};
use crate::pattern::Pattern;

/// Pause between the first and the second event of a report.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// Initial size of the input buffer; it grows for longer requests.
const READ_BYTES: usize = 2048;

/// Head of an event stream. X-Accel-Buffering asks proxies not to buffer the events.
const EVENTS_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n";

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// State that all connections share.
#[derive(Debug)]
pub(super) struct Server {
    pattern: Pattern,
    /// Number of published events, which every open stream delivers after its first event.
    published: watch::Sender<u64>,
}

/// A parsed request.
struct ParsedRequest {
    ask: RequestKind,
    number: u64,
    /// Text argument of a call.
    text: Vec<u8>,
}

#[derive(Deserialize)]
struct Call<'a> {
    id: u64,
    #[serde(borrow)]
    params: Parameters<'a>,
}

#[derive(Deserialize)]
struct Parameters<'a> {
    name: &'a str,
    #[serde(borrow)]
    arguments: Arguments<'a>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    text: &'a str,
}

impl Server {
    /// Creates a server without streams.
    pub(super) fn new() -> Self {
        Self {
            pattern: Pattern::printable(TEXT_BYTES),
            published: watch::Sender::new(0),
        }
    }

    /// Answers the requests of a connection until the client closes it.
    pub(super) async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let mut input = Vec::with_capacity(READ_BYTES);
        let mut out = Vec::new();
        while let Some(asked) = read_request(&mut stream, &mut input).await? {
            out.clear();
            match asked.ask {
                RequestKind::Call | RequestKind::Publish => {
                    if asked.ask == RequestKind::Publish {
                        self.published.send_modify(|events| *events += 1);
                    }
                    self.answer(&asked, &mut out);
                    stream.write_all(&out).await?;
                }
                RequestKind::Report => self.report(&asked, &mut stream, &mut out).await?,
                RequestKind::Stream => return self.bring_events(asked.number, stream, out).await,
            }
        }
        Ok(())
    }

    /// Rest of the answer's text, after the part that the client sent.
    fn rest(&self, number: u64) -> &[u8] {
        let (connection, sequence) = (number >> 32, number & 0xffff_ffff);
        &self.pattern.message(connection, sequence)[TEXT_UP_BYTES..]
    }

    fn answer(&self, asked: &ParsedRequest, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(TEXT_BYTES + 128);
        exchange::answer(
            asked.number,
            &asked.text,
            self.rest(asked.number),
            &mut body,
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&body);
    }

    async fn report(
        &self,
        asked: &ParsedRequest,
        stream: &mut TcpStream,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let (number, text) = (asked.number, &asked.text);
        let mut event = Vec::new();
        exchange::progress(number, 0, text, &mut event);
        out.extend_from_slice(EVENTS_HEAD);
        chunk(&event, out);
        stream.write_all(out).await?;
        tokio::time::sleep(REPORT_PAUSE).await;
        event.clear();
        out.clear();
        exchange::result(number, 1, text, self.rest(number), &mut event);
        chunk(&event, out);
        out.extend_from_slice(LAST_CHUNK);
        Ok(stream.write_all(out).await?)
    }

    /// Sends the events of a stream until the client closes the connection.
    async fn bring_events(
        &self,
        number: u64,
        mut stream: TcpStream,
        mut out: Vec<u8>,
    ) -> anyhow::Result<()> {
        let mut published = self.published.subscribe();
        let before = *published.borrow_and_update();
        out.extend_from_slice(EVENTS_HEAD);
        let mut brought = 0;
        loop {
            let mut event = Vec::new();
            let text = self.pattern.message(number, brought);
            exchange::progress(number, brought, text, &mut event);
            chunk(&event, &mut out);
            stream.write_all(&out).await?;
            out.clear();
            brought += 1;
            while *published.borrow_and_update() - before < brought {
                let mut byte = [0];
                tokio::select! {
                    changed = published.changed() => changed?,
                    // A client sends nothing on a stream, so a completed read means that it has closed.
                    _ = stream.read(&mut byte) => return Ok(()),
                }
            }
        }
    }
}

fn chunk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Reads the next request from `input` and the connection; `None` at the end of the connection.
async fn read_request(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
) -> anyhow::Result<Option<ParsedRequest>> {
    loop {
        if let Some((asked, len)) = parse(input)? {
            input.drain(..len);
            return Ok(Some(asked));
        }
        ensure!(
            input.len() < HEAD_BYTES_MAX + BODY_BYTES_MAX,
            "request is too long"
        );
        input.reserve(READ_BYTES);
        if stream.read_buf(input).await? == 0 {
            ensure!(input.is_empty(), "the connection ended within a request");
            return Ok(None);
        }
    }
}

/// Parses a request and returns it with its length; `None` if it is incomplete.
fn parse(input: &[u8]) -> anyhow::Result<Option<(ParsedRequest, usize)>> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let Status::Complete(head) = request.parse(input).context("request is not HTTP/1.1")? else {
        return Ok(None);
    };
    if request.method == Some("GET") {
        let (_, number) = request
            .path
            .and_then(|path| path.split_once(STREAM_QUERY))
            .context("GET without a stream number in its query")?;
        let asked = ParsedRequest {
            ask: RequestKind::Stream,
            number: number
                .parse()
                .context("stream number in the query is not a number")?,
            text: Vec::new(),
        };
        return Ok(Some((asked, head)));
    }
    let is_length =
        |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("content-length");
    let length = request.headers.iter().find(is_length);
    let Some(length) = length.and_then(|field| std::str::from_utf8(field.value).ok()) else {
        bail!("POST without Content-Length");
    };
    let length: usize = length
        .trim()
        .parse()
        .context("Content-Length is not a number")?;
    ensure!(
        length <= BODY_BYTES_MAX,
        "body of {length} bytes is too long"
    );
    let Some(body) = input.get(head..head + length) else {
        return Ok(None);
    };
    let call: Call<'_> =
        serde_json::from_slice(body).context("body is not a tools/call request")?;
    let asked = ParsedRequest {
        ask: RequestKind::of_tool(call.params.name).context("unknown tool")?,
        number: call.id,
        text: call.params.arguments.text.as_bytes().to_vec(),
    };
    Ok(Some((asked, head + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ask: RequestKind, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        exchange::request(ask, ("host", "/w/maya/mcp"), 77, text, &mut bytes);
        bytes
    }

    #[test]
    fn a_request_is_read_when_it_is_there_as_a_whole() {
        for ask in [
            RequestKind::Call,
            RequestKind::Report,
            RequestKind::Publish,
            RequestKind::Stream,
        ] {
            let mut bytes = request(ask, "words");
            let whole = bytes.len();
            for len in 0..whole {
                assert!(parse(&bytes[..len]).unwrap().is_none(), "{ask:?} {len}");
            }
            bytes.extend_from_slice(b"POST");
            let (asked, len) = parse(&bytes).unwrap().unwrap();
            assert_eq!((asked.ask, asked.number, len), (ask, 77, whole));
            if ask != RequestKind::Stream {
                assert_eq!(asked.text, b"words");
            }
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            "GET /mcp HTTP/1.1\r\n\r\n",
            "GET /mcp?stream=x HTTP/1.1\r\n\r\n",
            "POST /mcp HTTP/1.1\r\n\r\n",
            "POST /mcp HTTP/1.1\r\nContent-Length: 999999\r\n\r\n",
            "POST /mcp HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
            "\0sink 0\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
