use tieline_wire::Event;

use super::rig::Link;
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
    given_up.reset(Reason::FrontendGone);
    link.pump_down();
    assert_eq!((link.counted(), link.relay.session_count()), (1, 1));

    link.relay.fail_sessions(Reason::LinkLost);
    assert_eq!(link.counted(), 0);
    drop(lost);
    assert_eq!(link.counted(), 0);
}

#[test]
fn an_offer_of_a_lane_is_good_for_one_connection() {
    use crate::io::{Chosen, Socket, pair, run};

    let link = Link::established();
    let session = link.open();
    session.want_lane();
    let nonce = link.offer(&session).unwrap();
    assert_eq!(shard_of(&nonce), 0);
    run(Chosen::Epoll, async {
        let mut arrived = [false; 2];
        for arrived in &mut arrived {
            let (ours, _theirs) = pair().unwrap();
            let socket = Socket::new(ours).unwrap();
            *arrived = link.lanes.arrived(socket, &nonce, Clock::start().now());
        }
        assert_eq!(arrived, [true, false]);
        assert!(session.lane().is_some());
        // The lane closes with its session, also where the runtime is about to end.
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
