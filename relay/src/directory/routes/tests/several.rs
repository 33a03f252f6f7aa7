//! Tests of the choice among several agents, or among the tunnels of a kind.

use super::*;

#[test]
fn the_agent_with_the_fewest_sessions_is_chosen_and_equals_take_turns() {
    let mut routes = routes();
    let agents = (1..=3).map(|n| agent(n, &[(0, n.into())], "")).collect();
    let update = route("maya", 1, agents);
    routes.apply(Arc::clone(&update), NOW);
    let found = |routes: &Routes| place(&find(routes, &wanted(maya()))).unwrap().1;
    let all: BTreeSet<_> = (0..3).map(|_| found(&routes)).collect();
    assert_eq!(all, [1, 2, 3].into());
    keep_busy(&update, 0, 1);
    keep_busy(&update, 2, 1);
    for _ in 0..4 {
        assert_eq!(found(&routes), 2);
        assert_eq!(link(&routes, 0), Some((0, 2)));
    }
    // A connection that the caller keeps to the agent does not count as load.
    let wanted = wanted(maya());
    let third = Query {
        kept: &|_, agent| agent.0[0] == 3,
        ..query(&wanted)
    };
    assert_eq!(place(&answer(&routes, &third)).unwrap().1, 3);
}

#[test]
fn agents_of_a_kind_that_have_as_much_to_do_take_turns() {
    let of = |tags: &[u8]| tags.iter().map(|tag| agent(*tag, &[(0, 1)], "")).collect();
    let mut routes = routes();
    let found = |routes: &Routes| place(&find(routes, &wanted(kind()))).unwrap();
    routes.apply(route("maya", 1, of(&[1, 2])), NOW);
    let agents: BTreeSet<_> = (0..2).map(|_| found(&routes).1).collect();
    assert_eq!(agents, [1, 2].into(), "agents of one tunnel");
    routes.apply(route("other", 1, of(&[3, 4, 5])), NOW);
    let agents: BTreeSet<_> = (0..12).map(|_| found(&routes).1).collect();
    assert_eq!(agents, [1, 2, 3, 4, 5].into(), "agents of both tunnels");
}

#[test]
fn a_caller_that_was_handed_here_stays_here() {
    let mut routes = routes();
    let update = route(
        "maya",
        1,
        vec![agent(1, &[(0, 1)], ""), agent(2, &[(1, 2)], "")],
    );
    routes.apply(Arc::clone(&update), NOW);
    keep_busy(&update, 1, 2);
    let here = |shard| raw(&routes, shard, Some(shard)).unwrap().shard;
    assert_eq!((here(0), here(1), here(2)), (0, 1, 0));
    assert_eq!(upstream(&routes, 2, 0).unwrap().shard, 1);
    assert_eq!(upstream(&routes, 9, 0), Err(Lookup::Offline));
}

#[test]
fn only_agents_that_the_caller_may_reach_are_chosen() {
    let mut routes = routes();
    let mut others = agent(1, &[(0, 1)], "");
    others.info = info("", "others");
    routes.apply(route("maya", 1, vec![others, agent(2, &[(0, 2)], "")]), NOW);
    let is_ours = |info: &TunnelInfo| info.owner.as_ref().is_some_and(|it| it.sub == "farm");
    for selector in [maya(), kind()] {
        for _ in 0..3 {
            let found = answer(
                &routes,
                &Query {
                    may_know: &|_, info| is_ours(info),
                    ..query(&wanted(selector.clone()))
                },
            );
            assert_eq!(place(&found).unwrap().1, 2);
        }
        let found = answer(
            &routes,
            &Query {
                may_know: &|_, _| false,
                ..query(&wanted(selector))
            },
        );
        assert!(
            matches!(found, Found::Unknown),
            "a tunnel that the caller may not reach was found"
        );
    }
    let hidden = routes.upstream(&tunnel("maya"), AgentTag([2; 8]), 0, |_| false);
    assert_eq!(hidden, Lookup::Unknown);
    assert!(routes.is_known(&tunnel("maya"), is_ours));
    assert!(!routes.is_known(&tunnel("maya"), |_| false));
}

