//! Requests whose agent turns them down: a request that never reached its target is sent again; for any other
//! request, the caller learns that the target may have received it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tieline_e2e::behaviour::{Head, HttpStream, TestRelay, WireAgent, WireKey, soon};
use tieline_wire::{Event, SessionEnd, SessionId};
use tokio::task::JoinHandle;

pub(super) const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Longer than the second agent takes to register.
const GRACE: Duration = Duration::from_secs(15);

pub(super) fn relay() -> Result<TestRelay> {
    let relay = TestRelay::with().shards(2);
    relay
        .config(|config| config.callers.offline_grace = GRACE)
        .start()
}

pub(super) async fn post(caller: &mut HttpStream, body: &[u8]) -> Result<()> {
    let head = format!(
        "POST /w/maya/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    caller.write([head.as_bytes(), body].concat()).await
}

/// Answers the next session once its data ends with `end`; returns the data.
pub(super) async fn answer_one(agent: &mut WireAgent, end: &str) -> Result<String> {
    let session = agent.opened().await?;
    agent.mux.opened(session);
    let mut data = String::new();
    while !data.ends_with(end) {
        match agent.event().await?.context("closed within a request")? {
            Event::Data { payload, .. } => data.push_str(std::str::from_utf8(&payload)?),
            Event::GoAway(away) => bail!("the relay sent {away:?}"),
            _ => {}
        }
    }
    agent.mux.send(session, ANSWER.into(), false)?;
    agent.flush().await?;
    Ok(data)
}

/// Resets the next session with `reason`, before its target has received anything.
async fn turn_down(agent: &mut WireAgent, reason: SessionEnd) -> Result<SessionId> {
    let session = agent.opened().await?;
    agent.mux.reset(session, reason);
    agent.flush().await?;
    Ok(session)
}

pub(super) async fn told(caller: &mut HttpStream) -> Result<(Head, Value)> {
    let (head, body) = soon("an answer", caller.answer()).await??;
    let answer = serde_json::from_slice(&body.bytes).unwrap_or_default();
    Ok((head, answer))
}

/// A caller whose connection is on another shard than the link of `maya`, which is the second link of the test.
pub(super) async fn caller_on_another_shard(
    relay: &TestRelay,
) -> Result<(HttpStream, JoinHandle<()>)> {
    let key = WireKey::new()?;
    let other = WireAgent::registered(relay.agent_address(), &key, "other").await?;
    let answering = tokio::spawn(async move { drop(other.answer_with(ANSWER, |_| {}).await) });
    let mut caller = relay.http().await?;
    caller.get("/w/other/").await?;
    ensure!(soon("an answer", caller.answer()).await??.0.status() == 200);
    Ok((caller, answering))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_agent_turned_down_goes_to_the_next_run_of_the_agent() -> Result<()> {
    for crosses in [false, true] {
        let relay = relay()?;
        let (mut caller, _other) = match crosses {
            true => {
                let (caller, other) = caller_on_another_shard(&relay).await?;
                (caller, Some(other))
            }
            false => (relay.http().await?, None),
        };
        let key = WireKey::new()?;
        let mut first = WireAgent::registered(relay.agent_address(), &key, "maya").await?;
        post(&mut caller, b"once").await?;
        turn_down(&mut first, SessionEnd::ShuttingDown).await?;
        let mut second = WireAgent::dial(relay.agent_address(), &key, 2).await?;
        // The session may open before the registration is acknowledged.
        second.ask(Some("maya")).await?;
        let request = answer_one(&mut second, "once").await?;
        ensure!(request.starts_with("POST / HTTP/1.1\r\n"), "{request}");
        let (head, body) = soon("the answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_its_target_may_have_had_is_not_sent_again_and_its_caller_is_told()
-> Result<()> {
    let relay = relay()?;
    let key = WireKey::new()?;
    let mut agent = WireAgent::registered(relay.agent_address(), &key, "maya").await?;
    let mut caller = relay.http().await?;
    post(&mut caller, b"once").await?;
    let session = agent.opened().await?;
    agent.mux.opened(session);
    agent.mux.reset(session, SessionEnd::ShuttingDown);
    agent.flush().await?;
    let (head, answer) = told(&mut caller).await?;
    ensure!(head.status() == 502, "{head:?}");
    ensure!(
        answer["error"] == "tunnel_failed" && answer["request"] == "sent",
        "{answer}"
    );
    Ok(())
}

/// A GET may be repeated after it was sent. If no agent comes back for it, the target may still have received it.
#[tokio::test]
async fn a_request_that_was_sent_and_finds_no_agent_again_is_told_as_sent() -> Result<()> {
    for is_kept in [false, true] {
        let relay = TestRelay::with().config(|config| {
            config.callers.offline_grace = Duration::from_millis(50);
        });
        let relay = relay.start()?;
        let key = WireKey::new()?;
        let mut agent = WireAgent::registered(relay.agent_address(), &key, "maya").await?;
        let mut caller = relay.http().await?;
        caller.get("/w/maya/").await?;
        if is_kept {
            answer_one(&mut agent, "\r\n\r\n").await?;
            ensure!(soon("an answer", caller.answer()).await??.0.status() == 200);
            caller.get("/w/maya/").await?;
            while !matches!(agent.event().await?, Some(Event::Data { .. })) {}
        } else {
            let session = agent.opened().await?;
            agent.mux.opened(session);
            agent.flush().await?;
            while !matches!(agent.event().await?, Some(Event::Data { .. })) {}
        }
        drop(agent);
        let (head, answer) = told(&mut caller).await?;
        ensure!(head.status() == 503, "{head:?}");
        ensure!(
            answer["error"] == "tunnel_offline" && answer["request"] == "sent",
            "{is_kept} {answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_refuses_has_not_had_the_request_and_its_caller_is_told() -> Result<()> {
    let relay = relay()?;
    let key = WireKey::new()?;
    let mut agent = WireAgent::registered(relay.agent_address(), &key, "maya").await?;
    let mut caller = relay.http().await?;
    post(&mut caller, b"once").await?;
    turn_down(&mut agent, SessionEnd::TargetRefused).await?;
    let (head, answer) = told(&mut caller).await?;
    ensure!(head.status() == 502, "{head:?}");
    ensure!(
        answer["error"] == "target_refused" && answer["request"] == "not_sent",
        "{answer}"
    );
    Ok(())
}

/// The relay does not keep such a long body, so only the caller can send the request again.
#[tokio::test]
async fn a_long_request_that_its_target_never_had_may_come_again() -> Result<()> {
    let relay = relay()?;
    let key = WireKey::new()?;
    let mut agent = WireAgent::registered(relay.agent_address(), &key, "maya").await?;
    let mut caller = relay.http().await?;
    post(&mut caller, &[b'x'; 40_000]).await?;
    turn_down(&mut agent, SessionEnd::ShuttingDown).await?;
    let (head, answer) = told(&mut caller).await?;
    ensure!(
        head.status() == 503 && head.header("retry-after").is_some(),
        "{head:?}"
    );
    ensure!(answer["request"] == "not_sent", "{answer}");
    Ok(())
}
