//! Entries on body framing: lengths, codings, both together, chunks and trailers.

use super::{CHUNKS, Entry, Fate, HIDDEN, declined, entry, post, posted, refused, request};
use crate::recorder::Framing;

pub(super) fn all() -> Vec<Entry> {
    [lengths(), codings(), both(), chunks(), trailers()].concat()
}

fn lengths() -> Vec<Entry> {
    let twice = |first: &str, second: &str| {
        post(
            &format!("Content-Length: {first}\r\nContent-Length: {second}"),
            "abc",
        )
    };
    let one = |length: &str| post(&format!("Content-Length: {length}"), "abc");
    vec![
        refused("two lengths", 400, twice("3", "4")),
        refused("two lengths, the larger first", 400, twice("4", "3")),
        refused("a length twice", 400, twice("3", "3")),
        refused(
            "a length twice, in another letter case",
            400,
            post("Content-Length: 3\r\ncontent-LENGTH: 3", "abc"),
        ),
        refused(
            "a length twice, far apart",
            400,
            post("Content-Length: 3\r\nX: a\r\nContent-Length: 3", "abc"),
        ),
        refused("a length of zero twice", 400, twice("0", "0")),
        refused("a length, and an empty one", 400, twice("3", "")),
        refused("a list of lengths", 400, one("3, 4")),
        refused("a list of the same length", 400, one("3, 3")),
        refused("a length with a plus", 400, one("+3")),
        refused("a length with a minus", 400, one("-3")),
        refused("a hexadecimal length", 400, one("0x3")),
        refused("a length with a decimal point", 400, one("3.0")),
        refused("a length with a blank inside", 400, one("3 3")),
        refused("an empty length", 400, one("")),
        refused("a length in Arabic-Indic digits", 400, one("\u{663}")),
        refused("a length that overflows", 400, one("18446744073709551619")),
        posted("a length with leading zeros", Framing::Length, one("003")),
        posted("a length between blanks", Framing::Length, one(" \t3 \t")),
        refused(
            "a blank after the name",
            400,
            post("Content-Length : 3", "abc"),
        ),
        refused(
            "a tab after the name",
            400,
            post("Content-Length\t: 3", "abc"),
        ),
        refused(
            "a line break after the name",
            400,
            post("Content-Length\r\n: 3", "abc"),
        ),
        entry(
            "a GET with a request as its body",
            format!(
                "GET /w/maya/in HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{HIDDEN}",
                HIDDEN.len()
            ),
            Fate::Passed(vec![request("GET", "/in", Framing::Length, HIDDEN)]),
        ),
        entry(
            "a request in a chunk",
            post(
                "Transfer-Encoding: chunked",
                &format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()),
            ),
            Fate::Passed(vec![request("POST", "/in", Framing::Chunked, HIDDEN)]),
        ),
        entry(
            "a length of zero and a request after it",
            post("Content-Length: 0", HIDDEN),
            Fate::Passed(vec![
                request("POST", "/in", Framing::Length, ""),
                request("GET", "/hidden", Framing::None, ""),
            ]),
        ),
        entry(
            "a name similar to Content-Length",
            post("Content_Length: 3", HIDDEN),
            Fate::Passed(vec![
                request("POST", "/in", Framing::None, ""),
                request("GET", "/hidden", Framing::None, ""),
            ]),
        ),
    ]
}

fn codings() -> Vec<Entry> {
    let with = |lines: &str| post(lines, CHUNKS);
    vec![
        posted(
            "chunked",
            Framing::Chunked,
            with("Transfer-Encoding: chunked"),
        ),
        posted(
            "chunked in capitals",
            Framing::Chunked,
            with("Transfer-Encoding: CHUNKED"),
        ),
        posted(
            "chunked after a tab",
            Framing::Chunked,
            with("Transfer-Encoding:\tchunked"),
        ),
        refused(
            "chunked, identity",
            400,
            with("Transfer-Encoding: chunked, identity"),
        ),
        declined(
            "identity, chunked",
            501,
            with("Transfer-Encoding: identity, chunked"),
        ),
        refused("identity", 400, with("Transfer-Encoding: identity")),
        refused("xchunked", 400, with("Transfer-Encoding: xchunked")),
        refused("chunkedx", 400, with("Transfer-Encoding: chunkedx")),
        refused(
            "quoted chunked",
            400,
            with("Transfer-Encoding: \"chunked\""),
        ),
        refused(
            "chunked with a parameter",
            400,
            with("Transfer-Encoding: chunked;q=1"),
        ),
        declined(
            "chunked twice in a list",
            501,
            with("Transfer-Encoding: chunked, chunked"),
        ),
        declined(
            "chunked twice",
            501,
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ),
        refused(
            "chunked and then another coding",
            400,
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow"),
        ),
        refused("an empty coding", 400, with("Transfer-Encoding:")),
        declined(
            "chunked after a comma",
            501,
            with("Transfer-Encoding: , chunked"),
        ),
        refused(
            "chunked with a null",
            400,
            with("Transfer-Encoding: chunked\0"),
        ),
        refused(
            "chunked after a vertical tab",
            400,
            with("Transfer-Encoding: \x0bchunked"),
        ),
        refused(
            "chunked on the next line",
            400,
            with("Transfer-Encoding:\r\n chunked"),
        ),
        refused(
            "a coding's name after a blank",
            400,
            with(" Transfer-Encoding: chunked"),
        ),
        refused(
            "a blank after a coding's name",
            400,
            with("Transfer-Encoding : chunked"),
        ),
        refused(
            "a bare carriage return before a coding",
            400,
            with("X: y\rTransfer-Encoding: chunked"),
        ),
    ]
}

