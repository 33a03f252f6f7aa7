//! Calls in flight when the path dies: over its next link, the agent reports which sessions had reached it, so
//! that the others are sent again and no call runs twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{HttpStream, soon};
use tokio::task::JoinSet;

use super::network::{Losing, Rig, post};

/// Longer than an agent takes to reconnect, even on a busy machine.
const GRACE: Duration = Duration::from_secs(60);

/// Clients that make calls while the path dies.
const CLIENTS: usize = 20;

/// A caller that has just received an answer, so that its next call reuses the session at once.
async fn served(rig: &Rig) -> Result<HttpStream> {
    let mut caller = rig.post("before").await?;
    let (head, _) = soon("an answer", caller.answer()).await??;
    ensure!(head.status() == 200, "{head:?}");
    Ok(caller)
}

#[tokio::test]
async fn a_call_that_did_not_reach_the_agent_runs_once_over_the_next_link() -> Result<()> {
    let rig = Rig::start(GRACE).await?;
    let mut caller = served(&rig).await?;
    rig.network.lose(|it| &it.to_agent);
    post(&mut caller, "call").await?;
    let (head, body) = soon("the answer over the new link", caller.answer()).await??;
    ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    ensure!(rig.runs() == ["/before", "/call"], "{:?}", rig.runs());
    Ok(())
}

#[tokio::test]
async fn a_call_that_reached_the_agent_runs_once_and_its_caller_is_told_without_the_whole_grace()
-> Result<()> {
    let rig = Rig::start(GRACE).await?;
    let mut caller = served(&rig).await?;
    rig.network.lose(|it| &it.to_relay);
    post(&mut caller, "call").await?;
    let (head, body) = soon("the answer to the lost call", caller.answer()).await??;
    let text = String::from_utf8_lossy(&body.bytes);
    ensure!(head.status() == 502, "{head:?} {text}");
    ensure!(text.contains("\"request\":\"sent\""), "{text}");
    ensure!(rig.runs() == ["/before", "/call"], "{:?}", rig.runs());
    Ok(())
}

/// Makes calls one after the other until `enough` is set; returns path and status of each.
async fn client(
    mut caller: HttpStream,
    number: usize,
    enough: Arc<AtomicBool>,
) -> Result<Vec<(String, u16)>> {
    let mut answered = Vec::new();
    let mut count = 0;
    while !enough.load(Ordering::SeqCst) {
        let call = format!("{number}-{count}");
        count += 1;
        post(&mut caller, &call).await?;
        let (head, _) = soon("an answer", caller.answer()).await??;
        answered.push((format!("/{call}"), head.status()));
    }
    Ok(answered)
}

/// Makes calls while the path loses the direction in `flag`; returns, for each call, its runs, path and status.
async fn calls_while_losing(flag: fn(&Losing) -> &AtomicBool) -> Result<Vec<(usize, String, u16)>> {
    let enough = Arc::new(AtomicBool::new(false));
    let mut rig = Rig::start(GRACE).await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(rig.relay.http().await?, number, Arc::clone(&enough)));
    }
    let busy = |it: &Rig| it.runs().len() > 10 * CLIENTS;
    soon("calls", async {
        while !busy(&rig) {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    rig.network.lose(flag);
    rig.agent.registered().await?;
    let before = rig.runs().len();
    soon("calls over the new link", async {
        while rig.runs().len() < before + 2 * CLIENTS {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    enough.store(true, Ordering::SeqCst);
    let mut answered = Vec::new();
    while let Some(client) = clients.join_next().await {
        answered.extend(client??);
    }
    let mut runs: HashMap<String, usize> = HashMap::new();
    for call in rig.runs() {
        *runs.entry(call).or_default() += 1;
    }
    let ran = |call: &String| runs.get(call).copied().unwrap_or_default();
    let answered = answered.into_iter();
    let told = answered.map(|(call, status)| (ran(&call), call, status));
    Ok(told.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_each_runs_once_and_is_answered_where_nothing_reaches_the_agent() -> Result<()>
{
    for call in calls_while_losing(|it| &it.to_agent).await? {
        ensure!(matches!(call, (1, _, 200)), "{call:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_each_runs_once_and_is_answered_or_sent_where_nothing_reaches_the_relay()
-> Result<()> {
    let mut sent = 0;
    for call in calls_while_losing(|it| &it.to_relay).await? {
        ensure!(matches!(call, (1, _, 200 | 502)), "{call:?}");
        sent += usize::from(call.2 == 502);
    }
    ensure!(sent <= CLIENTS, "{sent} calls of {CLIENTS} at a time");
    Ok(())
}
