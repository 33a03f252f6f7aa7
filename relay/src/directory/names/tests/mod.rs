//! Tests of claims in various orders, on a home shard without other shards.

mod binding;
mod sharing;

use tieline_wire::{AgentKey, InstanceId, MachineId, Scheme};

use super::holder::SUPERSEDED_KEPT;
use super::*;
use crate::Config;
use crate::directory::route::Upstream;
use crate::registry::{LinkId, TunnelInfo};
use crate::session::Load;

pub(super) const LATER: Moment = Moment::from_micros(10_000_000);

pub(super) fn names(shards: usize, live_max: usize) -> Names {
    let config = Config {
        max_tunnels: live_max,
        ..Config::default()
    };
    Names::new(Rules {
        epoch_seconds: 1,
        shards,
        live: Arc::new(AtomicUsize::new(0)),
        live_max,
        live_of_accounts: Arc::new(LiveTunnels::new(&config)),
        is_kept: true,
    })
}

pub(super) fn link(shard: usize, id: u64) -> LinkRef {
    LinkRef {
        shard,
        link: LinkId(id),
    }
}

pub(super) fn claim(name: &str, key: u8, instance: u8, link: LinkRef) -> Claim {
    Claim {
        tunnel: TunnelId::parse(name).unwrap(),
        key: AgentKey::new([key; 32]),
        machine: MachineId::new([1; 16]),
        instance: InstanceId::new([instance; 16]),
        link,
        address: [127, 0, 0, 1].into(),
        load: Load::default(),
        link_index: u16::try_from(link.link.0).unwrap(),
        request: 0,
        info: Arc::new(TunnelInfo {
            scheme: Scheme::Http,
            authority: "127.0.0.1:1".into(),
            base_path: String::new(),
            dcc: String::new(),
            capabilities: Vec::new(),
            ..TunnelInfo::default()
        }),
    }
}

/// The links of a route, agent by agent.
pub(super) fn links(update: &RouteUpdate) -> Vec<LinkRef> {
    let agents = update.agents.iter();
    agents
        .flat_map(|agent| {
            agent.links.iter().map(|link| match link.at {
                Upstream::Link(link) => link,
            })
        })
        .collect()
}

fn generation(update: &RouteUpdate) -> Generation {
    update.agents[0].generation
}

