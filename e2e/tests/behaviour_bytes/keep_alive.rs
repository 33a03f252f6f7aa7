//! Kept-alive connections with many requests, and the shards that serve them.

use anyhow::Result;
use tieline_e2e::behaviour::{
    Digest, Target, TestAgent, TestRelay, half_close, noise, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

on_each_driver!(
    requests_of_one_caller_share_one_target_connection,
    two_callers_never_share_a_target_connection,
    requests_on_one_connection_reach_the_tunnels_they_name_on_either_shard,
    raw_sessions_never_cross_shards,
);

/// A target that answers every request with `word`, the path and the request's body.
async fn named_target(word: &'static str) -> Result<Target> {
    Target::http_requests(move |mut http, head| async move {
        let body = http.body(&head).await?;
        let mut answer = format!("{word} {}", head.request().1).into_bytes();
        answer.extend_from_slice(&body.bytes);
        http.respond("200 OK", "", &answer).await?;
        Ok(http)
    })
    .await
}

async fn requests_of_one_caller_share_one_target_connection(driver: DriverChoice) -> Result<()> {
    let target = named_target("maya").await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut caller = relay.http().await?;
    for number in 0..50 {
        caller.get(&agent.path(&format!("/{number}"))).await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 200);
        assert_eq!(body.bytes, format!("maya /{number}").as_bytes());
    }
    assert_eq!(target.accepted(), 1);
    let metrics = relay.metrics().await?;
    assert_eq!(
        metrics.labelled("relay_http_requests_total", "2xx"),
        50,
        "{metrics}"
    );
    assert_eq!(metrics.get("relay_sessions_total"), 1, "{metrics}");
    Ok(())
}

async fn two_callers_never_share_a_target_connection(driver: DriverChoice) -> Result<()> {
    let target = named_target("maya").await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut callers = [
        relay.http().await?,
        relay.http().await?,
        relay.http().await?,
    ];
    for number in 0..12 {
        let caller = &mut callers[number % 3];
        caller.get(&agent.path("/")).await?;
        let (head, _) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 200);
    }
    assert_eq!(target.accepted(), 3);
    drop(callers);
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn requests_on_one_connection_reach_the_tunnels_they_name_on_either_shard(
    driver: DriverChoice,
) -> Result<()> {
    let (maya, nuke) = (named_target("maya").await?, named_target("nuke").await?);
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let maya_agent = TestAgent::of(&maya).named("maya").start(&relay).await?;
    let nuke_agent = TestAgent::of(&nuke).named("nuke").start(&relay).await?;
    let mut shards: Vec<_> = relay.tunnels().await?.iter().map(|row| row.shard).collect();
    shards.sort_unstable();
    assert_eq!(
        shards,
        [0, 1],
        "the second link goes to the shard without a link"
    );

    let long = noise(1, 1_000_000);
    let mut caller = relay.http().await?;
    for number in 0..20 {
        for (agent, word) in [(&maya_agent, "maya"), (&nuke_agent, "nuke")] {
            caller.get(&agent.path(&format!("/{number}"))).await?;
            let (head, body) = soon("the answer", caller.answer()).await??;
            assert_eq!(
                head.status(),
                200,
                "{head:?} {:?}",
                String::from_utf8(body.bytes)
            );
            assert_eq!(body.bytes, format!("{word} /{number}").as_bytes());
        }
    }
    // Bodies longer than all buffers on the path; a crossing adds one more buffer.
    for (agent, word) in [(&maya_agent, "maya"), (&nuke_agent, "nuke")] {
        let (path, length) = (agent.path("/"), long.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        caller.write(head).await?;
        caller.write(&long).await?;
        let (_, body) = soon("the answer", caller.answer()).await??;
        let expected = [format!("{word} /").as_bytes(), &long].concat();
        assert_eq!(Digest::of(&body.bytes), Digest::of(&expected));
    }
    // Both target connections were kept alive, also the one behind the crossing.
    assert_eq!((maya.accepted(), nuke.accepted()), (1, 1));
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_crossings_total"), 1, "{metrics}");
    drop(caller);
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn raw_sessions_never_cross_shards(driver: DriverChoice) -> Result<()> {
    const SESSIONS: u64 = 1_000;
    const AT_ONCE: usize = 32;
    let target = Target::echo().await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agents = [
        TestAgent::of(&target).named("maya").start(&relay).await?,
        TestAgent::of(&target).named("nuke").start(&relay).await?,
    ];

    let mut sessions = JoinSet::new();
    for seed in 0..SESSIONS {
        if sessions.len() == AT_ONCE {
            sessions.join_next().await.expect("not empty")??;
        }
        let tunnel = if seed % 2 == 0 { "maya" } else { "nuke" };
        let mut caller = relay.raw(tunnel).await?;
        sessions.spawn(async move {
            let message = noise(seed, 1000);
            caller.write_all(&message).await?;
            half_close(&caller)?;
            let (echo, end) = soon("the echo", read_to_close(&mut caller)).await?;
            end?;
            anyhow::ensure!(echo == Digest::of(&message), "session {seed}: {echo:?}");
            anyhow::Ok(())
        });
    }
    while let Some(session) = sessions.join_next().await {
        session??;
    }
    let metrics = relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    assert_eq!(metrics.get("relay_sessions_total"), 1_000, "{metrics}");
    assert_eq!(metrics.get("relay_crossings_total"), 0, "{metrics}");
    // Connections are accepted on either shard, so some had to be handed off, each of them once.
    let moved = metrics.labelled("relay_handoffs_total", "frontend");
    assert!((1..1_000).contains(&moved), "{metrics}");
    drop(agents);
    Ok(())
}
