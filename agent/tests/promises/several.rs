//! Tests of several targets over one link: each has its own tunnel, answer and callers.

use tieline_agent::{AgentEvent, Config, State, TARGETS_MAX, TargetConfig, list_agents};
use tieline_wire::{
    Event, Generation, Granted, Mode, Open, Refusal, RefusalReason, Register, RegisterAck,
    SessionEnd, SessionId, TunnelId, Withdrawal,
};

use crate::rig::{Agent, Link, Relay, soon};
use crate::targets::target;

/// Two targets called maya and comfy; each sends its name and closes.
async fn two() -> [TargetConfig; 2] {
    let mut targets = Vec::new();
    for name in ["maya", "comfy"] {
        let address = target(move |mut stream| async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, name.as_bytes()).await;
        });
        let target = TargetConfig::new(&address.await).unwrap();
        targets.push(target.with_name(name).unwrap());
    }
    targets.try_into().unwrap()
}

fn start(relay: &Relay, targets: [TargetConfig; 2], change: fn(Config) -> Config) -> Agent {
    Agent::start_with(relay, "127.0.0.1:1", |mut config| {
        config.targets = targets.into();
        change(config)
    })
}

/// Accepts a link and its first `count` registrations.
async fn accept(relay: &Relay, count: usize) -> (Link, Vec<Register>) {
    let mut link = relay.accept().await;
    let mut registers = vec![link.register().clone()];
    while registers.len() < count {
        registers.push(registered(&mut link).await);
    }
    (link, registers)
}

/// An agent with two targets, and both tunnels up.
async fn both_up(relay: &Relay) -> (Agent, Link, Vec<Register>) {
    let mut agent = start(relay, two().await, |config| config);
    let (mut link, registers) = accept(relay, 2).await;
    for register in &registers {
        grant(&mut link, register).await;
        saw_up(&mut agent).await;
    }
    (agent, link, registers)
}

async fn registered(link: &mut Link) -> Register {
    link.find(|event| match event {
        Event::Register(register) => Some(register),
        _ => None,
    })
    .await
}

fn tunnel(register: &Register) -> TunnelId {
    TunnelId::parse(register.name.as_deref().unwrap()).unwrap()
}

async fn grant(link: &mut Link, register: &Register) {
    let tunnel = tunnel(register);
    let granted = Granted {
        urls: vec![format!("http://relay.test/w/{tunnel}")],
        tunnel,
        generation: Generation(41),
        heartbeat_ms: 15_000,
        expires_in_s: 0,
    };
    answer(link, register, Ok(granted)).await;
}

async fn refuse(link: &mut Link, register: &Register, reason: RefusalReason) {
    let refusal = Refusal::new(reason, "says the test");
    answer(link, register, Err(refusal)).await;
}

async fn answer(link: &mut Link, register: &Register, outcome: Result<Granted, Refusal>) {
    let request = register.request;
    link.mux.register_ack(&RegisterAck { request, outcome });
    link.flush().await;
}

async fn take_back(link: &mut Link, register: &Register, reason: RefusalReason) {
    link.mux.withdraw(&Withdrawal {
        request: register.request,
        tunnel: tunnel(register),
        refusal: Refusal::new(reason, "says the test"),
    });
    link.flush().await;
}

async fn open(link: &mut Link, tunnel: TunnelId) -> SessionId {
    let mode = Mode::Bytes;
    let id = link.mux.open(&Open { tunnel, mode }).unwrap();
    link.flush().await;
    id
}

/// The text that the target behind a tunnel sends.
async fn says(link: &mut Link, tunnel: TunnelId) -> String {
    let id = open(link, tunnel).await;
    let answer = link.exchange(id, &[], |answer| answer.finished).await;
    link.finish(id).await;
    String::from_utf8(answer.bytes).unwrap()
}

async fn saw_up(agent: &mut Agent) -> (String, String) {
    agent
        .saw(|event| match event {
            AgentEvent::Registered { tunnel, target, .. } => Some((tunnel.clone(), target.clone())),
            _ => None,
        })
        .await
}

