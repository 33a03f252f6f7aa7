//! Tests of sessions over a link whose other end is a mux in the test.

pub(crate) mod rig;

use std::collections::HashSet;

use bytes::BytesMut;
use tieline_wire::{AgentKey, Event, InstanceId};

use self::rig::Link;
use super::*;

fn opened(events: &[Event]) -> SessionId {
    let open = events.iter().find_map(|event| match event {
        Event::Open { session, .. } => Some(*session),
        _ => None,
    });
    open.unwrap()
}

#[test]
fn a_session_counts_as_open_until_its_target_is_done_too() {
    let mut link = Link::established();
    let session = link.open();
    let id = opened(&link.pump_down());
    link.agent.opened(id);
    link.pump_up();
    assert_eq!((link.counted(), link.relay.session_count()), (1, 1));

    session.leave();
    assert_eq!(link.pump_down(), [Event::Finished { session: id }]);
    assert_eq!((link.counted(), link.relay.session_count()), (1, 1));

    link.agent.finish(id);
    link.pump_up();
    assert_eq!((link.counted(), link.relay.session_count()), (0, 0));
}

#[test]
fn a_session_that_is_given_up_or_loses_its_link_counts_no_more() {
    let mut link = Link::established();
    let (given_up, lost) = (link.open(), link.open());
    given_up.reset(SessionEnd::FrontendGone);
    link.pump_down();
    assert_eq!((link.counted(), link.relay.session_count()), (1, 1));

    link.relay.fail_sessions(LinkEnd::LinkLost);
    assert_eq!(link.counted(), 0);
    drop(lost);
    assert_eq!(link.counted(), 0);
}

#[test]
fn a_session_that_loses_its_link_with_bytes_unread_is_reset_once() {
    let mut link = Link::established();
    let (session, id) = link.open_to_targets(1).remove(0);
    link.agent.send(id, "answer".into(), false).unwrap();
    link.pump_up();
    link.relay.fail_sessions(LinkEnd::LinkLost);
    drop(session);
    assert_eq!(link.resets(), 1);
}

#[test]
fn an_answer_that_came_to_its_end_stays_whole_when_the_link_is_lost() {
    use std::convert::Infallible;
    use std::task::{Context, Poll, Waker};

    let mut link = Link::established();
    let (session, id) = link.open_to_targets(1).remove(0);
    session.finish();
    link.agent.send(id, "answer".into(), false).unwrap();
    link.agent.finish(id);
    link.pump_down();
    link.pump_up();
    // The session's holder has not read the ends yet.
    link.relay.fail_sessions(LinkEnd::LinkLost);

    let mut cx = Context::from_waker(Waker::noop());
    let mut seen = Vec::new();
    while let Poll::Ready(Incoming::Bytes) = session.poll_incoming(&mut cx) {
        let all = |bytes: &[u8]| {
            seen.extend_from_slice(bytes);
            Ok::<_, Infallible>(bytes.len())
        };
        let Ok(_) = session.take(all);
    }
    assert_eq!(seen, b"answer");
    let end = session.poll_incoming(&mut cx);
    assert!(matches!(end, Poll::Ready(Incoming::Finished)));
}

/// A session of an HTTP caller with `sent` on its way to the agent.
fn sending(link: &mut Link, sent: &'static str) -> Session {
    let maya = TunnelId::parse("maya").unwrap();
    let caller = SessionCaller {
        kind: FrontendKind::Http,
        ..SessionCaller::default()
    };
    let session = link.relay.open(&maya, &link.sessions, caller).unwrap();
    if !sent.is_empty() {
        session.send(sent.into(), false).unwrap();
    }
    link.pump_down();
    session
}

#[test]
fn only_what_may_not_have_arrived_awaits_the_word_of_an_agent_that_may_tell() {
    let awaits = |link: &Link, session: &Session, reason| {
        link.relay.fail_sessions(reason);
        let told = session.delivery().report_of_agent().is_some();
        assert_eq!(told, link.relay.lost_report().is_wanted());
        told
    };
    for reason in [LinkEnd::LinkLost, LinkEnd::Stale] {
        let mut link = Link::established();
        let session = sending(&mut link, "question");
        assert!(awaits(&link, &session, reason));
    }
    for reason in [LinkEnd::Protocol, LinkEnd::Superseded, LinkEnd::Revoked] {
        let mut link = Link::established();
        let session = sending(&mut link, "question");
        assert!(!awaits(&link, &session, reason), "{reason}");
    }
    // Nothing was sent, which the relay knows by itself.
    let mut link = Link::established();
    let session = sending(&mut link, "");
    assert!(!awaits(&link, &session, LinkEnd::LinkLost));
    assert!(session.delivery().is_not_sent());
    // The agent has answered a ping that left behind the payload.
    let mut link = Link::established();
    let session = sending(&mut link, "question");
    link.relay.tick(link.now() + RECENTLY_HEARD * 2).unwrap();
    link.pump_down();
    link.pump_up();
    assert!(!awaits(&link, &session, LinkEnd::LinkLost));
    // The agent dials another link when it is told to drain, and reports nothing on this one.
    let mut link = Link::established();
    let session = sending(&mut link, "question");
    link.relay.drain(Duration::from_secs(10));
    assert!(!awaits(&link, &session, LinkEnd::LinkLost));
}

