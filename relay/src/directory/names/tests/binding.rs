//! Tests of the holder that a name is bound to, across changes of keys, token holders and relays.

use tieline_wire::{InstanceId, MachineId};

use super::*;
use super::{LATER, claim, claimed, link, links, names, refused};
use crate::auth::Owner;

/// A claim by an agent with a token of `sub`.
fn of(sub: &str, name: &str, key: u8, id: u64) -> Claim {
    with_info(claim(name, key, key, link(0, id)), |info| {
        info.owner = Some(Arc::new(Owner {
            sub: sub.to_owned(),
            groups: Vec::new(),
        }));
    })
}

fn with_info(claim: Claim, change: impl FnOnce(&mut TunnelInfo)) -> Claim {
    let mut info = (*claim.info).clone();
    change(&mut info);
    Claim {
        info: Arc::new(info),
        ..claim
    }
}

fn maya() -> TunnelId {
    TunnelId::parse("maya").unwrap()
}

fn leaves(names: &mut Names, name: &str, id: u64, kind: ReleaseKind) -> Option<RouteUpdate> {
    let tunnel = TunnelId::parse(name).unwrap();
    names.release(&tunnel, link(0, id), kind, LATER).update
}

/// The names of a relay that restarts with the notes of `names`.
fn restarted(names: &mut Names, epoch_seconds: u64) -> Names {
    let mut latest: HashMap<TunnelId, Option<Binding>> = HashMap::new();
    for note in names.take_notes() {
        match note {
            Note::Bound(binding) => latest.insert(binding.tunnel.clone(), Some(*binding)),
            Note::Forgotten(tunnel) => latest.insert(tunnel, None),
        };
    }
    let mut after = tests::names(1, 10);
    after.counter = first_number(epoch_seconds);
    for binding in latest.into_values().flatten() {
        let restored = Restored::new(binding, epoch_seconds, &mut Owners::default());
        after.restore(&restored, LATER);
    }
    after
}

#[test]
fn another_holder_is_refused_with_whatever_key_and_whether_the_agent_is_there_or_not() {
    let mut names = names(1, 10);
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    for _ in 0..2 {
        for key in [1, 2] {
            let eve = of("eve", "maya", key, 9);
            assert_eq!(refused(names.claim(eve, LATER)), RefusalReason::NameTaken);
        }
        leaves(&mut names, "maya", 1, ReleaseKind::Away);
    }
    let Decision::Refused(refusal) = names.claim(of("eve", "MAYA", 1, 9), LATER) else {
        panic!("the claim of another holder was granted");
    };
    assert_eq!(
        refusal.message,
        "maya: it belongs to another token holder: ask for another name (--name), or have the relay's \
         operator free it while its agent is away (POST /tunnels/<name>/forget)"
    );
}

#[test]
fn the_same_holder_comes_with_a_new_key_once_the_old_agent_is_away() {
    let mut names = names(1, 10);
    let (first, _) = claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    let Decision::Refused(refusal) = names.claim(of("ada", "maya", 2, 2), LATER) else {
        panic!("a live agent's name was taken over by another key");
    };
    assert_eq!(refusal.reason, RefusalReason::NameBound);
    assert!(
        refusal.message.contains("127.0.0.1") && refusal.message.contains("010101010101"),
        "{refusal}"
    );
    leaves(&mut names, "maya", 1, ReleaseKind::Away);
    let (second, fence) = claimed(names.claim(of("ada", "maya", 2, 2), LATER));
    assert_eq!((links(&second), fence.len()), (vec![link(0, 2)], 0));
    assert!(second.agents[0].generation > first.agents[0].generation);
    // The first key returns once the second agent is away.
    let old = of("ada", "maya", 1, 3);
    assert_eq!(
        refused(names.claim(old.clone(), LATER)),
        RefusalReason::NameBound
    );
    leaves(&mut names, "maya", 2, ReleaseKind::Away);
    claimed(names.claim(old, LATER));
}

#[test]
fn without_holders_the_key_alone_decides() {
    let mut names = names(1, 10);
    claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    // A token holder with another key is refused.
    assert_eq!(
        refused(names.claim(of("eve", "maya", 2, 2), LATER)),
        RefusalReason::NameTaken
    );
    // The same agent presents a token: the name is bound to its holder from now on.
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    assert_eq!(
        refused(names.claim(of("eve", "maya", 1, 2), LATER)),
        RefusalReason::NameTaken
    );
    // The name stays bound to the holder when the agent presents no token.
    claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    leaves(&mut names, "maya", 1, ReleaseKind::Away);
    assert_eq!(
        refused(names.claim(of("eve", "maya", 1, 2), LATER)),
        RefusalReason::NameTaken
    );
    assert_eq!(
        refused(names.claim(claim("maya", 2, 2, link(0, 2)), LATER)),
        RefusalReason::NameBound
    );
}

