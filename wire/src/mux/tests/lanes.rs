use super::*;
use crate::message::{Bulk, BulkNonce, BulkOffer};

const NONCE_OF_LANE: BulkNonce = BulkNonce::new([9; 16]);

fn bulk(bytes_total: u64) -> Bytes {
    raw_message(Kind::Bulk, 1, &Bulk { bytes_total })
}

/// Sends `bytes` to the agent, then moves that direction to a lane.
fn moved(bytes: &'static str) -> (Pair, SessionId) {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.relay.send(id, bytes.into(), false).unwrap();
    assert!(pair.relay.move_to_lane(id));
    pair.exchange();
    (pair, id)
}

#[test]
fn an_offer_reaches_the_agent_and_an_agent_that_knows_no_lanes_skips_it() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.relay.offer_bulk(id, &NONCE_OF_LANE);
    let bytes = take_output(&mut pair.relay, pair.now);
    assert_eq!(bytes[frame::FLAGS_OFFSET], frame::OPTIONAL);
    let offer = Event::BulkOffer {
        session: id,
        nonce: NONCE_OF_LANE,
    };
    assert_eq!(
        give_input(&mut pair.agent, pair.now, bytes).unwrap(),
        [offer]
    );
}

#[test]
fn an_agent_that_offers_a_lane_says_nothing_that_its_relay_would_blame_it_for() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.agent.offer_bulk(id, &NONCE_OF_LANE);
    assert!(take_output(&mut pair.agent, pair.now).is_empty());
}

#[test]
fn the_marker_leaves_behind_what_was_queued_and_nothing_is_framed_after_it() {
    let (mut pair, id) = moved("framed");
    let events = std::mem::take(&mut pair.agent_events);
    assert_eq!(data_of(&events, id), b"framed");
    assert_eq!(events.last(), Some(&Event::Bulk { session: id }));
    assert_eq!(pair.relay.send_capacity(id), 0);
    let refused = pair.relay.send(id, "more".into(), false);
    assert_eq!(refused, Err(SendError::Closed));
    // The other direction is still framed.
    pair.agent.send(id, "answer".into(), false).unwrap();
    pair.exchange();
    assert_eq!(data_of(&pair.relay_events, id), b"answer");
}

#[test]
fn a_lane_ends_its_direction_once_both_its_end_and_the_finish_came() {
    for finish_first in [true, false] {
        let (mut pair, id) = moved("framed");
        pair.agent_events.clear();
        pair.relay.lane_sent(pair.now, id, 1000);
        pair.relay.finish(id);
        let finish = take_output(&mut pair.relay, pair.now);
        let mut seen = Vec::new();
        if finish_first {
            seen.extend(give_input(&mut pair.agent, pair.now, finish).unwrap());
            assert_eq!(seen, []);
            seen.extend(pair.agent.lane_ended(id, 1000));
        } else {
            seen.extend(pair.agent.lane_ended(id, 1000));
            assert_eq!(seen, []);
            seen.extend(give_input(&mut pair.agent, pair.now, finish).unwrap());
        }
        assert_eq!(seen, [Event::Finished { session: id }]);
        pair.agent.finish(id);
        pair.exchange();
        assert_eq!(
            [pair.relay.session_count(), pair.agent.session_count()],
            [0, 0]
        );
    }
}

#[test]
fn a_lane_that_broke_off_resets_its_session_and_leaves_the_link_alone() {
    let (mut pair, id) = moved("framed");
    let other = pair.session();
    pair.relay.lane_sent(pair.now, id, 1000);
    pair.relay.finish(id);
    pair.exchange();
    let reason = SessionEnd::LengthMismatch;
    let reset = || Event::Reset {
        session: id,
        reason,
    };
    assert_eq!(pair.agent.lane_ended(id, 999), Some(reset()));
    pair.exchange();
    assert!(pair.relay_events.contains(&reset()));
    assert!(pair.relay.is_live(other) && pair.agent.is_live(other));
    assert!(!pair.relay.is_live(id) && !pair.agent.is_live(id));
}

#[test]
fn a_marker_that_disagrees_or_comes_out_of_turn_ends_the_link() {
    let cases: [(&[Bytes], LinkEnd); 4] = [
        (&[bulk(1)], LinkEnd::LengthMismatch),
        (&[bulk(0), bulk(0)], LinkEnd::Protocol),
        (&[bulk(0), raw(Kind::Data, 1, b"x")], LinkEnd::Protocol),
        (&[raw(Kind::Finish, 1, &[0; 8]), bulk(0)], LinkEnd::Protocol),
    ];
    for (frames, reason) in cases {
        let mut pair = Pair::connected();
        pair.session();
        let error = give_input(&mut pair.agent, pair.now, frames.concat()).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
    }
    let mut pair = Pair::connected();
    pair.session();
    let offer = raw_message(Kind::BulkOffer, 1, &BulkOffer(&NONCE_OF_LANE));
    let error = give_input(&mut pair.relay, pair.now, offer).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

#[test]
fn a_finish_of_a_session_that_was_given_up_on_its_lane_is_dropped() {
    let (mut pair, id) = moved("framed");
    pair.relay.lane_sent(pair.now, id, 1000);
    pair.relay.finish(id);
    let finish = take_output(&mut pair.relay, pair.now);
    pair.agent.reset(id, SessionEnd::TargetReset);
    assert_eq!(give_input(&mut pair.agent, pair.now, finish).unwrap(), []);
    assert_eq!(pair.agent.lane_ended(id, 1000), None);
    pair.exchange();
    assert_eq!(
        [pair.relay.session_count(), pair.agent.session_count()],
        [0, 0]
    );
}

#[test]
fn a_direction_that_moved_gives_its_window_back_to_the_others() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 4 << 20);
    assert!(pair.agent.budget.used() > 0);
    assert!(pair.relay.move_to_lane(id));
    pair.exchange();
    assert_eq!(pair.agent.budget.used(), 0);
    // The idle sender does not return credit of the direction that moved.
    pair.pass(Duration::from_secs(3));
    assert!(pair.relay.is_live(id) && pair.agent.is_live(id));
}

