//! Tests of route updates in various orders, and of what callers find by them.

mod kinds;
mod several;

use std::collections::BTreeSet;

use tieline_wire::{Generation, Scheme};

use super::*;
use crate::auth::Owner;
use crate::directory::ServingLink;
use crate::listen::http::{AgentBinding, TargetQuery};
use crate::registry::{LinkId, LinkRef};
use crate::session::Load;

const NOW: Moment = Moment::from_micros(0);

fn tunnel(name: &str) -> TunnelId {
    TunnelId::parse(name).unwrap()
}

/// An agent with these links, whose target serves callers under `base_path`.
fn agent(tag: u8, links: &[(usize, u64)], base_path: &str) -> ServingAgent {
    let link = |(shard, id): &(usize, u64)| ServingLink {
        at: LinkRef {
            shard: *shard,
            link: LinkId(*id),
        },
        load: Load::default(),
    };
    ServingAgent {
        tag: AgentTag([tag; 8]),
        generation: Generation(tag.into()),
        info: info(base_path, "farm"),
        links: links.iter().map(link).collect(),
    }
}

fn info(base_path: &str, sub: &str) -> Arc<TunnelInfo> {
    let owner = Owner {
        sub: sub.to_owned(),
        groups: Vec::new(),
    };
    Arc::new(TunnelInfo {
        scheme: Scheme::Http,
        authority: "127.0.0.1:1".to_owned(),
        base_path: base_path.to_owned(),
        dcc: "maya".to_owned(),
        owner: Some(Arc::new(owner)),
        shared: true,
        ..TunnelInfo::default()
    })
}

fn route(name: &str, revision: u64, agents: Vec<ServingAgent>) -> Arc<RouteUpdate> {
    let info = agents.last().map(|agent| Arc::clone(&agent.info));
    Arc::new(RouteUpdate {
        expected: Vec::new(),
        tunnel: tunnel(name),
        revision,
        agents,
        info: info.unwrap_or_else(|| self::info("", "farm")),
        forget: false,
    })
}

/// The tunnel `maya` with one agent, or without an agent if `links` is empty.
fn update(revision: u64, links: &[(usize, u64)]) -> Arc<RouteUpdate> {
    let agents = Vec::from_iter((!links.is_empty()).then(|| agent(1, links, "")));
    route("maya", revision, agents)
}

fn lookup(routes: &Routes, shard: usize, choice: Choice) -> Lookup {
    routes.lookup(&tunnel("maya"), shard, choice, |_| true)
}

fn link(routes: &Routes, shard: usize) -> Option<(usize, u64)> {
    match lookup(routes, shard, Choice::Any) {
        Lookup::Live(link) => Some((link.shard, link.link.0)),
        _ => None,
    }
}

fn kind() -> TunnelSelector {
    TunnelSelector::Kind("maya".to_owned())
}

fn maya() -> TunnelSelector {
    TunnelSelector::Tunnel(tunnel("maya"))
}

fn wanted(selector: TunnelSelector) -> TargetQuery {
    TargetQuery {
        selector,
        dcc: None,
        binding: None,
        path: "/mcp".to_owned(),
        is_invited: false,
    }
}

fn find(routes: &Routes, wanted: &TargetQuery) -> Found {
    routes.find(&Search {
        wanted,
        stale: None,
        tried: &[],
        whose: &[OwnerGroup::Anybody],
        fit: &|_, _| true,
        kept: &|_, _| false,
    })
}

/// Name and agent of the target that was found.
fn place(found: &Found) -> Option<(String, u8)> {
    match found {
        Found::Target(target) => Some((target.tunnel.as_str().to_owned(), target.agent.0[0])),
        _ => None,
    }
}

/// Sets the number of sessions of an agent.
fn keep_busy(update: &RouteUpdate, place: usize, sessions: usize) {
    update.agents[place].links[0].load.set(sessions);
}

#[test]
fn an_older_decision_never_replaces_a_newer_one() {
    let mut routes = Routes::default();
    routes.apply(update(2, &[(0, 2)]), NOW);
    routes.apply(update(1, &[(0, 1)]), NOW);
    assert_eq!(link(&routes, 0), Some((0, 2)));
}

#[test]
fn a_name_without_links_is_offline_and_a_forgotten_one_unknown() {
    let mut routes = Routes::default();
    assert_eq!(lookup(&routes, 0, Choice::Any), Lookup::Unknown);
    routes.apply(update(1, &[]), NOW);
    assert_eq!(lookup(&routes, 0, Choice::Any), Lookup::Offline);
    let forget = RouteUpdate {
        forget: true,
        ..(*update(2, &[])).clone()
    };
    routes.apply(Arc::new(forget), NOW);
    assert_eq!(lookup(&routes, 0, Choice::Any), Lookup::Unknown);
}

