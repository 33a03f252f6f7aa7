use super::*;
use crate::limits::{
    DATA_BYTES_MAX, SESSION_CREDIT_BYTES, SESSION_QUEUE_BYTES_MAX, SESSION_WINDOW_BYTES_MAX,
};

const FLOOR: usize = SESSION_CREDIT_BYTES as usize;

fn window_of(pair: &Pair, id: SessionId) -> usize {
    let session = pair.agent.sessions.live(id).unwrap();
    session.recv.credit.window() as usize
}

#[test]
fn a_session_starts_with_the_floor() {
    let mut pair = Pair::connected();
    let id = pair.session();
    assert_eq!(pair.relay.send_capacity(id), FLOOR - HEADER_BYTES);
    assert_eq!(pair.agent.send_capacity(id), FLOOR - HEADER_BYTES);
    let too_much = vec![0; FLOOR - HEADER_BYTES + 1];
    assert_eq!(
        pair.relay.send(id, too_much.into(), false),
        Err(SendError::Short)
    );
}

#[test]
fn more_than_the_credit_ends_the_link() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let most = raw(Kind::Data, id.0, &vec![0; FLOOR - HEADER_BYTES]);
    give_input(&mut pair.agent, pair.now, most).unwrap();
    let error = give_input(&mut pair.agent, pair.now, raw(Kind::Data, id.0, b"")).unwrap_err();
    assert_eq!(error.reason, LinkEnd::CreditOverrun);
}

#[test]
fn an_oversized_frame_ends_the_link_before_its_payload_is_read() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let header = frame::encode(Kind::Data, id, DATA_BYTES_MAX + 1, false);
    let error = give_input(&mut pair.agent, pair.now, header.to_vec()).unwrap_err();
    assert_eq!(error.reason, LinkEnd::FrameTooLong);
    let mut pair = Pair::connected();
    let id = pair.session();
    // Within the frame limit, but beyond the credit.
    let header = frame::encode(Kind::Data, id, DATA_BYTES_MAX, false);
    let error = give_input(&mut pair.agent, pair.now, header.to_vec()).unwrap_err();
    assert_eq!(error.reason, LinkEnd::CreditOverrun);
}

#[test]
fn what_a_reader_takes_comes_back_as_credit() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 1_000_000);
    assert_eq!(pair.agent.counters().bytes_received, 1_000_000);
    assert_eq!(pair.relay.counters().bytes_sent, 1_000_000);
}

#[test]
fn what_a_reader_does_not_take_gives_no_credit() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let len = pair.relay.send_capacity(id);
    pair.relay.send(id, vec![0; len].into(), false).unwrap();
    pair.pass(Duration::from_secs(600));
    assert_eq!(pair.relay.send_capacity(id), 0);
    // Neither one consumed byte nor a reader that reports too many bytes twice pays for the rest.
    pair.agent.consumed(id, 1);
    pair.exchange();
    assert_eq!(pair.relay.send_capacity(id), 0);
    pair.agent.consumed(id, usize::MAX);
    pair.agent.consumed(id, usize::MAX);
    pair.exchange();
    let window = 2 * FLOOR - HEADER_BYTES;
    assert!(pair.relay.send_capacity(id) <= window);
}

#[test]
fn a_window_grows_while_its_reader_keeps_up_and_never_past_the_largest() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let mut credit = 0;
    for _ in 0..4000 {
        pair.stream_to_agent(id, 100_000);
        let session = pair.relay.sessions.live(id).unwrap();
        credit = credit.max(session.send.credit.left());
    }
    assert!(credit > SESSION_WINDOW_BYTES_MAX / 2);
    assert!(credit <= SESSION_WINDOW_BYTES_MAX);
}

#[test]
fn a_sender_idle_for_a_second_returns_what_is_above_the_floor() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 5_000_000);
    assert!(pair.relay.send_capacity(id) > FLOOR);
    assert!(pair.agent.budget.used() > 0);
    pair.pass(millis(900));
    assert!(pair.relay.send_capacity(id) > FLOOR);
    pair.pass(millis(200));
    assert_eq!(pair.relay.send_capacity(id), FLOOR - HEADER_BYTES);
    assert_eq!(pair.agent.budget.used(), 0);
    // The session still works, and its window grows again.
    pair.stream_to_agent(id, 5_000_000);
    assert!(pair.relay.send_capacity(id) > FLOOR);
}

#[test]
fn idle_credit_returns_in_time_while_other_sessions_are_busy() {
    let mut pair = Pair::connected();
    let (idle, busy) = (pair.session(), pair.session());
    pair.stream_to_agent(idle, 5_000_000);
    for _ in 0..15 {
        pair.now = pair.now + millis(100);
        pair.stream_to_agent(busy, 1000);
        if pair.relay.poll_timeout() <= pair.now {
            pair.relay.handle_timeout(pair.now).unwrap();
        }
    }
    pair.exchange();
    assert_eq!(pair.relay.send_capacity(idle), FLOOR - HEADER_BYTES);
}

