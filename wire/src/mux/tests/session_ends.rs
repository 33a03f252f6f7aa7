use super::*;

#[test]
fn a_session_carries_bytes_both_ways() {
    let mut pair = Pair::connected();
    let id = pair.relay.open(&open_message()).unwrap();
    // Payload may follow an open at once.
    pair.relay.send(id, "early".into(), true).unwrap();
    pair.exchange();
    assert_eq!(
        pair.agent_events,
        [
            Event::Open {
                session: id,
                open: open_message()
            },
            Event::Data {
                session: id,
                payload: "early".into(),
                end_of_message: true
            }
        ]
    );
    pair.agent.opened(id);
    pair.agent.send(id, "answer".into(), false).unwrap();
    pair.exchange();
    assert_eq!(
        pair.relay_events,
        [
            Event::Opened { session: id },
            Event::Data {
                session: id,
                payload: "answer".into(),
                end_of_message: false
            }
        ]
    );
}

#[test]
fn each_direction_finishes_alone() {
    for relay_first in [true, false] {
        let mut pair = Pair::connected();
        let id = pair.session();
        let (first, second) = if relay_first {
            (&mut pair.relay, &mut pair.agent)
        } else {
            (&mut pair.agent, &mut pair.relay)
        };
        first.send(id, "question".into(), false).unwrap();
        first.finish(id);
        assert_eq!(first.send(id, "late".into(), false), Err(SendError::Closed));
        assert_eq!(first.send_capacity(id), 0);
        let bytes = take_output(first, pair.now);
        let events = give_input(second, pair.now, bytes).unwrap();
        assert_eq!(data_of(&events, id), b"question");
        assert_eq!(events[1], Event::Finished { session: id });
        assert_eq!((first.session_count(), second.session_count()), (1, 1));

        second.send(id, "answer".into(), false).unwrap();
        second.finish(id);
        let bytes = take_output(second, pair.now);
        let events = give_input(first, pair.now, bytes).unwrap();
        assert_eq!(data_of(&events, id), b"answer");
        assert_eq!(events[1], Event::Finished { session: id });
        assert_eq!((first.session_count(), second.session_count()), (0, 0));
    }
}

#[test]
fn a_finish_with_another_total_ends_the_link() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let mut bytes = raw(Kind::Data, id.0, b"four").to_vec();
    bytes.extend_from_slice(&raw(Kind::Finish, id.0, &5_u64.to_le_bytes()));
    let error = give_input(&mut pair.relay, pair.now, bytes).unwrap_err();
    assert_eq!(error.reason, LinkEnd::LengthMismatch);
}

#[test]
fn after_a_finish_neither_data_nor_another_finish_may_come() {
    for extra in [
        raw(Kind::Data, 1, b"x"),
        raw(Kind::Finish, 1, &0_u64.to_le_bytes()),
    ] {
        let mut pair = Pair::connected();
        let id = pair.session();
        assert_eq!(id, SessionId(1));
        let finish = raw(Kind::Finish, 1, &0_u64.to_le_bytes());
        give_input(&mut pair.relay, pair.now, finish).unwrap();
        let error = give_input(&mut pair.relay, pair.now, extra).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Protocol);
    }
}

#[test]
fn a_reset_travels_behind_the_data_queued_before_it() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.relay.send(id, "last words".into(), false).unwrap();
    pair.relay.reset(id, SessionEnd::FrontendReset);
    pair.exchange();
    assert_eq!(data_of(&pair.agent_events, id), b"last words");
    assert_eq!(
        pair.agent_events[1],
        Event::Reset {
            session: id,
            reason: SessionEnd::FrontendReset
        }
    );
    assert_eq!(pair.relay.session_count(), 0);
    assert_eq!(pair.agent.session_count(), 0);
}

#[test]
fn a_reset_may_follow_a_finish_sent_or_not() {
    for sent in [true, false] {
        let mut pair = Pair::connected();
        let id = pair.session();
        pair.agent.finish(id);
        if sent {
            pair.exchange();
            assert_eq!(pair.relay_events, [Event::Finished { session: id }]);
        }
        pair.agent.reset(id, SessionEnd::TargetReset);
        pair.exchange();
        assert_eq!(
            pair.relay_events.last(),
            Some(&Event::Reset {
                session: id,
                reason: SessionEnd::TargetReset
            })
        );
        assert_eq!(pair.relay.session_count(), 0);
        assert_eq!(pair.agent.session_count(), 0);
    }
}

