//! Tests of one shard's tunnels and links: added, granted, refused, taken back and reported.

use std::cell::RefCell;
use std::time::Duration;

use tieline_wire::{Generation, InstanceId, Scheme};

use super::report::REPORT_TUNNELS;
use super::*;
use crate::auth::Owner;
use crate::metrics::TunnelBatch;
use crate::session::tests::rig;
use crate::session::{SessionCaller, TunnelSessions};

fn tunnel(number: usize) -> TunnelId {
    TunnelId::parse(&format!("seat-{number:03}")).unwrap()
}

fn granted(generation: u64, expires_at_seconds: Option<u64>) -> TunnelEntry {
    let info = TunnelInfo {
        ..TunnelInfo::default()
    };
    TunnelEntry {
        info: Arc::new(info),
        request: 1,
        granted: Some(Grant {
            request: 1,
            generation: Generation(generation),
            since: Moment::default(),
        }),
        expires_at_seconds,
        identity: None,
        renewal: None,
        sessions: TunnelSessions::default(),
        earlier: Vec::new(),
    }
}

fn linked(registry: &mut Registry) -> (LinkId, rig::Link) {
    let link = rig::Link::established();
    let peer = ([127, 0, 0, 1], 1).into();
    let id = registry.add(
        Rc::clone(&link.relay),
        (peer, Moment::default()),
        AddressCount::default(),
    );
    registry.link_mut(id).unwrap().agent = Some(rig::agent_hello());
    (id, link)
}

fn names(batch: &TunnelBatch) -> Vec<&str> {
    let rows = batch.rows.iter();
    rows.map(|row| row.tunnel_id.as_str()).collect()
}

#[test]
fn a_permission_that_ends_never_looks_endless() {
    assert_eq!(granted(1, None).expires_in_s(50), 0);
    assert_eq!(granted(1, Some(110)).expires_in_s(50), 60);
    for late in [110, 111, u64::MAX] {
        assert_eq!(granted(1, Some(110)).expires_in_s(late), 1);
    }
    assert_eq!(granted(1, Some(u64::MAX)).expires_in_s(50), u32::MAX);
}

#[test]
fn raw_callers_reach_bytes_and_whole_http_servers_and_never_a_program() {
    for (scheme, base_path, expose_all, is_open) in [
        (Scheme::Tcp, "", false, true),
        (Scheme::Tcp, "/mcp", false, true),
        (Scheme::Http, "", false, true),
        (Scheme::Http, "/mcp", false, false),
        (Scheme::Https, "/mcp", true, true),
        (Scheme::Stdio, "", false, false),
        (Scheme::Stdio, "/mcp", false, false),
        (Scheme::Stdio, "/mcp", true, false),
    ] {
        let info = TunnelInfo {
            scheme,
            base_path: base_path.to_owned(),
            expose_all,
            ..TunnelInfo::default()
        };
        let case = (info.scheme_word(), base_path, expose_all);
        assert_eq!(info.is_open_to_raw(), is_open, "{case:?}");
    }
}

#[test]
fn a_report_is_short_and_goes_on_behind_its_last_name() {
    let mut registry = Registry::default();
    let (id, _link) = linked(&mut registry);
    for number in (0..2 * REPORT_TUNNELS + 50).rev() {
        registry.add_tunnel(id, tunnel(number), granted(1, None));
    }
    let mut after = Some(String::new());
    let (mut all, mut lengths) = (Vec::new(), Vec::new());
    while let Some(name) = after {
        let batch = registry.report(&name, 0, Moment::default());
        lengths.push(batch.rows.len());
        all.extend(names(&batch).into_iter().map(str::to_owned));
        after = batch.next;
    }
    assert_eq!(lengths, [REPORT_TUNNELS, REPORT_TUNNELS, 50]);
    let expected: Vec<_> = (0..2 * REPORT_TUNNELS + 50)
        .map(|it| tunnel(it).to_string())
        .collect();
    assert_eq!(all, expected);
    // A report may begin behind a name that no link has.
    let behind = registry.report("seat-548x", 0, Moment::default());
    assert_eq!((names(&behind), &behind.next), (vec!["seat-549"], &None));
}

