//! The corpus: what is sent, and what becomes of it.

mod framing;
mod heads;
mod pipelined;

use crate::recorder::{Framing, Request};

/// What becomes of the bytes of an entry.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// Answered with this status and the connection's end; no target hears of it.
    Refused(u16),
    /// The target got these requests, and what follows them is refused.
    PassedThenRefused(Vec<Request>, u16),
    /// Answered with this status. Where the request ends is clear, so the connection may go on; then
    /// the target gets these requests.
    Declined(u16, Vec<Request>),
    /// The target got these requests and no others.
    Passed(Vec<Request>),
}

/// Bytes of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fate: Fate,
}

/// A request that hides in another one's body.
const HIDDEN: &str = "GET /w/maya/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A chunked body with three bytes.
const CHUNKS: &str = "3\r\nabc\r\n0\r\n\r\n";

fn entry(name: impl Into<String>, bytes: impl AsRef<[u8]>, fate: Fate) -> Entry {
    Entry {
        name: name.into(),
        bytes: bytes.as_ref().to_vec(),
        fate,
    }
}

/// A POST with these header lines, and what stands behind its head.
fn post(lines: &str, behind: &str) -> String {
    format!("POST /w/maya/in HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n{behind}")
}

fn refused(name: &'static str, status: u16, bytes: impl AsRef<[u8]>) -> Entry {
    entry(name, bytes, Fate::Refused(status))
}

fn request(method: &str, path: &str, framing: Framing, body: &str) -> Request {
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        framing,
        body: body.to_owned(),
    }
}

fn declined(name: &'static str, status: u16, bytes: impl AsRef<[u8]>) -> Entry {
    entry(name, bytes, Fate::Declined(status, Vec::new()))
}

/// Declined, and what hides behind it is a request: it was no body of the first.
fn declined_then(name: &'static str, status: u16, bytes: impl AsRef<[u8]>) -> Entry {
    let hidden = request("GET", "/hidden", Framing::None, "");
    entry(name, bytes, Fate::Declined(status, vec![hidden]))
}

/// Passed on as a POST with the body `abc`.
fn posted(name: &'static str, framing: Framing, bytes: impl AsRef<[u8]>) -> Entry {
    let request = request("POST", "/in", framing, "abc");
    entry(name, bytes, Fate::Passed(vec![request]))
}

/// Passed on as a GET, and what hides behind it as another one: it was no body of the first.
fn two(name: &'static str, bytes: impl AsRef<[u8]>) -> Entry {
    let requests = ["/in", "/hidden"].map(|path| request("GET", path, Framing::None, ""));
    entry(name, bytes, Fate::Passed(requests.to_vec()))
}

/// Every entry.
pub(crate) fn all() -> Vec<Entry> {
    [framing::all(), heads::all(), pipelined::all()].concat()
}