#[test]
fn a_derived_name_goes_with_its_key_to_another_holder_but_not_while_its_agent_is_there() {
    let mut names = names(1, 10);
    let it = claim("maya", 1, 1, link(0, 1));
    let derived = TunnelId::derive(&it.key, &it.machine, "maya");
    let name = derived.as_str();
    claimed(names.claim(of("ada", name, 1, 1), LATER));
    // Bob claims over Ada's link, over another link, and as another run.
    for (instance, id) in [(1, 1), (1, 2), (2, 2)] {
        let bob = Claim {
            instance: InstanceId::new([instance; 16]),
            ..of("bob", name, 1, id)
        };
        assert_eq!(refused(names.claim(bob, LATER)), RefusalReason::NameTaken);
    }
    claimed(names.claim(of("ada", name, 1, 1), LATER));
    leaves(&mut names, name, 1, ReleaseKind::Away);
    claimed(names.claim(of("bob", name, 1, 2), LATER));
}

#[test]
fn a_holder_that_the_relay_was_told_is_another_one_now_keeps_the_agents_name() {
    let mut names = names(1, 10);
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    leaves(&mut names, "maya", 1, ReleaseKind::HolderChanged);
    // The name stays bound to the agent's key.
    assert_eq!(
        refused(names.claim(of("eve", "maya", 2, 2), LATER)),
        RefusalReason::NameBound
    );
    claimed(names.claim(of("bob", "maya", 1, 3), LATER));
    assert_eq!(
        refused(names.claim(of("ada", "maya", 1, 4), LATER)),
        RefusalReason::NameTaken
    );
}

#[test]
fn bindings_outlast_a_restart() {
    let mut before = names(1, 10);
    claimed(before.claim(of("ada", "maya", 1, 1), LATER));
    claimed(before.claim(of("ada", "nuke", 1, 1), LATER));
    claimed(before.claim(claim("open", 1, 1, link(0, 1)), LATER));
    claimed(before.claim(of("ada", "gone", 1, 1), LATER));
    leaves(&mut before, "nuke", 1, ReleaseKind::Away);
    leaves(&mut before, "gone", 1, ReleaseKind::Away);
    assert_eq!(
        before.forget(&TunnelId::parse("gone").unwrap()).0,
        Forgotten::Free
    );
    let mut after = restarted(&mut before, 2);
    for name in ["maya", "nuke"] {
        assert_eq!(
            refused(after.claim(of("eve", name, 1, 5), LATER)),
            RefusalReason::NameTaken
        );
        let (update, _) = claimed(after.claim(of("ada", name, 1, 6), LATER));
        assert!(update.revision > first_number(2));
    }
    assert_eq!(
        refused(after.claim(of("eve", "open", 2, 5), LATER)),
        RefusalReason::NameBound
    );
    claimed(after.claim(of("eve", "gone", 2, 5), LATER));
    // The same holder may use another key after the restart, too.
    leaves(&mut after, "maya", 6, ReleaseKind::Away);
    claimed(after.claim(of("ada", "maya", 4, 7), LATER));
}

/// A claim by the given run of Ada's agent.
fn run(instance: u8, id: u64) -> Claim {
    let it = of("ada", "maya", 1, id);
    Claim {
        instance: InstanceId::new([instance; 16]),
        ..it
    }
}

#[test]
fn an_earlier_run_of_an_agent_does_not_get_its_name_back_after_a_restart() {
    let mut before = names(1, 10);
    claimed(before.claim(run(1, 1), LATER));
    let (first, _) = claimed(before.claim(run(2, 2), LATER));
    let mut after = restarted(&mut before, 2);
    assert_eq!(
        refused(after.claim(run(1, 3), LATER)),
        RefusalReason::Superseded
    );
    // The run that had the name gets it again, under a generation of the new start.
    let (second, fence) = claimed(after.claim(run(2, 4), LATER));
    assert_eq!((links(&second), fence.len()), (vec![link(0, 4)], 0));
    assert!(second.agents[0].generation > first.agents[0].generation);
    assert!(second.agents[0].generation > Generation(first_number(2)));
    // A further link of the same run changes nothing.
    let (third, _) = claimed(after.claim(run(2, 5), LATER));
    assert_eq!(third.agents[0].generation, second.agents[0].generation);
    let mut again = restarted(&mut after, 3);
    assert_eq!(
        refused(again.claim(run(1, 6), LATER)),
        RefusalReason::Superseded
    );
    // A run that is new after a restart supersedes the run before it.
    claimed(again.claim(run(3, 7), LATER));
    for earlier in [1, 2] {
        let earlier = run(earlier, 8);
        assert_eq!(
            refused(again.claim(earlier, LATER)),
            RefusalReason::Superseded
        );
    }
}