#[test]
fn a_sender_whose_bytes_wait_for_the_link_is_not_idle() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 5_000_000);
    pair.relay.send(id, vec![0; 20_000].into(), false).unwrap();
    pair.now = pair.now + millis(1500);
    pair.handle_timeouts();
    assert!(pair.relay.send_capacity(id) > FLOOR);
}

#[test]
fn a_late_grant_is_not_returned_before_it_can_be_used() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 5_000_000);
    // The reader stalls for a long time, with the whole window used.
    while pair.relay.send_capacity(id) > 0 {
        let len = pair.relay.send_capacity(id);
        pair.relay.send(id, vec![0; len].into(), false).unwrap();
        pair.exchange();
    }
    pair.pass(Duration::from_secs(10));
    pair.consume_at_agent(id);
    pair.exchange();
    pair.handle_timeouts();
    assert!(pair.relay.send_capacity(id) > FLOOR);
}

#[test]
fn a_finished_direction_holds_no_budget() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 5_000_000);
    pair.relay.finish(id);
    pair.exchange();
    assert_eq!(pair.agent.session_count(), 1);
    assert_eq!(pair.agent.budget.used(), 0);
    pair.pass(Duration::from_secs(5));
    pair.relay.reset(id, SessionEnd::Cancelled);
    pair.exchange();
    assert_eq!(pair.agent.session_count(), 0);
    assert_eq!(pair.agent.budget.used(), 0);
}

#[test]
fn a_budget_bounds_all_windows_of_a_link_and_is_shared() {
    let budget = 4 * 1024 * 1024;
    let mut pair = Pair::with(Settings {
        budget_bytes: budget,
        ..Settings::default()
    });
    let sessions: Vec<_> = (0..8).map(|_| pair.session()).collect();
    // The first session has the budget to itself for a while.
    pair.stream_to_agent(sessions[0], 10_000_000);
    let alone = window_of(&pair, sessions[0]);
    for _ in 0..40 {
        for id in &sessions {
            pair.stream_to_agent(*id, 500_000);
            assert!(pair.agent.budget.used() <= budget);
        }
    }
    let share = usize::try_from(budget).unwrap() / sessions.len();
    for id in &sessions {
        let window = window_of(&pair, *id);
        assert!(window <= share + FLOOR, "{window}");
        assert!(window >= share / 2, "{window}");
    }
    assert!(alone > 2 * share);
    for id in sessions {
        pair.relay.reset(id, SessionEnd::Cancelled);
    }
    pair.exchange();
    assert_eq!(pair.agent.budget.used(), 0);
}

#[test]
fn idle_sessions_do_not_keep_a_busy_one_small() {
    let mut pair = Pair::connected();
    for _ in 0..5000 {
        pair.session();
    }
    let id = pair.session();
    pair.stream_to_agent(id, 20_000_000);
    assert!(window_of(&pair, id) > 1024 * 1024);
}

#[test]
fn a_blocked_session_is_named_once_when_credit_comes() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let len = pair.relay.send_capacity(id);
    pair.relay.send(id, vec![0; len].into(), false).unwrap();
    pair.exchange();
    assert_eq!(pair.relay.poll_writable(), None, "no capacity asked for");
    assert_eq!(pair.relay.send_capacity(id), 0);
    assert_eq!(pair.relay.send_capacity(id), 0);
    assert_eq!(pair.relay.poll_writable(), None);
    pair.consume_at_agent(id);
    pair.exchange();
    assert_eq!(pair.relay.poll_writable(), Some(id));
    assert_eq!(pair.relay.poll_writable(), None);
    assert!(pair.relay.send_capacity(id) > 0);
}

#[test]
fn a_session_blocked_by_its_queue_is_named_once_when_the_link_takes_bytes() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 20_000_000);
    let mut queued = 0;
    while pair.relay.send_capacity(id) > 0 {
        let len = pair.relay.send_capacity(id).min(50_000);
        pair.relay.send(id, vec![0; len].into(), false).unwrap();
        queued += len;
    }
    assert!(queued <= SESSION_QUEUE_BYTES_MAX, "{queued}");
    assert!(queued > SESSION_QUEUE_BYTES_MAX / 2, "{queued}");
    let session = pair.relay.sessions.live(id).unwrap();
    assert!(session.send.credit.left() > 0, "credit is left");
    take_one_send(&mut pair.relay, pair.now);
    assert_eq!(pair.relay.poll_writable(), Some(id));
    assert_eq!(pair.relay.poll_writable(), None);
    assert!(pair.relay.send_capacity(id) > 0);
}

