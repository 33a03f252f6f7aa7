mod server;
mod sound;

use proptest::prelude::*;

use super::*;
use sound::{Sound, broken, fault, sound};

/// Bytes that hyper gets of `input`, cut into pieces of these lengths in rotation, and the final scanner.
fn passed(input: &[u8], lengths: &[usize]) -> (Vec<u8>, Scanner) {
    let mut intake = Intake::new();
    let mut got = Vec::new();
    let mut rest = input;
    for length in lengths.iter().cycle() {
        let (piece, later) = rest.split_at((*length).min(rest.len()));
        let mut piece = piece.to_vec();
        let count = intake.pass(&mut piece);
        got.extend_from_slice(&piece[..count]);
        // Three bytes a call at most, since a reader may have little room.
        let mut before = usize::MAX;
        while before != got.len() {
            before = got.len();
            intake.read(3, |bytes| got.extend_from_slice(bytes));
        }
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    (got, intake.scanner.expect("HTTP/1.1 is scanned"))
}

/// Bytes that hyper gets of `input` before the answer to a request to upgrade, and behind one that leaves HTTP.
fn held(input: &str, lengths: &[usize]) -> (String, String) {
    let mut intake = Intake::new();
    intake.hold_upgrades();
    let mut got = Vec::new();
    let mut rest = input.as_bytes();
    for length in lengths.iter().cycle() {
        let (piece, later) = rest.split_at((*length).min(rest.len()));
        if intake.is_held() {
            intake.keep(piece);
        } else {
            let mut piece = piece.to_vec();
            let count = intake.pass(&mut piece);
            got.extend_from_slice(&piece[..count]);
            intake.read(usize::MAX, |bytes| got.extend_from_slice(bytes));
        }
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let first = got.len();
    if intake.is_held() {
        assert!(!intake.read(9, |bytes| assert!(bytes.is_empty())));
    }
    intake.go_on();
    intake.read(usize::MAX, |bytes| got.extend_from_slice(bytes));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&got[..first]), text(&got[first..]))
}

fn head(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n")
}

/// Index of the NUL in what hyper gets of `input`; checks the bytes around it.
fn doubted(input: &str) -> usize {
    let (got, scanner) = passed(input.as_bytes(), &[input.len()]);
    let at = got.iter().position(|byte| *byte == 0).expect(input);
    assert_eq!(got[..at], input.as_bytes()[..at], "{input:?}");
    assert_eq!(got[at + 1..], *END, "{input:?}");
    assert_eq!(scanner.part, Part::Refused(&[]), "{input:?}");
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
            let colon = input.rfind(':').expect("the head has a colon");
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
        assert_eq!(
            (&got[..], scanner.part),
            (input.as_bytes(), Scanner::new().part)
        );
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
        assert_eq!(
            (&got[..], scanner.part),
            (input.as_bytes(), Scanner::new().part)
        );
    }
}

#[test]
fn bytes_behind_a_request_to_upgrade_wait_for_its_answer() {
    let get = |lines: &str| format!("GET /\" HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let escaped = |text: &str| text.replace('"', "%22");
    let plain = get("");
    for lines in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "uPGRADE: h2c\r\n",
        "Upgrade:\r\nContent-Length: 0\r\n",
    ] {
        let upgrade = get(lines);
        let input = format!("{plain}{upgrade}{plain}");
        let before = escaped(&format!("{plain}{upgrade}"));
        for lengths in [&[input.len()][..], &[1], &[7, 3]] {
            let expected = (before.clone(), escaped(&plain));
            assert_eq!(held(&input, lengths), expected, "{lines:?} {lengths:?}");
        }
    }
    for lines in [
        "Upgrades: websocket\r\n",
        "X: Upgrade: websocket\r\n",
        "Upgrade: x\r\nContent-Length: 2\r\n\r\nab\r\n",
    ] {
        let input = format!("{}{plain}", get(lines));
        let expected = (escaped(&input), String::new());
        assert_eq!(held(&input, &[input.len()]), expected, "{lines:?}");
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
        // An empty line ends the trailers, and the next head begins.
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
        assert_eq!(scanner.part, Part::Refused(&[]), "{chunks:?}");
        assert!(input.as_bytes().starts_with(&got), "{chunks:?}");
        let (again, _) = passed((input + "0\r\n\r\n").as_bytes(), &[1]);
        assert_eq!(again, got, "{chunks:?}");
    }
}

