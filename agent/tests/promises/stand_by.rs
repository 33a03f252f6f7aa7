//! Tests of an agent that stands by while a newer run with the same key has its tunnels.

use std::time::Duration;

use tieline_agent::AgentEvent;
use tieline_wire::{GoAway, LinkEnd};

use crate::rig::{Agent, Relay, soon};
use crate::targets::echo;

fn superseded() -> GoAway {
    GoAway {
        last_session: 0,
        reason: LinkEnd::Superseded,
        deadline_ms: 0,
        message: String::new(),
    }
}

#[tokio::test]
async fn a_superseded_service_comes_back_when_the_other_run_has_ended() {
    let relay = Relay::bind().await;
    let target = echo().await;
    let home = tempfile::tempdir().unwrap();
    let mut service = Agent::standing_by(&relay, &target, |it| it.with_state_dir(home.path()));
    let mut link = relay.accept_registered().await;
    service.saw_registered().await;
    let first = link.hello().instance;

    let by_hand = Agent::start_with(&relay, &target, |it| it.with_state_dir(home.path()));
    let newer = relay.accept_registered().await;
    link.mux.go_away(&superseded());
    link.flush().await;
    assert_eq!(soon(link.try_event()).await, None);
    let stands_by = |event: &AgentEvent| matches!(event, AgentEvent::StandingBy).then_some(());
    service.saw(stands_by).await;
    // The service dials no relay while the newer run is alive.
    assert!(relay.stays_alone().await);

    drop(newer);
    by_hand.kill().await;
    let back = relay.accept_registered().await;
    service.saw_registered().await;
    assert_ne!(
        back.hello().instance,
        first,
        "the service is a new instance"
    );
    assert_eq!(back.hello().key, link.hello().key);
    service.stop();
    service.ended().await.unwrap();
}

#[tokio::test]
async fn a_service_that_stands_by_stops_when_it_is_asked_to() {
    let relay = Relay::bind().await;
    let target = echo().await;
    let home = tempfile::tempdir().unwrap();
    let mut service = Agent::standing_by(&relay, &target, |it| it.with_state_dir(home.path()));
    let mut link = relay.accept_registered().await;
    service.saw_registered().await;
    link.mux.go_away(&superseded());
    link.flush().await;
    let stands_by = |event: &AgentEvent| matches!(event, AgentEvent::StandingBy).then_some(());
    service.saw(stands_by).await;
    service.stop();
    let ended = tokio::time::timeout(Duration::from_secs(5), service.ended()).await;
    ended.unwrap().unwrap();
}
