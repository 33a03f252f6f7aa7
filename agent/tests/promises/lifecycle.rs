//! Tests of how links begin, end and follow each other.

use std::time::Duration;

use tieline_agent::{AgentEvent, Error, State, list_agents};
use tieline_wire::{Event, GoAway, LinkEnd, RefusalReason, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::rig::{Agent, Relay, soon};
use crate::targets::echo;

fn go_away(reason: LinkEnd, deadline_ms: u32) -> GoAway {
    GoAway {
        last_session: 0,
        reason,
        deadline_ms,
        message: "says the test".to_owned(),
    }
}

#[tokio::test]
async fn an_agent_proves_its_key_and_says_what_it_publishes() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start_with(&relay, "http://127.0.0.1:8765/mcp", |config| {
        config.with_dcc("maya").with_capability("mcp").with_links(1)
    });
    // The relay's mux accepts only a hello with a valid signature.
    let mut link = relay.accept().await;
    assert_eq!(format!("tcp://{}", link.hello().relay_name), relay.url());
    assert_eq!((link.hello().link_index, link.hello().links), (0, 1));
    let register = link.register();
    assert_eq!(register.scheme, Scheme::Http);
    assert_eq!(register.authority, "127.0.0.1:8765");
    assert_eq!(register.base_path, "/mcp");
    assert_eq!(register.label, "maya-8765/mcp");
    assert_eq!(register.name, None);
    link.grant().await;
    let tunnel = link.tunnel().to_string();
    let (seen, url, generation, transport) = agent
        .saw(|event| match event {
            AgentEvent::Registered {
                tunnel,
                url,
                generation,
                transport,
                ..
            } => Some((tunnel.clone(), url.clone(), *generation, *transport)),
            _ => None,
        })
        .await;
    assert_eq!(seen, tunnel);
    assert_eq!(url, format!("http://relay.test/w/{tunnel}/mcp"));
    assert_eq!(generation, 41);
    assert_eq!(transport, "tcp");
}

#[tokio::test]
async fn a_final_refusal_ends_the_agent_with_code_3() {
    let relay = Relay::bind().await;
    let agent = Agent::start(&relay, "127.0.0.1:1");
    let mut link = relay.accept().await;
    link.refuse(RefusalReason::NameTaken).await;
    let error = agent.ended().await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("says the test"), "{error}");
    assert!(relay.stays_alone().await);
}

#[tokio::test]
async fn a_name_that_this_run_had_is_asked_for_again_though_another_agent_has_it() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let link = relay.accept_registered().await;
    agent.saw_registered().await;
    drop(link);
    let mut link = relay.accept().await;
    link.refuse(RefusalReason::NameTaken).await;
    let (reason, message, retry_ms) = agent
        .saw(|event| match event {
            AgentEvent::Disconnected {
                reason,
                message,
                retry_ms,
                ..
            } if *reason != "link_lost" => Some((*reason, message.clone(), *retry_ms)),
            _ => None,
        })
        .await;
    assert_eq!(reason, "name_taken");
    assert!(
        message.contains("asked for again about once a minute"),
        "{message}"
    );
    assert!((45_000..=75_000).contains(&retry_ms), "{retry_ms}");
    agent.stop();
    assert!(agent.ended().await.is_ok());
}

#[tokio::test]
async fn a_passing_refusal_is_tried_again() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let mut link = relay.accept().await;
    link.refuse(RefusalReason::ClaimTimeout).await;
    assert_eq!(agent.saw_disconnected().await, "claim_timeout");
    relay.accept_registered().await;
    agent.saw_registered().await;
}

#[tokio::test]
async fn a_superseded_agent_says_so_and_does_not_dial_again() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let mut link = relay.accept_registered().await;
    agent.saw_registered().await;
    link.mux.go_away(&go_away(LinkEnd::Superseded, 0));
    link.flush().await;
    drop(link);
    agent
        .saw(|event| matches!(event, AgentEvent::Superseded { .. }).then_some(()))
        .await;
    let error = agent.ended().await.unwrap_err();
    assert!(matches!(error, Error::Superseded { .. }), "{error}");
    assert_eq!(error.exit_code(), 3);
    assert!(relay.stays_alone().await);
}

