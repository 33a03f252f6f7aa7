//! Tests of route updates in various orders, and of what callers find by them.

mod kinds;
mod several;

use std::collections::BTreeSet;

use tieline_wire::{Generation, Scheme};

use super::*;
use crate::auth::Owner;
use crate::directory::kinds::OwnerGroup;
use crate::directory::query::{AgentBinding, Among, Query, Stale};
use crate::directory::route::{ServingLink, Upstream};
use crate::registry::{LinkId, LinkRef};
use crate::session::Load;

/// What the tests make of an agent's description: nothing but its place.
#[derive(Clone, Debug)]
struct Seen {
    tunnel: TunnelId,
    agent: AgentTag,
    revision: u64,
}

type Routes = super::Routes<Seen>;

fn routes() -> Routes {
    Routes::new(|served| {
        let seen = Seen {
            tunnel: served.tunnel.clone(),
            agent: served.agent,
            revision: served.revision,
        };
        (!served.info.authority.is_empty()).then_some(seen)
    })
}

/// Outcome of a query, without borrowing the routes.
#[derive(Debug)]
enum Found {
    Unknown,
    Offline(Moment),
    Exhausted,
    Gone,
    Unusable,
    Target(Rc<Seen>),
}

/// What a caller asks for.
#[derive(Clone)]
struct Wanted {
    selector: TunnelSelector,
    binding: Option<AgentBinding>,
}

/// A query by a caller that asks for `/mcp` and may reach every tunnel.
fn query(wanted: &Wanted) -> Query<'_> {
    Query {
        binding: wanted.binding.as_ref(),
        serves: Some(&|info| "/mcp".starts_with(&info.base_path)),
        ..Query::new(
            Among::of(&wanted.selector, &[OwnerGroup::Anybody]),
            &|_, _| true,
        )
    }
}

fn answer(routes: &Routes, query: &Query<'_>) -> Found {
    match routes.resolve(query) {
        Resolved::Unknown => Found::Unknown,
        Resolved::Offline(since) => Found::Offline(since),
        Resolved::Exhausted => Found::Exhausted,
        Resolved::Gone => Found::Gone,
        Resolved::To(choice) => match choice.target {
            Some(seen) => Found::Target(Rc::clone(seen)),
            None => Found::Unusable,
        },
    }
}

const NOW: Moment = Moment::from_micros(0);

fn tunnel(name: &str) -> TunnelId {
    TunnelId::parse(name).unwrap()
}