pub(super) fn claimed(decision: Decision) -> (RouteUpdate, Vec<LinkRef>) {
    match decision {
        Decision::Claimed { update, fence } => (update, fence),
        Decision::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

pub(super) fn refused(decision: Decision) -> RefusalReason {
    match decision {
        Decision::Refused(refusal) => refusal.reason,
        Decision::Claimed { .. } => panic!("claimed"),
    }
}

#[test]
fn a_claim_is_acknowledged_once_every_shard_has_it() {
    let mut names = names(3, 10);
    let maya = TunnelId::parse("maya").unwrap();
    let (update, _) = claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    assert!(names.confirm(&maya, update.revision, 0).is_empty());
    assert!(names.confirm(&maya, update.revision, 0).is_empty());
    assert!(names.confirm(&maya, update.revision, 2).is_empty());
    let confirmed = names.confirm(&maya, update.revision, 1);
    assert_eq!(confirmed[0].link, link(0, 1));
    assert_eq!(confirmed[0].generation, generation(&update));
    assert!(names.confirm(&maya, update.revision, 1).is_empty());
}

#[test]
fn the_same_key_with_a_new_instance_takes_over_and_fences() {
    let mut names = names(1, 10);
    let (first, _) = claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    let (more, fence) = claimed(names.claim(claim("maya", 1, 1, link(0, 2)), LATER));
    assert_eq!(
        (generation(&more), fence.len(), links(&more).len()),
        (generation(&first), 0, 2)
    );
    let (second, fence) = claimed(names.claim(claim("maya", 1, 2, link(0, 3)), LATER));
    assert!(generation(&second) > generation(&first) && second.revision > more.revision);
    assert_eq!(fence, [link(0, 1), link(0, 2)]);
    assert_eq!(links(&second), [link(0, 3)]);
    // The late release of a fenced link changes nothing.
    let maya = TunnelId::parse("maya").unwrap();
    assert!(
        names
            .release(&maya, link(0, 1), ReleaseKind::Away, LATER)
            .update
            .is_none()
    );
}

#[test]
fn another_key_is_refused_also_while_the_agent_is_away() {
    let mut names = names(1, 10);
    let maya = TunnelId::parse("maya").unwrap();
    claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    assert_eq!(
        refused(names.claim(claim("maya", 2, 1, link(0, 2)), LATER)),
        RefusalReason::NameTaken
    );
    let released = names.release(&maya, link(0, 1), ReleaseKind::Away, LATER);
    let update = released.update.unwrap();
    assert!(update.agents.is_empty() && !update.forget);
    assert_eq!(
        refused(names.claim(claim("maya", 2, 1, link(0, 2)), LATER)),
        RefusalReason::NameBound
    );
    let (_, forgotten) = names.sweep(LATER + OFFLINE_KEPT);
    assert!(forgotten[0].forget && forgotten[0].revision > update.revision);
    claimed(names.claim(claim("maya", 2, 1, link(0, 2)), LATER));
}

#[test]
fn a_claim_that_not_every_shard_hears_of_is_withdrawn() {
    let mut names = names(2, 10);
    let (update, _) = claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    names.confirm(&update.tunnel, update.revision, 0);
    assert!(names.sweep(LATER).0.is_empty());
    let (withdrawn, _) = names.sweep(LATER + CLAIM_TIMEOUT);
    assert_eq!(withdrawn[0].link, link(0, 1));
    assert!(
        withdrawn[0]
            .released
            .update
            .as_ref()
            .unwrap()
            .agents
            .is_empty()
    );
    assert!(names.confirm(&update.tunnel, update.revision, 1).is_empty());
}

#[test]
fn the_number_of_live_names_is_limited_for_the_whole_relay() {
    let mut names = names(1, 2);
    claimed(names.claim(claim("a", 1, 1, link(0, 1)), LATER));
    claimed(names.claim(claim("b", 1, 1, link(0, 1)), LATER));
    assert_eq!(
        refused(names.claim(claim("c", 1, 1, link(0, 1)), LATER)),
        RefusalReason::TunnelLimit
    );
    claimed(names.claim(claim("b", 1, 2, link(0, 2)), LATER));
    names.release(
        &TunnelId::parse("a").unwrap(),
        link(0, 1),
        ReleaseKind::Away,
        LATER,
    );
    claimed(names.claim(claim("c", 1, 1, link(0, 1)), LATER));
}

#[test]
fn offline_names_are_remembered_up_to_a_number() {
    let mut names = names(1, 4);
    for index in 0..20_u64 {
        let name = format!("n{index}");
        claimed(names.claim(claim(&name, 1, 1, link(0, index)), LATER));
        let id = TunnelId::parse(&name).unwrap();
        names.release(
            &id,
            link(0, index),
            ReleaseKind::Away,
            Moment::from_micros(index),
        );
    }
    let (_, forgotten) = names.sweep(LATER);
    assert_eq!(forgotten.len(), 20 - 9);
    assert!(
        forgotten
            .iter()
            .any(|update| update.tunnel.as_str() == "n0")
    );
}

#[test]
fn an_instance_that_was_superseded_never_gets_the_name_back() {
    let mut names = names(1, 10);
    let maya = TunnelId::parse("maya").unwrap();
    claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    claimed(names.claim(claim("maya", 1, 2, link(0, 2)), LATER));
    // The superseded run's link broke before the run heard of the takeover, so it dials again.
    assert_eq!(
        refused(names.claim(claim("maya", 1, 1, link(0, 3)), LATER)),
        RefusalReason::Superseded
    );
    names.release(&maya, link(0, 2), ReleaseKind::Away, LATER);
    assert_eq!(
        refused(names.claim(claim("maya", 1, 1, link(0, 3)), LATER)),
        RefusalReason::Superseded
    );
    let (update, _) = claimed(names.claim(claim("maya", 1, 2, link(0, 4)), LATER));
    assert_eq!(links(&update), [link(0, 4)]);
    // The number of remembered runs is limited.
    for instance in 3..100 {
        claimed(names.claim(claim("maya", 1, instance, link(0, 5)), LATER));
    }
    assert_eq!(
        names.names[&maya].holders[0].superseded.len(),
        SUPERSEDED_KEPT
    );
}

#[test]
fn a_link_that_dials_again_takes_the_place_of_the_one_it_lost() {
    let mut names = names(1, 10);
    let numbered = |id, index| Claim {
        link_index: index,
        ..claim("maya", 1, 1, link(0, id))
    };
    let (first, _) = claimed(names.claim(numbered(1, 0), LATER));
    claimed(names.claim(numbered(2, 1), LATER));
    // The agent's network changed, and the relay still counts the first link as live.
    let (update, fence) = claimed(names.claim(numbered(3, 0), LATER));
    assert_eq!(links(&update), [link(0, 2), link(0, 3)]);
    assert_eq!((generation(&update), fence.len()), (generation(&first), 0));
    // The first link turns stale later, which changes nothing.
    let released = names.release(&update.tunnel, link(0, 1), ReleaseKind::Away, LATER);
    assert!(released.update.is_none());
}

#[test]
fn every_claim_of_a_link_is_answered_once() {
    let mut names = names(2, 10);
    let maya = TunnelId::parse("maya").unwrap();
    let asked = |request| Claim {
        request,
        ..claim("maya", 1, 1, link(0, 1))
    };
    let (first, _) = claimed(names.claim(asked(1), LATER));
    names.confirm(&maya, first.revision, 0);
    let (second, _) = claimed(names.claim(asked(2), LATER));
    assert!(names.confirm(&maya, first.revision, 1).is_empty());
    assert!(names.confirm(&maya, second.revision, 0).is_empty());
    let answered: Vec<u32> = names
        .confirm(&maya, second.revision, 1)
        .iter()
        .map(|it| it.request)
        .collect();
    assert_eq!(answered, [1, 2]);

    claimed(names.claim(asked(3), LATER));
    claimed(names.claim(asked(4), LATER));
    let released = names.release(&maya, link(0, 1), ReleaseKind::Away, LATER);
    assert_eq!(released.requests, [3, 4]);
    assert!(names.sweep(LATER + CLAIM_TIMEOUT).0.is_empty());

    claimed(names.claim(asked(5), LATER));
    claimed(names.claim(asked(6), LATER + CLAIM_TIMEOUT / 2));
    let (withdrawn, _) = names.sweep(LATER + CLAIM_TIMEOUT);
    assert_eq!(withdrawn.len(), 1);
    assert_eq!(withdrawn[0].released.requests, [5, 6]);
}

#[test]
fn a_takeover_fences_links_that_were_still_waiting() {
    let mut names = names(2, 10);
    let numbered = |id, index| Claim {
        link_index: index,
        ..claim("maya", 1, 1, link(0, id))
    };
    claimed(names.claim(numbered(1, 0), LATER));
    claimed(names.claim(numbered(2, 0), LATER));
    let (_, fence) = claimed(names.claim(claim("maya", 1, 2, link(0, 3)), LATER));
    assert_eq!(fence, [link(0, 2), link(0, 1)]);
}

#[test]
fn a_tunnel_is_one_from_its_first_grant_to_its_last_link() {
    let mut names = names(1, 10);
    let maya = TunnelId::parse("maya").unwrap();
    let grant = |names: &mut Names, instance, id| {
        let (update, _) = claimed(names.claim(claim("maya", 1, instance, link(0, id)), LATER));
        assert_eq!(names.confirm(&maya, update.revision, 0).len(), 1);
    };
    let asked = claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    assert_eq!(names.granted(), 0);
    names.confirm(&maya, asked.0.revision, 0);
    grant(&mut names, 1, 2);
    // A takeover changes the holder of the tunnel, also before it is confirmed.
    grant(&mut names, 2, 3);
    assert_eq!(names.granted(), 1);
    grant(&mut names, 2, 4);
    names.release(&maya, link(0, 3), ReleaseKind::Away, LATER);
    assert_eq!(names.granted(), 1);
    names.release(&maya, link(0, 4), ReleaseKind::Away, LATER);
    names.release(&maya, link(0, 4), ReleaseKind::Away, LATER);
    assert_eq!(names.granted(), 0);
}
