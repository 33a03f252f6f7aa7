//! A new run of an agent that takes over from an earlier run.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::{
    AgentProgram, HttpStream, Target, TestAgent, TestRelay, echo_round_trip, is_reset,
    read_to_close, soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A target that sends `text` and ends.
async fn says(text: &'static str) -> Result<Target> {
    Target::tcp(move |mut stream| async move {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        // Wait for the caller's end.
        let _end = stream.read_to_end(&mut Vec::new()).await;
        Ok(())
    })
    .await
}

async fn whole_answer(mut caller: TcpStream) -> Result<String> {
    let mut answer = String::new();
    soon("the answer", caller.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn a_new_run_takes_over_and_the_old_one_ends_and_does_not_dial_again() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let (one, two) = (says("one").await?, says("two").await?);
    let home = TempDir::new()?;
    let run = |target| {
        TestAgent::of(target)
            .state_dir(home.path())
            .named("maya")
            .links(2)
    };
    let mut old = run(&one).start(&relay).await?;
    ensure!(whole_answer(relay.raw("maya").await?).await? == "one");
    let new = run(&two).start(&relay).await?;
    ensure!(whole_answer(relay.raw("maya").await?).await? == "two");
    ensure!(new.url() == old.url() && new.generation() > old.generation());

    let message = old
        .saw(|event| match event {
            AgentEvent::Superseded { message } => Some(message.clone()),
            _ => None,
        })
        .await?;
    ensure!(
        message.contains("took over the tunnel, so this one stops"),
        "{message}"
    );
    let error = old.ended().await?.err().context("the old run ended well")?;
    ensure!(matches!(error, Error::Superseded { .. }), "{error}");
    ensure!(error.exit_code() == 3);

    let metrics = relay
        .until("the old links are gone", |metrics| {
            metrics.get("relay_links") == 2
        })
        .await?;
    ensure!(metrics.get("relay_links_total") == 4, "{metrics}");
    ensure!(
        metrics.labelled("relay_link_evictions_total", "superseded") == 2,
        "{metrics}"
    );
    ensure!(whole_answer(relay.raw("maya").await?).await? == "two");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_taken_over_says_so_and_exits_with_3() -> Result<()> {
    let relay = TestRelay::start()?;
    let target = Target::echo().await?;
    let home = TempDir::new()?;
    let child = Path::new(env!("CARGO_BIN_EXE_child"));
    let start = || {
        let to = target.to_string();
        AgentProgram::start(child, &relay.agent_url(), &to, home.path(), &[])
    };
    let old = start()?;
    let first = old.registered(1)?;
    let new = start()?;
    ensure!(new.registered(1)? == first);
    let ended = old.ended()?;
    ensure!(ended.status.code() == Some(3), "{}", ended.quote);
    ensure!(
        ended
            .stderr
            .contains("took over the tunnel, so this one stops"),
        "{}",
        ended.quote
    );
    Ok(())
}

/// A request in progress at the old agent is cut off, and the next request on the same connection reaches
/// the new agent.
#[tokio::test]
async fn a_kept_alive_connection_follows_a_takeover() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let named = |text: &'static str| {
        Target::http_requests(move |mut http: HttpStream, _| async move {
            http.respond("200 OK", "", text.as_bytes()).await?;
            Ok(http)
        })
    };
    let (one, two) = (named("one").await?, named("two").await?);
    let home = TempDir::new()?;
    let run = |target| TestAgent::of(target).state_dir(home.path()).named("maya");
    let old = run(&one).start(&relay).await?;
    let mut callers = Vec::new();
    // Enough connections to have some on each shard.
    for _ in 0..8 {
        let mut http = relay.http().await?;
        http.get("/w/maya/").await?;
        let (_, body) = soon("an answer", http.answer()).await??;
        ensure!(body.bytes == b"one");
        callers.push(http);
    }
    let _new = run(&two).start(&relay).await?;
    for http in &mut callers {
        http.get("/w/maya/").await?;
        let (head, body) = soon("an answer", http.answer()).await??;
        ensure!(
            head.status() == 200 && body.bytes == b"two",
            "{head:?} {body:?}"
        );
    }
    ensure!(old.ended().await?.is_err());
    Ok(())
}

#[tokio::test]
async fn a_session_at_the_old_run_is_reset_by_the_takeover() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let target = Target::echo().await?;
    let home = TempDir::new()?;
    let run = || TestAgent::of(&target).state_dir(home.path());
    let old = run().start(&relay).await?;
    let mut caller = relay.raw(old.tunnel()).await?;
    echo_round_trip(&mut caller, b"hello").await?;
    let _new = run().start(&relay).await?;
    let (_, end) = soon("the old session's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");
    Ok(())
}
