//! Sends every entry of the corpus in one piece and in many, twice each, and checks what the target received.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{SECRET, order, token, write_token};
use tieline_e2e::behaviour::{HttpStream, TestAgent, TestProxy, TestRelay, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

use crate::corpus::{Entry, Fate, all};
use crate::recorder::{self, Event, Framing, Record, Request};

on_each_driver!(
    every_entry_has_the_same_fate_twice_and_one_reading,
    every_entry_has_one_reading_behind_a_local_proxy,
);

/// Sent after each entry. If the target sees it as a request, it was not taken for an entry's body;
/// its answer is the last one.
const LAST: &str = "GET /w/maya/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Whether an entry is sent in pieces: byte by byte, or in `PIECES_MAX` pieces if it is long.
#[derive(Clone, Copy, Debug)]
enum Cut {
    No,
    Yes,
}

/// Approximate limit of the pieces of one entry.
const PIECES_MAX: usize = 1024;

impl Cut {
    fn pieces(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let len = match self {
            Self::No => bytes.len(),
            Self::Yes => bytes.len().div_ceil(PIECES_MAX),
        };
        bytes.chunks(len)
    }
}

/// Answers that a caller received: status and body of each.
type Told = Vec<(u16, String)>;

async fn every_entry_has_the_same_fate_twice_and_one_reading(driver: DriverChoice) -> Result<()> {
    let record = Record::default();
    let target = recorder::target(&record).await?;
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let _agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    let mut problems = Vec::new();
    for entry in all() {
        if let Err(problem) = judge(&entry, relay.http_address(), &record).await {
            problems.push(format!("{}: {problem:#}", entry.name));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    relay
        .until("no session is left", |it| it.get("relay_sessions") == 0)
        .await?;
    ensure!(
        record.take().is_empty(),
        "the target received more bytes later"
    );
    Ok(())
}

async fn judge(entry: &Entry, address: SocketAddr, record: &Record) -> Result<()> {
    let mut fates = Vec::new();
    for cut in [Cut::No, Cut::No, Cut::Yes, Cut::Yes] {
        let told = send(entry, address, cut).await?;
        // A fresh connection of another caller must get exactly its own request through.
        let mut marker = HttpStream::connect(address).await?;
        marker
            .write("GET /w/maya/marker HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        let (head, body) = soon("the marker's answer", marker.answer()).await??;
        ensure!(
            head.status() == 200 && body.bytes == b"/marker",
            "{head:?} {body:?}"
        );
        let mut events = record.take();
        let last = events.pop().context("the marker is not recorded")?;
        ensure!(
            last == Event::Whole(get("/marker")),
            "{last:?}, and before {events:?}"
        );
        fates.push((told, events));
    }
    for fate in &fates[1..] {
        ensure!(*fate == fates[0], "first {:?}, then {fate:?}", fates[0]);
    }
    let (told, events) = &fates[0];
    let statuses: Vec<_> = told.iter().map(|(status, _)| *status).collect();
    let with_last = |requests: &[Request]| -> Vec<Event> {
        let last = get("/last");
        requests
            .iter()
            .chain([&last])
            .cloned()
            .map(Event::Whole)
            .collect()
    };
    let answered = statuses.iter().filter(|status| **status == 200).count();
    let is_as_said = match &entry.fate {
        Fate::Refused(status) => statuses == [*status] && events.is_empty(),
        Fate::PassedThenRefused(requests, status) => {
            let passed: Vec<_> = requests.iter().cloned().map(Event::Whole).collect();
            statuses.split_last() == Some((status, &vec![200; requests.len()][..]))
                && *events == passed
        }
        Fate::Declined(status, requests) => {
            let goes_on = answered + 1 == statuses.len() && *events == with_last(requests);
            statuses.first() == Some(status)
                && (goes_on || statuses.len() == 1 && events.is_empty())
        }
        Fate::Passed(requests) => {
            let alone: Vec<_> = requests.iter().cloned().map(Event::Whole).collect();
            answered == statuses.len()
                && answered == events.len()
                && [alone, with_last(requests)].contains(events)
        }
    };
    ensure!(
        is_as_said,
        "the caller received {told:?}, and the target saw {events:?}"
    );
    Ok(())
}

fn get(path: &str) -> Request {
    Request {
        method: "GET".to_owned(),
        path: path.to_owned(),
        framing: Framing::None,
        body: String::new(),
    }
}

/// Sends an entry over a new connection and returns all answers until the connection ends.
async fn send(entry: &Entry, address: SocketAddr, cut: Cut) -> Result<Told> {
    let mut caller = HttpStream::connect(address).await?;
    let bytes = [&entry.bytes, LAST.as_bytes()].concat();
    for piece in cut.pieces(&bytes) {
        // The relay may close the connection after the first half.
        if caller.write(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut told = Vec::new();
    loop {
        let head = match soon("a head, or the end", caller.head()).await? {
            Ok(Some(head)) => head,
            Ok(None) => break,
            // After an answer, a reset is a normal end: the relay has closed while bytes were still arriving.
            Err(_) if !told.is_empty() => break,
            Err(error) => return Err(error),
        };
        let body = soon("a body", caller.body(&head)).await??;
        told.push((head.status(), String::from_utf8(body.bytes)?));
    }
    Ok(told)
}

/// Adapts an entry's fate to the proxy: it adds a token, so the longest head becomes too long for the relay,
/// and it answers every head that is too long with 431.
fn at_proxy(mut entry: Entry) -> Entry {
    if entry.bytes.len() > 60 * 1024 && matches!(entry.fate, Fate::Passed(_)) {
        entry.fate = Fate::Declined(431, Vec::new());
    }
    if matches!(entry.fate, Fate::Refused(414)) {
        entry.fate = Fate::Refused(431);
    }
    entry
}

async fn every_entry_has_one_reading_behind_a_local_proxy(driver: DriverChoice) -> Result<()> {
    let record = Record::default();
    let target = recorder::target(&record).await?;
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let _agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    let home = TempDir::new()?;
    let token_file = home.path().join("token");
    write_token(&token_file, &token(order(), &SECRET, 0)?)?;
    let proxy = TestProxy::start(&format!("http://{}", relay.http_address()), &token_file).await?;
    let mut problems = Vec::new();
    for entry in all().into_iter().map(at_proxy) {
        if let Err(problem) = judge(&entry, proxy.address(), &record).await {
            problems.push(format!("{}: {problem:#}", entry.name));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

#[tokio::test]
async fn the_recorder_takes_nothing_with_two_readings() -> Result<()> {
    let record = Record::default();
    let target = recorder::target(&record).await?;
    let get = |rest: &str| format!("GET /a HTTP/1.1\r\nHost: t\r\n{rest}");
    let chunked = |body: &str| get(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    for bad in [
        "GET /a HTTP/1.1\nHost: t\r\n\r\n".to_owned(),
        "GET http://t/a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\n\r\n".to_owned(),
        get("Host: t\r\n\r\n"),
        get("X: a\r\n b\r\n\r\n"),
        get("X: a\rb\r\n\r\n"),
        get("X: a\0b\r\n\r\n"),
        get("Content-Length : 3\r\n\r\nabc"),
        get("Content-Length: 3, 3\r\n\r\nabc"),
        get("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        get("Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n"),
        get("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"),
        chunked("3\nabc\r\n0\r\n\r\n"),
        chunked("3;a\r\nabc\r\n0\r\n\r\n"),
        chunked("0x3\r\nabc\r\n0\r\n\r\n"),
        chunked("3\r\nabcd\r\n0\r\n\r\n"),
        chunked("0\r\nHost: u\r\n\r\n"),
    ] {
        let mut caller = HttpStream::connect(target.address()).await?;
        caller.write(&bad).await?;
        // A failed script closes its connection, and unread bytes turn the close into a reset.
        let _closed = soon("the end", caller.closed()).await?;
        let events = record.take();
        ensure!(
            matches!(events[..], [Event::Violation(_)]),
            "{bad:?} {events:?}"
        );
    }
    Ok(())
}
