//! The corpus of requests: the bytes a caller sends, and their expected fate.

mod framing;
mod heads;
mod pipelined;

use crate::recorder::{Framing, Request};

/// Expected fate of an entry's bytes.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// The relay answers with this status and closes the connection; no request reaches the target.
    Refused(u16),
    /// These requests reach the target; the relay refuses the bytes after them with this status.
    PassedThenRefused(Vec<Request>, u16),
    /// The relay answers with this status. The end of the request is clear, so the connection may stay open; then
    /// these requests reach the target.
    Declined(u16, Vec<Request>),
    /// Exactly these requests reach the target.
    Passed(Vec<Request>),
}

/// A name, the bytes that the caller sends, and their expected fate.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fate: Fate,
}

/// A request that may be hidden in the body of another request.
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

/// A POST with these header lines, followed by the bytes `behind`.
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

/// Declined; the hidden request after it reaches the target, because it is not the first one's body.
fn declined_then(name: &'static str, status: u16, bytes: impl AsRef<[u8]>) -> Entry {
    let hidden = request("GET", "/hidden", Framing::None, "");
    entry(name, bytes, Fate::Declined(status, vec![hidden]))
}

/// Passed to the target as a POST with the body `abc`.
fn posted(name: &'static str, framing: Framing, bytes: impl AsRef<[u8]>) -> Entry {
    let request = request("POST", "/in", framing, "abc");
    entry(name, bytes, Fate::Passed(vec![request]))
}

/// Passed to the target as a GET, and the hidden request as a second GET, because it is not a body.
fn two(name: &'static str, bytes: impl AsRef<[u8]>) -> Entry {
    let requests = ["/in", "/hidden"].map(|path| request("GET", path, Framing::None, ""));
    entry(name, bytes, Fate::Passed(requests.to_vec()))
}

/// All entries of the corpus.
pub(crate) fn all() -> Vec<Entry> {
    [framing::all(), heads::all(), pipelined::all()].concat()
}
