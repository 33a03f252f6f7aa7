//! Resets: with their reason, both ways, and behind the bytes that were sent before them.

use super::*;

#[test]
fn a_reset_comes_with_its_reason_behind_the_bytes_before_it() {
    for (from, to) in [(RELAY, AGENT), (AGENT, RELAY)] {
        for seed in 0..20 {
            let mut pair = Pair::on(Path::bad(seed));
            let id = pair.session(Mode::Bytes);
            let bytes = bytes_of(10_000);
            pair.peers[from].mux.send(id, bytes.clone(), false).unwrap();
            pair.peers[from].mux.reset(id, SessionEnd::TargetReset);
            let reset = Event::Reset {
                session: id,
                reason: SessionEnd::TargetReset,
            };
            pair.run("the reset", |peers| peers[to].events.contains(&reset));
            let events = pair.peers[to].take_events();
            assert_eq!(data_of(&events, id), bytes, "seed {seed}");
            assert_eq!(events.last(), Some(&reset));
            assert!(pair.peers.iter().all(|it| it.mux.session_count() == 0));
        }
    }
}

#[test]
fn a_session_may_be_reset_before_it_is_answered_and_before_its_stream_arrives() {
    for seed in 0..20 {
        let mut pair = Pair::on(Path::bad(seed));
        let refused = pair.peers[RELAY].mux.open(&open_message(Mode::Bytes));
        let given_up = pair.peers[RELAY].mux.open(&open_message(Mode::Bytes));
        let (refused, given_up) = (refused.unwrap(), given_up.unwrap());
        pair.peers[RELAY].mux.reset(given_up, SessionEnd::Cancelled);
        let mut reset_at_agent = Vec::new();
        pair.run("both resets", |[relay, agent]| {
            for event in agent.take_events() {
                match event {
                    Event::Open { session, .. } if session == refused => {
                        agent.mux.reset(session, SessionEnd::TargetRefused);
                    }
                    Event::Reset { session, reason } => reset_at_agent.push((session, reason)),
                    _ => {}
                }
            }
            let live = relay.mux.session_count() + agent.mux.session_count();
            live == 0 && agent.mux.last_session() == 2
        });
        assert_eq!(reset_at_agent, [(given_up, SessionEnd::Cancelled)]);
        let reset = Event::Reset {
            session: refused,
            reason: SessionEnd::TargetRefused,
        };
        assert_eq!(pair.peers[RELAY].take_events(), [reset]);
    }
}

#[test]
fn a_reset_may_follow_a_finish_and_resets_may_cross() {
    for seed in 0..20 {
        let mut pair = Pair::on(Path::bad(seed));
        let (finished, crossed) = (pair.session(Mode::Bytes), pair.session(Mode::Bytes));
        pair.peers[RELAY].mux.finish(finished);
        let end = Event::Finished { session: finished };
        pair.run("the finish", |[_, agent]| agent.events.contains(&end));
        pair.peers[RELAY]
            .mux
            .reset(finished, SessionEnd::FrontendReset);
        for peer in &mut pair.peers {
            peer.mux.reset(crossed, SessionEnd::Cancelled);
        }
        pair.run("the resets", |peers| {
            peers.iter().all(|it| it.mux.session_count() == 0)
        });
        let events = pair.peers[AGENT].take_events();
        let reset = Event::Reset {
            session: finished,
            reason: SessionEnd::FrontendReset,
        };
        assert!(events.contains(&reset), "{events:?}");
        // The link goes on.
        let id = pair.session(Mode::Bytes);
        pair.peers[RELAY]
            .mux
            .send(id, "some".into(), false)
            .unwrap();
        pair.run("the bytes", |[_, agent]| {
            data_of(&agent.events, id) == b"some"
        });
    }
}

#[test]
fn an_agent_that_stops_reading_a_stream_resets_its_session() {
    let mut pair = Pair::connected();
    let id = pair.session(Mode::Bytes);
    let stream = hostile::stream_of(id);
    let code = VarInt::from(SessionEnd::TargetReset.code());
    let agent = &mut pair.peers[AGENT];
    agent.is_raw = true;
    agent.connection().recv_stream(stream).stop(code).unwrap();
    let reset = Event::Reset {
        session: id,
        reason: SessionEnd::TargetReset,
    };
    pair.run("the reset", |[relay, _]| relay.events.contains(&reset));
    assert_eq!(pair.peers[RELAY].mux.session_count(), 0);
}

#[test]
fn a_reset_behind_bytes_that_never_arrive_waits_no_longer_than_its_time() {
    let mut pair = Pair::connected();
    let id = pair.session(Mode::Bytes);
    pair.peers[RELAY]
        .mux
        .send(id, bytes_of(10_000), false)
        .unwrap();
    pair.peers[RELAY].mux.reset(id, SessionEnd::Cancelled);
    pair.network.cut();
    pair.run("the first try", |[relay, _]| {
        relay.streams.poll_timeout().is_some()
    });
    let until = pair.peers[RELAY].streams.poll_timeout().unwrap();
    assert!(until <= pair.moment() + Duration::from_secs(2));
    pair.run("the end", |[relay, _]| {
        relay.streams.poll_timeout().is_none()
    });
    assert!(pair.moment() <= until + Duration::from_millis(50));
}
