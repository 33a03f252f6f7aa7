//! Tests of the limits on registrations.

use tieline_relay::{Allowance, Auth, JwtAuth};
use tieline_token::Key;
use tieline_wire::RefusalReason;

use crate::agent::Agent;
use crate::{signed, start};

#[test]
fn an_address_registers_so_often_and_is_told_to_come_back() {
    let relay = start(|config| config.limits.address.registrations_per_minute = 3);
    let mut agents: Vec<Agent> = (1..=5).map(|seed| Agent::dial(&relay, seed)).collect();
    let mut outcomes = agents
        .iter_mut()
        .map(|agent| agent.register(None, "").map_err(|it| it.reason));
    // The limit allows another registration every 20 s.
    assert!(outcomes.by_ref().take(3).all(|it| it.is_ok()));
    let left: Vec<_> = outcomes.map(Result::err).collect();
    assert_eq!(
        left,
        [Some(RefusalReason::Limited), Some(RefusalReason::Limited)]
    );
    assert!(!RefusalReason::Limited.is_final());
}

#[test]
fn a_holder_registers_so_often_wherever_their_agents_are_and_others_too() {
    let relay = start(|config| {
        config.auth = Auth::Jwt(JwtAuth {
            keys: Key::hs256(&[7; 32]).unwrap().into(),
            ..JwtAuth::default()
        });
        config.limits.sub = Allowance {
            registrations_per_minute: 2,
            ..Allowance::default()
        };
    });
    let mut agents: Vec<Agent> = (1..=4).map(|seed| Agent::dial(&relay, seed)).collect();
    agents[0].register(None, &signed("ada", "1")).unwrap();
    // A registration with a bad token does not count for a token holder.
    let mut stranger = Agent::dial(&relay, 9);
    for _ in 0..5 {
        assert_eq!(stranger.refused(None, "rubbish"), RefusalReason::BadToken);
    }
    agents[1].register(None, &signed("ada", "2")).unwrap();
    let refused = agents[2].refused(None, &signed("ada", "3"));
    assert_eq!(refused, RefusalReason::Limited);
    agents[3].register(None, &signed("bob", "4")).unwrap();
    agents[2].register(None, &signed("bob", "5")).unwrap();
}