/// An agent with these links, whose target serves callers under `base_path`.
fn agent(tag: u8, links: &[(usize, u64)], base_path: &str) -> ServingAgent {
    let link = |(shard, id): &(usize, u64)| ServingLink {
        at: Upstream::Link(LinkRef {
            shard: *shard,
            link: LinkId(*id),
        }),
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

/// The agent and the link for a raw caller, who stays on the shard `near` if possible.
fn raw(routes: &Routes, shard: usize, near: Option<usize>) -> Result<LinkRef, Lookup> {
    let maya = tunnel("maya");
    let query = Query {
        near,
        ..Query::new(Among::Tunnel(&maya), &|_, _| true)
    };
    let agent = match routes.resolve(&query) {
        Resolved::To(choice) => choice.agent,
        Resolved::Unknown => return Err(Lookup::Unknown),
        _ => return Err(Lookup::Offline),
    };
    upstream(routes, agent.0[0], shard)
}

fn upstream(routes: &Routes, agent: u8, shard: usize) -> Result<LinkRef, Lookup> {
    match routes.upstream(&tunnel("maya"), AgentTag([agent; 8]), shard, |_| true) {
        Lookup::Live(Upstream::Link(link)) => Ok(link),
        other => Err(other),
    }
}

fn link(routes: &Routes, shard: usize) -> Option<(usize, u64)> {
    let link = raw(routes, shard, None).ok()?;
    Some((link.shard, link.link.0))
}

fn kind() -> TunnelSelector {
    TunnelSelector::Kind("maya".to_owned())
}

fn maya() -> TunnelSelector {
    TunnelSelector::Tunnel(tunnel("maya"))
}

fn wanted(selector: TunnelSelector) -> Wanted {
    Wanted {
        selector,
        binding: None,
    }
}

fn find(routes: &Routes, wanted: &Wanted) -> Found {
    answer(routes, &query(wanted))
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
    let mut routes = routes();
    routes.apply(update(2, &[(0, 2)]), NOW);
    routes.apply(update(1, &[(0, 1)]), NOW);
    assert_eq!(link(&routes, 0), Some((0, 2)));
}

#[test]
fn a_name_without_links_is_offline_and_a_forgotten_one_unknown() {
    let mut routes = routes();
    assert_eq!(raw(&routes, 0, None), Err(Lookup::Unknown));
    routes.apply(update(1, &[]), NOW);
    assert_eq!(raw(&routes, 0, None), Err(Lookup::Offline));
    let forget = RouteUpdate {
        forget: true,
        ..(*update(2, &[])).clone()
    };
    routes.apply(Arc::new(forget), NOW);
    assert_eq!(raw(&routes, 0, None), Err(Lookup::Unknown));
}

#[test]
fn a_change_wakes_who_waits_for_it_and_nobody_else() {
    let mut routes = routes();
    routes.apply(update(1, &[]), NOW);
    let mut maya = routes.waiting.changed(&maya(), true).unwrap();
    let mut kind = routes.waiting.changed(&kind(), true).unwrap();
    let mut other = routes
        .waiting
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
}

#[test]
fn a_name_is_offline_since_its_last_link_left() {
    let mut routes = routes();
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
    let mut routes = routes();
    let mut nowhere = agent(1, &[(0, 1)], "");
    nowhere.info = Arc::default();
    routes.apply(route("maya", 1, vec![nowhere]), NOW);
    assert!(matches!(find(&routes, &wanted(maya())), Found::Unusable));
}

#[test]
fn a_link_on_the_same_shard_is_preferred_and_several_take_turns() {
    let mut routes = routes();
    routes.apply(update(1, &[(0, 1), (1, 2), (1, 3)]), NOW);
    assert_eq!(link(&routes, 0), Some((0, 1)));
    let used: BTreeSet<_> = (0..6).map(|_| link(&routes, 1)).collect();
    assert_eq!(used, [Some((1, 2)), Some((1, 3))].into());
}

#[test]
fn tunnels_are_listed_in_order_to_who_may_reach_them() {
    let mut routes = routes();
    for number in (0..2 * LIST_COUNT + 10).rev() {
        let name = format!("n{number:04}");
        let agents = Vec::from_iter((number % 2 == 0).then(|| agent(1, &[(0, 1)], "/mcp")));
        routes.apply(route(&name, 1, agents), NOW);
    }
    let row = |tunnel: &TunnelId, info: &TunnelInfo, online| {
        (tunnel.as_str().to_owned(), info.base_path.clone(), online)
    };
    let (mut after, mut all, mut turns) = (Some(String::new()), Vec::new(), 0);
    while let Some(name) = after {
        let (some, next) = routes.list(&name, |tunnel, _| !tunnel.as_str().ends_with('7'), row);
        all.extend(some);
        (after, turns) = (next, turns + 1);
    }
    let names: Vec<_> = all.iter().map(|(name, ..)| name).collect();
    assert!(
        names.is_sorted() && names.len() == 459 && turns == 3,
        "{turns} {}",
        names.len()
    );
    assert_eq!(all[0], ("n0000".to_owned(), "/mcp".to_owned(), true));
    assert_eq!(all[1], ("n0001".to_owned(), String::new(), false));
    let forget = RouteUpdate {
        forget: true,
        ..(*route("n0000", 2, vec![])).clone()
    };
    routes.apply(Arc::new(forget), NOW);
    let (some, _) = routes.list("", |_, _| true, row);
    assert_eq!(some[0].0, "n0001");
}