#[test]
fn resets_and_finishes_that_cross_on_the_wire_free_both_slots() {
    for (relay_resets, agent_resets) in [(true, true), (true, false), (false, true)] {
        let mut pair = Pair::connected();
        let id = pair.session();
        for (mux, resets) in [
            (&mut pair.relay, relay_resets),
            (&mut pair.agent, agent_resets),
        ] {
            mux.send(id, vec![1; 1000].into(), false).unwrap();
            if resets {
                mux.reset(id, SessionEnd::Cancelled);
            } else {
                mux.finish(id);
            }
        }
        pair.exchange();
        assert_eq!(pair.relay.session_count(), 0);
        assert_eq!(pair.agent.session_count(), 0);
    }
}

#[test]
fn data_still_on_its_way_for_a_reset_session_is_dropped_and_counted() {
    let mut pair = Pair::connected();
    let (gone, other) = (pair.session(), pair.session());
    pair.agent.send(gone, vec![1; 5000].into(), false).unwrap();
    pair.agent.finish(gone);
    pair.agent.send(other, "lives".into(), false).unwrap();
    let late = take_output(&mut pair.agent, pair.now);
    pair.relay.reset(gone, SessionEnd::FrontendGone);
    pair.exchange();
    let events = give_input(&mut pair.relay, pair.now, late).unwrap();
    assert_eq!(data_of(&events, gone), b"");
    assert_eq!(data_of(&events, other), b"lives");
    assert_eq!(pair.relay.counters().frames_dropped, 2);
}

#[test]
fn data_for_a_session_whose_reset_still_waits_is_dropped_too() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.agent.send(id, vec![1; 5000].into(), false).unwrap();
    let bytes = Bytes::from(take_output(&mut pair.agent, pair.now));
    let events = give_input(&mut pair.relay, pair.now, bytes.slice(..100)).unwrap();
    assert_eq!(data_of(&events, id).len(), 100 - HEADER_BYTES);
    // The reset comes in the middle of a frame whose first piece was delivered.
    pair.relay.reset(id, SessionEnd::FrontendGone);
    let events = give_input(&mut pair.relay, pair.now, bytes.slice(100..)).unwrap();
    assert_eq!(events, []);
}

#[test]
fn an_id_that_was_never_opened_ends_the_link() {
    for bytes in [
        raw(Kind::Data, 9, b"x"),
        raw(Kind::Credit, 9, &[0; 4]),
        raw(Kind::Finish, 9, &[0; 8]),
        raw(Kind::Reset, 9, &[0; 2]),
        raw_message(Kind::Opened, 9, &Opened),
    ] {
        let mut pair = Pair::connected();
        pair.session();
        let error = give_input(&mut pair.relay, pair.now, bytes).unwrap_err();
        assert_eq!(error.reason, LinkEnd::UnknownSession);
    }
}

