//! Reports of lost links over the next link, and what the relay knows without a report.

use super::*;
use crate::limits::{LOST_LINKS_MAX, LOST_SESSIONS_MAX};
use crate::message::{BulkNonce, Lost};

/// Events at a relay when an agent reports `tells` over a new link.
fn heard(tells: &Lost) -> Vec<Event> {
    let mut next = Pair::connected();
    next.agent.tell_lost(tells);
    let bytes = take_output(&mut next.agent, next.now);
    assert_eq!(bytes[frame::FLAGS_OFFSET], frame::OPTIONAL);
    give_input(&mut next.relay, next.now, bytes).unwrap()
}

#[test]
fn a_lost_link_is_told_of_over_the_next_with_what_had_arrived() {
    let mut pair = Pair::connected();
    let [whole, cut, ended] = [(); 3].map(|()| pair.session());
    pair.relay.send(whole, "first".into(), false).unwrap();
    pair.agent.reset(ended, SessionEnd::TargetReset);
    pair.exchange();
    // The header and one byte of "second" arrive, and nothing that is sent after it.
    pair.relay.send(cut, "second".into(), false).unwrap();
    let mut bytes = take_output(&mut pair.relay, pair.now);
    bytes.truncate(HEADER_BYTES + 1);
    give_input(&mut pair.agent, pair.now, bytes).unwrap();
    pair.relay.send(whole, "third".into(), false).unwrap();
    let unseen = pair.relay.open(&open_message()).unwrap();

    let lost = pair.agent.lost(NONCE);
    assert_eq!(heard(&lost), [Event::Lost(lost.clone())]);
    let of = |id| lost.received(id);
    assert_eq!(lost.nonce, NONCE);
    assert_eq!([of(whole), of(cut)], [Some(5), Some(6)]);
    assert_eq!([of(ended), of(unseen)], [None, Some(0)]);
}

#[test]
fn a_session_on_a_lane_and_those_beyond_the_bound_are_not_told_of() {
    let mut pair = Pair::connected();
    let sessions: Vec<_> = (0..LOST_SESSIONS_MAX + 2).map(|_| pair.session()).collect();
    pair.relay.offer_bulk(sessions[5], &BulkNonce::new([1; 16]));
    assert!(pair.relay.move_to_lane(sessions[5]));
    pair.exchange();
    let lost = pair.agent.lost(NONCE);
    let told = |place: usize| lost.received(sessions[place]);
    assert_eq!(
        [told(0), told(1), told(5), told(6)],
        [None, Some(0), None, Some(0)]
    );
    assert_eq!(heard(&lost), [Event::Lost(lost.clone())]);
}

#[test]
fn an_agent_that_tells_of_too_many_links_is_not_heard() {
    let mut pair = Pair::connected();
    let lost = pair.agent.lost(NONCE);
    for _ in 0..=LOST_LINKS_MAX {
        pair.agent.tell_lost(&lost);
    }
    let bytes = take_output(&mut pair.agent, pair.now);
    let events = give_input(&mut pair.relay, pair.now, bytes).unwrap();
    assert_eq!(events.len(), LOST_LINKS_MAX);
    assert_eq!(pair.relay.counters().optional_frames_dropped, 1);
}

#[test]
fn a_lost_link_that_an_agent_tells_of_after_it_registered_is_ignored() {
    let mut pair = Pair::connected();
    let lost = pair.agent.lost(NONCE);
    pair.agent.tell_lost(&lost);
    pair.agent.register(&Register::default());
    pair.agent.tell_lost(&lost);
    let bytes = take_output(&mut pair.agent, pair.now);
    let events = give_input(&mut pair.relay, pair.now, bytes).unwrap();
    assert_eq!(
        events,
        [Event::Lost(lost), Event::Register(Register::default())]
    );
    assert_eq!(pair.relay.counters().optional_frames_dropped, 1);
}

#[test]
fn only_an_agent_tells_of_lost_links_and_only_behind_its_hello() {
    let mut pair = Pair::connected();
    let lost = pair.agent.lost(NONCE);
    let report = raw_message(Kind::Lost, 0, &lost);
    let error = give_input(&mut pair.agent, pair.now, report.clone()).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
    let hello = RelayHello::new(NONCE, 1);
    let mut relay = Mux::relay(hello, Settings::default(), pair.now);
    give_input(&mut relay, pair.now, PREFACE.to_vec()).unwrap();
    let error = give_input(&mut relay, pair.now, report).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

#[test]
fn what_was_sent_has_arrived_once_a_ping_behind_it_is_answered() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let send = |pair: &mut Pair| pair.relay.send(id, "question".into(), false).unwrap();
    send(&mut pair);
    pair.exchange();
    assert!(!pair.relay.has_arrived(id), "nothing shows it yet");
    pair.now = pair.now + millis(1_100);
    pair.relay.handle_timeout(pair.now).unwrap();
    pair.exchange();
    assert!(pair.relay.has_arrived(id));
    send(&mut pair);
    assert!(!pair.relay.has_arrived(id), "the ping left before that");
}
