//! Callers over WebSocket: messages, and ends that are those of both directions.

use std::os::unix::net::UnixStream;

use tieline_wire::Mode;

use super::*;
use crate::session::SessionCaller;

/// A caller's frame; a mask of zeros leaves its payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[first, 0x80 | len, 0, 0, 0, 0][..], payload].concat()
}

/// A session whose target's connection stands, for a caller that sends messages.
fn opened(link: &mut Link) -> (Session, SessionId) {
    let session = link.open_for(SessionCaller {
        mode: Mode::Messages,
        ..SessionCaller::default()
    });
    let events = link.pump_down();
    let [Event::Open { session: id, open }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(open.mode, Mode::Messages);
    link.agent.opened(*id);
    link.pump_up();
    (session, *id)
}

/// Waits until `caller` has heard `expected`, and nothing else; then, if `ends`, for the end of the connection.
async fn hears(caller: &Stream, expected: &[u8], ends: bool) {
    let mut heard = BytesMut::new();
    let hearing = async {
        while heard.len() < expected.len() || ends {
            caller.readable().await;
            if caller.recv(&mut heard, 1_000).unwrap() == Received::End {
                break;
            }
        }
    };
    timeout(PATIENCE, hearing).await.unwrap();
    assert_eq!(heard[..], *expected);
}

/// Waits until the agent has events.
async fn next_events(link: &mut Link) -> Vec<Event> {
    let waiting = async {
        loop {
            let events = link.pump_down();
            if !events.is_empty() {
                return events;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap()
}

/// A caller, and its session with the target.
struct Joined {
    caller: Stream,
    link: Link,
    id: SessionId,
    /// What the splice returns.
    task: Pin<Box<dyn Future<Output = Option<SessionEnd>>>>,
}

impl Joined {
    fn new() -> Self {
        let mut link = Link::established();
        let (session, id) = opened(&mut link);
        let (caller, ours) = pair().unwrap();
        let stream = Rc::new(Stream::new(ours).over_websocket(Bytes::new()));
        let task = spawn(splice(stream, session, Rc::default(), || false));
        Self {
            caller: Stream::new(caller),
            link,
            id,
            task: Box::pin(task),
        }
    }

    /// The caller sends all of `bytes`.
    fn says(&self, bytes: &[u8]) {
        assert_eq!(self.caller.send(bytes).unwrap(), bytes.len());
    }

    async fn ended(self) -> Option<SessionEnd> {
        timeout(PATIENCE, self.task).await.unwrap()
    }
}

/// Runs `test` on each driver.
fn on_each_driver(test: impl AsyncFn(Joined)) {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        run(driver, async { test(Joined::new()).await }).unwrap();
    }
}

/// The payloads among `events`, and whether each ends a message.
fn payloads(events: &[Event]) -> Vec<(Bytes, bool)> {
    let payload = |event: &Event| match event {
        Event::Data {
            payload,
            end_of_message,
            ..
        } => Some((payload.clone(), *end_of_message)),
        _ => None,
    };
    events.iter().filter_map(payload).collect()
}

#[test]
fn messages_arrive_with_their_ends_also_empty_ones() {
    on_each_driver(async |mut joined| {
        joined.says(&frame(0x02, b"one "));
        let events = next_events(&mut joined.link).await;
        assert_eq!(payloads(&events), [(Bytes::from_static(b"one "), false)]);
        joined.says(&frame(0x80, b"message"));
        let events = next_events(&mut joined.link).await;
        assert_eq!(payloads(&events), [(Bytes::from_static(b"message"), true)]);
        joined.says(&frame(0x82, b""));
        let events = next_events(&mut joined.link).await;
        assert_eq!(payloads(&events), [(Bytes::new(), true)]);
    });
}

#[test]
fn a_callers_close_frame_ends_the_session_in_order() {
    on_each_driver(async |mut joined| {
        joined.says(&[frame(0x82, b"last"), frame(0x88, &[0x03, 0xe8])].concat());
        hears(&joined.caller, &[0x88, 2, 0x03, 0xe8], true).await;
        let mut events = next_events(&mut joined.link).await;
        let id = joined.id;
        assert_eq!(joined.ended().await, None);
        assert_eq!(payloads(&events), [(Bytes::from_static(b"last"), true)]);
        assert_eq!(events.pop(), Some(Event::Finished { session: id }));
    });
}

#[test]
fn a_caller_that_goes_on_to_send_hears_why_it_was_closed() {
    on_each_driver(async |mut joined| {
        joined.says(&frame(0x81, b"text"));
        let reset = |event: &Event| matches!(event, Event::Reset { .. });
        assert!(next_events(&mut joined.link).await.iter().any(reset));
        let mut task = joined.task;
        // A close would fail these writes, and over TCP destroy the Close frame.
        for _ in 0..20 {
            assert!(timeout(Duration::from_millis(5), &mut task).await.is_err());
            let more = frame(0x81, b"more");
            assert_eq!(joined.caller.send(&more).unwrap(), more.len());
        }
        hears(&joined.caller, b"\x88\x06\x03\xebtext", true).await;
        drop(joined.caller);
        assert_eq!(timeout(PATIENCE, task).await.unwrap(), None);
    });
}

#[test]
fn a_caller_that_stops_early_does_not_end_its_session_in_order() {
    for (frames, payload) in [
        // Code 1001: a browser leaves the page.
        (frame(0x88, &[0x03, 0xe9]), None),
        // A Close frame within a message.
        (
            [frame(0x02, b"half"), frame(0x88, &[0x03, 0xe8])].concat(),
            Some((Bytes::from_static(b"half"), false)),
        ),
    ] {
        on_each_driver(async |mut joined| {
            joined.says(&frames);
            let (id, reason) = (joined.id, SessionEnd::FrontendGone);
            let mut events = Vec::new();
            while !matches!(events.last(), Some(Event::Reset { .. })) {
                events.extend(next_events(&mut joined.link).await);
            }
            let reset = Event::Reset {
                session: id,
                reason,
            };
            assert_eq!(events.last(), Some(&reset));
            assert_eq!(payloads(&events), Vec::from_iter(payload.clone()));
            assert_eq!(joined.ended().await, None);
        });
    }
}

#[test]
fn what_a_caller_breaks_off_behind_the_targets_end_does_not_look_complete() {
    on_each_driver(async |mut joined| {
        joined.link.agent.finish(joined.id);
        joined.link.pump_up();
        hears(&joined.caller, b"\x88\x02\x03\xe8", true).await;
        let Joined {
            caller,
            mut link,
            id: session,
            task,
        } = joined;
        // Ends the connection without a Close frame.
        drop(caller);
        let reason = SessionEnd::FrontendGone;
        let events = next_events(&mut link).await;
        assert_eq!(events, [Event::Reset { session, reason }]);
        assert_eq!(timeout(PATIENCE, task).await.unwrap(), None);
    });
}

#[test]
fn the_targets_end_is_a_close_frame_behind_its_last_bytes() {
    on_each_driver(async |mut joined| {
        let payload = Bytes::from_static(b"answer");
        joined.link.agent.send(joined.id, payload, false).unwrap();
        joined.link.agent.finish(joined.id);
        joined.link.pump_up();
        let expected = b"\x82\x06answer\x88\x02\x03\xe8";
        hears(&joined.caller, expected, true).await;
        // The caller may still speak until it ends the connection.
        joined.says(&frame(0x82, b"more"));
        let events = next_events(&mut joined.link).await;
        assert_eq!(payloads(&events), [(Bytes::from_static(b"more"), true)]);
        joined.says(&frame(0x88, &[0x03, 0xe8]));
        let (id, events) = (joined.id, next_events(&mut joined.link).await);
        assert_eq!(events, [Event::Finished { session: id }]);
        assert_eq!(joined.ended().await, None);
    });
}

#[test]
fn a_reset_is_told_with_its_reason_behind_the_bytes_before_it() {
    on_each_driver(async |mut joined| {
        let payload = Bytes::from_static(b"half");
        joined.link.agent.send(joined.id, payload, false).unwrap();
        joined.link.agent.reset(joined.id, SessionEnd::TargetReset);
        joined.link.pump_up();
        let expected = b"\x82\x04half\x88\x0e\x03\xf3target_reset";
        let Joined { caller, task, .. } = joined;
        let end = timeout(PATIENCE, task).await.unwrap();
        assert_eq!(end, Some(SessionEnd::TargetReset));
        hears(&caller, expected, true).await;
    });
}

#[test]
fn a_reason_that_found_no_room_is_sent_once_the_caller_reads() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        run(driver, async {
            let (caller, ours) = pair().unwrap();
            let below = UnixStream::from(ours.try_clone().unwrap());
            below.set_nonblocking(true).unwrap();
            let ours = Stream::new(ours).over_websocket(Bytes::new());
            SockRef::from(&ours).set_send_buffer_size(1).unwrap();
            let mut expected = Vec::new();
            while let Ok(count) = (&below).write(&[7; 100]) {
                expected.resize(expected.len() + count, 7);
            }
            drop(below);
            let reason = SessionEnd::TargetReset;
            expected.extend_from_slice(b"\x88\x0e\x03\xf3target_reset");
            let ending = spawn(async move { break_off(&ours, reason).await });
            hears(&Stream::new(caller), &expected, false).await;
            timeout(PATIENCE, ending).await.unwrap();
        })
        .unwrap();
    }
}

#[test]
fn a_session_that_was_reset_does_not_count_while_its_caller_reads_why() {
    on_each_driver(async |mut joined| {
        assert_eq!(joined.link.sessions.count(), 1);
        joined.link.agent.reset(joined.id, SessionEnd::TargetReset);
        joined.link.pump_up();
        hears(&joined.caller, b"\x88\x0e\x03\xf3target_reset", true).await;
        // The splice waits for the caller's end.
        assert_eq!(joined.link.sessions.count(), 0);
        drop(joined.caller);
        let end = timeout(PATIENCE, joined.task).await.unwrap();
        assert_eq!(end, Some(SessionEnd::TargetReset));
    });
}

#[test]
fn a_caller_that_breaks_the_rules_is_told_and_its_session_reset() {
    on_each_driver(async |mut joined| {
        joined.says(&frame(0x81, b"text"));
        hears(&joined.caller, b"\x88\x06\x03\xebtext", true).await;
        let (id, events) = (joined.id, next_events(&mut joined.link).await);
        let reason = SessionEnd::FrontendGone;
        let reset = Event::Reset {
            session: id,
            reason,
        };
        assert_eq!(events, [reset]);
        assert_eq!(joined.ended().await, None);
    });
}

#[test]
fn a_caller_whose_task_is_dropped_hears_of_a_failure() {
    on_each_driver(async |joined| {
        let Joined { caller, task, .. } = joined;
        drop(task);
        hears(&caller, &[0x88, 2, 0x03, 0xf3], true).await;
    });
}

#[test]
fn an_answer_that_broke_off_within_a_message_has_no_close_frame() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        run(driver, async {
            let (caller, ours) = pair().unwrap();
            let caller = Stream::new(caller);
            let ours = Stream::new(ours).over_websocket(Bytes::new());
            SockRef::from(&ours).set_send_buffer_size(1).unwrap();
            let sent = ours.send(&[7; 1_000_000]).unwrap();
            assert!((1..1_000_000).contains(&sent));
            ours.close(1000, "");
            ours.abort();
            drop(ours);
            let mut heard = BytesMut::new();
            let end = loop {
                caller.readable().await;
                match caller.recv(&mut heard, 64 * 1024) {
                    Ok(Received::Bytes(_) | Received::Nothing) => {}
                    other => break other,
                }
            };
            // A Unix socket has no reset.
            assert_eq!(end.unwrap(), Received::End);
            // The header of a message of a million bytes, the part that was sent, and nothing behind it.
            assert_eq!(heard.len(), 10 + sent);
            assert_eq!(heard[..10], [0x82, 127, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x40]);
        })
        .unwrap();
    }
}
