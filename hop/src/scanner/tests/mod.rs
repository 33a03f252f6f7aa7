mod server;
mod sound;

use hyper::rt::ReadBuf;
use proptest::prelude::*;

use super::*;
use sound::{Sound, broken, fault, sound};

/// What hyper gets of `input`, which comes in pieces of these lengths over and over.
fn passed(input: &[u8], lengths: &[usize]) -> (Vec<u8>, Scanner) {
    let mut scanner = Scanner::new();
    let mut got = Vec::new();
    let mut input = input.to_vec();
    let mut rest = &mut input[..];
    for length in lengths.iter().cycle() {
        let (piece, later) = rest.split_at_mut((*length).min(rest.len()));
        let count = scanner.pass(piece);
        got.extend_from_slice(&piece[..count]);
        if later.is_empty() || count < piece.len() {
            break;
        }
        rest = later;
    }
    let mut bytes = [0; 3];
    loop {
        let mut buf = ReadBuf::new(&mut bytes);
        if !scanner.read_instead(&mut buf.unfilled()) || buf.filled().is_empty() {
            break;
        }
        got.extend_from_slice(buf.filled());
    }
    (got, scanner)
}

fn head(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n")
}

/// Where hyper finds the null, in what it gets of `input`.
fn doubted(input: &str) -> usize {
    let (got, scanner) = passed(input.as_bytes(), &[input.len()]);
    let at = got.iter().position(|byte| *byte == 0).expect(input);
    assert_eq!(got[..at], input.as_bytes()[..at], "{input:?}");
    assert_eq!(got[at + 1..], *END, "{input:?}");
    assert_eq!(scanner.0, Part::Refused(&[]), "{input:?}");
    at
}

#[test]
fn a_head_ends_at_its_first_bare_line_feed() {
    for bare in [
        "\nGET / HTTP/1.1\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\n\r\n",
        "G\nET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\nX: a\r\n\r\n",
        "GET / HTTP/1.1\r\nX: a\n\r\n",
        "GET / HTTP/1.1\r\nC\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length\n: 3\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 3\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length:\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\n\r\n",
        "GET / HTTP/1.1\r\nX: a\r\n\n",
        "GET / HTTP/1.1\n\n",
    ] {
        let lone = |at: &usize| !bare[..*at].ends_with('\r');
        let expected = bare.match_indices('\n').map(|(at, _)| at).find(lone);
        assert_eq!(Some(doubted(bare)), expected, "{bare:?}");
    }
}

#[test]
fn a_head_ends_where_it_frames_its_body_a_second_time() {
    let (length, coding) = ("Content-Length: 3", "Transfer-Encoding: chunked");
    for (first, second) in [
        (length, length),
        (length, "cOnTeNt-LeNgTh: 3"),
        (length, "content-length: 4"),
        (length, coding),
        (coding, length),
        ("transfer-encoding:", "CONTENT-LENGTH:"),
    ] {
        for between in ["\r\n", "\r\nX: a\r\n"] {
            let input = head(&format!("{first}{between}{second}"));
            let colon = input.rfind(':').expect("one stands in it");
            assert_eq!(doubted(&input), colon, "{input:?}");
        }
    }
}

#[test]
fn a_length_is_a_number() {
    for value in [
        "", " ", "+3", "-3", "0x3", "3.0", "3 3", "3, 3", "3,", "\u{663}",
    ] {
        doubted(&head(&format!("Content-Length: {value}")));
    }
    doubted(&head("Content-Length: 18446744073709551616"));
    doubted(&head("Content-Length:\r\n 3"));
    for value in [" 3", "3", " \t3 \t", "003"] {
        let input = head(&format!("Content-Length:{value}")) + "a\nb";
        let (got, scanner) = passed(input.as_bytes(), &[5]);
        assert_eq!((&got[..], scanner), (input.as_bytes(), Scanner::new()));
    }
}

#[test]
fn what_only_resembles_a_framing_field_frames_nothing() {
    for lines in [
        "Content_Length: 3",
        "Content-Lengths: 3",
        "Content-Lengt: 3",
        "Content-Length : 3",
        "X-Content-Length: 3",
        "TE: chunked",
        "Transfer-Encodings: chunked",
        "Content-Type: a\r\nCookie: b\r\nTo: c\r\nX: Content-Length: 3",
    ] {
        let input = head(lines);
        let (got, scanner) = passed(input.as_bytes(), &[input.len()]);
        assert_eq!((&got[..], scanner), (input.as_bytes(), Scanner::new()));
    }
}

#[test]
fn trailers_end_at_their_first_bare_line_feed() {
    let start = head("Transfer-Encoding: chunked") + "3\r\n\n\r\n\r\n0\r\n";
    for trailers in [
        "\n",
        "\r\n\n",
        "X: a\n\r\n",
        "X: a\r\n\n",
        "X: a\r\nY: b\n\r\n",
    ] {
        // An empty line ends them, and what follows is the next head.
        doubted(&(start.clone() + trailers));
    }
}

#[test]
fn nothing_is_read_behind_a_broken_chunk() {
    for chunks in [
        "x",
        "\r\n",
        "\n",
        "-3\r\n",
        "3\n",
        "3\rx",
        "3 3\r\n",
        "3;a\nb",
        "3\r\nabcd",
        "3\r\nabc\rx",
        "3\r\nabc\n",
        "10000000000000000",
        "0\r\n\rx",
        "0\r\nX: a\rx",
    ] {
        let input = head("Transfer-Encoding: chunked") + chunks;
        let (got, scanner) = passed(input.as_bytes(), &[input.len()]);
        assert_eq!(scanner.0, Part::Refused(&[]), "{chunks:?}");
        assert!(input.as_bytes().starts_with(&got), "{chunks:?}");
        let (again, _) = passed((input + "0\r\n\r\n").as_bytes(), &[1]);
        assert_eq!(again, got, "{chunks:?}");
    }
}

proptest! {
    #[test]
    fn sound_requests_pass_unchanged_and_their_borders_are_found(
        requests in prop::collection::vec(sound(), 1..5)
    ) {
        let mut scanner = Scanner::new();
        for Sound { empty_lines, bytes, head_len } in &requests {
            for (at, byte) in bytes.iter().enumerate() {
                let count = at + 1;
                let mut one = [*byte];
                prop_assert_eq!((scanner.pass(&mut one), one), (1, [*byte]));
                let is_between = count <= 2 * empty_lines && count % 2 == 0 || count == bytes.len();
                prop_assert_eq!(scanner == Scanner::new(), is_between, "behind {} bytes", count);
                let is_in_body = matches!(scanner.0, Part::Body(_) | Part::Chunks(_));
                let expected = (*head_len..bytes.len()).contains(&count);
                prop_assert_eq!(is_in_body, expected, "behind {} bytes", count);
            }
        }
    }

    #[test]
    fn what_passes_does_not_depend_on_how_it_is_cut(
        requests in prop::collection::vec(sound(), 1..4),
        faults in prop::collection::vec(fault(), 0..3),
        lengths in prop::collection::vec(1..9_usize, 1..6),
    ) {
        let input = broken(&requests, &faults);
        let whole = passed(&input, &[input.len()]);
        prop_assert_eq!(&passed(&input, &lengths), &whole);
        prop_assert_eq!(&passed(&input, &[1]), &whole);
    }
}
