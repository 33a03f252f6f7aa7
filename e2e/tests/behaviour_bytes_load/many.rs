//! Many concurrent frontends over many tunnels, on two shards.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{Digest, Target, TestAgent, TestRelay, half_close, noise, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::alone;

const TUNNELS: usize = 50;
const FRONTENDS: usize = 2_000;
const MESSAGE_BYTES: usize = 48 * 1024;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_frontends_over_fifty_tunnels_get_their_own_bytes_back() -> Result<()> {
    let _alone = alone().await;
    let relay = Arc::new(TestRelay::with().shards(2).start()?);
    let mut tunnels = Vec::new();
    for number in 0..TUNNELS {
        let name = format!("seat-{number:02}");
        let target = greeting_echo(name.clone()).await?;
        let agent = TestAgent::of(&target).named(&name).spawn(&relay)?;
        tunnels.push((name, target, agent));
    }
    for (name, _, agent) in &mut tunnels {
        agent.registered().await.with_context(|| name.clone())?;
    }

    let connected = Arc::new(Barrier::new(FRONTENDS + 1));
    let mut frontends = JoinSet::new();
    for number in 0..FRONTENDS {
        let (relay, connected) = (Arc::clone(&relay), Arc::clone(&connected));
        let tunnel = tunnels[number % TUNNELS].0.clone();
        frontends.spawn(async move {
            let mut caller = relay.raw(&tunnel).await?;
            let mut greeting = vec![0; tunnel.len()];
            caller.read_exact(&mut greeting).await?;
            ensure!(
                greeting == tunnel.as_bytes(),
                "frontend {number} reached another tunnel"
            );
            connected.wait().await;

            let message = noise(number as u64, MESSAGE_BYTES);
            let (mut reads, mut writes) = caller.into_split();
            let sent = async {
                writes.write_all(&message).await?;
                half_close(writes.as_ref())
            };
            let mut caller_reads = async || {
                let mut echo = Vec::new();
                reads.read_to_end(&mut echo).await?;
                std::io::Result::Ok(echo)
            };
            let (sent, echo) = tokio::join!(sent, caller_reads());
            sent?;
            ensure!(
                Digest::of(&echo?) == Digest::of(&message),
                "frontend {number}"
            );
            Ok(())
        });
    }
    // All frontends are connected at the same time. A frontend that fails ends the wait.
    tokio::select! {
        _ = within(LIMIT, "all frontends", connected.wait()) => {}
        Some(ended) = frontends.join_next() => ended??,
    }
    while let Some(ended) = within(LIMIT, "the echoes", frontends.join_next()).await? {
        ended??;
    }

    let metrics = relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    assert_eq!(
        metrics.get("relay_sessions_total"),
        FRONTENDS as i64,
        "{metrics}"
    );
    assert_eq!(metrics.get("relay_session_resets_total"), 0, "{metrics}");
    assert_eq!(metrics.get("relay_crossings_total"), 0, "{metrics}");
    let bytes = (FRONTENDS * MESSAGE_BYTES) as i64;
    assert_eq!(
        metrics.labelled("relay_bytes_total", "to_target"),
        bytes,
        "{metrics}"
    );
    let mut shards: Vec<_> = relay.tunnels().await?.iter().map(|row| row.shard).collect();
    shards.sort_unstable();
    assert_eq!(shards, [[0; TUNNELS / 2], [1; TUNNELS / 2]].concat());
    Ok(())
}

/// A target that sends its name and then echoes.
async fn greeting_echo(name: String) -> Result<Target> {
    Target::tcp(move |mut stream| {
        let name = name.clone();
        async move {
            stream.write_all(name.as_bytes()).await?;
            let mut buffer = vec![0; 16 * 1024];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    count => stream.write_all(&buffer[..count]).await?,
                }
            }
        }
    })
    .await
}
