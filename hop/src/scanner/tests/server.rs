//! Runs hyper's server behind the scanner: which requests it accepts, and what it answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use proptest::collection::vec;
use proptest::prelude::*;

use super::sound::{broken, fault, sound};
use super::*;

/// Number of polls without progress after which no more progress is expected.
const QUIET_TURNS: usize = 4;

/// Final request of an input, so that no head before it stays incomplete.
const LAST: &str = "GET /last HTTP/1.1\r\nConnection: close\r\n\r\n";

/// A request's path and its whole body.
type Taken = (String, Vec<u8>);

/// Outcome of a caller's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fate {
    /// Requests that hyper read completely.
    taken: Vec<Taken>,
    answers: String,
    is_closed: bool,
}

/// A caller whose bytes come in these pieces, one piece a read.
struct Caller {
    intake: Intake,
    pieces: Rc<RefCell<VecDeque<Vec<u8>>>>,
    answers: Rc<RefCell<Vec<u8>>>,
}

impl Read for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self
            .intake
            .read(buf.remaining(), |bytes| buf.put_slice(bytes))
        {
            return Poll::Ready(Ok(()));
        }
        let Some(mut piece) = self.pieces.borrow_mut().pop_front() else {
            return Poll::Pending;
        };
        assert!(
            piece.len() <= buf.remaining(),
            "hyper's buffer has room for the piece"
        );
        let count = self.intake.pass(&mut piece);
        buf.put_slice(&piece[..count]);
        self.intake
            .read(buf.remaining(), |bytes| buf.put_slice(bytes));
        Poll::Ready(Ok(()))
    }
}