#[test]
fn a_change_wakes_who_waits_for_it_and_nobody_else() {
    let mut routes = Routes::default();
    routes.apply(update(1, &[]), NOW);
    let mut maya = routes.changed(&maya(), true).unwrap();
    let mut kind = routes.changed(&kind(), true).unwrap();
    let mut other = routes
        .changed(&TunnelSelector::Kind("other".to_owned()), true)
        .unwrap();
    routes.apply(update(1, &[(0, 1)]), NOW);
    assert!(
        maya.try_recv().is_err(),
        "an update with the same revision woke a caller"
    );
    routes.apply(update(2, &[(0, 1)]), NOW);
    assert!(maya.try_recv().is_ok() && kind.try_recv().is_ok());
    assert!(other.try_recv().is_err());
    assert_eq!(routes.waiting_count, 1);
}

#[test]
fn who_waits_is_bounded_and_who_left_does_not_count() {
    let mut routes = Routes::default();
    let mut waiting: Vec<_> = (0..WAITING_MAX)
        .map(|_| routes.changed(&maya(), true).unwrap())
        .collect();
    assert!(routes.changed(&maya(), true).is_none());
    waiting.pop();
    assert!(routes.changed(&maya(), true).is_some());
}

#[test]
fn a_name_is_offline_since_its_last_link_left() {
    let mut routes = Routes::default();
    let at = Moment::from_micros;
    routes.apply(update(1, &[(0, 1)]), at(1));
    routes.apply(update(2, &[]), at(2));
    routes.apply(update(3, &[]), at(3));
    for selector in [maya(), kind()] {
        let Found::Offline(since) = find(&routes, &wanted(selector)) else {
            panic!("the tunnel was not found offline")
        };
        assert_eq!(since, at(2));
    }
    assert!(routes.is_kind(&tunnel("maya"), "maya", |_| true));
    assert!(!routes.is_kind(&tunnel("maya"), "blender", |_| true));
    assert!(!routes.is_kind(&tunnel("maya"), "maya", |_| false));
}

#[test]
fn a_target_without_an_address_is_of_no_use() {
    let mut routes = Routes::default();
    let mut nowhere = agent(1, &[(0, 1)], "");
    nowhere.info = Arc::default();
    routes.apply(route("maya", 1, vec![nowhere]), NOW);
    assert!(matches!(find(&routes, &wanted(maya())), Found::Unusable));
}

#[test]
fn a_link_on_the_same_shard_is_preferred_and_several_take_turns() {
    let mut routes = Routes::default();
    routes.apply(update(1, &[(0, 1), (1, 2), (1, 3)]), NOW);
    assert_eq!(link(&routes, 0), Some((0, 1)));
    let used: BTreeSet<_> = (0..6).map(|_| link(&routes, 1)).collect();
    assert_eq!(used, [Some((1, 2)), Some((1, 3))].into());
}

#[test]
fn tunnels_are_listed_in_order_to_who_may_reach_them() {
    let mut routes = Routes::default();
    for number in (0..2 * LIST_COUNT + 10).rev() {
        let name = format!("n{number:04}");
        let agents = Vec::from_iter((number % 2 == 0).then(|| agent(1, &[(0, 1)], "/mcp")));
        routes.apply(route(&name, 1, agents), NOW);
    }
    let (mut after, mut all, mut turns) = (Some(String::new()), Vec::new(), 0);
    while let Some(name) = after {
        let (some, next) = routes.list(&name, |tunnel, _| !tunnel.as_str().ends_with('7'));
        all.extend(some.iter().map(|it| serde_json::to_value(it).unwrap()));
        (after, turns) = (next, turns + 1);
    }
    let names: Vec<_> = all
        .iter()
        .map(|it| it["tunnel_id"].as_str().unwrap())
        .collect();
    assert!(
        names.is_sorted() && names.len() == 459 && turns == 3,
        "{turns} {}",
        names.len()
    );
    assert_eq!(
        (&all[0]["online"], &all[1]["online"]),
        (&true.into(), &false.into())
    );
    assert_eq!(all[0]["path"], "/w/n0000/mcp");
    let forget = RouteUpdate {
        forget: true,
        ..(*route("n0000", 2, vec![])).clone()
    };
    routes.apply(Arc::new(forget), NOW);
    let (some, _) = routes.list("", |_, _| true);
    assert_eq!(
        serde_json::to_value(&some[0]).unwrap()["tunnel_id"],
        "n0001"
    );
}