#[test]
fn a_name_is_kept_for_a_day_since_its_agent_left_also_over_a_restart() {
    let mut before = names(1, 10);
    claimed(before.claim(of("ada", "old", 1, 1), LATER));
    claimed(before.claim(of("ada", "live", 1, 1), LATER));
    leaves(&mut before, "old", 1, ReleaseKind::Away);
    let day = OFFLINE_KEPT.as_secs();
    for note in &mut before.notes {
        if let Note::Bound(binding) = note {
            binding.away_since = binding.away_since.map(|at| at - day / 2);
        }
    }
    let mut after = restarted(&mut before, 2);
    let left = |names: &Names, name: &str| {
        let tunnel = TunnelId::parse(name).unwrap();
        names
            .bound(&tunnel, LATER)
            .and_then(|it| it.kept_for_seconds)
    };
    assert!(left(&after, "old").unwrap() <= day / 2);
    assert_eq!(left(&after, "live"), Some(day));
    let (_, forgotten) = after.sweep(LATER + OFFLINE_KEPT / 2);
    assert_eq!(forgotten.len(), 1);
    assert_eq!(left(&after, "old"), None);
}

#[test]
fn only_a_change_is_noted_and_a_renewal_is_none() {
    let mut names = names(1, 10);
    for _ in 0..3 {
        claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    }
    assert_eq!(names.take_notes().len(), 1);
    claimed(names.claim(of("ada", "maya", 1, 2), LATER));
    assert!(
        names.take_notes().is_empty(),
        "a further link changes nothing"
    );
    leaves(&mut names, "maya", 1, ReleaseKind::Away);
    leaves(&mut names, "maya", 2, ReleaseKind::Away);
    let notes = names.take_notes();
    let away = |note: &Note| matches!(note, Note::Bound(it) if it.away_since.is_some());
    assert!(notes.len() == 1 && notes.iter().all(away), "{notes:?}");
}

#[test]
fn a_flood_of_names_of_one_holder_flushes_no_binding_of_another() {
    let mut names = names(1, 10);
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    leaves(&mut names, "maya", 1, ReleaseKind::Away);
    for n in 0..2_000_u64 {
        let name = format!("flood-{n}");
        // The keys change as well.
        let [key, ..] = n.to_le_bytes();
        claimed(names.claim(of("eve", &name, key, 100 + n), LATER));
        leaves(&mut names, &name, 100 + n, ReleaseKind::Away);
        names.sweep(LATER + Duration::from_secs(n));
    }
    assert!(names.names.len() <= 22, "{}", names.names.len());
    assert_eq!(
        refused(names.claim(of("eve", "maya", 1, 9), LATER)),
        RefusalReason::NameTaken
    );
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
}

#[test]
fn a_key_without_a_holder_floods_its_own_names_only() {
    let mut names = names(1, 10);
    claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
    leaves(&mut names, "maya", 1, ReleaseKind::Away);
    for n in 0..500_u64 {
        let name = format!("flood-{n}");
        claimed(names.claim(claim(&name, 2, 2, link(0, 2)), LATER));
        leaves(&mut names, &name, 2, ReleaseKind::Away);
        names.sweep(LATER);
    }
    claimed(names.claim(claim("maya", 1, 1, link(0, 1)), LATER));
}

#[test]
fn one_holder_cannot_have_every_place_and_leaves_room_when_it_goes() {
    let mut names = names(1, 10);
    for n in 0..5 {
        claimed(names.claim(of("eve", &format!("e{n}"), 1, 1), LATER));
    }
    assert_eq!(
        refused(names.claim(of("eve", "e5", 1, 1), LATER)),
        RefusalReason::Limited
    );
    claimed(names.claim(of("ada", "maya", 2, 2), LATER));
    // Renewals of live tunnels pass, and a refused claim takes no place.
    claimed(names.claim(of("eve", "e4", 1, 1), LATER));
    leaves(&mut names, "e0", 1, ReleaseKind::Away);
    claimed(names.claim(of("eve", "e5", 1, 1), LATER));
    assert_eq!(names.rules.live.load(Ordering::Relaxed), 6);
}