#[test]
fn a_session_filled_again_before_anybody_polled_is_named_once_and_in_time() {
    let mut pair = Pair::connected();
    let id = pair.session();
    for _ in 0..2 {
        let len = pair.relay.send_capacity(id);
        pair.relay.send(id, vec![0; len].into(), false).unwrap();
        assert_eq!(pair.relay.send_capacity(id), 0);
        pair.exchange();
        pair.consume_at_agent(id);
        pair.exchange();
    }
    // Both grants listed the session, but only one wake-up is due.
    let len = pair.relay.send_capacity(id);
    pair.relay.send(id, vec![0; len].into(), false).unwrap();
    assert_eq!(pair.relay.poll_writable(), None, "no capacity right now");
    pair.exchange();
    pair.consume_at_agent(id);
    pair.exchange();
    assert_eq!(pair.relay.poll_writable(), Some(id));
    assert_eq!(pair.relay.poll_writable(), None);
}

#[test]
fn a_session_that_ended_while_blocked_is_not_named() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let len = pair.relay.send_capacity(id);
    pair.relay.send(id, vec![0; len].into(), false).unwrap();
    assert_eq!(pair.relay.send_capacity(id), 0);
    pair.relay.finish(id);
    pair.exchange();
    pair.consume_at_agent(id);
    pair.exchange();
    assert_eq!(pair.relay.poll_writable(), None);
}

#[test]
fn tiny_messages_are_bounded_by_their_headers_too() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 20_000_000);
    let mut count = 0;
    while pair.relay.send(id, Bytes::new(), true).is_ok() {
        count += 1;
    }
    assert!(count <= SESSION_QUEUE_BYTES_MAX / HEADER_BYTES);
    assert_eq!(pair.relay.send_capacity(id), 0);
    take_output(&mut pair.relay, pair.now);
    assert_eq!(pair.relay.poll_writable(), Some(id));
}

#[test]
fn empty_messages_wait_for_their_reader_like_any_other() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let mut sent = 0;
    while pair.relay.send(id, Bytes::new(), true).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, FLOOR / HEADER_BYTES);
    pair.exchange();
    assert_eq!(pair.agent_events.len(), sent);
    assert_eq!(pair.relay.send_capacity(id), 0, "no message was read");
    for _ in 0..sent {
        pair.agent.consumed(id, 0);
    }
    pair.exchange();
    assert_eq!(pair.relay.poll_writable(), Some(id));
    assert!(pair.relay.send(id, Bytes::new(), true).is_ok());
}

#[test]
fn empty_frames_that_carry_nothing_cost_their_sender_nothing_for_good() {
    let mut pair = Pair::connected();
    let id = pair.session();
    for _ in 0..10_000 {
        give_input(&mut pair.agent, pair.now, raw(Kind::Data, id.0, b"")).unwrap();
        take_output(&mut pair.agent, pair.now);
    }
}

#[test]
fn a_link_that_takes_nothing_bounds_what_its_sessions_queue_together() {
    let mut pair = Pair::connected();
    let sessions: Vec<_> = (0..2000).map(|_| pair.session()).collect();
    let grant = 1024 * 1024_u32;
    for id in &sessions {
        // A peer that grants far more than its budget.
        let credit = raw(Kind::Credit, id.0, &grant.to_le_bytes());
        give_input(&mut pair.relay, pair.now, credit).unwrap();
    }
    let mut queued = 0;
    for id in &sessions {
        loop {
            let len = pair.relay.send_capacity(*id);
            if len == 0 {
                break;
            }
            pair.relay.send(*id, vec![0; len].into(), false).unwrap();
            queued += len;
        }
    }
    let most = crate::limits::LINK_QUEUE_BYTES_MAX + SESSION_QUEUE_BYTES_MAX + 2000 * FLOOR;
    assert!(queued <= most, "{queued}");
    take_output(&mut pair.relay, pair.now);
    let woken = std::iter::from_fn(|| pair.relay.poll_writable()).count();
    assert_eq!(woken, sessions.len(), "all have capacity");
}

#[test]
fn a_grant_past_the_largest_window_or_a_false_return_ends_the_link() {
    let mut pair = Pair::connected();
    let id = pair.session();
    let most = SESSION_WINDOW_BYTES_MAX - SESSION_CREDIT_BYTES;
    let credit = raw(Kind::Credit, id.0, &most.to_le_bytes());
    give_input(&mut pair.relay, pair.now, credit).unwrap();
    let credit = raw(Kind::Credit, id.0, &1_u32.to_le_bytes());
    let error = give_input(&mut pair.relay, pair.now, credit).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
    let credit = raw(Kind::CreditReturn, id.0, &1_u32.to_le_bytes());
    let error = give_input(&mut pair.agent, pair.now, credit).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

#[test]
fn what_an_idle_reader_had_not_granted_yet_leaves_the_budget_too() {
    let mut pair = Pair::connected();
    let id = pair.session();
    pair.stream_to_agent(id, 20_000_000);
    // Less than half a window: the bytes are consumed, but no grant is large enough to justify a frame.
    pair.stream_to_agent(id, 1_000_000);
    pair.pass(Duration::from_secs(3));
    assert_eq!(pair.agent.budget.used(), 0);
}