#[test]
fn a_lane_that_stops_has_the_link_probed() {
    let mut pair = Pair::connected();
    pair.pass(Duration::from_secs(2));
    pair.agent.lane_received(pair.now, 1000);
    assert!(pair.agent.is_asking());
    assert_eq!(pair.agent.poll_timeout(), pair.now + millis(1000));
    pair.pass(Duration::from_secs(2));
    assert!(!pair.agent.is_asking(), "the relay has answered");
}

#[test]
fn what_a_lane_took_has_the_link_probed_and_an_idle_lane_costs_nothing() {
    for answers in [true, false] {
        let (mut pair, id) = moved("framed");
        pair.pass(Duration::from_secs(3));
        assert!(!pair.relay.is_asking(), "the lane is idle");
        for _ in 0..3 {
            pair.relay.lane_sent(pair.now, id, 1000);
        }
        assert!(pair.relay.is_asking());
        assert_eq!(pair.relay.poll_timeout(), pair.now + millis(1000));
        if answers {
            pair.pass(Duration::from_secs(2));
            assert!(!pair.relay.is_asking(), "one ping covers all of them");
            continue;
        }
        let (began, mut outcome) = (pair.now, Ok(()));
        while outcome.is_ok() {
            pair.now = pair.relay.poll_timeout();
            outcome = pair.relay.handle_timeout(pair.now);
        }
        assert_eq!(outcome.unwrap_err().reason, LinkEnd::Stale);
        assert_eq!(pair.now, began + Duration::from_secs(4));
    }
}

#[test]
fn a_bulky_session_is_named_once_by_both_ends() {
    let settings = Settings {
        bulk_run_bytes: 256 * 1024,
        ..Settings::default()
    };
    let mut pair = Pair::with(settings);
    let (bulky, chatty) = (pair.session(), pair.session());
    for _ in 0..200 {
        pair.stream_to_agent(bulky, 64 * 1024);
        pair.stream_to_agent(chatty, 5000);
    }
    for mux in [&mut pair.relay, &mut pair.agent] {
        assert_eq!(mux.poll_bulky(), Some(bulky));
        assert_eq!(mux.poll_bulky(), None);
    }
}

#[test]
fn a_move_that_crosses_a_reset_leaves_the_link_alone() {
    let mut pair = Pair::connected();
    let id = pair.session();
    assert!(pair.relay.move_to_lane(id));
    pair.relay.lane_sent(pair.now, id, 1000);
    pair.relay.finish(id);
    let late = take_output(&mut pair.relay, pair.now);
    // The agent has decided to reset, and has not sent it yet.
    pair.agent.reset(id, SessionEnd::TargetReset);
    assert_eq!(give_input(&mut pair.agent, pair.now, late).unwrap(), []);
    pair.exchange();
    assert_eq!(
        [pair.relay.session_count(), pair.agent.session_count()],
        [0, 0]
    );
}

#[test]
fn a_reset_comes_behind_the_marker_so_that_the_lane_is_read_up_to_its_end() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.relay.send(id, "framed".into(), false).unwrap();
    assert!(pair.relay.move_to_lane(id));
    pair.relay.reset(id, SessionEnd::FrontendReset);
    pair.exchange();
    let reason = SessionEnd::FrontendReset;
    let ends = [
        Event::Bulk { session: id },
        Event::Reset {
            session: id,
            reason,
        },
    ];
    assert_eq!(pair.agent_events[1..], ends);
}

#[test]
fn a_reset_that_crosses_the_opening_and_the_move_leaves_the_link_alone() {
    let mut pair = Pair::connected();
    let id = pair.relay.open(&open_message()).unwrap();
    pair.exchange();
    pair.agent.opened(id);
    assert!(pair.agent.move_to_lane(id));
    pair.agent.finish(id);
    let late = take_output(&mut pair.agent, pair.now);
    pair.relay.reset(id, SessionEnd::FrontendGone);
    assert_eq!(give_input(&mut pair.relay, pair.now, late).unwrap(), []);
    pair.exchange();
    assert_eq!(
        [pair.relay.session_count(), pair.agent.session_count()],
        [0, 0]
    );
}