#[test]
fn a_name_that_its_agent_took_back_is_forgotten_if_no_other_key_can_have_it() {
    let mut names = names(1, 10);
    let it = claim("maya", 1, 1, link(0, 1));
    let derived = TunnelId::derive(&it.key, &it.machine, "diag-0");
    claimed(names.claim(of("ada", derived.as_str(), 1, 1), LATER));
    let update = leaves(&mut names, derived.as_str(), 1, ReleaseKind::TakenBack).unwrap();
    assert!(update.forget && names.names.is_empty());
    assert_eq!(names.take_notes().last(), Some(&Note::Forgotten(derived)));
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    let update = leaves(&mut names, "maya", 1, ReleaseKind::TakenBack).unwrap();
    assert!(!update.forget);
    assert_eq!(
        refused(names.claim(of("eve", "maya", 2, 2), LATER)),
        RefusalReason::NameTaken
    );
}

#[test]
fn an_operator_unbinds_a_name_without_an_agent() {
    let mut names = names(1, 10);
    assert_eq!(names.forget(&maya()).0, Forgotten::Unknown);
    claimed(names.claim(of("ada", "maya", 1, 1), LATER));
    assert_eq!(names.forget(&maya()).0, Forgotten::Live);
    let bound = names.bound(&maya(), LATER).unwrap();
    assert_eq!(
        (bound.sub.as_deref(), &*bound.agent, bound.kept_for_seconds),
        (Some("ada"), "010101010101", None)
    );
    leaves(&mut names, "maya", 1, ReleaseKind::Away);
    assert!(
        names
            .bound(&maya(), LATER)
            .unwrap()
            .kept_for_seconds
            .is_some()
    );
    let (outcome, update) = names.forget(&maya());
    assert!(outcome == Forgotten::Free && update.unwrap().forget);
    assert_eq!(names.bound(&maya(), LATER), None);
    claimed(names.claim(of("eve", "maya", 2, 2), LATER));
}

#[test]
fn members_of_a_pool_share_it_after_a_restart_and_strangers_do_not() {
    let member = |sub: &str, key: u8, id: u64, group: &str| {
        let it = of(sub, "pool", key, id);
        let it = with_info(it, |info| {
            info.shared = true;
            info.owner = Some(Arc::new(Owner {
                sub: sub.to_owned(),
                groups: vec![group.to_owned()],
            }));
        });
        let machine = MachineId::new([key; 16]);
        Claim { machine, ..it }
    };
    let mut before = names(1, 10);
    claimed(before.claim(member("ada", 1, 1, "fx"), LATER));
    claimed(before.claim(member("bob", 2, 2, "fx"), LATER));
    let mut after = restarted(&mut before, 2);
    assert_eq!(
        refused(after.claim(member("eve", 3, 3, "other"), LATER)),
        RefusalReason::NameTaken
    );
    claimed(after.claim(member("cyd", 4, 4, "fx"), LATER));
    let (update, _) = claimed(after.claim(member("ada", 1, 1, "fx"), LATER));
    assert_eq!(update.agents.len(), 2);
}

#[test]
fn a_name_without_an_agent_keeps_a_few_hundred_bytes() {
    let mut names = names(1, 10);
    let long = |text: &str| text.repeat(1024 / text.len());
    let it = with_info(of("eve", "maya", 1, 1), |info| {
        info.authority = long("a");
        info.base_path = long("/b");
        info.dcc = long("c");
        info.capabilities = (0..64).map(|n| format!("{n}-").repeat(40)).collect();
    });
    claimed(names.claim(it, LATER));
    let update = leaves(&mut names, "maya", 1, ReleaseKind::Away).unwrap();
    let info = &*update.info;
    let texts = [&info.authority, &info.base_path, &info.dcc].map(String::len);
    let words: usize = info
        .capabilities
        .iter()
        .map(|it| it.len() + size_of::<String>())
        .sum();
    assert!(
        texts.iter().sum::<usize>() + words <= 512,
        "{texts:?} {words}"
    );
    let name = &names.names[&maya()];
    assert!(Arc::ptr_eq(&name.info, &update.info));
    let holder = &name.holders[0];
    assert!(Arc::ptr_eq(&holder.info, &update.info));
    assert_eq!(
        (name.holders.capacity(), name.open_claims.capacity()),
        (1, 0)
    );
    let fixed = size_of::<Name>() + size_of_val(holder) + size_of::<TunnelInfo>();
    assert!(fixed < 700, "{fixed}");
    // Short texts are kept.
    let it = with_info(of("eve", "nuke", 1, 1), |info| {
        info.base_path = "/mcp".to_owned();
        info.capabilities = vec!["gpu".to_owned()];
    });
    claimed(names.claim(it, LATER));
    let update = leaves(&mut names, "nuke", 1, ReleaseKind::Away).unwrap();
    assert_eq!(
        (&*update.info.base_path, update.info.capabilities.len()),
        ("/mcp", 1)
    );
}
