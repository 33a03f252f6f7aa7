//! Valid requests, and the bytes that remain after faults are put in.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A valid request, and the length of its head.
#[derive(Clone, Debug)]
pub(super) struct Sound {
    pub(super) empty_lines: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) head_len: usize,
}

/// The field that frames a body, and the body as it is sent.
type Framed = (String, Vec<u8>);

pub(super) fn sound() -> impl Strategy<Value = Sound> {
    let line = select(vec![
        "Content-Type: text/plain\r\n",
        "cookie: a=b; c=d\r\n",
        "TE: trailers\r\n",
        "Transfer: content-length: 9\r\n",
        "X:\r\n",
        "Content-Length-Of: 7\r\n",
        "Connection: keep-alive, upgrade\r\n",
        "Upgrade: h2c\r\n",
        "Expect: 100-continue\r\n",
    ]);
    let body = prop_oneof![Just(Framed::default()), length(), chunks()];
    let asked = "(GET|POST|HEAD|DELETE|BREW) /[a-z]";
    (0..3_usize, asked, vec(line, 0..5), body, 0..6_usize).prop_map(
        |(empty_lines, asked, mut lines, (frame, body), place)| {
            lines.insert(place.min(lines.len()), &frame);
            let start = "\r\n".repeat(empty_lines);
            let head = format!("{asked} HTTP/1.1\r\n{}\r\n", lines.concat());
            Sound {
                empty_lines,
                head_len: start.len() + head.len(),
                bytes: [start.as_bytes(), head.as_bytes(), &body].concat(),
            }
        },
    )
}

fn data() -> impl Strategy<Value = String> {
    let word = select(vec![
        "\r\n",
        "\n",
        "0",
        "a",
        "\0",
        "X: a\r\n",
        "GET /b HTTP/1.1\r\n\r\n",
    ]);
    vec(word, 0..6).prop_map(|words| words.concat())
}

fn length() -> impl Strategy<Value = Framed> {
    let name = "Content-Length|content-length|CONTENT-LENGTH";
    (name, " |\t |", "0{0,2}", data()).prop_map(|(name, blanks, zeros, data)| {
        let line = format!("{name}:{blanks}{zeros}{}{blanks}\r\n", data.len());
        (line, data.into_bytes())
    })
}

fn chunks() -> impl Strategy<Value = Framed> {
    let extension = select(vec!["", " ", ";a=\"b\"", " ;\0"]);
    let trailer = select(vec!["X: a\r\n", "Content-Length: 3\r\n"]);
    let chunks = vec((data(), extension), 0..4);
    (chunks, vec(trailer, 0..3)).prop_map(|(chunks, trailers)| {
        let mut body = String::new();
        for (data, extension) in chunks.iter().filter(|(data, _)| !data.is_empty()) {
            body += &format!("{:X}{extension}\r\n{data}\r\n", data.len());
        }
        body += &format!("00\r\n{}\r\n", trailers.concat());
        ("Transfer-encoding: Chunked\r\n".to_owned(), body.into())
    })
}

/// A fault: removes a byte, inserts bytes, or both, at one place.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    place: Index,
    at_line: bool,
    removes: bool,
    inserts: &'static str,
}

pub(super) fn fault() -> impl Strategy<Value = Fault> {
    let inserts = select(vec![
        "",
        "\r",
        "\n",
        "\0",
        ":",
        ";",
        " ",
        "0",
        "3",
        "\"",
        "?<",
        "\r\n\r\n",
        "\n\n",
        "Content-Length: 3\r\n",
        "content-length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding: identity\r\n",
    ]);
    any::<(Index, bool, bool)>()
        .prop_flat_map(move |known| (Just(known), inserts.clone()))
        .prop_map(|((place, at_line, removes), inserts)| Fault {
            place,
            at_line,
            removes,
            inserts,
        })
}

/// The bytes of `requests` with `faults` applied.
pub(super) fn broken(requests: &[Sound], faults: &[Fault]) -> Vec<u8> {
    let mut bytes: Vec<u8> = requests
        .iter()
        .flat_map(|request| request.bytes.clone())
        .collect();
    for fault in faults {
        let mut at = fault.place.index(bytes.len());
        if fault.at_line {
            let line = bytes[..at].iter().rposition(|byte| *byte == b'\n');
            at = line.map_or(0, |end| end + 1);
        }
        let removed = at..at + usize::from(fault.removes && bytes.len() > 1);
        bytes.splice(removed, fault.inserts.bytes());
    }
    bytes
}
