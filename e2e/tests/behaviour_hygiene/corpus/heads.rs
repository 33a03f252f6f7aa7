//! Entries on request heads: lines, targets, sizes, versions.

use super::{
    CHUNKS, Entry, Fate, HIDDEN, declined, declined_then, entry, post, posted, refused, request,
    two,
};
use crate::recorder::Framing;

/// Longest head that the relay accepts, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

pub(super) fn all() -> Vec<Entry> {
    [lines(), targets(), sizes(), versions()].concat()
}

fn lines() -> Vec<Entry> {
    let get = |lines: &str| {
        format!("GET /w/maya/in HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n{HIDDEN}")
    };
    let bare = get("X: a").replace("\r\n", "\n");
    vec![
        two("two requests at once", get("X: a")),
        refused("bare line feeds", 400, &bare),
        refused(
            "a bare line feed in the head",
            400,
            get("X: a").replacen("\r\nX", "\nX", 1),
        ),
        refused(
            "a bare line feed after the request line",
            400,
            get("X: a").replacen("\r\n", "\n", 1),
        ),
        refused(
            "a bare line feed at the head's end",
            400,
            get("X: a").replacen("a\r\n\r\n", "a\r\n\n", 1),
        ),
        refused(
            "a bare line feed after the last line",
            400,
            get("X: a").replacen("a\r\n\r\n", "a\n\r\n", 1),
        ),
        refused("two line feeds at the head's end", 400, get("X: a\n")),
        refused(
            "a line feed before the request",
            400,
            format!("\n{}", get("X: a")),
        ),
        refused(
            "a bare line feed before the request",
            400,
            format!("\r\n\n{}", get("X: a")),
        ),
        refused(
            "bare line feeds around a length",
            400,
            post("Content-Length: 3", "abc").replace("\r\n", "\n"),
        ),
        refused(
            "bare carriage returns",
            400,
            get("X: a").replace("\r\n", "\r"),
        ),
        refused("a bare carriage return in a value", 400, get("X: a\rb: c")),
        refused("a carriage return before a line's end", 400, get("X: a\r")),
        refused("a folded line", 400, get("X: a\r\n b")),
        refused("a line folded by a tab", 400, get("X: a\r\n\tb")),
        refused("a folded first line", 400, get(" X: a")),
        refused("a line without a colon", 400, get("X")),
        refused("a line without a name", 400, get(": a")),
        refused("a null in a value", 400, get("X: a\0b")),
        refused("a null in a name", 400, get("X\0Y: a")),
        refused("a name in quotes", 400, get("\"X\": a")),
        declined_then("two hosts", 400, get("Host: localhost")),
        declined("no host", 400, "GET /w/maya/in HTTP/1.1\r\n\r\n"),
        two(
            "empty lines before the request",
            format!("\r\n\r\n{}", get("X: a")),
        ),
    ]
}

fn targets() -> Vec<Entry> {
    let get =
        |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n{HIDDEN}");
    vec![
        two(
            "an absolute form",
            get("http://localhost/w/maya/in", "localhost"),
        ),
        two(
            "an absolute form in capitals",
            get("http://LOCALHOST/w/maya/in", "localhost"),
        ),
        two(
            "an absolute form with a port",
            get("http://localhost:80/w/maya/in", "localhost:80"),
        ),
        declined_then(
            "an absolute form with a port, and a host without",
            400,
            get("http://localhost:80/w/maya/in", "localhost"),
        ),
        declined_then(
            "an absolute form without a port, and a host with one",
            400,
            get("http://localhost/w/maya/in", "localhost:80"),
        ),
        declined_then(
            "an absolute form and an empty host",
            400,
            get("http://localhost/w/maya/in", ""),
        ),
        declined_then(
            "an absolute form with a foreign host",
            400,
            get("http://evil.example/w/maya/in", "localhost"),
        ),
        declined_then(
            "an absolute form and a Host field, both foreign",
            421,
            get("http://evil.example/w/maya/in", "evil.example"),
        ),
        declined_then(
            "an absolute form and a foreign Host field",
            400,
            get("http://localhost/w/maya/in", "evil.example"),
        ),
        declined_then(
            "an absolute form with a user",
            400,
            get("http://u@localhost/w/maya/in", "localhost"),
        ),
        declined_then(
            "a foreign Host field",
            421,
            get("/w/maya/in", "evil.example"),
        ),
        refused("a path with a null", 400, get("/w/maya/in\0", "localhost")),
        refused("a path with a blank", 400, get("/w/maya/in x", "localhost")),
        refused(
            "a path after two blanks",
            400,
            get(" /w/maya/in", "localhost"),
        ),
        refused(
            "a tab after the path",
            400,
            get("/w/maya/in\t", "localhost"),
        ),
        declined_then("an authority form", 400, get("localhost:80", "localhost")),
        declined(
            "CONNECT",
            501,
            "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ),
    ]
}

fn sizes() -> Vec<Entry> {
    let get = |path: &str, lines: &str| {
        format!("GET /w/maya/{path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n")
    };
    let head = |len: usize| {
        let rest = get("in", "X: ").len();
        get("in", &format!("X: {}", "x".repeat(len - rest)))
    };
    let taken = |name, bytes: String| {
        let request = request("GET", "/in", Framing::None, "");
        entry(name, bytes, Fate::Passed(vec![request]))
    };
    let long = "x".repeat(200_000);
    vec![
        taken(
            "a head one byte below the longest",
            head(HEAD_BYTES_MAX - 1),
        ),
        taken("the longest head", head(HEAD_BYTES_MAX)),
        refused("a head one byte too long", 431, head(HEAD_BYTES_MAX + 1)),
        refused("a head twice too long", 431, head(2 * HEAD_BYTES_MAX)),
        refused("a long value", 431, get("in", &format!("X: {long}"))),
        refused("a long name", 431, get("in", &format!("{long}: x"))),
        refused("a long path", 414, get(&long, "X: a")),
        refused("many lines", 431, get("in", &"X: a\r\n".repeat(200))),
    ]
}

fn versions() -> Vec<Entry> {
    let coded = "Host: localhost\r\nTransfer-Encoding: chunked";
    vec![
        refused("no version", 400, "GET /w/maya/in\r\n\r\n"),
        refused("no version, one line", 400, "GET /w/maya/in\r\n"),
        refused(
            "HTTP/0.9",
            400,
            "GET /w/maya/in HTTP/0.9\r\nHost: localhost\r\n\r\n",
        ),
        posted(
            "a length in HTTP/1.0 and a request after it",
            Framing::Length,
            post("Content-Length: 3", &format!("abc{HIDDEN}")).replacen("1.1", "1.0", 1),
        ),
        refused(
            "HTTP/1.2",
            400,
            "GET /w/maya/in HTTP/1.2\r\nHost: localhost\r\n\r\n",
        ),
        refused(
            "HTTP/2.0",
            400,
            "GET /w/maya/in HTTP/2.0\r\nHost: localhost\r\n\r\n",
        ),
        refused(
            "http/1.1",
            400,
            "GET /w/maya/in http/1.1\r\nHost: localhost\r\n\r\n",
        ),
        refused(
            "chunks in HTTP/1.0",
            400,
            format!("POST /w/maya/in HTTP/1.0\r\n{coded}\r\n\r\n{CHUNKS}"),
        ),
        refused(
            "chunks and a length in HTTP/1.0",
            400,
            format!("POST /w/maya/in HTTP/1.0\r\n{coded}\r\nContent-Length: 3\r\n\r\n{CHUNKS}"),
        ),
    ]
}