#[test]
fn an_agent_sends_nothing_before_its_target_stands() {
    let mut pair = Pair::connected();
    let id = pair.relay.open(&open_message()).unwrap();
    pair.exchange();
    assert_eq!(pair.agent.send_capacity(id), 0);
    assert_eq!(
        pair.agent.send(id, "x".into(), false),
        Err(SendError::Short)
    );
    pair.agent.opened(id);
    assert_eq!(pair.agent.poll_writable(), Some(id));
    assert!(pair.agent.send_capacity(id) > 0);

    let id = pair.relay.open(&open_message()).unwrap();
    pair.exchange();
    let data = raw(Kind::Data, id.0, b"x");
    let error = give_input(&mut pair.relay, pair.now, data).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

#[test]
fn a_session_opens_once() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let again = raw_message(Kind::Opened, id.0, &Opened);
    let error = give_input(&mut pair.relay, pair.now, again).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
    let again = raw_message(Kind::Open, id.0, &open_message());
    let error = give_input(&mut pair.agent, pair.now, again).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

#[test]
fn session_ids_rise_and_are_never_used_twice() {
    let mut pair = Pair::connected();
    for expected in 1..100 {
        let id = pair.session();
        assert_eq!(id, SessionId(expected));
        pair.relay.reset(id, SessionEnd::Cancelled);
        pair.exchange();
    }
    assert_eq!(pair.agent.last_session(), 99);
}

#[test]
fn messages_for_the_other_side_end_the_link() {
    let from_agent = [
        raw_message(Kind::Open, 5, &open_message()),
        raw_message(Kind::RegisterAck, 0, &granted(1)),
    ];
    for bytes in from_agent {
        let mut pair = Pair::connected();
        let error = give_input(&mut pair.relay, pair.now, bytes).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Protocol);
    }
    let mut pair = Pair::connected();
    let register = raw_message(Kind::Register, 0, &Register::default());
    let error = give_input(&mut pair.agent, pair.now, register).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

#[test]
fn no_session_opens_once_either_side_goes_away() {
    let away = GoAway {
        last_session: 0,
        reason: LinkEnd::ShuttingDown,
        deadline_ms: 1000,
        message: "restart".into(),
    };
    let mut pair = Pair::connected();
    pair.relay.go_away(&away);
    assert_eq!(pair.relay.open(&open_message()), Err(OpenError::Closing));

    let mut pair = Pair::connected();
    let id = pair.session();
    pair.agent.go_away(&away);
    pair.exchange();
    assert_eq!(pair.relay_events, [Event::GoAway(away)]);
    assert_eq!(pair.relay.open(&open_message()), Err(OpenError::Closing));
    // Running sessions go on.
    pair.relay.send(id, "x".into(), false).unwrap();
    pair.exchange();
    assert_eq!(data_of(&pair.agent_events, id), b"x");
}

#[test]
fn a_link_holds_no_more_sessions_than_agreed() {
    let mut pair = Pair::with(Settings {
        sessions_max: 2,
        ..Settings::default()
    });
    let (first, _second) = (pair.session(), pair.session());
    assert_eq!(pair.relay.open(&open_message()), Err(OpenError::Full));
    // An agent may still read lanes of sessions that the relay no longer counts.
    let most = 2 + crate::limits::LANES_LATE_MAX;
    for id in 3..=most {
        let one = raw_message(Kind::Open, id, &open_message());
        give_input(&mut pair.agent, pair.now, one).unwrap();
    }
    let one = raw_message(Kind::Open, most + 1, &open_message());
    let error = give_input(&mut pair.agent, pair.now, one).unwrap_err();
    assert_eq!(error.reason, LinkEnd::SessionLimit);
    pair.relay.reset(first, SessionEnd::Cancelled);
    take_output(&mut pair.relay, pair.now);
    assert!(pair.relay.open(&open_message()).is_ok());
}

#[test]
fn ten_thousand_short_sessions_leave_nothing_behind() {
    let mut pair = Pair::connected();
    for round in 0..10_000_u32 {
        let id = pair.session();
        pair.relay.send(id, vec![1; 9000].into(), false).unwrap();
        pair.exchange();
        pair.consume_at_agent(id);
        pair.agent.send(id, vec![1; 9000].into(), false).unwrap();
        match round % 4 {
            0 => pair.relay.reset(id, SessionEnd::Cancelled),
            1 => pair.agent.reset(id, SessionEnd::TargetReset),
            _ => {
                pair.relay.finish(id);
                pair.agent.finish(id);
            }
        }
        pair.exchange();
        while pair.relay.poll_writable().is_some() {}
        assert_eq!(pair.relay.session_count(), 0);
        assert_eq!(pair.agent.session_count(), 0);
        let lengths = [pair.relay.list_lengths(), pair.agent.list_lengths()];
        assert!(lengths.as_flattened().iter().all(|len| *len < 100));
    }
    pair.pass(Duration::from_secs(2));
    for mux in [&pair.relay, &pair.agent] {
        assert_eq!(mux.list_lengths(), [0; 5]);
        assert_eq!(mux.budget.queued(), 0);
        assert_eq!(mux.budget.used(), 0);
        assert_eq!(mux.counters().sessions_opened, 10_000);
    }
}

#[test]
fn lists_stay_short_while_a_peer_resets_sessions_and_reads_nothing() {
    let mut pair = Pair::connected();
    for id in 1..20_000_u32 {
        let mut bytes = raw_message(Kind::Open, id, &open_message()).to_vec();
        bytes.extend_from_slice(&raw(Kind::Data, id, &[0; 10_000]));
        give_input(&mut pair.agent, pair.now, bytes).unwrap();
        let id = SessionId(id);
        pair.agent.consumed(id, 10_000);
        assert_eq!(pair.agent.send_capacity(id), 0);
        pair.agent.finish(id);
        let reset = raw(
            Kind::Reset,
            id.0,
            &SessionEnd::Cancelled.code().to_le_bytes(),
        );
        give_input(&mut pair.agent, pair.now, reset).unwrap();
    }
    let lengths = pair.agent.list_lengths();
    assert!(lengths.iter().all(|len| *len < 200), "{lengths:?}");
}
