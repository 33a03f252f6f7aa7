//! One of our ends receives what the other sends, whatever the sizes and the layer below.

use proptest::prelude::*;

use super::*;
use crate::tests::both;

/// Sends `messages`, each in one write and its rests, with a ping before it; then finishes, and reads the answers.
async fn say(websocket: &mut WebSocket, socket: &impl Socket, messages: &[Vec<u8>]) -> Vec<Heard> {
    let mut heard = Vec::new();
    for message in messages {
        websocket.ping(socket);
        let mut rest = &message[..];
        while !rest.is_empty() {
            poll_fn(|cx| socket.poll_writable(cx)).await;
            let (first, second) = rest.split_at(rest.len() / 3);
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            rest = &rest[websocket.send(socket, &slices).unwrap()..];
            hear(websocket, socket, 100, &mut heard);
        }
    }
    poll_fn(|cx| websocket.poll_finish(socket, cx)).await;
    heard.extend(hear_all(websocket, socket, &[100]).await);
    heard
}

fn expected(messages: &[Vec<u8>]) -> Vec<Heard> {
    let one = |message: &Vec<u8>| [Heard::Bytes(message.clone()), Heard::Border];
    messages.iter().flat_map(one).chain([finished()]).collect()
}

fn finished() -> Heard {
    Heard::Closed(Some((code::NORMAL, String::new())))
}

/// Checks that `messages` come from `near` to `far` as they are, and in reads of `reads`.
fn carry(
    from: Role,
    (near, far): (impl Socket, impl Socket),
    messages: &[Vec<u8>],
    reads: &[usize],
) {
    let to = match from {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    let (mut sender, mut receiver) = (WebSocket::new(from), WebSocket::new(to));
    let hearing = async {
        let heard = hear_all(&mut receiver, &far, reads).await;
        // The answer to the Close frame, if the kernel had no room for it.
        poll_fn(|cx| receiver.poll_finish(&far, cx)).await;
        heard
    };
    let (answers, heard) = both(say(&mut sender, &near, messages), hearing);
    assert!(heard == expected(messages), "from {from:?}");
    assert_eq!(answers, [finished()]);
    assert!(sender.is_closed() && receiver.is_closed());
    assert!(!sender.has_unsent() && !receiver.has_unsent());
    // Each ping was answered, or waits for the answer to the one before it.
    assert!(messages.is_empty() || receiver.frames_received() > messages.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn messages_arrive_whole_whatever_the_sizes(
        lens in proptest::collection::vec(1..65_536_usize, 0..6),
        short in proptest::collection::vec(1..300_usize, 0..20),
        rooms in (100..40_000_usize, 100..40_000_usize),
        reads in proptest::collection::vec(1..70_000_usize, 1..6),
        from_client in any::<bool>(),
        owes in any::<bool>(),
    ) {
        let from = if from_client { Role::Client } else { Role::Server };
        let messages: Vec<_> = lens.into_iter().chain(short).map(noise).collect();
        let (near, far) = ends(rooms);
        match owes {
            true => carry(from, (Owing::new(near), Owing::new(far)), &messages, &reads),
            false => carry(from, (near, far), &messages, &reads),
        }
    }
}

#[test]
fn messages_arrive_whole_byte_by_byte() {
    let messages: Vec<_> = [1, 125, 126, 127, 3_000].map(noise).into();
    for from in [Role::Client, Role::Server] {
        let (near, far) = ends((1, 1));
        carry(from, (Owing::new(near), Owing::new(far)), &messages, &[1]);
    }
}

/// A write may be longer than what a client masks at a time, or have more slices than one call takes.
#[test]
fn a_long_write_is_sent_in_pieces() {
    let bytes = noise(1_000_000);
    for (from, len) in [
        (Role::Client, bytes.len()),
        (Role::Server, bytes.len()),
        (Role::Client, 2_000),
        (Role::Server, 2_000),
    ] {
        let (near, far) = ends((2_000_000, 2_000_000));
        let mut sender = WebSocket::new(from);
        let to = match from {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        let mut receiver = WebSocket::new(to);
        let (mut rest, mut calls) = (&bytes[..len], 0);
        while !rest.is_empty() {
            let pieces = rest.chunks(1.max(rest.len() / 1_000));
            let slices: Vec<_> = pieces.map(IoSlice::new).collect();
            rest = &rest[sender.send(&near, &slices).unwrap()..];
            calls += 1;
        }
        assert!((1..40).contains(&calls), "{calls} calls");
        assert!(sender.poll_finish(&near, &mut noop()).is_ready());
        let (heard, ()) = both(hear_all(&mut receiver, &far, &[300_000]), async {});
        let mut all = Vec::new();
        for piece in heard {
            if let Heard::Bytes(piece) = piece {
                all.extend(piece);
            }
        }
        assert!(all == bytes[..len], "{from:?}");
    }
}

#[test]
fn a_peer_that_reads_nothing_stops_the_sender() {
    for from in [Role::Client, Role::Server] {
        let (near, _far) = ends((10_000, 10_000));
        let mut websocket = WebSocket::new(from);
        let sent = noise(1_000_000);
        let mut taken = 0;
        while let count @ 1.. = websocket
            .send(&near, &[IoSlice::new(&sent[taken..])])
            .unwrap()
        {
            taken += count;
        }
        assert!((9_900..10_000).contains(&taken), "{taken}");
        // No Close frame follows an open frame: a message that broke off must not look complete.
        websocket.try_close(&near, code::INTERNAL, "");
        let finished = websocket.poll_finish(&near, &mut noop());
        assert!(finished.is_ready() && !websocket.is_closed());
    }
}

#[test]
fn nothing_is_sent_behind_a_close_frame() {
    let (near, far) = ends((10_000, 10_000));
    let (mut client, mut server) = (WebSocket::new(Role::Client), WebSocket::new(Role::Server));
    let reason = "ü".repeat(100);
    server.try_close(&far, code::TRY_AGAIN, &reason);
    let error = server.send(&far, &[IoSlice::new(b"more")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let (heard, ()) = both(hear_all(&mut client, &near, &[100]), async {});
    // The reason is cut between two characters.
    let cut = "ü".repeat(61);
    assert_eq!(heard, [Heard::Closed(Some((code::TRY_AGAIN, cut)))]);
    let error = client.send(&near, &[IoSlice::new(b"more")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let (heard, ()) = both(hear_all(&mut server, &far, &[100]), async {});
    let echo = Heard::Closed(Some((code::TRY_AGAIN, String::new())));
    assert_eq!(heard, [echo]);
}

#[test]
fn one_ping_waits_for_its_answer() {
    let (near, far) = ends((10_000, 10_000));
    let (mut client, mut server) = (WebSocket::new(Role::Client), WebSocket::new(Role::Server));
    let mut heard = Vec::new();
    for _ in 0..3 {
        server.ping(&far);
    }
    assert_eq!(drain(&near), [0x89, 0]);
    let before = server.frames_received();
    client.ping(&near);
    assert!(!hear(&mut server, &far, 100, &mut heard));
    assert_ne!(server.frames_received(), before);
    assert_eq!(drain(&near), [0x8a, 0]);
    // After an answer the next ping is sent.
    far.from.borrow_mut().bytes.extend([0x8a, 0x80, 1, 2, 3, 4]);
    assert!(!hear(&mut server, &far, 100, &mut heard));
    server.ping(&far);
    assert_eq!(drain(&near), [0x89, 0]);
    assert_eq!(heard, []);
}