#[tokio::test]
async fn a_refused_hello_is_reported_with_the_relays_reason() {
    let relay = Relay::bind().await;
    let agent = Agent::start(&relay, "127.0.0.1:1");
    let mut link = relay.accept().await;
    link.mux.go_away(&go_away(LinkEnd::Revoked, 0));
    link.flush().await;
    let error = agent.ended().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::LinkRefused {
                reason: LinkEnd::Revoked,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn something_that_is_no_relay_is_told_apart_and_tried_again() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let mut stream = relay.accept_socket().await;
    stream
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let message = agent
        .saw(|event| match event {
            AgentEvent::Disconnected {
                reason: "preface",
                message,
                ..
            } => Some(message.clone()),
            _ => None,
        })
        .await;
    for words in ["an HTTP server answers there", "port for agents (9001"] {
        assert!(message.contains(words), "{message}");
    }
    relay.accept_registered().await;
    agent.saw_registered().await;
}

#[tokio::test]
async fn a_relay_that_falls_silent_is_left_for_a_new_link() {
    let relay = Relay {
        heartbeat_ms: 50,
        ..Relay::bind().await
    };
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let _silent = relay.accept_registered().await;
    agent.saw_registered().await;
    assert_eq!(agent.saw_disconnected().await, "stale");
    relay.accept_registered().await;
}

#[tokio::test]
async fn an_idle_link_lives_by_its_heartbeats() {
    let mut relay = Relay {
        heartbeat_ms: 50,
        ..Relay::bind().await
    };
    relay.settings.heartbeat = Duration::from_secs(60);
    relay.settings.stale = Duration::from_millis(400);
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let mut link = relay.accept_registered().await;
    agent.saw_registered().await;
    // Two seconds of heartbeats without another event; a stale link would fail inside `event`.
    let until = Instant::now() + Duration::from_secs(2);
    let noise = tokio::time::timeout_at(until, link.event()).await;
    assert!(noise.is_err(), "no event was due, but {noise:?} came");
    let status = list_agents(agent.state.path()).await.unwrap();
    assert!(status[0].rtt_ms.is_some());
}

#[tokio::test]
async fn asked_to_move_an_agent_makes_before_it_breaks() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, &echo().await);
    let mut old = relay.accept_registered().await;
    agent.saw_registered().await;
    let id = old.open().await;
    old.exchange(id, b"one", |answer| answer.bytes == b"one")
        .await;
    old.mux.go_away(&go_away(LinkEnd::ShuttingDown, 20_000));
    old.flush().await;
    let new = relay.accept_registered().await;
    agent.saw_registered().await;
    assert_eq!(new.hello().instance, old.hello().instance);
    // The old link's session goes on, and the old link ends with that session.
    old.exchange(id, b"two", |answer| answer.bytes == b"two")
        .await;
    assert_eq!(
        list_agents(agent.state.path()).await.unwrap()[0].sessions,
        1
    );
    old.finish(id).await;
    old.exchange(id, &[], |answer| answer.finished).await;
    assert_eq!(soon(old.try_event()).await, None);
}

#[tokio::test]
async fn several_links_serve_one_tunnel() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start_with(&relay, &echo().await, |config| config.with_links(3));
    let mut links = Vec::new();
    for _ in 0..3 {
        links.push(relay.accept_registered().await);
        agent.saw_registered().await;
    }
    let mut indexes: Vec<_> = links.iter().map(|link| link.hello().link_index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2]);
    assert!(
        links
            .iter()
            .all(|link| link.hello().instance == links[0].hello().instance)
    );
    for link in &mut links {
        let id = link.open().await;
        link.exchange(id, b"x", |answer| answer.bytes == b"x").await;
    }
    let status = list_agents(agent.state.path()).await.unwrap();
    assert_eq!((status[0].links.len(), status[0].sessions), (3, 3));
    links[1].mux.go_away(&go_away(LinkEnd::Superseded, 0));
    links[1].flush().await;
    assert!(matches!(agent.ended().await, Err(Error::Superseded { .. })));
}