#[test]
fn an_agent_that_stops_will_tell_nothing_and_one_that_gives_a_dead_link_up_will() {
    let cases = [
        (LinkEnd::ShuttingDown, 5_000, false),
        (LinkEnd::ShuttingDown, 0, false),
        (LinkEnd::Stale, 0, true),
    ];
    for (reason, deadline_ms, tells) in cases {
        let mut link = Link::established();
        let session = sending(&mut link, "question");
        link.agent.go_away(&GoAway {
            last_session: link.agent.last_session(),
            reason,
            deadline_ms,
            message: String::new(),
        });
        link.pump_up();
        link.relay.fail_sessions(LinkEnd::LinkLost);
        assert_eq!(
            session.delivery().report_of_agent().is_some(),
            tells,
            "{reason}"
        );
    }
}

#[test]
fn a_session_learns_why_its_link_was_left() {
    use std::task::{Context, Poll, Waker};

    type Before<'a> = &'a dyn Fn(&mut Link);

    let stops = |link: &mut Link| {
        link.agent.go_away(&GoAway {
            last_session: link.agent.last_session(),
            reason: LinkEnd::ShuttingDown,
            deadline_ms: 5_000,
            message: String::new(),
        });
        link.pump_up();
    };
    let drains = |link: &mut Link| link.relay.drain(Duration::from_secs(5));
    let nothing = |_: &mut Link| {};
    let cases: [(Before<'_>, _, _); 8] = [
        (&nothing, LinkEnd::LinkLost, SessionEnd::LinkLost),
        (&nothing, LinkEnd::Protocol, SessionEnd::LinkLost),
        (&nothing, LinkEnd::Superseded, SessionEnd::Superseded),
        (&nothing, LinkEnd::ShuttingDown, SessionEnd::ShuttingDown),
        (&drains, LinkEnd::ShuttingDown, SessionEnd::ShuttingDown),
        // The agent closes the link by its own deadline.
        (&drains, LinkEnd::LinkLost, SessionEnd::ShuttingDown),
        (&stops, LinkEnd::LinkLost, SessionEnd::ShuttingDown),
        // The path died before the deadline.
        (&stops, LinkEnd::Stale, SessionEnd::LinkLost),
    ];
    for (before, reason, expected) in cases {
        let mut link = Link::established();
        let (session, _) = link.open_to_targets(1).remove(0);
        before(&mut link);
        link.relay.fail_sessions(reason);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Incoming::Reset(end)) = session.poll_incoming(&mut cx) else {
            panic!("no reset after {reason}");
        };
        assert_eq!(end, expected, "{reason}");
    }
}

#[test]
fn an_agent_that_goes_is_held_to_what_it_says() {
    use std::task::{Context, Poll, Waker};

    let mut link = Link::established();
    let (first, second) = (sending(&mut link, "one"), sending(&mut link, "two"));
    let away = |deadline_ms| GoAway {
        last_session: 1,
        reason: LinkEnd::ShuttingDown,
        deadline_ms,
        message: String::new(),
    };
    let before = link.now();
    link.agent.go_away(&away(u32::MAX));
    link.pump_up();
    let mut cx = Context::from_waker(Waker::noop());
    let end = second.poll_incoming(&mut cx);
    assert!(matches!(
        end,
        Poll::Ready(Incoming::Reset(SessionEnd::ShuttingDown))
    ));
    assert!(second.delivery().is_not_sent());
    assert!(first.poll_incoming(&mut cx).is_pending());
    assert!(link.relay.is_left());
    let is_over = |link: &Link, after| match link.relay.tick(after) {
        Err(error) => error.reason == LinkEnd::ShuttingDown,
        Ok(()) => false,
    };
    // An hour is the longest deadline; an earlier deadline replaces a later one, not the reverse.
    let hour = before + LEAVING_MAX;
    for (deadline_ms, end) in [(1000, before + Duration::from_secs(1)), (u32::MAX, hour)] {
        let mut link = Link::established();
        for deadline_ms in [u32::MAX, deadline_ms, u32::MAX] {
            link.agent.go_away(&away(deadline_ms));
            link.pump_up();
        }
        assert!(!is_over(&link, end));
        assert!(is_over(&link, link.now().max(end) + LEAVING_GRACE * 2));
    }
}

