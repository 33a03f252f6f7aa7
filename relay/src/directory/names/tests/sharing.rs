//! Tests of names that several agents share.

use tieline_wire::MachineId;

use super::super::name::HOLDERS_MAX;
use super::*;
use super::{LATER, claim, claimed, link, links, names, refused};
use crate::auth::Owner;
use crate::registry::TunnelInfo;

/// A claim by an agent whose token lets it share the name.
fn shared(key: u8, machine: u8, instance: u8, id: u64, owner: &str) -> Claim {
    let it = claim("pool", key, instance, link(0, id));
    let owner = Owner {
        sub: owner.to_owned(),
        groups: vec!["fx".to_owned()],
    };
    Claim {
        machine: MachineId::new([machine; 16]),
        info: Arc::new(TunnelInfo {
            owner: Some(Arc::new(owner)),
            shared: true,
            ..(*it.info).clone()
        }),
        ..it
    }
}

#[test]
fn agents_whose_tokens_say_so_share_a_name_and_each_is_taken_over_by_itself() {
    let mut names = names(1, 10);
    let (first, _) = claimed(names.claim(shared(1, 1, 1, 1, "ada"), LATER));
    let (both, fence) = claimed(names.claim(shared(2, 2, 1, 2, "bob"), LATER));
    assert_eq!(
        (links(&both), fence.len()),
        (vec![link(0, 1), link(0, 2)], 0)
    );
    assert_ne!(both.agents[0].tag, both.agents[1].tag);
    assert_ne!(both.agents[0].generation, both.agents[1].generation);
    // The same key on another machine belongs to another agent.
    let (three, fence) = claimed(names.claim(shared(1, 3, 9, 3, "ada"), LATER));
    assert_eq!((three.agents.len(), fence.len()), (3, 0));
    // The same key on the same machine belongs to a newer run.
    let (after, fence) = claimed(names.claim(shared(1, 1, 2, 4, "ada"), LATER));
    assert_eq!(fence, [link(0, 1)]);
    assert_eq!(links(&after), [link(0, 4), link(0, 2), link(0, 3)]);
    assert!(after.agents[0].generation > first.agents[0].generation);
    assert_eq!(after.agents[0].tag, first.agents[0].tag);
    assert_eq!(
        refused(names.claim(shared(1, 1, 1, 5, "ada"), LATER)),
        RefusalReason::Superseded
    );
    // An agent that leaves does not affect the others.
    let released = names
        .release(&after.tunnel, link(0, 4), ReleaseKind::Away, LATER)
        .update
        .unwrap();
    assert_eq!(links(&released), [link(0, 2), link(0, 3)]);
    assert_eq!(names.rules.live.load(Ordering::Relaxed), 1);
}

#[test]
fn nobody_joins_without_being_allowed_to() {
    let mut names = names(1, 10);
    let alone = |key, id| claim("pool", key, 1, link(0, id));
    let far = |key, id| {
        let it = shared(key, key, 1, id, "eve");
        let owner = Owner {
            sub: "eve".to_owned(),
            groups: Vec::new(),
        };
        let info = TunnelInfo {
            owner: Some(Arc::new(owner)),
            ..(*it.info).clone()
        };
        Claim {
            info: Arc::new(info),
            ..it
        }
    };
    claimed(names.claim(alone(1, 1), LATER));
    let taken = RefusalReason::NameTaken;
    // The present holder does not share the name.
    assert_eq!(
        refused(names.claim(shared(2, 2, 1, 2, "ada"), LATER)),
        taken
    );
    claimed(names.claim(shared(1, 1, 1, 1, "ada"), LATER));
    claimed(names.claim(shared(2, 2, 1, 2, "ada"), LATER));
    assert_eq!(refused(names.claim(far(3, 3), LATER)), taken);
    assert_eq!(refused(names.claim(alone(3, 3), LATER)), taken);
    // A sharing agent cannot take the name for itself while the others are connected.
    assert_eq!(refused(names.claim(alone(1, 1), LATER)), taken);
    let other_kind = {
        let it = shared(3, 3, 1, 3, "ada");
        let info = TunnelInfo {
            dcc: "nuke".to_owned(),
            ..(*it.info).clone()
        };
        Claim {
            info: Arc::new(info),
            ..it
        }
    };
    assert_eq!(refused(names.claim(other_kind, LATER)), taken);
    let pool = TunnelId::parse("pool").unwrap();
    names.release(&pool, link(0, 2), ReleaseKind::Away, LATER);
    let (update, _) = claimed(names.claim(alone(1, 1), LATER));
    assert_eq!(links(&update), [link(0, 1)]);
    assert_eq!(
        refused(names.claim(shared(2, 2, 1, 2, "ada"), LATER)),
        taken
    );
}