async fn saw_refused(agent: &mut Agent) -> (String, &'static str, bool) {
    agent
        .saw(|event| match event {
            AgentEvent::TunnelRefused {
                tunnel,
                reason,
                is_final,
                ..
            } => Some((tunnel.clone(), *reason, *is_final)),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn each_tunnel_leads_to_its_own_target() {
    let relay = Relay::bind().await;
    let targets = two().await;
    let mut agent = start(&relay, targets.clone(), |config| config.with_links(2));
    for _ in 0..2 {
        let (mut link, registers) = accept(&relay, 2).await;
        assert_ne!(registers[0].request, registers[1].request);
        // The relay's answers come in any order, and a caller may come before them.
        let callers = [&registers[0], &registers[1]].map(tunnel);
        for tunnel in &callers {
            assert_eq!(says(&mut link, tunnel.clone()).await, tunnel.as_str());
        }
        for (register, target) in registers.iter().zip(&targets).rev() {
            grant(&mut link, register).await;
            let expected = (tunnel(register).to_string(), target.target.to_string());
            assert_eq!(saw_up(&mut agent).await, expected);
        }
        for tunnel in callers {
            assert_eq!(says(&mut link, tunnel.clone()).await, tunnel.as_str());
        }
        let id = open(&mut link, TunnelId::parse("nuke").unwrap()).await;
        let nobody = link.exchange(id, &[], |_| false).await;
        assert_eq!(nobody.reset, Some(SessionEnd::UnknownTunnel));
    }
}

#[tokio::test]
async fn a_tunnel_that_is_refused_for_good_does_not_take_the_others_down() {
    let relay = Relay::bind().await;
    let mut agent = start(&relay, two().await, |config| config);
    let (mut link, registers) = accept(&relay, 2).await;
    refuse(&mut link, &registers[0], RefusalReason::NameTaken).await;
    let refusal = saw_refused(&mut agent).await;
    assert_eq!(refusal, ("maya".to_owned(), "name_taken", true));
    grant(&mut link, &registers[1]).await;
    assert_eq!(saw_up(&mut agent).await.0, "comfy");
    assert_eq!(says(&mut link, tunnel(&registers[1])).await, "comfy");
    let status = list_agents(agent.state.path()).await.unwrap().remove(0);
    let states: Vec<_> = status.tunnels.iter().map(|it| it.state).collect();
    assert_eq!(states, [State::Refused, State::Registered]);
    assert_eq!((status.state, status.tunnel), (State::Registered, None));
    let refusal = status.tunnels[0].refusal.as_ref().unwrap();
    assert!(refusal.message.contains("says the test"), "{refusal:?}");
    // A new link registers the tunnel again; a repeated refusal is not reported again.
    drop(link);
    let (mut link, registers) = accept(&relay, 2).await;
    refuse(&mut link, &registers[0], RefusalReason::NameTaken).await;
    grant(&mut link, &registers[1]).await;
    let next = agent
        .saw(|event| match event {
            AgentEvent::TunnelRefused { tunnel, .. } | AgentEvent::Registered { tunnel, .. } => {
                Some(tunnel.clone())
            }
            _ => None,
        })
        .await;
    assert_eq!(next, "comfy");
}

#[tokio::test]
async fn all_tunnels_refused_for_good_end_the_agent_with_code_3() {
    let relay = Relay::bind().await;
    let mut agent = start(&relay, two().await, |config| config);
    let (mut link, registers) = accept(&relay, 2).await;
    refuse(&mut link, &registers[0], RefusalReason::NameTaken).await;
    refuse(&mut link, &registers[1], RefusalReason::DccNotAllowed).await;
    assert_eq!(saw_refused(&mut agent).await.1, "name_taken");
    assert_eq!(saw_refused(&mut agent).await.1, "dcc_not_allowed");
    let error = agent.ended().await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(relay.stays_alone().await);
}

#[tokio::test]
async fn a_tunnel_that_may_get_better_is_asked_for_again_on_the_same_link() {
    let relay = Relay::bind().await;
    let mut agent = start(&relay, two().await, |config| config);
    let (mut link, registers) = accept(&relay, 2).await;
    grant(&mut link, &registers[0]).await;
    refuse(&mut link, &registers[1], RefusalReason::TunnelLimit).await;
    let refusal = saw_refused(&mut agent).await;
    assert_eq!(refusal, ("comfy".to_owned(), "tunnel_limit", false));
    let again = registered(&mut link).await;
    assert_eq!(again.name, registers[1].name);
    assert_ne!(again.request, registers[1].request);
    grant(&mut link, &again).await;
    assert_eq!(saw_up(&mut agent).await.0, "comfy");
}

#[tokio::test]
async fn stopped_an_agent_takes_all_its_tunnels_back() {
    let relay = Relay::bind().await;
    let (mut agent, mut link, _) = both_up(&relay).await;
    agent.stop();
    let mut back = Vec::new();
    while let Some(event) = soon(link.try_event()).await {
        if let Event::Unregister(tunnel) = event {
            back.push(tunnel.to_string());
        }
    }
    back.sort();
    assert_eq!(back, ["comfy", "maya"]);
    drop(link);
    agent.ended().await.unwrap();
}

#[tokio::test]
async fn as_many_targets_as_an_agent_may_have_fit_its_status() {
    let relay = Relay::bind().await;
    let targets = (1..=TARGETS_MAX).map(|port| {
        let target = TargetConfig::new(&format!("http://127.0.0.1:{port}/mcp")).unwrap();
        target.with_name(&format!("seat-{port}")).unwrap()
    });
    let targets: Vec<_> = targets.collect();
    let mut agent = Agent::start_with(&relay, "127.0.0.1:1", |mut config| {
        config.targets = targets;
        config
    });
    let (mut link, registers) = accept(&relay, TARGETS_MAX).await;
    for register in &registers {
        grant(&mut link, register).await;
    }
    for _ in &registers {
        saw_up(&mut agent).await;
    }
    let status = list_agents(agent.state.path()).await.unwrap().remove(0);
    assert_eq!(status.tunnels.len(), TARGETS_MAX);
    let up = status
        .tunnels
        .iter()
        .filter(|it| it.state == State::Registered);
    assert_eq!(up.count(), TARGETS_MAX);
}

#[tokio::test]
async fn a_tunnel_that_is_taken_back_is_asked_for_again_and_the_other_goes_on() {
    let relay = Relay::bind().await;
    let (mut agent, mut link, registers) = both_up(&relay).await;
    let [maya, comfy] = &registers[..] else {
        panic!("{registers:?}")
    };
    let lost = |reason, is_final| ("maya".to_owned(), reason, is_final);
    take_back(&mut link, maya, RefusalReason::Kicked).await;
    assert_eq!(saw_refused(&mut agent).await, lost("kicked", false));
    assert_eq!(says(&mut link, tunnel(comfy)).await, "comfy");
    // On the same link, with a new request number.
    let again = registered(&mut link).await;
    assert!(again.name == maya.name && again.request > comfy.request);
    grant(&mut link, &again).await;
    assert_eq!(saw_up(&mut agent).await.0, "maya");
    assert_eq!(says(&mut link, tunnel(maya)).await, "maya");

    take_back(&mut link, &again, RefusalReason::Revoked).await;
    assert_eq!(saw_refused(&mut agent).await, lost("revoked", true));
    assert_eq!(says(&mut link, tunnel(comfy)).await, "comfy");
    // With its last tunnel gone, the agent leaves the link and asks for both tunnels on a new one.
    take_back(&mut link, comfy, RefusalReason::Kicked).await;
    let (_link, registers) = accept(&relay, 2).await;
    assert_eq!(registers[0].name, maya.name);
}

#[tokio::test]
async fn an_agent_whose_only_tunnel_is_taken_back_for_good_ends() {
    let relay = Relay::bind().await;
    let mut agent = start(&relay, two().await, |mut config| {
        config.targets.truncate(1);
        config
    });
    let (mut link, registers) = accept(&relay, 1).await;
    grant(&mut link, &registers[0]).await;
    saw_up(&mut agent).await;
    // The agent ignores the withdrawal of a tunnel that it does not have.
    let other = Register {
        name: Some("comfy".to_owned()),
        ..registers[0].clone()
    };
    take_back(&mut link, &other, RefusalReason::Revoked).await;
    assert_eq!(says(&mut link, tunnel(&registers[0])).await, "maya");
    take_back(&mut link, &registers[0], RefusalReason::Revoked).await;
    let error = agent.ended().await.unwrap_err();
    assert_eq!((error.word(), error.exit_code()), ("revoked", 3));
}
