//! Tests of a budget that several links share.

use std::sync::Arc;

use super::*;
use crate::limits::{SESSION_CREDIT_BYTES, SESSION_QUEUE_BYTES_MAX};

const MIB: u64 = 1024 * 1024;

/// `count` links: their relays share one budget, their agents another.
fn links(
    count: usize,
    relay_limit: u64,
    agent_limit: u64,
) -> (Vec<Pair>, Arc<SharedBudget>, Arc<SharedBudget>) {
    let budgets = [relay_limit, agent_limit].map(|limit| Arc::new(SharedBudget::new(limit)));
    let pairs = (0..count)
        .map(|_| {
            let mut pair = Pair::connected();
            pair.relay.share_budget(Arc::clone(&budgets[0]));
            pair.agent.share_budget(Arc::clone(&budgets[1]));
            pair
        })
        .collect();
    let [relay, agent] = budgets;
    (pairs, relay, agent)
}

#[test]
fn windows_of_all_links_stay_within_it_and_become_alike() {
    let (mut pairs, _, budget) = links(8, MIB, 4 * MIB);
    let sessions: Vec<_> = pairs.iter_mut().map(Pair::session).collect();
    // The first link has the budget to itself for a while.
    pairs[0].stream_to_agent(sessions[0], 20_000_000);
    assert!(budget.windows() > MIB);
    for _ in 0..40 {
        for (pair, id) in pairs.iter_mut().zip(&sessions) {
            pair.stream_to_agent(*id, 500_000);
            assert!(budget.windows() <= budget.limit());
        }
    }
    let share = u32::try_from(budget.limit() / 8).unwrap();
    for (pair, id) in pairs.iter().zip(&sessions) {
        let window = pair.agent.sessions.live(*id).unwrap().recv.credit.window();
        assert!(window <= share + SESSION_CREDIT_BYTES, "{window}");
        assert!(window >= share / 2, "{window}");
    }
    assert!(budget.short() > 0);
}

#[test]
fn a_link_that_ends_gives_all_back_whatever_it_held() {
    let (mut pairs, queue, windows) = links(2, 64 * MIB, 64 * MIB);
    for pair in &mut pairs {
        let id = pair.session();
        pair.stream_to_agent(id, 4_000_000);
        let len = pair.relay.send_capacity(id);
        pair.relay.send(id, vec![1; len].into(), false).unwrap();
    }
    let before = (queue.queued(), windows.windows());
    assert!(before.0 >= 256 * 1024 && before.1 > 0, "{before:?}");
    pairs.pop();
    assert_eq!(
        (queue.queued(), windows.windows()),
        (before.0 / 2, before.1 / 2)
    );
    pairs.pop();
    assert_eq!((queue.queued(), windows.windows()), (0, 0));
}

#[test]
fn a_full_queue_elsewhere_holds_a_sender_to_what_it_starts_with_until_it_drains() {
    let (mut pairs, queue, _) = links(2, 512 * 1024, 64 * MIB);
    let ids: Vec<_> = pairs
        .iter_mut()
        .map(|pair| {
            let ids = [(); 3].map(|()| pair.session());
            for id in ids {
                pair.stream_to_agent(id, 4_000_000);
            }
            ids
        })
        .collect();
    for id in ids[0] {
        let len = pairs[0].relay.send_capacity(id);
        pairs[0].relay.send(id, vec![1; len].into(), false).unwrap();
    }
    assert!(queue.queued() >= queue.limit(), "{}", queue.queued());
    // Never 0: no event would wake this sender when another link drains.
    let capacity = pairs[1].relay.send_capacity(ids[1][0]);
    assert!(capacity > 0 && capacity < SESSION_CREDIT_BYTES as usize);
    pairs[0].exchange();
    assert_eq!(queue.queued(), 0);
    let capacity = pairs[1].relay.send_capacity(ids[1][0]);
    assert!(capacity > SESSION_QUEUE_BYTES_MAX / 2, "{capacity}");
}

#[test]
fn small_messages_do_not_touch_it() {
    let (mut pairs, queue, _) = links(1, MIB, MIB);
    let id = pairs[0].session();
    for _ in 0..50 {
        pairs[0].relay.send(id, vec![1; 256].into(), true).unwrap();
        assert_eq!(queue.queued(), 0);
        pairs[0].exchange();
        pairs[0].consume_at_agent(id);
        pairs[0].exchange();
    }
}

#[test]
fn stalled_sessions_with_large_windows_leave_the_others_room() {
    let (mut pairs, _, budget) = links(8, MIB, 16 * MIB);
    for pair in &mut pairs[..4] {
        // The window grows as far as it can, then the reader stops reading.
        let id = pair.session();
        pair.stream_to_agent(id, 60_000_000);
        let len = pair.relay.send_capacity(id);
        pair.relay.send(id, vec![1; len].into(), false).unwrap();
        pair.exchange();
    }
    let stalled = budget.windows();
    assert!(
        stalled > 6 * MIB && stalled <= 8 * MIB + 4 * 256 * 1024,
        "{stalled}"
    );
    for pair in &mut pairs[4..] {
        let id = pair.session();
        pair.stream_to_agent(id, 4_000_000);
        let window = pair.agent.sessions.live(id).unwrap().recv.credit.window();
        assert!(window >= 256 * 1024, "{window}");
    }
}

#[test]
fn what_is_left_of_an_ended_session_counts_until_it_is_taken() {
    let budget = Arc::new(SharedBudget::new(MIB));
    let (one, other) = (budget.charge(700_000), budget.charge(700_000));
    assert_eq!(budget.windows(), 1_400_000);
    let mut pair = Pair::connected();
    pair.agent.share_budget(Arc::clone(&budget));
    let id = pair.session();
    pair.stream_to_agent(id, 500_000);
    let window = |pair: &Pair| pair.agent.sessions.live(id).unwrap().recv.credit.window();
    assert_eq!(window(&pair), SESSION_CREDIT_BYTES);
    drop((one, other));
    pair.stream_to_agent(id, 500_000);
    assert!(window(&pair) > SESSION_CREDIT_BYTES);
}