#[test]
fn one_of_several_cannot_change_the_name_under_the_others() {
    let mut names = names(1, 10);
    claimed(names.claim(shared(1, 1, 1, 1, "ada"), LATER));
    claimed(names.claim(shared(1, 2, 1, 2, "ada"), LATER));
    let changed = |change: fn(&mut TunnelInfo)| {
        let it = shared(1, 1, 1, 1, "ada");
        let mut info = (*it.info).clone();
        change(&mut info);
        Claim {
            info: Arc::new(info),
            ..it
        }
    };
    let stranger = |info: &mut TunnelInfo| {
        info.owner = Some(Arc::new(Owner {
            sub: "eve".to_owned(),
            groups: Vec::new(),
        }));
    };
    for change in [
        |info: &mut TunnelInfo| info.shared = false,
        |info: &mut TunnelInfo| "nuke".clone_into(&mut info.dcc),
        stranger,
    ] {
        let refusal = refused(names.claim(changed(change), LATER));
        assert_eq!(refusal, RefusalReason::NameTaken);
    }
    let (update, _) = claimed(names.claim(shared(1, 1, 1, 1, "ada"), LATER));
    assert_eq!(update.agents.len(), 2);
    // The only agent left may change the name.
    let pool = TunnelId::parse("pool").unwrap();
    names.release(&pool, link(0, 2), ReleaseKind::Away, LATER);
    claimed(names.claim(changed(|info| "nuke".clone_into(&mut info.dcc)), LATER));
}

#[test]
fn the_agents_of_a_name_are_limited_and_who_left_makes_room() {
    let mut names = names(1, 10);
    let nth = |n: usize| {
        let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
        shared(low, high, 1, n as u64, "ada")
    };
    for n in 0..HOLDERS_MAX {
        claimed(names.claim(nth(n), LATER));
    }
    let one_more = nth(HOLDERS_MAX);
    assert_eq!(
        refused(names.claim(one_more.clone(), LATER)),
        RefusalReason::TunnelLimit
    );
    let pool = TunnelId::parse("pool").unwrap();
    names.release(&pool, link(0, 7), ReleaseKind::Away, LATER);
    let (update, _) = claimed(names.claim(one_more, LATER));
    assert_eq!(update.agents.len(), HOLDERS_MAX);
    assert_eq!(names.names[&pool].holders.len(), HOLDERS_MAX);
}

#[test]
fn a_takeover_leaves_what_other_agents_wait_for() {
    let mut names = names(2, 10);
    let (first, _) = claimed(names.claim(shared(1, 1, 1, 1, "ada"), LATER));
    claimed(names.claim(shared(2, 2, 1, 2, "ada"), LATER));
    let (second, _) = claimed(names.claim(shared(2, 2, 2, 3, "ada"), LATER));
    let pool = &first.tunnel;
    assert!(names.confirm(pool, second.revision, 0).is_empty());
    let confirmed = names.confirm(pool, second.revision, 1);
    let told: Vec<_> = confirmed
        .iter()
        .map(|it| (it.link, it.generation))
        .collect();
    assert_eq!(
        told,
        [
            (link(0, 1), second.agents[0].generation),
            (link(0, 3), second.agents[1].generation)
        ]
    );
}
