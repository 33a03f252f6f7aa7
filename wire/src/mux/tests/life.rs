use super::*;
use crate::limits::{HANDSHAKE_TIMEOUT, PROBE_TIMEOUT};

#[test]
fn an_idle_link_lives_far_longer_than_the_stale_timeout() {
    let mut pair = Pair::connected();
    pair.pass(Duration::from_secs(3600));
    for mux in [&pair.relay, &pair.agent] {
        let silent = pair.now.saturating_since(mux.last_received());
        assert!(silent <= Duration::from_secs(15), "{silent:?}");
        assert_eq!(mux.rtt(), Some(Duration::ZERO));
    }
}

#[test]
fn a_silent_peer_is_stale_at_the_deadline_and_not_before() {
    let mut pair = Pair::connected();
    let heard = pair.now;
    let mut pings = 0;
    let error = loop {
        let due = pair.relay.poll_timeout();
        assert!(due > pair.now, "the next deadline is in the future");
        pair.now = due;
        if let Err(error) = pair.relay.handle_timeout(due) {
            break error;
        }
        pings += kinds(&take_output(&mut pair.relay, due)).len();
    };
    assert_eq!(error.reason, LinkEnd::Stale);
    assert_eq!(pair.now, heard + Duration::from_secs(45));
    assert!((2..=3).contains(&pings), "{pings}");
}

#[test]
fn a_target_that_goes_quiet_costs_the_other_end_one_ping() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.pass(Duration::from_secs(2));
    for _ in 0..3 {
        pair.agent.send(id, "event".into(), false).unwrap();
        pair.exchange();
        let end = pair.now + Duration::from_secs(5);
        let mut pings = 0;
        while pair.now < end {
            pair.now = pair.now + millis(100);
            pair.handle_timeouts();
            let sent = take_output(&mut pair.relay, pair.now);
            pings += kinds(&sent).iter().filter(|it| **it == Kind::Ping).count();
            give_input(&mut pair.agent, pair.now, sent).unwrap();
            pair.exchange();
        }
        assert!(
            (1..=2).contains(&pings),
            "{pings}: one, and perhaps a heartbeat"
        );
        assert!(!pair.relay.is_asking());
    }
}

#[test]
fn a_link_in_doubt_is_confirmed_or_ends() {
    let mut pair = Pair::connected();
    pair.pass(Duration::from_secs(2));
    pair.relay.confirm(pair.now);
    pair.exchange();
    assert!(!pair.relay.is_asking(), "the agent has answered");

    pair.relay.confirm(pair.now);
    assert!(pair.relay.is_asking());
    let began = pair.now;
    let error = loop {
        pair.now = pair.relay.poll_timeout();
        if let Err(error) = pair.relay.handle_timeout(pair.now) {
            break error;
        }
    };
    assert_eq!(error.reason, LinkEnd::Stale);
    assert_eq!(pair.now, began + PROBE_TIMEOUT);
    assert!(!pair.relay.take_doubt(pair.now));
}

#[test]
fn a_handshake_that_does_not_end_in_time_ends_the_link() {
    let pair = Pair::unconnected(Settings::default());
    for mut mux in [pair.relay, pair.agent] {
        let deadline = pair.now + HANDSHAKE_TIMEOUT;
        assert_eq!(mux.poll_timeout(), deadline);
        give_input(&mut mux, pair.now + millis(4999), PREFACE.to_vec()).unwrap();
        assert!(mux.handle_timeout(pair.now + millis(4999)).is_ok());
        let error = mux.handle_timeout(deadline).unwrap_err();
        assert_eq!(error.reason, LinkEnd::HandshakeTimeout);
    }
}

#[test]
fn however_many_pings_come_one_pong_is_due() {
    let mut pair = Pair::connected();
    let mut bytes = Vec::new();
    for stamp in 0..10_000_u64 {
        bytes.extend_from_slice(&raw(Kind::Ping, 0, &stamp.to_le_bytes()));
    }
    give_input(&mut pair.relay, pair.now, bytes).unwrap();
    let sent = frames(&take_output(&mut pair.relay, pair.now));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0.kind, Some(Kind::Pong));
    assert_eq!(sent[0].1, 9999_u64.to_le_bytes());
}

#[test]
fn a_round_trip_longer_than_the_heartbeat_is_measured_all_the_same() {
    let mut pair = Pair::with(Settings {
        heartbeat: millis(50),
        ..Settings::default()
    });
    let mut on_the_way: VecDeque<(Moment, Vec<u8>)> = VecDeque::new();
    for _ in 0..40 {
        pair.now = pair.now + millis(10);
        pair.relay.handle_timeout(pair.now).unwrap();
        let bytes = take_output(&mut pair.relay, pair.now);
        on_the_way.push_back((pair.now + millis(120), bytes));
        while on_the_way.front().is_some_and(|(at, _)| *at <= pair.now) {
            let (_, bytes) = on_the_way.pop_front().unwrap();
            give_input(&mut pair.agent, pair.now, bytes).unwrap();
        }
        let bytes = take_output(&mut pair.agent, pair.now);
        give_input(&mut pair.relay, pair.now, bytes).unwrap();
    }
    assert_eq!(pair.relay.rtt(), Some(millis(120)));
}

