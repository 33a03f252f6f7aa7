//! Frames that a peer may send, and frames that are violations, byte by byte.

use proptest::prelude::*;

use super::*;
use crate::tests::both;

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame as a peer of `role` gets it.
fn frame(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = if role == Role::Server { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        len @ ..126 => frame.push(mask | u8::try_from(len).unwrap()),
        len => match u16::try_from(len) {
            Ok(len) => {
                frame.push(mask | 126);
                frame.extend(len.to_be_bytes());
            }
            Err(_) => {
                frame.push(mask | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        },
    }
    let start = frame.len() + 4;
    if mask != 0 {
        frame.extend([1, 2, 3, 250]);
    }
    frame.extend(payload);
    if mask != 0 {
        mask::apply([1, 2, 3, 250], &mut frame[start..]);
    }
    frame
}

/// What an end of `role` hears of `bytes`, which come in pieces of `sizes` and are followed by the end of the
/// connection, and what it answers.
fn heard_of(role: Role, bytes: &[u8], sizes: &[usize], max: &[usize]) -> (Vec<Heard>, Vec<u8>) {
    let (near, far) = ends((1_000_000, 1_000_000));
    let mut websocket = WebSocket::new(role);
    let (mut heard, mut rest) = (Vec::new(), bytes);
    let (mut sizes, mut max) = (sizes.iter().cycle(), max.iter().cycle());
    loop {
        while websocket.poll_readable(&near, &mut noop()).is_pending()
            && websocket.poll_readable(&near, &mut noop()).is_pending()
        {
            let (piece, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            near.from.borrow_mut().is_ended = piece.is_empty();
            near.from.borrow_mut().bytes.extend(piece);
            rest = behind;
        }
        hear(&mut websocket, &near, *max.next().unwrap(), &mut heard);
        if let Some(Heard::Closed(_) | Heard::Violation(_) | Heard::Cut) = heard.last() {
            return (heard, drain(&far));
        }
    }
}

/// What a server hears of `frames`, at once.
fn heard_at_once(frames: &[Vec<u8>]) -> (Vec<Heard>, Vec<u8>) {
    heard_of(Role::Server, &frames.concat(), &[usize::MAX], &[100_000])
}

fn bytes(bytes: &[u8]) -> Heard {
    Heard::Bytes(bytes.to_vec())
}

fn to_server(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(Role::Server, first, payload)
}

#[test]
fn borders_are_those_of_messages_and_not_those_of_frames() {
    let (heard, answers) = heard_at_once(&[
        to_server(BINARY, b"one "),
        to_server(FIN | PING, b"ping"),
        to_server(0, b"message"),
        to_server(0, b""),
        to_server(FIN, b""),
        to_server(FIN | BINARY, b""),
        to_server(FIN | BINARY, b"another"),
        to_server(FIN | PONG, b"unasked"),
        to_server(FIN | CLOSE, &[0x03, 0xe9, b'b', b'y', b'e']),
        to_server(FIN | BINARY, b"behind the end"),
    ]);
    let closed = Heard::Closed(Some((1001, "bye".to_owned())));
    assert_eq!(
        heard,
        [
            bytes(b"one message"),
            Heard::Border,
            Heard::Border,
            bytes(b"another"),
            Heard::Border,
            closed
        ]
    );
    assert_eq!(answers, b"\x8a\x04ping\x88\x02\x03\xe9");
}

#[test]
fn a_close_frame_without_a_code_is_answered_without_one() {
    let (heard, answers) = heard_at_once(&[to_server(FIN | CLOSE, b"")]);
    assert_eq!(
        (heard, &answers[..]),
        (vec![Heard::Closed(None)], &b"\x88\x00"[..])
    );
}

#[test]
fn a_connection_that_is_cut_is_told_from_one_that_ended() {
    for frames in [
        vec![],
        vec![to_server(FIN | BINARY, b"whole")],
        vec![to_server(FIN | BINARY, b"whole")[..7].to_vec()],
        vec![to_server(FIN | PING, b"whole")[..7].to_vec()],
        vec![vec![FIN | BINARY]],
    ] {
        let (heard, answers) = heard_at_once(&frames);
        assert_eq!(heard.last(), Some(&Heard::Cut), "{frames:?}");
        assert_eq!(answers, []);
    }
}

#[test]
fn what_a_peer_may_not_send_is_refused_with_the_right_code() {
    let long = |len: u64| [&[FIN | BINARY, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
    for (frames, violation) in [
        (vec![vec![FIN | BINARY, 1, b'x']], Violation::Masking),
        (
            vec![to_server(FIN | 0x40 | BINARY, b"x")],
            Violation::ReservedBits,
        ),
        (
            vec![to_server(FIN | 0x10 | PING, b"x")],
            Violation::ReservedBits,
        ),
        (vec![to_server(FIN | 3, b"x")], Violation::Opcode),
        (vec![to_server(FIN | 11, b"x")], Violation::Opcode),
        (
            vec![vec![FIN | BINARY, 0xfe, 0, 125, 0, 0, 0, 0]],
            Violation::Length,
        ),
        (vec![long(65_535)], Violation::Length),
        (vec![long(1 << 63)], Violation::Length),
        (vec![to_server(PING, b"x")], Violation::FragmentedControl),
        (
            vec![to_server(FIN | PING, &[0; 126])],
            Violation::LongControl,
        ),
        (
            vec![to_server(FIN | CLOSE, &[3; 126])],
            Violation::LongControl,
        ),
        (vec![to_server(FIN, b"x")], Violation::Continuation),
        (
            vec![to_server(BINARY, b""), to_server(FIN | BINARY, b"x")],
            Violation::Continuation,
        ),
        (vec![to_server(FIN | TEXT, b"x")], Violation::Text),
        (vec![to_server(FIN | CLOSE, &[3])], Violation::CloseCode),
        (
            vec![to_server(FIN | CLOSE, &1005_u16.to_be_bytes())],
            Violation::CloseCode,
        ),
        (
            vec![to_server(FIN | CLOSE, &2999_u16.to_be_bytes())],
            Violation::CloseCode,
        ),
        (
            vec![to_server(FIN | CLOSE, &[0x03, 0xe8, 0xff])],
            Violation::CloseReason,
        ),
    ] {
        let (heard, answers) = heard_at_once(&frames);
        assert_eq!(heard, [Heard::Violation(violation)], "{frames:?}");
        let mut expected = violation.code().to_be_bytes().to_vec();
        expected.extend(violation.word().as_bytes());
        assert_eq!(answers[2..], expected);
        assert_eq!(answers[0], FIN | CLOSE);
    }
    let (heard, _) = heard_of(Role::Client, &to_server(FIN | BINARY, b"x"), &[9], &[9]);
    assert_eq!(heard, [Heard::Violation(Violation::Masking)]);
    // The longest frame that is allowed.
    assert_eq!(heard_at_once(&[long((1 << 63) - 1)]).0, [Heard::Cut]);
}

#[test]
fn what_came_before_a_violation_is_heard() {
    let (heard, _) = heard_at_once(&[
        to_server(FIN | BINARY, b"good"),
        to_server(BINARY, b"half"),
        to_server(FIN | TEXT, b"bad"),
    ]);
    let violation = Heard::Violation(Violation::Text);
    assert_eq!(
        heard,
        [bytes(b"good"), Heard::Border, bytes(b"half"), violation]
    );
}

#[test]
fn the_newest_ping_is_answered_and_the_answers_of_others_do_not_pile_up() {
    let (near, far) = ends((3, 1_000_000));
    let mut websocket = WebSocket::new(Role::Server);
    let mut heard = Vec::new();
    for round in 0..1_000_u16 {
        let ping = to_server(FIN | PING, &round.to_be_bytes().repeat(50));
        near.from.borrow_mut().bytes.extend(ping);
        hear(&mut websocket, &near, 100, &mut heard);
        assert!(websocket.has_unsent());
    }
    let mut answers = drain(&far);
    near.to.borrow_mut().room = 10_000;
    // The pong that waits is sent with the next write.
    assert_eq!(websocket.send(&near, &[IoSlice::new(b"data")]).unwrap(), 4);
    answers.extend(drain(&far));
    let pong = |round: u16| [&[FIN | PONG, 100][..], &round.to_be_bytes().repeat(50)].concat();
    let data = [FIN | BINARY, 4, b'd', b'a', b't', b'a'];
    assert_eq!(answers, [&pong(0)[..], &data, &pong(999)].concat());
}

#[test]
fn empty_frames_let_other_tasks_have_a_turn() {
    for empty in [
        to_server(FIN | BINARY, b""),
        to_server(FIN | PONG, b""),
        to_server(FIN | PING, b""),
    ] {
        let (near, _far) = ends((1_000_000, 1_000_000));
        let mut websocket = WebSocket::new(Role::Server);
        near.from.borrow_mut().bytes.extend(empty.repeat(100));
        let (mut heard, mut turns) = (Vec::new(), 0);
        while !near.from.borrow().bytes.is_empty() || websocket.has_input() {
            if websocket.poll_readable(&near, &mut noop()).is_pending() {
                turns += 1;
            }
            hear(&mut websocket, &near, 100, &mut heard);
        }
        assert!((5..8).contains(&turns), "{turns} turns");
    }
}

#[test]
fn short_messages_let_other_tasks_have_a_turn() {
    let (near, _far) = ends((1_000_000, 1_000_000));
    let mut websocket = WebSocket::new(Role::Server);
    let short = to_server(FIN | BINARY, b"x");
    near.from.borrow_mut().bytes.extend(short.repeat(1_000));
    let (mut heard, mut turns) = (Vec::new(), 0);
    while !near.from.borrow().bytes.is_empty() || websocket.has_input() {
        if websocket.poll_readable(&near, &mut noop()).is_pending() {
            turns += 1;
        }
        hear(&mut websocket, &near, 10_000, &mut heard);
    }
    assert_eq!(heard.len(), 2_000);
    assert!((10..20).contains(&turns), "{turns} turns");
}

#[test]
fn only_a_normal_close_between_messages_is_an_end_in_order() {
    let finished = |frames: &[Vec<u8>]| {
        let (near, _far) = ends((1_000, 1_000));
        let mut websocket = WebSocket::new(Role::Server);
        near.from.borrow_mut().bytes.extend(frames.concat());
        let mut heard = Vec::new();
        while !matches!(heard.last(), Some(Heard::Closed(_))) {
            assert!(!websocket.peer_finished());
            assert!(hear(&mut websocket, &near, 100, &mut heard));
        }
        websocket.peer_finished()
    };
    let close = |payload: &[u8]| to_server(FIN | CLOSE, payload);
    let normal = close(&[0x03, 0xe8]);
    assert!(finished(&[close(b"")]));
    assert!(finished(&[to_server(FIN | BINARY, b"x"), normal.clone()]));
    // 1001 (going away), 1011 (a failure) and 4000 (a code of an application).
    for code in [[0x03, 0xe9], [0x03, 0xf3], [0x0f, 0xa0]] {
        assert!(!finished(&[close(&code)]), "{code:?}");
    }
    assert!(!finished(&[to_server(BINARY, b""), normal]));
}

#[test]
fn a_turn_for_other_tasks_does_not_hide_an_end() {
    let (near, _far) = ends((1_000_000, 1_000_000));
    let mut websocket = WebSocket::new(Role::Server);
    near.from
        .borrow_mut()
        .bytes
        .extend(to_server(FIN | PONG, b"").repeat(17));
    near.from.borrow_mut().is_ended = true;
    let mut heard = Vec::new();
    // Two reads without a wait between them.
    assert!(!hear(&mut websocket, &near, 100, &mut heard));
    assert!(hear(&mut websocket, &near, 100, &mut heard));
    assert_eq!(heard, [Heard::Cut]);
}

#[test]
fn input_that_came_with_the_handshake_is_read_first() {
    let (near, _far) = ends((1_000, 1_000));
    let input = to_server(FIN | BINARY, b"early");
    let mut websocket = WebSocket::with_input(Role::Server, BytesMut::from(&input[..9]));
    near.from.borrow_mut().bytes.extend(&input[9..]);
    near.from
        .borrow_mut()
        .bytes
        .extend(to_server(FIN | CLOSE, b""));
    let (heard, ()) = both(hear_all(&mut websocket, &near, &[100]), async {});
    assert_eq!(heard, [bytes(b"early"), Heard::Border, Heard::Closed(None)]);
}

#[test]
fn a_slow_reader_bounds_what_is_held() {
    for frame in [
        to_server(FIN | BINARY, &[7; 10]),
        to_server(FIN | BINARY, b""),
        to_server(FIN | BINARY, &[7; 200_000]),
        to_server(FIN | PING, &[7; 125]),
    ] {
        for max in [1, 20, 1_000, 70_000] {
            let (near, _far) = ends((1_000, 1_000_000));
            let mut websocket = WebSocket::new(Role::Server);
            let frames = frame.repeat(2_000_000 / frame.len());
            near.from.borrow_mut().bytes.extend(&frames);
            let mut heard = Vec::new();
            for _ in 0..40 {
                hear(&mut websocket, &near, max, &mut heard);
                assert!(websocket.undigested.len() <= max + EXTRA_BYTES);
            }
        }
    }
}

fn any_frame() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let first = prop_oneof![
        8 => Just(FIN | BINARY),
        4 => Just(BINARY),
        8 => Just(FIN),
        4 => Just(0),
        4 => Just(FIN | PING),
        2 => Just(FIN | PONG),
        1 => Just(FIN | CLOSE),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..130),
        1 => proptest::collection::vec(any::<u8>(), 0..5_000),
        1 => Just(vec![9; 66_000]),
        1 => Just(vec![]),
    ];
    (first, payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_same_bytes_mean_the_same_whatever_the_pieces(
        frames in proptest::collection::vec(any_frame(), 0..30),
        sizes in proptest::collection::vec(1..9_000_usize, 1..8),
        max in proptest::collection::vec(1..9_000_usize, 1..8),
        broken in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        is_server in any::<bool>(),
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        let mut input: Vec<u8> =
            frames.iter().flat_map(|(first, payload)| frame(role, *first, payload)).collect();
        if let Some((at, byte)) = broken && !input.is_empty() {
            let at = at.index(input.len());
            input[at] = byte;
        }
        let (whole, _) = heard_of(role, &input, &[usize::MAX], &[1_000_000]);
        let (pieces, _) = heard_of(role, &input, &sizes, &max);
        prop_assert!(whole == pieces, "{:?} and {:?}", whole, pieces);
        let (small, _) = heard_of(role, &input[..input.len().min(3_000)], &[1], &[1]);
        let (large, _) = heard_of(role, &input[..input.len().min(3_000)], &[50], &[1_000_000]);
        prop_assert!(small == large);
    }
}
