//! An agent's report on a lost link: which reports the relay trusts, and the fate of a call without a report.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::behaviour::{HttpStream, TestRelay, WireAgent, WireKey, soon};
use tieline_wire::{Event, Lost, SessionId};
use tokio::task::JoinHandle;

use super::again::{ANSWER, answer_one, caller_on_another_shard, post, relay, told};

/// A caller whose second call waits at an agent that has answered the first call.
struct Waiting {
    relay: TestRelay,
    key: WireKey,
    agent: WireAgent,
    caller: HttpStream,
    session: SessionId,
    /// The agent's report on its link: that the second call did not arrive.
    lost: Lost,
    _other: Option<JoinHandle<()>>,
}

impl Waiting {
    async fn start(relay: TestRelay, crosses: bool) -> Result<Self> {
        let (mut caller, other) = match crosses {
            true => {
                let (caller, other) = caller_on_another_shard(&relay).await?;
                (caller, Some(other))
            }
            false => (relay.http().await?, None),
        };
        let key = WireKey::new()?;
        let address = relay.agent_address();
        let (mut agent, greeting) = WireAgent::greeted(address).await?;
        agent
            .mux
            .hello(&key.hello(&greeting, &address.to_string(), 1));
        agent.register(Some("maya")).await??;
        post(&mut caller, b"first").await?;
        let session = agent.opened().await?;
        agent.mux.opened(session);
        heard(&mut agent, "first").await?;
        agent.mux.send(session, ANSWER.into(), false)?;
        agent.flush().await?;
        ensure!(soon("an answer", caller.answer()).await??.0.status() == 200);
        let lost = agent.mux.lost(greeting.nonce);
        post(&mut caller, b"second").await?;
        heard(&mut agent, "second").await?;
        Ok(Self {
            relay,
            key,
            agent,
            caller,
            session,
            lost,
            _other: other,
        })
    }

    /// Opens the agent's next link, of the run `instance`, and reports `lost` about the first link.
    async fn next_link(&self, key: &WireKey, instance: u128, lost: &Lost) -> Result<WireAgent> {
        let mut agent = WireAgent::dial(self.relay.agent_address(), key, instance).await?;
        agent.mux.tell_lost(lost);
        agent.flush().await?;
        Ok(agent)
    }

    /// Expects the answer that the call may have run; returns the time until it.
    async fn expect_sent(mut self) -> Result<Duration> {
        let began = Instant::now();
        let (head, answer): (_, Value) = told(&mut self.caller).await?;
        ensure!(head.status() == 502, "{head:?} {answer}");
        ensure!(answer["request"] == "sent", "{answer}");
        Ok(began.elapsed())
    }
}

/// Reads events until the data of the open session ends with `end`.
async fn heard(agent: &mut WireAgent, end: &str) -> Result<()> {
    let mut data = String::new();
    while !data.ends_with(end) {
        if let Event::Data { payload, .. } = agent.event().await?.context("closed")? {
            data.push_str(std::str::from_utf8(&payload)?);
        }
    }
    Ok(())
}

/// A relay with a short grace period.
fn hasty() -> Result<TestRelay> {
    let relay = TestRelay::with().shards(2);
    relay
        .config(|config| config.callers.offline_grace = Duration::from_millis(500))
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_agent_says_it_never_had_comes_again_over_the_next_link() -> Result<()> {
    for (crosses, is_noticed) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut it = Waiting::start(relay()?, crosses).await?;
        let links = 1 + i64::from(crosses);
        let mut first = None;
        if is_noticed {
            drop(it.agent);
            it.relay
                .until("the link is lost", |it| it.get("relay_links") < links)
                .await?;
        } else {
            first = Some(it.agent);
        }
        let mut next = WireAgent::dial(it.relay.agent_address(), &it.key, 1).await?;
        next.mux.tell_lost(&it.lost);
        next.ask(Some("maya")).await?;
        let request = answer_one(&mut next, "second").await?;
        ensure!(request.starts_with("POST / HTTP/1.1\r\n"), "{request}");
        let (head, body) = soon("the answer", it.caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
        drop(first);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_which_its_agent_had_anything_is_not_sent_again() -> Result<()> {
    for crosses in [false, true] {
        let it = Waiting::start(relay()?, crosses).await?;
        let mut lost = it.lost.clone();
        let told = lost.sessions.iter_mut().find(|told| told.0 == it.session);
        told.context("the report has no entry for the session")?.1 += 1;
        // The first link is still open when the next link of the run comes; the report ends it.
        let _next = it.next_link(&it.key, 1, &lost).await?;
        it.expect_sent().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_which_its_agent_says_nothing_counts_as_sent() -> Result<()> {
    let it = Waiting::start(relay()?, false).await?;
    let mut lost = it.lost.clone();
    lost.sessions.clear();
    let _next = it.next_link(&it.key, 1, &lost).await?;
    it.expect_sent().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_from_another_key_or_run_or_about_another_link() -> Result<()> {
    for wrong in ["key", "run", "nonce"] {
        let mut it = Waiting::start(hasty()?, false).await?;
        let mut lost = it.lost.clone();
        let (stranger, own) = (WireKey::new()?, WireKey::new()?);
        let own = std::mem::replace(&mut it.key, own);
        let (key, run) = match wrong {
            "key" => (&stranger, 1),
            "run" => (&own, 2),
            _ => (&own, 1),
        };
        if wrong == "nonce" {
            lost.nonce[0] ^= 1;
        }
        let next = it.next_link(key, run, &lost).await?;
        drop(std::mem::replace(&mut it.agent, next));
        it.expect_sent().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_agent_tells_nothing_is_sent_after_the_grace() -> Result<()> {
    for crosses in [false, true] {
        let mut it = Waiting::start(hasty()?, crosses).await?;
        // Like an agent of a version without these reports.
        let next = WireAgent::dial(it.relay.agent_address(), &it.key, 1).await?;
        drop(std::mem::replace(&mut it.agent, next));
        let waited = it.expect_sent().await?;
        ensure!(waited > Duration::from_millis(400), "{waited:?}");
    }
    Ok(())
}