#[test]
fn links_of_one_tunnel_are_one_row_and_superseded_ones_none() {
    let mut registry = Registry::default();
    for generation in [7, 8, 8] {
        let (id, _) = linked(&mut registry);
        registry.add_tunnel(id, tunnel(0), granted(generation, None));
    }
    let report = |registry: &Registry| registry.report("", 3, Moment::default()).rows;
    let rows = report(&registry);
    assert_eq!((rows.len(), rows[0].links, rows[0].generation), (1, 2, 8));
    assert_eq!((rows[0].shard, &rows[0].shards), (3, &vec![3]));
    registry.remove(LinkId(2));
    assert_eq!(report(&registry)[0].links, 1);
    assert!(registry.remove_tunnel(LinkId(3), &tunnel(0)).is_some());
    registry.remove(LinkId(1));
    assert!(report(&registry).is_empty() && registry.names.is_empty());
}

#[test]
fn the_round_trip_of_a_link_over_tcp_is_that_of_its_last_ping() {
    let mut registry = Registry::default();
    let (id, mut link) = linked(&mut registry);
    registry.add_tunnel(id, tunnel(0), granted(1, None));
    let path = |registry: &Registry| {
        let mut rows = registry.report("", 0, Moment::default()).rows;
        rows.remove(0).paths.remove(0)
    };
    assert_eq!(path(&registry).rtt_ms, None);
    link.relay.tick(link.now()).unwrap();
    link.pump_down();
    link.pump_up();
    let measured = link.relay.rtt().unwrap();
    let it = path(&registry);
    assert_eq!(it.rtt_ms, Some(measured.as_micros() as f64 / 1e3));
    assert_eq!((it.loss_percent, it.mtu), (None, None));
}

#[test]
fn links_of_one_run_of_an_agent_are_found_until_they_end() {
    let mut registry = Registry::default();
    let mut nonces = 0..;
    let mut introduced = |registry: &mut Registry, links, instance| {
        let (id, _link) = linked(registry);
        let hello = AgentHello {
            links,
            instance: InstanceId::new([instance; 16]),
            ..rig::agent_hello()
        };
        let nonce = [nonces.next().unwrap(); 32];
        registry.introduce(id, hello, nonce, Channel::default());
        id
    };
    let run = |instance| (rig::agent_hello().key, InstanceId::new([instance; 16]));
    let count = |registry: &Registry, instance| registry.links_of_run(&run(instance)).count();
    let ids = [2, 2].map(|links| introduced(&mut registry, links, 1));
    introduced(&mut registry, 2, 2);
    introduced(&mut registry, 1, 3);
    let counts = |registry: &Registry| [1, 2, 3].map(|it| count(registry, it));
    assert_eq!(counts(&registry), [2, 1, 0], "an only link has no others");
    registry.remove(ids[0]);
    assert_eq!(counts(&registry), [1, 1, 0]);
    registry.remove(ids[1]);
    assert_eq!((counts(&registry), registry.runs.len()), ([0, 1, 0], 1));
    // An agent may open more links than it says.
    for _ in 0..RUN_LINKS_MAX {
        introduced(&mut registry, 2, 2);
    }
    assert_eq!(count(&registry, 2), RUN_LINKS_MAX);
}