#[test]
fn a_forged_pong_measures_nothing() {
    let mut pair = Pair::connected();
    let before = pair.relay.rtt();
    for stamp in [0, 1, u64::MAX] {
        let pong = raw(Kind::Pong, 0, &u64::to_le_bytes(stamp));
        assert_eq!(give_input(&mut pair.relay, pair.now, pong).unwrap(), []);
    }
    assert_eq!(pair.relay.rtt(), before);
}

#[test]
fn the_relay_sets_the_agents_pace_within_reason() {
    for (asked, paced) in [
        (1000, Some(1000)),
        (0, None),
        (1, Some(20)),
        (u32::MAX, Some(15_000)),
    ] {
        let mut pair = Pair::connected();
        pair.relay.register_ack(&granted(asked));
        pair.exchange();
        // The next ping may still follow the old heartbeat.
        pair.pass(Duration::from_secs(15));
        let expected = paced.map_or(Duration::from_secs(15), millis);
        let next = pair.agent.poll_timeout().saturating_since(pair.now);
        assert!(next <= expected, "{asked}: {next:?}");
        pair.pass(next);
        let next = pair.agent.poll_timeout().saturating_since(pair.now);
        assert_eq!(next, expected, "{asked}");
    }
}

#[test]
fn a_short_stale_timeout_breaks_no_pace() {
    let mut pair = Pair::with(Settings {
        heartbeat: millis(5),
        stale: millis(15),
        ..Settings::default()
    });
    pair.relay.register_ack(&granted(5));
    pair.exchange();
}

#[test]
fn a_peer_that_asks_much_and_reads_nothing_is_cut_off() {
    let register = raw_message(Kind::Register, 0, &Register::default());
    let answered = |pair: &mut Pair| {
        let mut queued = 0;
        let error = loop {
            match give_input(&mut pair.relay, pair.now, register.clone()) {
                Ok(_) => pair.relay.register_ack(&granted(1)),
                Err(error) => break error,
            }
            queued += 1;
            assert!(queued < 10_000_000);
        };
        assert_eq!(error.reason, LinkEnd::Overload);
        queued
    };
    let stranger = answered(&mut Pair::connected());
    assert!((100..1_000).contains(&stranger), "{stranger}");
    let mut pair = Pair::connected();
    pair.relay.trust();
    assert!(
        answered(&mut pair) > 16_384,
        "every tunnel of a link can be acknowledged"
    );
}

#[test]
fn unknown_kinds_are_skipped_only_if_optional() {
    let mut pair = Pair::connected();
    let id = pair.session();
    for kind in [99, 26] {
        let mut bytes = raw(Kind::Data, id.0, b"before").to_vec();
        let mut unknown = raw(Kind::Open, id.0, &[0xff; 5000]).to_vec();
        unknown[8] = kind;
        let mut mandatory = unknown.clone();
        unknown[9] = frame::OPTIONAL;
        bytes.extend_from_slice(&unknown);
        bytes.extend_from_slice(&raw(Kind::Data, id.0, b" after"));
        let mut seen = Vec::new();
        for piece in bytes.chunks(777) {
            seen.extend(give_input(&mut pair.agent, pair.now, piece.to_vec()).unwrap());
        }
        assert_eq!(data_of(&seen, id), b"before after");

        mandatory.truncate(HEADER_BYTES);
        let mut other = Pair::connected();
        other.session();
        let error = give_input(&mut other.agent, other.now, mandatory).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Protocol);
    }
}

#[test]
fn a_table_that_fails_verification_ends_the_link() {
    let mut pair = Pair::connected();
    for kind in [Kind::Register, Kind::Unregister, Kind::GoAway] {
        let error = give_input(&mut pair.relay, pair.now, raw(kind, 0, &[0xff; 64])).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Table);
        pair = Pair::connected();
    }
}

#[test]
fn nothing_panics_after_an_error() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let bad = frame::encode(Kind::Data, SessionId(77), 5, false);
    assert!(give_input(&mut pair.relay, pair.now, bad.to_vec()).is_err());
    for _ in 0..3 {
        let _ = pair
            .relay
            .handle_input(pair.now, &mut Bytes::from_static(b"more"));
        pair.relay.send_capacity(id);
        pair.relay.reset(id, SessionEnd::LinkLost);
        take_output(&mut pair.relay, pair.now);
    }
}