#[test]
fn the_rule_that_a_head_breaks_is_known() {
    for (lines, rule) in [
        ("X: a\nY: b\r\n", "line feed"),
        ("Content-Length: 1\n\r\n", "line feed"),
        (
            "Content-Length: 1\r\ncontent-length: 1\r\n",
            "more than one",
        ),
        (
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "and a Transfer",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "and a Transfer",
        ),
        ("Content-Length: 1x\r\n", "not a number"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n", "line feed"),
    ] {
        let input = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        for length in [1, input.len()] {
            let (_, scanner) = passed(input.as_bytes(), &[length]);
            let broken = scanner.broken_rule.unwrap();
            assert!(broken.contains(rule), "{lines}: {broken}");
        }
    }
    let (_, scanner) = passed(b"GET / HTTP/1.1\r\n\r\n", &[3]);
    assert_eq!(scanner.broken_rule, None);
}

#[test]
fn how_a_head_begins_is_known_by_its_number() {
    let get = "GET / HTTP/1.1\r\n\r\n";
    for (input, start) in [
        ("\r\nHEA", "HEA\0\0"),
        ("HEAD /", "HEAD "),
        ("HEAD / HTTP/1.1\r\n\r\n", "HEAD "),
        ("HEAD / HTTP/1.1\r\nX: a\nY: b", "HEAD "),
        (
            "HEAD / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n",
            "HEAD ",
        ),
        ("HEAD\n", "HEAD\0"),
        ("\n", "\0\0\0\0\0"),
        ("\rx\r\nHEAD / HTTP/1.1\r\n\r\n", "\0\0\0\0\0"),
        ("GE\"T /", "GE\"T "),
        ("HEAD / HTTP/1.1\r\nbad name: x\r\n\r\nGET / HTTP", "HEAD "),
        ("GET / HTTP/9.9\r\n\r\nHEAD / HTTP/1.1\r\n\r\nHEAD", "GET /"),
    ] {
        for length in [1, 7, 100] {
            for count in [0, 1, 5] {
                let input = format!("{}{input}", get.repeat(count));
                let (_, scanner) = passed(input.as_bytes(), &[length]);
                let got = scanner.request_line(count as u64).unwrap().start;
                assert_eq!(str::from_utf8(&got).unwrap(), start, "{input:?} {length}");
            }
        }
    }
}

#[test]
fn heads_behind_many_that_wait_are_unknown_except_for_the_last() {
    let get = "GET / HTTP/1.1\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\n\r\n";
    let count = unserved::EARLIER_MAX as u64;
    let input = get.repeat(unserved::EARLIER_MAX) + head + get + head;
    let (_, mut scanner) = passed(input.as_bytes(), &[9]);
    let is_head = |scanner: &Scanner, number| scanner.request_line(number).map(|it| it.is_head());
    for (number, expected) in [
        (0, Some(false)),
        (count - 1, Some(false)),
        (count, None),
        (count + 1, None),
        (count + 2, Some(true)),
        // The head that has not begun.
        (count + 3, Some(false)),
        (count + 4, None),
    ] {
        assert_eq!(is_head(&scanner, number), expected, "{number}");
    }
    scanner.unserved.drop_served(count);
    assert_eq!(is_head(&scanner, count - 1), None);
    assert_eq!(is_head(&scanner, count + 2), Some(true));
}

#[test]
fn what_urls_do_not_have_is_escaped_in_what_a_request_asks_for_and_nowhere_else() {
    let input = "\r\nGET /<a>?q={\"b\":1}`\u{e9} HTTP/1.1\r\nX: \"<\u{e9}>\"\r\n\r\nGET /\"";
    let expected =
        "\r\nGET /%3Ca%3E?q={%22b%22:1}%60%C3%A9 HTTP/1.1\r\nX: \"<\u{e9}>\"\r\n\r\nGET /%22";
    for length in [1, 2, 5, input.len()] {
        let (got, _) = passed(input.as_bytes(), &[length]);
        assert_eq!(String::from_utf8(got).unwrap(), expected, "{length}");
    }
    for other in [
        "\"GET / HTTP/1.1\r\n",
        "GET / \"HTTP/1.1\r\n",
        "GET /\r\n\"X: a\r\n",
    ] {
        assert_eq!(
            passed(other.as_bytes(), &[3]).0,
            other.as_bytes(),
            "{other}"
        );
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
                let passed = scanner.pass(&mut one);
                prop_assert_eq!((passed.to_server, passed.taken, one), (1, 1, [*byte]));
                let is_between = count <= 2 * empty_lines && count % 2 == 0 || count == bytes.len();
                prop_assert_eq!(scanner.part == Scanner::new().part, is_between, "behind {} bytes", count);
                let is_in_body = matches!(scanner.part, Part::Body(_) | Part::Chunks(_));
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
