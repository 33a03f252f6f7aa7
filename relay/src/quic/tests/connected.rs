//! Peers that break the rules, or only stretch them, once their handshake is over.

use tieline_transport::quic::close_code;
use tieline_wire::LinkEnd;

use super::raw::{DATA, Heard, varint};
use super::*;

/// Frames that are sent in one packet, and packets before the relay is waited for.
const FRAMES: usize = 100;
const PACKETS: usize = 16;

/// Number of callers that broke a rule of QUIC.
const BROKEN: &str = "relay_quic_broken_total ";

/// The id of a client's stream.
fn stream(number: u64) -> Vec<u8> {
    varint(4 * number)
}

/// What the relay does with a client's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Drops,
    /// Neither reads nor ends them.
    Keeps,
}

/// Runs a client against a relay that accepts its streams, 4 at a time; returns what the client does, and how many streams
/// there were. Another caller goes on meanwhile, and in the end nothing is left of the client.
fn attack<T: Send + 'static>(
    rig: &Rig,
    streams: Streams,
    act: impl FnOnce(&mut Raw) -> T + Send + 'static,
) -> (T, usize) {
    let count = Rc::new(Cell::new(0));
    let outcome = Rc::new(RefCell::new(None));
    let (counted, result) = (Rc::clone(&count), Rc::clone(&outcome));
    run(Chosen::Epoll, async move {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(rig, &host, bound).await;
        let client = rig.shaken_raw(bound, move |raw| {
            let outcome = act(raw);
            raw.leave();
            outcome
        });
        let kept = RefCell::new(Vec::new());
        serve(&host, host.next().await, move |stream| {
            counted.set(counted.get() + 1);
            if streams == Streams::Keeps {
                kept.borrow_mut().push(stream);
            }
        });
        *result.borrow_mut() = Some(joined(client).await);
        bystander.ends_well().await;
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
    (outcome.take().unwrap(), count.get())
}

/// Uses up connection IDs until the relay closes the connection; returns the code.
pub(super) fn use_up_ids(raw: &mut Raw) -> Option<u64> {
    raw.acknowledges = false;
    raw.until("all IDs", |it| it.ids.len() == 8);
    while raw.closed().is_none() {
        let (newest, id) = raw.ids.pop_last().unwrap();
        let retired = std::mem::take(&mut raw.ids).into_keys();
        let frames: Vec<_> = retired.flat_map(|it| [vec![0x19], varint(it)]).collect();
        raw.to = id.clone();
        raw.ids.insert(newest, id);
        raw.say(DATA, &frames.concat());
        raw.until("new IDs", |it| it.ids.len() > 1 || it.closed().is_some());
        assert!(newest < 200);
    }
    raw.closed()
}

#[test]
fn a_peer_that_uses_up_connection_ids_is_closed() {
    let rig = Rig::new();
    let (code, _) = attack(&rig, Streams::Drops, use_up_ids);
    let wanted = close_code(LinkEnd::Protocol).into_inner();
    assert_eq!(code, Some(wanted));
    assert_eq!(rig.count("relay_quic_id_floods_total"), 1);
    // The relay's own rule, which has its own counter.
    assert_eq!(rig.count(BROKEN), 0);
}

#[test]
fn a_peer_may_use_up_some_connection_ids() {
    let rig = Rig::new();
    attack(&rig, Streams::Drops, |raw| {
        raw.until("all IDs", |it| it.ids.len() == 8);
        for number in 0..20 {
            let (_, id) = raw.ids.first_key_value().unwrap();
            assert_eq!(*id, raw.to);
            raw.ids.pop_first();
            raw.to = raw.ids.first_key_value().unwrap().1.clone();
            raw.say(DATA, &[&[0x19][..], &varint(number)].concat());
            raw.until("a new ID", |it| it.ids.len() == 8);
        }
        raw.is_alive();
    });
    assert_eq!(rig.count("relay_quic_id_floods_total"), 0);
}

#[test]
fn a_peer_that_replaces_its_own_ids_faster_than_it_is_heard_is_closed() {
    let rig = Rig::new();
    let (code, _) = attack(&rig, Streams::Drops, |raw| {
        let mut frames = Vec::new();
        for number in 1..=60_u64 {
            // NEW_CONNECTION_ID, which retires all before it.
            frames.push(0x18);
            frames.extend(varint(number));
            frames.extend(varint(number));
            frames.push(8);
            frames.extend(number.to_be_bytes());
            frames.extend([9; 16]);
        }
        raw.say(DATA, &frames);
        raw.close_code()
    });
    // CONNECTION_ID_LIMIT_ERROR
    assert_eq!(code, 9);
    assert_eq!(rig.count(BROKEN), 1);
}

#[test]
fn streams_that_are_opened_and_reset_at_once_cost_one_turn_each() {
    const STREAMS: u64 = 400;
    let rig = Rig::new();
    let (_, count) = attack(&rig, Streams::Drops, |raw| {
        let mut next = 0;
        while next < STREAMS {
            raw.until("room for streams", |it| it.streams_max > next);
            let end = raw.streams_max.min(STREAMS);
            let mut frames = Vec::new();
            for number in next..end {
                // RESET_STREAM, before a single byte, and STOP_SENDING.
                frames.extend([vec![4], stream(number), vec![0, 0]].concat());
                frames.extend([vec![5], stream(number), vec![0]].concat());
            }
            raw.say(DATA, &frames);
            next = end;
        }
        raw.is_alive();
        raw.until("the end of all streams", |it| it.streams_max >= STREAMS);
    });
    assert_eq!(u64::try_from(count), Ok(STREAMS));
}

#[test]
fn a_stream_beyond_the_limit_ends_the_connection() {
    let rig = Rig::new();
    let (code, count) = attack(&rig, Streams::Drops, |raw| {
        let beyond = raw.streams_max + 1_000;
        raw.say(DATA, &[&[0x08][..], &stream(beyond), b"x"].concat());
        raw.close_code()
    });
    // STREAM_LIMIT_ERROR
    assert_eq!((code, count), (4, 0));
    assert_eq!(rig.count(BROKEN), 1);
}

#[test]
fn floods_of_small_frames_are_worked_off() {
    let rig = Rig::new();
    let (responses, count) = attack(&rig, Streams::Keeps, |raw| {
        // Opens a stream, of which there is no end.
        raw.say(DATA, &[&[0x0a][..], &stream(0), &[1], b"x"].concat());
        let stop = [&[5][..], &stream(0), &[0]].concat();
        let window = [&[0x11][..], &stream(0), &varint(1 << 40)].concat();
        let blocked = [&[0x15][..], &stream(0), &varint(1)].concat();
        let challenge = [&[0x1a][..], &[7; 8]].concat();
        for frame in [stop, window, blocked, challenge, vec![1]] {
            let frames = frame.repeat(FRAMES);
            for _ in 0..10 {
                (0..PACKETS).for_each(|_| raw.say(DATA, &frames));
                raw.is_alive();
            }
        }
        let responses = raw.heard.iter();
        responses
            .filter(|it| matches!(it, Heard::Response(_)))
            .count()
    });
    // One answer for each packet of challenges, however many are in it.
    assert!((1..=10 * PACKETS).contains(&responses), "{responses}");
    assert_eq!(count, 1);
    assert_eq!(rig.count(BROKEN), 0);
}

#[test]
fn a_stream_of_small_pieces_with_holes_ends_the_connection() {
    let rig = Rig::new();
    let (code, _) = attack(&rig, Streams::Keeps, |raw| {
        let mut at = 1;
        // 20,000 pieces of one byte, between them as many bytes that never come.
        while raw.closed().is_none() && at < 40_000 {
            let mut frames = Vec::new();
            for _ in 0..FRAMES {
                frames.extend([vec![0x0e], stream(0), varint(at), vec![1, 7]].concat());
                at += 2;
            }
            raw.say(DATA, &frames);
            raw.drain();
        }
        raw.close_code()
    });
    // INTERNAL_ERROR: too many gaps
    assert_eq!(code, 1);
    assert_eq!(rig.count(BROKEN), 1);
}

#[test]
fn more_bytes_than_the_window_end_the_connection() {
    let rig = Rig::new();
    let (code, _) = attack(&rig, Streams::Drops, |raw| {
        // One byte behind the window of a caller without a session.
        let at = varint(128 * 1024);
        raw.say(DATA, &[vec![0x0e], stream(0), at, vec![1, 7]].concat());
        raw.close_code()
    });
    // FLOW_CONTROL_ERROR
    assert_eq!(code, 3);
    assert_eq!(rig.count(BROKEN), 1);
}
