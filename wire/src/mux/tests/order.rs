use super::*;
use crate::limits::{DATA_BYTES_SENT_MAX, GATHER_BYTES_MAX, GATHER_SLICES_MAX};

/// Opens sessions and lets their windows grow, so that many bytes can be queued.
fn grown(pair: &mut Pair, count: usize) -> Vec<SessionId> {
    let sessions: Vec<_> = (0..count).map(|_| pair.session()).collect();
    for id in &sessions {
        pair.stream_to_agent(*id, 20_000_000);
    }
    sessions
}

fn fill(mux: &mut Mux, id: SessionId, piece: usize) {
    loop {
        let len = mux.send_capacity(id).min(piece);
        if len == 0 {
            return;
        }
        mux.send(id, vec![0; len].into(), false).unwrap();
    }
}

#[test]
fn control_frames_overtake_queued_data() {
    let mut pair = Pair::connected();
    let sessions = grown(&mut pair, 2);
    fill(&mut pair.relay, sessions[0], 50_000);
    pair.now = pair.now + Duration::from_secs(15);
    pair.relay.handle_timeout(pair.now).unwrap();
    let new = pair.relay.open(&open_message()).unwrap();
    pair.relay.reset(sessions[1], SessionEnd::Cancelled);
    let sent = take_one_send(&mut pair.relay, pair.now);
    let place = |kind| sent.iter().position(|(it, _)| it.kind == Some(kind));
    let data = place(Kind::Data).unwrap();
    assert!(place(Kind::Ping).unwrap() < data);
    assert!(place(Kind::Open).unwrap() < data);
    assert_eq!(sent[place(Kind::Open).unwrap()].0.session, new);
}

#[test]
fn sessions_with_large_and_small_frames_get_equal_bytes() {
    let mut pair = Pair::connected();
    let sessions = grown(&mut pair, 2);
    let mut sent = [0_usize; 2];
    let mut sends = 0;
    while sends < 100 {
        fill(&mut pair.relay, sessions[0], 32 * 1024);
        fill(&mut pair.relay, sessions[1], 16);
        for (header, payload) in take_one_send(&mut pair.relay, pair.now) {
            let which = usize::from(header.session == sessions[1]);
            sent[which] += payload.len() + HEADER_BYTES;
        }
        let difference = sent[0].abs_diff(sent[1]);
        assert!(
            difference <= 2 * (DATA_BYTES_SENT_MAX + HEADER_BYTES),
            "{sent:?} after {sends} sends"
        );
        pair.agent_events.clear();
        for id in &sessions {
            let credit = raw(Kind::Credit, id.0, &300_000_u32.to_le_bytes());
            // Grants as much as the window allows; this test is about the order only.
            let _ = give_input(&mut pair.relay, pair.now, credit);
        }
        sends += 1;
    }
    assert!(sent[0] > 500_000, "{sent:?}");
}

#[test]
fn a_session_with_full_frames_waits_its_turn_after_each() {
    let mut pair = Pair::connected();
    let sessions = grown(&mut pair, 3);
    for id in &sessions {
        fill(&mut pair.relay, *id, 32 * 1024);
    }
    let sent = take_one_send(&mut pair.relay, pair.now);
    let order: Vec<_> = sent.iter().map(|(it, _)| it.session).collect();
    assert_eq!(order[..3], sessions[..]);
    assert_eq!(order[3..6], sessions[..]);
}

#[test]
fn a_session_that_ends_in_the_schedule_stops_nobody() {
    let mut pair = Pair::connected();
    let sessions = grown(&mut pair, 3);
    for id in &sessions {
        fill(&mut pair.relay, *id, 10_000);
    }
    let reset = raw(Kind::Reset, sessions[0].0, &[70, 0]);
    give_input(&mut pair.relay, pair.now, reset).unwrap();
    let bytes = take_output(&mut pair.relay, pair.now);
    let sent = frames(&bytes);
    assert!(sent.iter().all(|(it, _)| it.session != sessions[0]));
    for id in &sessions[1..] {
        assert!(sent.iter().any(|(it, _)| it.session == *id));
    }
    assert!(!pair.relay.wants_transmit());
    assert_eq!(pair.relay.budget.queued(), 0);
}