#[tokio::test]
async fn stopped_an_agent_takes_its_leave_and_lets_a_session_finish() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, &echo().await);
    let mut link = relay.accept_registered().await;
    agent.saw_registered().await;
    let id = link.open().await;
    link.exchange(id, b"one", |answer| answer.bytes == b"one")
        .await;
    agent.stop();
    let away = link
        .find(|event| match event {
            Event::GoAway(away) => Some(away),
            _ => None,
        })
        .await;
    assert_eq!(away.reason, LinkEnd::ShuttingDown);
    let tunnel = link.tunnel();
    assert_eq!(link.event().await, Event::Unregister(tunnel));
    link.exchange(id, b"two", |answer| answer.bytes == b"two")
        .await;
    link.finish(id).await;
    link.exchange(id, &[], |answer| answer.finished).await;
    assert_eq!(soon(link.try_event()).await, None);
    drop(link);
    let state = agent.state.path().to_owned();
    agent.ended().await.unwrap();
    assert!(list_agents(&state).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_that_does_not_finish_is_cut_at_the_deadline() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start_with(&relay, &echo().await, |mut config| {
        config.drain_timeout = Duration::from_millis(100);
        config
    });
    let mut link = relay.accept_registered().await;
    agent.saw_registered().await;
    let id = link.open().await;
    link.exchange(id, b"one", |answer| answer.bytes == b"one")
        .await;
    agent.stop();
    while soon(link.try_event()).await.is_some() {}
    drop(link);
    agent.ended().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_dropped_leaves_no_connection() {
    let relay = Relay::bind().await;
    let state = tempfile::tempdir().unwrap();
    let config = tieline_agent::Config::new(&relay.url(), &echo().await)
        .unwrap()
        .with_state_dir(state.path());
    let agent = tokio::spawn(tieline_agent::run_once(config, std::future::pending()));
    let mut link = relay.accept_registered().await;
    let id = link.open().await;
    link.exchange(id, b"one", |answer| answer.bytes == b"one")
        .await;
    agent.abort();
    assert_eq!(soon(link.try_event()).await, None);
}

#[tokio::test]
async fn status_tells_where_an_agent_stands() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start_with(&relay, &echo().await, |config| config.with_dcc("maya"));
    let mut link = relay.accept().await;
    let status = list_agents(agent.state.path()).await.unwrap();
    assert_eq!(
        (status[0].state, status[0].tunnel.as_deref()),
        (State::Connecting, None)
    );
    link.grant().await;
    agent.saw_registered().await;
    let id = link.open().await;
    link.exchange(id, b"x", |answer| answer.bytes == b"x").await;
    let status = list_agents(agent.state.path()).await.unwrap().remove(0);
    assert_eq!(status.state, State::Registered);
    assert_eq!(status.tunnel, Some(link.tunnel().to_string()));
    assert_eq!((status.sessions, status.dcc.as_str()), (1, "maya"));
    assert_eq!(status.pid, std::process::id());
    assert!(status.rtt_ms.is_some());
    drop(link);
    agent.saw_disconnected().await;
    let status = list_agents(agent.state.path()).await.unwrap().remove(0);
    assert!(status.tunnel.is_some());
    assert_ne!(status.state, State::Registered);
}

#[tokio::test]
async fn a_relay_that_is_down_is_dialled_until_it_is_up() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let mut stream = relay.accept_socket().await;
    let mut first = [0; 8];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, tieline_wire::limits::PREFACE);
    drop(stream);
    assert_eq!(agent.saw_disconnected().await, "link_lost");
    relay.accept_registered().await;
}

#[tokio::test]
async fn a_relay_that_answers_nothing_is_given_up_within_seconds_while_something_is_sent() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, &echo().await);
    let mut link = relay.accept_registered().await;
    agent.saw_registered().await;
    let id = link.open().await;
    link.exchange(id, b"one", |answer| answer.bytes == b"one")
        .await;
    // From here on the path back is dead: the test reads nothing that the agent sends.
    let began = Instant::now();
    assert_eq!(agent.saw_disconnected().await, "stale");
    assert!(began.elapsed() < Duration::from_secs(10));
    relay.accept_registered().await;
}
