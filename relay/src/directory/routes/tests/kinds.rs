//! Tests of searches by kind, for callers that may reach some of the tunnels.

use super::*;
use crate::auth::{Identity, may_reach};

fn owner(random: &mut fastrand::Rng) -> Arc<Owner> {
    let sub = format!("holder{}", random.u8(..4));
    let groups = (0..3).filter(|_| random.bool());
    let groups = groups.map(|group| format!("group{group}")).collect();
    Arc::new(Owner { sub, groups })
}

fn serving(random: &mut fastrand::Rng, tag: u8) -> ServingAgent {
    let mut serving = agent(tag, &[(0, tag.into())], "");
    serving.info = Arc::new(TunnelInfo {
        owner: random.bool().then(|| owner(random)),
        dcc: ["maya", "blender", ""][random.usize(..3)].to_owned(),
        ..(*serving.info).clone()
    });
    serving
}

fn found_by(routes: &Routes, caller: &Identity, whose: &[OwnerGroup]) -> Found {
    let wanted = wanted(kind());
    let query = Query {
        among: Among::of(&wanted.selector, whose),
        may_know: &|tunnel, info| may_reach(caller, tunnel, info.owner.as_deref()),
        ..query(&wanted)
    };
    answer(routes, &query)
}

#[test]
fn who_may_reach_few_finds_what_a_look_at_all_of_them_finds() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut routes = routes();
        for revision in 1..100 {
            let agents: Vec<_> = (0..random.u8(..3))
                .map(|tag| serving(&mut random, tag))
                .collect();
            let info = match agents.last() {
                Some(agent) => Arc::clone(&agent.info),
                None => serving(&mut random, 0).info,
            };
            let name = format!("tunnel{}", random.u8(..6));
            let update = RouteUpdate {
                forget: random.u8(..8) == 0,
                info,
                ..(*route(&name, revision, agents)).clone()
            };
            routes.apply(Arc::new(update), NOW);
            let caller = Identity {
                owner: owner(&mut random),
                ..Identity::default()
            };
            let whose = OwnerGroup::of_caller(Some(&caller));
            assert!(!whose.contains(&OwnerGroup::Anybody));
            let found = found_by(&routes, &caller, &whose);
            let by_all = found_by(&routes, &caller, &[OwnerGroup::Anybody]);
            assert_eq!(
                std::mem::discriminant(&found),
                std::mem::discriminant(&by_all),
                "seed {seed}, {revision}: {found:?}, {by_all:?}"
            );
        }
        for number in 0..6 {
            let name = format!("tunnel{number}");
            let forget = RouteUpdate {
                forget: true,
                ..(*route(&name, 1_000, vec![])).clone()
            };
            routes.apply(Arc::new(forget), NOW);
        }
        assert!(routes.kinds.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_token_that_names_tunnels_may_lead_to_anybodys() {
    let mut routes = routes();
    routes.apply(route("maya", 1, vec![agent(1, &[(0, 1)], "")]), NOW);
    let caller = Identity {
        reach: vec!["may*".to_owned()],
        ..Identity::default()
    };
    let whose = OwnerGroup::of_caller(Some(&caller));
    assert!(place(&found_by(&routes, &caller, &whose)).is_some());
    assert_eq!(OwnerGroup::of_caller(None), [OwnerGroup::Anybody]);
}

#[test]
fn equals_of_several_owners_take_turns() {
    let mut routes = routes();
    for (number, sub) in ["me", "me", "others"].into_iter().enumerate() {
        let tag = u8::try_from(number).unwrap();
        let mut serving = agent(tag, &[(0, tag.into())], "");
        serving.info = Arc::new(TunnelInfo {
            owner: Some(Arc::new(Owner {
                sub: sub.to_owned(),
                groups: vec![format!("{sub}s")],
            })),
            ..(*serving.info).clone()
        });
        routes.apply(route(&format!("t{number}"), 1, vec![serving]), NOW);
    }
    let caller = Identity {
        owner: Arc::new(Owner {
            sub: "me".to_owned(),
            groups: vec!["otherss".to_owned()],
        }),
        ..Identity::default()
    };
    let whose = OwnerGroup::of_caller(Some(&caller));
    let found = || place(&found_by(&routes, &caller, &whose)).unwrap().0;
    let all: Vec<_> = (0..6).map(|_| found()).collect();
    assert_eq!(all, ["t0", "t1", "t2", "t0", "t1", "t2"]);
}
