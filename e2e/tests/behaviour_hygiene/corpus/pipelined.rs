//! Pipelined entries: faulty requests after a valid request with each kind of framing.

use super::{CHUNKS, Entry, Fate, HIDDEN, entry, post, request};
use crate::recorder::{Framing, Request};

pub(super) fn all() -> Vec<Entry> {
    let faults = faults();
    let pairs = sound().into_iter().flat_map(|(before, bytes, request)| {
        faults.iter().map(move |(name, fault)| {
            let bytes = format!("{bytes}{fault}{HIDDEN}");
            let fate = Fate::PassedThenRefused(vec![request.clone()], 400);
            entry(format!("{name} after {before}"), bytes, fate)
        })
    });
    pairs.collect()
}

/// Valid requests; the last one's body looks like the end of a head.
fn sound() -> Vec<(&'static str, String, Request)> {
    let get = "GET /w/maya/in HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    let post_of = |framing, body| request("POST", "/in", framing, body);
    vec![
        ("no body", get, request("GET", "/in", Framing::None, "")),
        (
            "a length",
            post("Content-Length: 3", "abc"),
            post_of(Framing::Length, "abc"),
        ),
        (
            "a length of zero",
            post("Content-Length: 0", ""),
            post_of(Framing::Length, ""),
        ),
        (
            "chunks",
            post("Transfer-Encoding: chunked", CHUNKS),
            post_of(Framing::Chunked, "abc"),
        ),
        (
            "a trailer",
            post("Transfer-Encoding: chunked", "0\r\nX: a\r\n\r\n"),
            post_of(Framing::Chunked, ""),
        ),
        (
            "line feeds in a length",
            post("Content-Length: 6", "\n\n\r\n\r\n"),
            post_of(Framing::Length, "\n\n\r\n\r\n"),
        ),
    ]
}

fn faults() -> Vec<(&'static str, String)> {
    let one = "Content-Length: 3";
    let coded = "Transfer-Encoding: chunked";
    vec![
        ("bare line feeds", post("X: a", "").replace("\r\n", "\n")),
        ("a bare line feed", post("X: a\nY: b", "")),
        (
            "a line feed before the request",
            format!("\n{}", post("X: a", "")),
        ),
        ("a length twice", post(&format!("{one}\r\n{one}"), "abc")),
        (
            "a length and chunks",
            post(&format!("{one}\r\n{coded}"), CHUNKS),
        ),
        (
            "chunks and a length",
            post(&format!("{coded}\r\n{one}"), CHUNKS),
        ),
        ("a folded line", post("X: a\r\n b", "")),
    ]
}