#[test]
fn a_registration_that_is_refused_leaves_the_one_before_as_it_was() {
    let mut registry = Registry::default();
    let (id, _link) = linked(&mut registry);
    // Each registration is for another holder than the one before.
    let asked = |request: u32, expires| TunnelEntry {
        request,
        granted: None,
        info: Arc::new(TunnelInfo {
            owner: Some(Arc::new(Owner {
                sub: request.to_string(),
                ..Owner::default()
            })),
            ..TunnelInfo::default()
        }),
        ..granted(1, Some(expires))
    };
    let granted = |request| Grant {
        request,
        ..granted(1, None).granted.unwrap()
    };
    registry.add_tunnel(id, tunnel(0), asked(1, 10));
    let entry = registry.link_mut(id).unwrap();
    entry.tunnel_mut(&tunnel(0)).unwrap().grant(granted(1));
    let ask = |registry: &mut Registry, request, expires| {
        let mut it = asked(request, expires);
        it.granted = registry.link(id).unwrap().tunnels()[&tunnel(0)].granted;
        registry.add_tunnel(id, tunnel(0), it);
    };
    let end = |registry: &Registry| {
        let it = &registry.link(id).unwrap().tunnels()[&tunnel(0)];
        (it.request, it.expires_at_seconds)
    };
    // Answers may arrive in any order.
    ask(&mut registry, 2, 20);
    ask(&mut registry, 3, 30);
    assert!(registry.link_mut(id).unwrap().refuse(&tunnel(0), 3));
    assert_eq!(end(&registry), (2, Some(20)));
    ask(&mut registry, 4, 40);
    assert!(registry.link_mut(id).unwrap().refuse(&tunnel(0), 2));
    assert_eq!(end(&registry), (4, Some(40)));
    assert!(registry.link_mut(id).unwrap().refuse(&tunnel(0), 4));
    assert_eq!(end(&registry), (1, Some(10)));
    // A granted registration counts from then on.
    ask(&mut registry, 5, 50);
    ask(&mut registry, 6, 60);
    let entry = registry.link_mut(id).unwrap();
    entry.tunnel_mut(&tunnel(0)).unwrap().grant(granted(5));
    assert!(entry.refuse(&tunnel(0), 6));
    assert_eq!(end(&registry), (5, Some(50)));
    // Two refused registrations of one other holder leave the first holder's.
    let mut of_bob = asked(8, 80);
    of_bob.granted = registry.link(id).unwrap().tunnels()[&tunnel(0)].granted;
    let info = Arc::clone(&of_bob.info);
    registry.add_tunnel(id, tunnel(0), of_bob);
    ask(&mut registry, 9, 90);
    let entry = registry.link_mut(id).unwrap();
    entry.tunnel_mut(&tunnel(0)).unwrap().info = info;
    assert!(entry.refuse(&tunnel(0), 9) && entry.refuse(&tunnel(0), 8));
    assert_eq!(end(&registry), (5, Some(50)));
    // A refused change of the same holder's permission leaves nothing.
    ask(&mut registry, 5, 70);
    assert!(!registry.link_mut(id).unwrap().refuse(&tunnel(0), 5));
    // A refused registration that was never granted leaves nothing.
    registry.add_tunnel(id, tunnel(1), asked(7, 70));
    assert!(!registry.link_mut(id).unwrap().refuse(&tunnel(1), 7));
}

#[test]
fn agents_that_share_a_name_are_one_row_that_counts_them() {
    let mut registry = Registry::default();
    let shared = |generation| TunnelEntry {
        info: Arc::new(TunnelInfo {
            shared: true,
            ..(*granted(generation, None).info).clone()
        }),
        ..granted(generation, None)
    };
    for (machine, generation) in [(1, 7), (1, 7), (2, 9), (3, 8)] {
        let (id, _) = linked(&mut registry);
        let agent = registry.link_mut(id).unwrap().agent.as_mut().unwrap();
        agent.machine = MachineId::new([machine; 16]);
        registry.add_tunnel(id, tunnel(0), shared(generation));
    }
    let rows = registry.report("", 0, Moment::default()).rows;
    assert_eq!((rows.len(), rows[0].links, rows[0].agents), (1, 4, 3));
    assert_eq!(rows[0].generation, 9);
}

#[test]
fn sessions_count_for_the_tunnel_that_they_were_opened_for() {
    let mut registry = Registry::default();
    let (id, link) = linked(&mut registry);
    registry.add_tunnel(id, tunnel(0), granted(1, None));
    let busy = TunnelEntry {
        sessions: link.sessions.clone(),
        ..granted(1, None)
    };
    registry.add_tunnel(id, tunnel(1), busy);
    let counts = |registry: &Registry| {
        let rows = registry.report("", 0, Moment::default()).rows;
        rows.iter().map(|row| row.session_count).collect::<Vec<_>>()
    };
    let (first, second) = (link.open(), link.open());
    assert_eq!(counts(&registry), [0, 2]);
    first.leave();
    drop((first, second));
    assert_eq!(counts(&registry), [0, 0]);
}