#[test]
fn a_kind_leads_to_a_tunnel_of_it_that_serves_the_path() {
    let mut routes = routes();
    let apply = |routes: &mut Routes, name, revision, agents| {
        routes.apply(route(name, revision, agents), NOW);
    };
    apply(&mut routes, "a", 1, vec![agent(1, &[(0, 1)], "/sse")]);
    apply(&mut routes, "b", 1, vec![agent(2, &[(0, 2)], "/mcp")]);
    let away = |name, revision| {
        let mut it = (*route(name, revision, vec![])).clone();
        it.info = info("/sse", "farm");
        Arc::new(it)
    };
    routes.apply(away("c", 1), NOW);
    for _ in 0..4 {
        assert_eq!(place(&find(&routes, &wanted(kind()))).unwrap().0, "b");
    }
    // The remaining tunnel serves another path: the caller is sent there, and gets its error.
    routes.apply(away("b", 2), NOW);
    assert_eq!(place(&find(&routes, &wanted(kind()))).unwrap().0, "a");
    let forget = RouteUpdate {
        forget: true,
        ..(*route("a", 2, vec![])).clone()
    };
    routes.apply(Arc::new(forget), NOW);
    assert!(matches!(find(&routes, &wanted(kind())), Found::Offline(_)));
    // A tunnel that changes its kind leaves the group of the old kind.
    let mut other = agent(3, &[(0, 3)], "");
    other.info = Arc::new(TunnelInfo {
        dcc: "blender".to_owned(),
        ..(*other.info).clone()
    });
    for name in ["b", "c"] {
        apply(&mut routes, name, 3, vec![other.clone()]);
    }
    assert!(matches!(find(&routes, &wanted(kind())), Found::Unknown));
    let blender = TunnelSelector::Kind("blender".to_owned());
    assert!(place(&find(&routes, &wanted(blender))).is_some());
}

#[test]
fn who_is_bound_to_an_agent_gets_that_one_or_hears_that_it_is_gone() {
    let mut routes = routes();
    let at = Moment::from_micros;
    let two = || vec![agent(1, &[(0, 1)], ""), agent(2, &[(0, 2)], "")];
    routes.apply(route("maya", 1, two()), at(1));
    let bound = |selector, tag| Wanted {
        binding: Some(AgentBinding {
            tunnel: tunnel("maya"),
            agent: AgentTag([tag; 8]),
        }),
        ..wanted(selector)
    };
    for selector in [maya(), kind()] {
        for _ in 0..3 {
            assert_eq!(
                place(&find(&routes, &bound(selector.clone(), 2)))
                    .unwrap()
                    .1,
                2
            );
        }
    }
    let other = TunnelSelector::Tunnel(tunnel("other"));
    assert!(matches!(find(&routes, &bound(other, 2)), Found::Gone));
    assert!(matches!(find(&routes, &bound(maya(), 3)), Found::Gone));
    routes.apply(route("maya", 2, vec![agent(1, &[(0, 1)], "")]), at(2));
    routes.apply(route("maya", 3, vec![]), at(3));
    let since = |tag| match find(&routes, &bound(maya(), tag)) {
        Found::Offline(since) => since,
        other => panic!("{other:?}"),
    };
    assert_eq!((since(2), since(1)), (at(2), at(3)));
    routes.apply(route("maya", 4, two()), at(4));
    assert_eq!(place(&find(&routes, &bound(maya(), 2))).unwrap().1, 2);
    let later = NOW + DEPARTED_KEPT + Duration::from_secs(1);
    routes.apply(route("maya", 5, vec![]), at(5));
    routes.apply(route("maya", 6, vec![]), later);
    assert!(matches!(find(&routes, &bound(maya(), 2)), Found::Gone));
}

#[test]
fn a_link_that_is_known_to_be_gone_is_not_found_again() {
    let mut routes = routes();
    let find = |routes: &Routes, stale: &Seen, selector| {
        let stale = Stale {
            tunnel: &stale.tunnel,
            agent: stale.agent,
            revision: stale.revision,
        };
        answer(
            routes,
            &Query {
                stale: Some(stale),
                ..query(&wanted(selector))
            },
        )
    };
    routes.apply(update(1, &[(0, 1)]), NOW);
    let Found::Target(stale) = tests::find(&routes, &wanted(maya())) else {
        panic!("the tunnel was not found")
    };
    for selector in [maya(), kind()] {
        assert!(matches!(find(&routes, &stale, selector), Found::Exhausted));
    }
    // Another agent may take the request, and so may the same agent over a newer link.
    let two = vec![agent(1, &[(0, 1)], ""), agent(2, &[(0, 2)], "")];
    routes.apply(route("maya", 2, two), NOW);
    let mut newest = (*stale).clone();
    newest.revision = 2;
    for _ in 0..3 {
        assert_eq!(place(&find(&routes, &newest, maya())).unwrap().1, 2);
    }
    let all: BTreeSet<_> = (0..2)
        .map(|_| place(&find(&routes, &stale, maya())).unwrap().1)
        .collect();
    assert_eq!(all, [1, 2].into());
}