#[test]
fn an_offer_of_a_lane_is_good_for_one_connection() {
    use crate::io::{Chosen, Stream, pair, run};

    let link = Link::established();
    let session = link.open();
    session.want_lane();
    let nonce = link.offer(&session).unwrap();
    assert_eq!(shard_of(&nonce), 0);
    run(Chosen::Epoll, async {
        let mut arrived = [false; 2];
        for arrived in &mut arrived {
            let (ours, _theirs) = pair().unwrap();
            let stream = Stream::new(ours);
            *arrived = link.lanes.arrived(stream, &nonce, Clock::start().now());
        }
        assert_eq!(arrived, [true, false]);
        assert!(session.lane().is_some());
        // The lane closes with its session, even if the runtime is about to end.
        drop(session);
    })
    .unwrap();
}

#[test]
fn a_lane_outlives_the_time_that_a_caller_may_take_nothing() {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::SockRef;

    use crate::io::{Chosen, Stream, run};

    let link = Link::established();
    let session = link.open();
    session.want_lane();
    let nonce = link.offer(&session).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _agent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    run(Chosen::Epoll, async {
        let stream = Stream::new(accepted.into());
        // The agents' listener sets the same timeout.
        let limit = Some(Duration::from_secs(20));
        SockRef::from(&stream).set_tcp_user_timeout(limit).unwrap();
        assert!(link.lanes.arrived(stream, &nonce, Clock::start().now()));
        let lane = session.lane().unwrap();
        let limit = SockRef::from(&lane.socket).tcp_user_timeout().unwrap();
        assert_eq!(limit, None);
        drop(session);
    })
    .unwrap();
}

#[test]
fn lanes_on_offer_are_limited_and_those_of_ended_sessions_make_room() {
    let link = Link::established();
    let sessions: Vec<_> = (0..200).map(|_| link.open()).collect();
    let offers = sessions.iter().filter_map(|it| link.offer(it)).count();
    assert_eq!(offers, 64);
    drop(sessions);
    assert!(link.offer(&link.open()).is_some());
}

#[test]
fn payload_is_copied_only_while_its_link_takes_nothing() {
    let mut link = Link::established();
    let (session, _) = link.open_to_targets(1).remove(0);
    for (blocked, in_place) in [(false, 1), (true, 0)] {
        link.relay.carrier().set_held(usize::from(blocked));
        let payload = Bytes::from(vec![7; 5_000]);
        let read_at = payload.as_ptr();
        session.send(payload, false).unwrap();
        let mut out = Transmit::new();
        link.relay.transmit(&mut out);
        let slices = out.slices();
        let sent = slices.iter().filter(|slice| slice.len() == 5_000);
        assert_eq!(
            sent.filter(|slice| slice.as_ptr() == read_at).count(),
            in_place
        );
    }
}

#[test]
fn a_session_whose_caller_reads_nothing_pins_no_memory_of_its_link() {
    let mut link = Link::established();
    let (session, id) = link.open_to_targets(1).remove(0);
    link.agent.send(id, vec![7; 5_000].into(), false).unwrap();
    let mut block = BytesMut::from(&link.agent_says()[..]);
    let all = block.capacity();
    link.relay
        .receive(&mut block.split().freeze(), |_, _| {})
        .unwrap();
    assert!(block.try_reclaim(all), "the read buffer is still pinned");
    let taken: Result<_, ()> = session.take(|waiting| {
        assert!(waiting.iter().all(|byte| *byte == 7));
        Ok(waiting.len())
    });
    assert_eq!(taken, Ok(5_000));
}

#[test]
fn bytes_that_outlive_their_session_stay_in_the_budget_until_they_are_taken() {
    for end_by_link in [false, true] {
        let mut link = Link::established();
        let (session, id) = link.open_to_targets(1).pop().unwrap();
        link.agent.send(id, vec![7; 10_000].into(), false).unwrap();
        link.pump_up();
        assert_eq!(link.charged(), 0);
        if end_by_link {
            link.relay.fail_sessions(LinkEnd::LinkLost);
        } else {
            link.agent.reset(id, SessionEnd::TargetReset);
            link.pump_up();
        }
        assert_eq!(link.charged(), 10_000);
        let take = |most: usize| session.take(|front| Ok::<_, ()>(front.len().min(most)));
        take(1).unwrap();
        assert_eq!(link.charged(), 10_000);
        while take(usize::MAX).unwrap() > 0 {}
        assert_eq!(link.charged(), 0);
    }
}