#[test]
fn a_sweep_looks_at_every_link_and_names_the_tunnels_whose_permission_is_over() {
    let mut registry = Registry::default();
    let links: Vec<_> = (0..5).map(|_| linked(&mut registry)).collect();
    let ids: Vec<LinkId> = links.iter().map(|it| it.0).collect();
    for (number, id) in ids.iter().enumerate() {
        registry.add_tunnel(*id, tunnel(number), granted(1, Some(10)));
        registry.add_tunnel(*id, tunnel(9), granted(1, Some(30)));
    }
    // Registered again with a longer permission, which the first one must not cut short.
    registry.add_tunnel(ids[1], tunnel(1), granted(1, Some(20)));
    // The fourth link has more expired tunnels than one turn takes; the fifth is closing already.
    for number in [20, 21, 22] {
        registry.add_tunnel(ids[3], tunnel(number), granted(1, Some(10)));
    }
    links[4].1.relay.close(LinkEnd::Superseded);
    let mut swept = |now_seconds| {
        let (mut all, mut from, mut turns) = (Vec::new(), None, 0);
        loop {
            let end = |_: &LinkEntry, reason| panic!("{reason}");
            let (expired, next) = registry.sweep(from, 2, Moment::default(), now_seconds, end);
            for (id, tunnel) in &expired {
                registry.remove_tunnel(*id, tunnel).unwrap();
            }
            all.extend(expired);
            turns += 1;
            match next {
                Some(_) => from = next,
                None => return (all, turns),
            }
        }
    };
    assert_eq!(swept(9), (Vec::new(), 3));
    let of = |link: usize, number| (ids[link], tunnel(number));
    let expected = vec![
        of(0, 0),
        of(2, 2),
        of(3, 3),
        of(3, 20),
        of(3, 21),
        of(3, 22),
    ];
    assert_eq!(swept(15).0, expected);
    assert_eq!(swept(15), (Vec::new(), 3));
    let (expired, _) = swept(25);
    assert_eq!(expired, [of(1, 1)]);
}

fn of(sub: &str) -> TunnelEntry {
    let owner = Owner {
        sub: sub.to_owned(),
        groups: Vec::new(),
    };
    TunnelEntry {
        identity: Some(Arc::new(Identity {
            owner: Arc::new(owner),
            ..Identity::default()
        })),
        ..granted(1, None)
    }
}

#[test]
fn a_recheck_goes_on_behind_its_last_link_and_ends_each_link_once() {
    let mut registry = Registry::default();
    let holders = [
        &["ada", "eve"][..],
        &["ada"],
        &[],
        &["eve", "eve", "eve"],
        &["bob"],
    ];
    let links: Vec<_> = holders
        .iter()
        .map(|subs| {
            let (id, link) = linked(&mut registry);
            for (number, sub) in subs.iter().enumerate() {
                registry.add_tunnel(id, tunnel(number), of(sub));
            }
            (id, link)
        })
        .collect();
    let recheck = |registry: &Registry, denied: &str| {
        let (mut ended, mut turns, mut after) = (0, 0, None);
        loop {
            let (count, last) = registry.recheck(
                after,
                2,
                |_, holder| match holder {
                    Some(it) if it.sub() == denied => Err(LinkEnd::Revoked),
                    _ => Ok(()),
                },
                |entry, reason| entry.mux.close(reason),
            );
            (ended, turns) = (ended + count, turns + 1);
            match last {
                Some(_) => after = last,
                None => return (ended, turns),
            }
        }
    };
    // The third link does not fill a turn by itself.
    assert_eq!(recheck(&registry, "nobody"), (0, 4));
    assert_eq!(recheck(&registry, "eve"), (2, 4));
    let closing = |index: usize| registry.link(links[index].0).unwrap().mux.closing();
    assert_eq!([0, 3].map(closing), [Some(LinkEnd::Revoked); 2]);
    assert_eq!([1, 2, 4].map(closing), [None; 3]);
    // The links are closing already.
    assert_eq!(recheck(&registry, "eve"), (0, 4));
}