#[test]
fn equals_take_turns_however_many_there_are_and_whoever_else_asks() {
    for count in 2..=6_u8 {
        let mut routes = routes();
        let agents = (1..=count).map(|n| agent(n, &[(0, n.into()), (1, 100 + u64::from(n))], ""));
        routes.apply(route("maya", 1, agents.collect()), NOW);
        let mut found = BTreeSet::new();
        for _ in 0..count {
            let (_, tag) = place(&find(&routes, &wanted(maya()))).unwrap();
            found.insert(tag);
            // A session is opened on that agent.
            assert!(upstream(&routes, tag, 0).is_ok());
        }
        assert_eq!(found.len(), usize::from(count));
    }
}

#[test]
fn a_tunnel_that_serves_the_path_and_is_away_is_waited_for() {
    let mut routes = routes();
    routes.apply(route("a", 1, vec![agent(1, &[(0, 1)], "/mcp")]), NOW);
    routes.apply(route("b", 1, vec![agent(2, &[(0, 2)], "/sse")]), NOW);
    let mut away = (*route("a", 2, vec![])).clone();
    away.info = info("/mcp", "farm");
    routes.apply(Arc::new(away), Moment::from_micros(7));
    let Found::Offline(since) = find(&routes, &wanted(kind())) else {
        panic!("the offline tunnel was not found")
    };
    assert_eq!(since, Moment::from_micros(7));
}

#[test]
fn an_agent_that_was_tried_is_not_chosen_again() {
    let mut routes = routes();
    let two = vec![agent(1, &[(0, 1)], ""), agent(2, &[(1, 2)], "")];
    routes.apply(route("maya", 1, two), NOW);
    for selector in [maya(), kind()] {
        let mut tried = Vec::new();
        for left in [2, 1, 0] {
            let wanted = wanted(selector.clone());
            let is_tried = |tunnel: &TunnelId, agent: AgentTag| {
                let mut tried = tried.iter();
                tried.any(|it: &Rc<Seen>| it.agent == agent && it.tunnel == *tunnel)
            };
            let query = Query {
                tried: &is_tried,
                ..query(&wanted)
            };
            match answer(&routes, &query) {
                Found::Target(target) if left > 0 => tried.push(target),
                Found::Exhausted if left == 0 => break,
                other => panic!("{other:?} with {left} left"),
            }
        }
        assert_ne!(tried[0].agent, tried[1].agent);
    }
    let maya = tunnel("maya");
    let choose = |tried: &[u8], may_know: bool| {
        let query = Query {
            tried: &|_, agent| tried.contains(&agent.0[0]),
            may_know: &|_, _| may_know,
            ..Query::new(Among::Tunnel(&maya), &|_, _| true)
        };
        match routes.resolve(&query) {
            Resolved::To(choice) => Some(choice.agent.0[0]),
            _ => None,
        }
    };
    assert_eq!(choose(&[1], true), Some(2));
    assert_eq!(choose(&[2], true), Some(1));
    assert_eq!(choose(&[1, 2], true), None);
    assert_eq!(choose(&[1], false), None);
}

#[test]
fn a_single_agent_is_known_as_the_only_one() {
    let mut routes = routes();
    let maya = tunnel("maya");
    let is_only = |routes: &Routes| {
        let query = Query::new(Among::Tunnel(&maya), &|_, _| true);
        match routes.resolve(&query) {
            Resolved::To(choice) => Some(choice.is_only()),
            _ => None,
        }
    };
    routes.apply(route("maya", 1, vec![agent(1, &[(0, 1)], "")]), NOW);
    assert_eq!(is_only(&routes), Some(true));
    let two = vec![agent(1, &[(0, 1)], ""), agent(2, &[(1, 2)], "")];
    routes.apply(route("maya", 2, two), NOW);
    assert_eq!(is_only(&routes), Some(false));
}

#[test]
fn a_caller_that_needs_no_description_uses_every_target() {
    let mut routes = routes();
    let mut nowhere = agent(1, &[(0, 1)], "");
    nowhere.info = Arc::default();
    let update = route("maya", 1, vec![nowhere, agent(2, &[(0, 2)], "/sse")]);
    keep_busy(&update, 1, 1);
    routes.apply(update, NOW);
    assert_eq!(link(&routes, 0), Some((0, 1)));
}
