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