#[test]
fn a_holder_whose_sessions_outlive_their_tunnel_is_not_out_of_reach() {
    let mut registry = Registry::default();
    let (id, link) = linked(&mut registry);
    let take_back = |registry: &mut Registry, number: usize| {
        let it = registry.remove_tunnel(id, &tunnel(number)).unwrap();
        registry.link_mut(id).unwrap().leave(tunnel(number), it);
    };
    let is_reached = |registry: &Registry| {
        let is_eve = |_: Option<&AgentKey>, holder: Option<&Identity>| match holder {
            Some(it) if it.sub() == "eve" => Err(LinkEnd::Revoked),
            _ => Ok(()),
        };
        registry.recheck(None, 10, is_eve, |_, _| {}).0 == 1
    };
    registry.add_tunnel(id, tunnel(0), of("eve"));
    let sessions = &registry.link(id).unwrap().tunnels()[&tunnel(0)].sessions;
    let session = link
        .relay
        .open(&tunnel(0), sessions, SessionCaller::default());
    take_back(&mut registry, 0);
    assert!(is_reached(&registry));
    drop(session);
    for number in 1..10 {
        registry.add_tunnel(id, tunnel(number), of("ada"));
        let sessions = &registry.link(id).unwrap().tunnels()[&tunnel(number)].sessions;
        let _session = link
            .relay
            .open(&tunnel(number), sessions, SessionCaller::default());
        take_back(&mut registry, number);
    }
    assert!(
        !is_reached(&registry),
        "a taken-back tunnel without a session was kept"
    );
}

#[test]
fn a_permission_is_renewed_once_when_its_time_has_come() {
    let mut registry = Registry::default();
    let at = Moment::from_micros;
    let renewed = |micros| TunnelEntry {
        renewal: Some(Renewal {
            register: Arc::default(),
            next_at: Some(at(micros)),
            good_until: at(1000),
        }),
        ..granted(1, None)
    };
    let (first, _one) = linked(&mut registry);
    let (second, _two) = linked(&mut registry);
    registry.add_tunnel(first, tunnel(0), renewed(10));
    registry.add_tunnel(first, tunnel(1), renewed(20));
    registry.add_tunnel(first, tunnel(2), granted(1, None));
    registry.add_tunnel(second, tunnel(3), renewed(10));
    let mut due = |now| {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let (due, last) = registry.renewals(after, 1, at(now));
            names.extend(due.into_iter().map(|it| it.tunnel));
            match last {
                Some(_) => after = last,
                None => return names,
            }
        }
    };
    assert_eq!(due(9), []);
    assert_eq!(due(10), [tunnel(0), tunnel(3)]);
    assert_eq!(due(15), []);
    assert_eq!(due(20), [tunnel(1)]);
}

#[test]
fn a_link_that_gets_no_tunnel_ends_after_a_time_and_one_that_had_one_does_not() {
    let mut registry = Registry::default();
    let (silent, _one) = linked(&mut registry);
    let (serving, _two) = linked(&mut registry);
    registry.link_mut(serving).unwrap().serves();
    let ended = |registry: &mut Registry, after: Duration| {
        let ended = RefCell::new(Vec::new());
        let end = |entry: &LinkEntry, reason| ended.borrow_mut().push((entry.peer, reason));
        registry.sweep(None, 100, Moment::default() + after, 0, end);
        ended.into_inner()
    };
    let peer = registry.link(silent).unwrap().peer;
    let almost = FIRST_TUNNEL_TIMEOUT - Duration::from_millis(1);
    assert_eq!(ended(&mut registry, almost), []);
    assert_eq!(
        ended(&mut registry, FIRST_TUNNEL_TIMEOUT),
        [(peer, LinkEnd::NoTunnel)]
    );
}