fn seconds_on(link: &Link, seconds: u64) -> Moment {
    link.now() + Duration::from_secs(seconds)
}

#[test]
fn a_link_that_asks_in_vain_is_ended_and_its_sessions_are_reset() {
    let mut link = Link::established();
    let _session = link.open();
    link.pump_down();
    assert_eq!(link.probed.len(), 1);
    link.probed.look(seconds_on(&link, 1));
    // The path is dead: frames sent from here on do not arrive.
    for half_seconds in 2..=8 {
        assert_eq!(link.relay.closing(), None);
        let now = link.now() + Duration::from_millis(500 * half_seconds);
        link.probed.look(now + Duration::from_millis(250));
        link.probed.look(now + Duration::from_millis(499));
    }
    assert_eq!(link.relay.closing(), Some(LinkEnd::Stale));
    assert_eq!(link.probed.len(), 0);
}

#[test]
fn a_link_that_knows_enough_is_no_longer_looked_at() {
    let mut link = Link::established();
    let _session = link.open();
    link.pump_down();
    assert_eq!(
        link.probed.len(),
        1,
        "a link is listed once, however often it sends"
    );
    link.probed.look(seconds_on(&link, 1));
    // The ping, and the answer to it.
    link.pump_down();
    link.pump_up();
    link.probed.look(seconds_on(&link, 2));
    assert_eq!((link.relay.closing(), link.probed.len()), (None, 0));
}

/// Looks at a link every quarter of a second for `seconds` while nothing arrives; returns the agents in doubt.
fn in_silence(link: &Link, seconds: u64) -> HashSet<AgentRun> {
    let from = link.now();
    let quarters = 1..=4 * seconds;
    quarters
        .flat_map(|it| link.probed.look(from + Duration::from_millis(250 * it)))
        .collect()
}

/// A link that waits for nothing.
fn at_rest() -> Link {
    let mut link = Link::established();
    link.relay.confirm();
    link.pump_down();
    link.pump_up();
    link.probed.look(seconds_on(&link, 1));
    assert_eq!(link.probed.len(), 0);
    link
}

#[test]
fn a_link_whose_agent_falls_silent_within_a_download_is_ended() {
    let mut link = at_rest();
    let (_session, id) = link.open_to_targets(1).remove(0);
    link.relay.confirm();
    link.pump_down();
    link.pump_up();
    link.probed.look(seconds_on(&link, 1));
    assert_eq!(link.probed.len(), 0);
    link.agent.send(id, "piece".into(), false).unwrap();
    link.pump_up();
    assert_eq!(link.probed.len(), 1);
    in_silence(&link, 3);
    assert_eq!(link.relay.closing(), None);
    in_silence(&link, 5);
    assert_eq!(link.relay.closing(), Some(LinkEnd::Stale));
}

#[test]
fn a_silent_link_puts_its_agent_in_doubt_once_if_the_agent_has_others() {
    let run = (AgentKey::new([1; 32]), InstanceId::new([3; 16]));
    for has_siblings in [true, false] {
        let mut link = Link::established();
        if has_siblings {
            link.relay.has_siblings(run);
        }
        let _session = link.open();
        link.pump_down();
        assert!(link.probed.look(seconds_on(&link, 1)).is_empty());
        let now = seconds_on(&link, 1);
        let doubted = link.probed.look(now + Duration::from_millis(500));
        assert_eq!(doubted.contains(&run), has_siblings);
        let later = link.probed.look(now + Duration::from_millis(750));
        assert!(later.is_empty());
    }
}

#[test]
fn a_link_that_is_to_confirm_itself_stays_if_it_answers_and_else_ends_and_doubts_no_other() {
    let mut link = at_rest();
    link.relay
        .has_siblings((AgentKey::new([1; 32]), InstanceId::new([3; 16])));
    link.relay.confirm();
    link.pump_down();
    link.pump_up();
    in_silence(&link, 4);
    assert_eq!(link.relay.closing(), None);

    link.relay.confirm();
    assert_eq!(link.probed.len(), 1);
    assert!(in_silence(&link, 4).is_empty());
    assert_eq!(link.relay.closing(), Some(LinkEnd::Stale));
}