#[test]
fn one_send_gathers_no_more_than_a_system_call_takes() {
    let mut pair = Pair::connected();
    let sessions = grown(&mut pair, 4);
    for piece in [16, 32 * 1024] {
        for id in &sessions {
            fill(&mut pair.relay, *id, piece);
        }
        let mut transmit = Transmit::new();
        while pair.relay.poll_transmit(pair.now, &mut transmit) {
            assert!(transmit.slices().len() <= GATHER_SLICES_MAX);
            let most = GATHER_BYTES_MAX + DATA_BYTES_SENT_MAX + HEADER_BYTES;
            assert!(transmit.len() <= most);
            transmit.advance(transmit.len());
        }
        for id in &sessions {
            let credit = raw(Kind::Credit, id.0, &400_000_u32.to_le_bytes());
            give_input(&mut pair.relay, pair.now, credit).unwrap();
        }
    }
}

#[test]
fn half_a_frame_is_delivered_before_the_rest_arrives() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.relay.send(id, vec![7; 10_000].into(), true).unwrap();
    let bytes = Bytes::from(take_output(&mut pair.relay, pair.now));
    let half = HEADER_BYTES + 5000;
    let events = give_input(&mut pair.agent, pair.now, bytes.slice(..half)).unwrap();
    assert_eq!(
        events,
        [Event::Data {
            session: id,
            payload: vec![7; 5000].into(),
            end_of_message: false
        }]
    );
    let events = give_input(&mut pair.agent, pair.now, bytes.slice(half..)).unwrap();
    assert_eq!(
        events,
        [Event::Data {
            session: id,
            payload: vec![7; 5000].into(),
            end_of_message: true
        }]
    );
}

#[test]
fn payload_is_copied_neither_out_nor_in() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let payload = Bytes::from(vec![7; 10_000]);
    let at = payload.as_ptr();
    pair.relay.send(id, payload, false).unwrap();
    let mut transmit = Transmit::new();
    pair.relay.poll_transmit(pair.now, &mut transmit);
    assert_eq!(transmit.slices()[1].as_ptr(), at);

    let mut bytes = Vec::new();
    for slice in transmit.slices() {
        bytes.extend_from_slice(&slice);
    }
    let input = Bytes::from(bytes);
    let inside = input.as_ptr_range();
    for range in [0..6000, 6000..input.len()] {
        for event in give_input(&mut pair.agent, pair.now, input.slice(range)).unwrap() {
            let Event::Data { payload, .. } = event else {
                panic!("{event:?}");
            };
            assert!(inside.contains(&payload.as_ptr()));
        }
    }
}

#[test]
fn a_large_payload_leaves_in_frames_that_end_one_message() {
    let mut pair = Pair::connected();
    let id = grown(&mut pair, 1)[0];
    pair.relay.send(id, vec![7; 100_000].into(), true).unwrap();
    let sent = take_one_send(&mut pair.relay, pair.now);
    let lengths: Vec<_> = sent.iter().map(|(_, it)| it.len()).collect();
    assert_eq!(lengths, [32_768, 32_768, 32_768, 1696]);
    let ends: Vec<_> = sent.iter().map(|(it, _)| it.end_of_message).collect();
    assert_eq!(ends, [false, false, false, true]);
}

#[test]
fn a_list_that_is_never_quite_empty_does_not_grow() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let mut transmit = Transmit::new();
    for _ in 0..100_000 {
        // A driver that adds frames behind bytes that the socket left over.
        let _ = pair.relay.send(id, vec![0; 16].into(), false);
        pair.relay.poll_transmit(pair.now, &mut transmit);
        transmit.advance(transmit.len() - 1);
        let credit = raw(Kind::Credit, id.0, &28_u32.to_le_bytes());
        let _ = give_input(&mut pair.relay, pair.now, credit);
    }
    assert!(transmit.inline_bytes() < 64 * 1024);
}

#[test]
fn few_sessions_are_sent_at_once_and_a_crowd_is_joined_while_it_grows() {
    let mut pair = Pair::connected();
    let sessions: Vec<_> = (0..40).map(|_| pair.session()).collect();
    let mut speakers = sessions.iter();
    let mut speak = |mux: &mut Mux, count| {
        for id in speakers.by_ref().take(count) {
            mux.send(*id, "hello".into(), false).unwrap();
        }
    };
    let mux = &mut pair.relay;
    assert!(!SendBatching::default().goes_on(mux), "no session");
    speak(mux, 3);
    assert!(!SendBatching::default().goes_on(mux), "three sessions");

    speak(mux, 1);
    let mut batching = SendBatching::default();
    assert!(batching.goes_on(mux), "four sessions");
    speak(mux, 1);
    assert!(batching.goes_on(mux), "one more session");
    assert!(!batching.goes_on(mux), "no new session");

    // The number of looks is limited, however many sessions come.
    let mut batching = SendBatching::default();
    let looks = std::iter::from_fn(|| {
        speak(mux, 1);
        batching.goes_on(mux).then_some(())
    });
    assert_eq!(looks.count(), 8);
}