impl Write for Caller {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Outcome of `input`, cut into pieces of these lengths in rotation.
fn fate(input: &[u8], lengths: &[usize]) -> Fate {
    let mut pieces = VecDeque::new();
    let mut rest = input;
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at((*length).min(rest.len()));
        pieces.push_back(piece.to_vec());
        rest = later;
    }
    let pieces = Rc::new(RefCell::new(pieces));
    let answers = Rc::new(RefCell::new(Vec::new()));
    let taken = Rc::new(RefCell::new(Vec::new()));
    let caller = Caller {
        intake: Intake::new(),
        pieces: Rc::clone(&pieces),
        answers: Rc::clone(&answers),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let taken = Rc::clone(&taken);
        async move {
            let path = request.uri().to_string();
            let status = match request.into_body().collect().await {
                Ok(body) => {
                    taken.borrow_mut().push((path, body.to_bytes().to_vec()));
                    200
                }
                Err(_) => 400,
            };
            let answer = Response::builder().status(status);
            Ok::<_, Infallible>(answer.body(Full::<Bytes>::default()).expect("is valid"))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .auto_date_header(false)
            .serve_connection(caller, service)
    );
    let mut cx = Context::from_waker(Waker::noop());
    let news = || {
        let done = (taken.borrow().len(), answers.borrow().len());
        (done, pieces.borrow().len())
    };
    let (mut quiet, mut is_closed) = (0, false);
    while quiet < QUIET_TURNS && !is_closed {
        let before = news();
        is_closed = connection.as_mut().poll(&mut cx).is_ready();
        quiet = if news() == before { quiet + 1 } else { 0 };
    }
    let answers = String::from_utf8(answers.borrow().clone()).expect("hyper writes UTF-8");
    Fate {
        taken: taken.borrow().clone(),
        answers,
        is_closed,
    }
}

/// The requests before the first one that is ambiguous or incomplete, found by splitting alone.
fn strictly(mut input: &[u8]) -> Vec<Taken> {
    let mut taken = Vec::new();
    while let Some((request, rest)) = first(input) {
        taken.push(request);
        input = rest;
    }
    taken
}

fn first(mut input: &[u8]) -> Option<(Taken, &[u8])> {
    while let Some(rest) = input.strip_prefix(b"\r\n") {
        input = rest;
    }
    let mut lines = Vec::new();
    loop {
        let (line, rest) = line(input)?;
        input = rest;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let path = escaped(lines.first()?.split(' ').nth(1)?);
    let values = |name: &str| {
        let fields = lines[1..].iter().filter_map(|line| line.split_once(':'));
        let named = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim()).collect::<Vec<_>>()
    };
    let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
    match (&codings[..], &lengths[..]) {
        ([], []) => Some(((path, Vec::new()), input)),
        ([], [length]) => {
            let (body, rest) = input.split_at_checked(length.parse().ok()?)?;
            Some(((path, body.to_vec()), rest))
        }
        ([.., last], []) if last.to_ascii_lowercase().ends_with("chunked") => {
            let (body, rest) = chunked(input)?;
            Some(((path, body), rest))
        }
        _ => None,
    }
}

fn escaped(path: &str) -> String {
    let escape = |byte: u8| match byte {
        b'"' | b'<' | b'>' | b'`' | 0x80.. => format!("%{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    path.bytes().map(escape).collect()
}

fn chunked(mut input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (size, rest) = line(input)?;
        let size = size.split(';').next()?.trim_end();
        let size = usize::from_str_radix(size, 16).ok()?;
        input = rest;
        if size == 0 {
            break;
        }
        let (data, rest) = input.split_at_checked(size)?;
        body.extend_from_slice(data);
        input = rest.strip_prefix(b"\r\n")?;
    }
    while let (trailer, rest) = line(input)?
        && !trailer.is_empty()
    {
        input = rest;
    }
    Some((body, input.strip_prefix(b"\r\n")?))
}

/// First line and the bytes behind it; `None` if the line does not end in CRLF.
fn line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let line = input[..end].strip_suffix(b"\r")?;
    Some((str::from_utf8(line).ok()?, &input[end + 1..]))
}

#[test]
fn hyper_refuses_a_second_reading_at_once() {
    for input in [
        "\n",
        "GET / HTTP/1.1\n",
        "GET /\n",
        "GET / H\n",
        "GET / HTTP/1.1\r\n\n",
        "GET / HTTP/1.1\r\nX: a\n",
        "GET / HTTP/1.1\r\nX\n",
        "GET / HTTP/1.1\r\nX:\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length:",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding:",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length:",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\n",
    ] {
        for length in [1, input.len()] {
            let fate = fate(input.as_bytes(), &[length]);
            let is_refused = fate.answers.starts_with("HTTP/1.1 400 ") && fate.is_closed;
            assert!(is_refused && fate.taken.is_empty(), "{input:?} {fate:?}");
        }
    }
}

#[test]
fn no_visible_byte_in_a_url_is_refused() {
    for byte in (0x21..=0x7e).chain(0x80..=0xff) {
        for start in ["/a", "/a?b="] {
            let mut input = format!("GET {start}").into_bytes();
            input.extend_from_slice(&[byte, b'c']);
            input.extend_from_slice(b" HTTP/1.1\r\n\r\n");
            let fate = fate(&input, &[7]);
            assert_eq!(fate.taken.len(), 1, "{byte:#x} {fate:?}");
        }
    }
}

#[test]
fn a_second_reading_does_not_harm_the_request_before() {
    let input = "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\n\r\n";
    for length in [1, 40, input.len()] {
        let fate = fate(input.as_bytes(), &[length]);
        assert_eq!(fate.taken, [("/a".to_owned(), b"abc".to_vec())]);
        let statuses: Vec<_> = fate.answers.matches("HTTP/1.1 ").collect();
        assert!(
            statuses.len() == 2 && fate.answers.contains(" 400 "),
            "{fate:?}"
        );
        assert!(fate.is_closed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hyper_reads_what_a_strict_parser_reads(
        requests in vec(sound(), 1..4),
        faults in vec(fault(), 0..3),
        lengths in vec(1..40_usize, 1..6),
    ) {
        let input = [&broken(&requests, &faults), LAST.as_bytes()].concat();
        let whole = fate(&input, &[input.len()]);
        let strict = strictly(&input);
        prop_assert!(strict.starts_with(&whole.taken), "{:?}, strict parser: {:?}", whole, strict);
        if faults.is_empty() {
            prop_assert_eq!(&strict, &whole.taken);
            prop_assert_eq!(whole.taken.len(), requests.len() + 1);
        }
        prop_assert_eq!(&fate(&input, &lengths), &whole);
        prop_assert_eq!(&fate(&input, &[1]), &whole);
    }
}