fn both() -> Vec<Entry> {
    let with = |lines: &str| post(lines, &format!("{CHUNKS}{HIDDEN}"));
    let then_hidden = |name, lines: &str| {
        let requests = vec![
            request("POST", "/in", Framing::Chunked, "abc"),
            request("GET", "/hidden", Framing::None, ""),
        ];
        entry(name, with(lines), Fate::Passed(requests))
    };
    vec![
        then_hidden(
            "chunks and a request after them",
            "Transfer-Encoding: chunked",
        ),
        refused(
            "a length and then chunks",
            400,
            with("Content-Length: 30\r\nTransfer-Encoding: chunked"),
        ),
        refused(
            "chunks and then a length",
            400,
            with("Transfer-Encoding: chunked\r\nContent-Length: 3"),
        ),
        refused(
            "chunks and then a length, far apart and in another letter case",
            400,
            with("TRANSFER-ENCODING: chunked\r\nX: a\r\ncontent-length: 3"),
        ),
        refused(
            "chunks and a length of zero",
            400,
            with("Transfer-Encoding: chunked\r\nContent-Length: 0"),
        ),
        refused(
            "chunks and an empty length",
            400,
            with("Transfer-Encoding: chunked\r\nContent-Length:"),
        ),
        refused(
            "a length and an unknown coding",
            400,
            with("Content-Length: 3\r\nTransfer-Encoding: xchunked"),
        ),
        refused(
            "a length and chunked, identity",
            400,
            with("Content-Length: 3\r\nTransfer-Encoding: chunked, identity"),
        ),
        posted(
            "a length that Connection names",
            Framing::Length,
            post("Connection: Content-Length\r\nContent-Length: 3", "abc"),
        ),
        posted(
            "chunks that Connection names",
            Framing::Chunked,
            post(
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
                CHUNKS,
            ),
        ),
    ]
}

fn chunks() -> Vec<Entry> {
    let with = |body: &str| post("Transfer-Encoding: chunked", &format!("{body}{HIDDEN}"));
    let broken = |name, body: &str| refused(name, 400, with(body));
    vec![
        broken("a size that is not a number", "zz\r\nabc\r\n0\r\n\r\n"),
        broken("an empty size", "\r\nabc\r\n0\r\n\r\n"),
        broken("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        broken("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n"),
        broken("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        broken(
            "a size that overflows",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        broken("a size after a blank", " 3\r\nabc\r\n0\r\n\r\n"),
        broken("a size with a line feed", "3\nabc\r\n0\r\n\r\n"),
        broken("a size with a bare carriage return", "3\rabc\r\n0\r\n\r\n"),
        broken("a chunk with a line feed", "3\r\nabc\n0\r\n\r\n"),
        broken("a chunk without a line end", "3\r\nabc0\r\n\r\n"),
        broken("a chunk that is too long", "3\r\nabcd\r\n0\r\n\r\n"),
        broken(
            "an extension with a line feed",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
        ),
        broken("an end with line feeds", "3\r\nabc\r\n0\n\n"),
        broken("an end with a bare line feed", "3\r\nabc\r\n0\r\n\n"),
        broken("a trailer with a line feed", "0\r\nX: a\nY: b\r\n\r\n"),
        broken("a trailer that ends with a line feed", "0\r\nX: a\n\r\n"),
        broken("trailers that end with a line feed", "0\r\nX: a\r\n\n"),
        broken("a folded trailer", "0\r\nX: a\r\n b\r\n\r\n"),
    ]
}

fn trailers() -> Vec<Entry> {
    let with = |body: &str| post("Transfer-Encoding: chunked", body);
    vec![
        posted(
            "an extension",
            Framing::Chunked,
            with("3;a=b\r\nabc\r\n0\r\n\r\n"),
        ),
        posted(
            "a quoted extension",
            Framing::Chunked,
            with("3;a=\"b\"\r\nabc\r\n0;c\r\n\r\n"),
        ),
        posted(
            "a size with leading zeros",
            Framing::Chunked,
            with("0003\r\nabc\r\n000\r\n\r\n"),
        ),
        posted(
            "a trailer",
            Framing::Chunked,
            with("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
        ),
        posted(
            "a length as a trailer",
            Framing::Chunked,
            with("3\r\nabc\r\n0\r\nContent-Length: 60\r\n\r\n"),
        ),
        posted(
            "a coding as a trailer",
            Framing::Chunked,
            with("3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ),
        posted(
            "a host as a trailer",
            Framing::Chunked,
            with("3\r\nabc\r\n0\r\nHost: evil.example\r\n\r\n"),
        ),
    ]
}
