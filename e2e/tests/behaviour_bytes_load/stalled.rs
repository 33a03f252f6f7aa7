//! A session whose peer does not read delays no other session, and holds no more than its window.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tieline_e2e::behaviour::{
    Child, ChildRelay, Metrics, Target, abort, at_some_pace, echo_round_trip, noise, soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::latency::Witnesses;
use super::{MIB, alone, child};

const WITNESSES: usize = 100;

/// TCP state "established" in /proc/net/tcp (proc(5)).
const ESTABLISHED: &str = "01";

/// Stale timeouts: short, so that several heartbeats occur during the test.
const PACES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];

/// Largest growth of a process due to one stalled session: its largest window, plus buffers.
const GROWTH_BYTES_MAX: u64 = 24 * MIB;

/// Socket buffer size at the test's own ends, in bytes: hundreds of stalled sockets must not exhaust the
/// machine's TCP memory.
const OWN_BUFFER_BYTES: usize = 256 * 1024;

/// Most bytes in the kernel for a caller that does not read: the relay's limit, plus one write.
const UNSENT_BYTES_MAX: u64 = MIB + 256 * 1024;

/// A target that follows its first byte: `f` floods, `d` never reads again, any other byte echoes.
async fn target() -> Result<Target> {
    Target::tcp(|mut stream| async move {
        SockRef::from(&stream).set_send_buffer_size(OWN_BUFFER_BYTES)?;
        let mut buffer = vec![0; 64 * 1024];
        stream.read_exact(&mut buffer[..1]).await?;
        match buffer[0] {
            b'f' => {
                let block = noise(1, 64 * 1024);
                loop {
                    stream.write_all(&block).await?;
                }
            }
            b'd' => std::future::pending().await,
            _ => {
                let mut count = 1;
                while count > 0 {
                    stream.write_all(&buffer[..count]).await?;
                    count = stream.read(&mut buffer).await?;
                }
                Ok(())
            }
        }
    })
    .await
}

/// Sends until no bytes are accepted for a second.
async fn send_until_stalled(stream: &mut TcpStream) -> Result<()> {
    let block = noise(1, 64 * 1024);
    while let Ok(sent) =
        tokio::time::timeout(Duration::from_secs(1), stream.write_all(&block)).await
    {
        sent?;
    }
    Ok(())
}

/// Runs `disturb`, which makes a session stall, and measures the other sessions.
async fn others_go_on(disturb: impl AsyncFn(&mut TcpStream) -> Result<()>) -> Result<()> {
    let _alone = alone().await;
    at_some_pace(&PACES, async |stale| others_go_on_at(stale, &disturb).await).await
}

async fn others_go_on_at(
    stale: Duration,
    disturb: &impl AsyncFn(&mut TcpStream) -> Result<()>,
) -> Result<()> {
    let target = target().await?;
    let timeout = format!("{}ms", stale.as_millis());
    let relay = ChildRelay::start(child(), &["--shards", "2", "--stale-timeout", &timeout])?;
    let agent = Child::agent(child(), &relay.agent_url(), &target.to_string(), "maya")?;
    let mut sessions = Vec::new();
    for _ in 0..WITNESSES {
        let mut session = relay.raw("maya").await?;
        echo_round_trip(&mut session, b"echo").await?;
        sessions.push(session);
    }
    let mut witnesses = Witnesses::new(sessions);
    let before = witnesses.measure(Duration::from_secs(1)).await?;
    let memory_before = [relay.process.resident_bytes()?, agent.resident_bytes()?];

    let mut stalled = relay.raw("maya").await?;
    disturb(&mut stalled).await?;
    let relay_port = stalled.peer_addr()?.port();

    // Longer than the stale timeout, so that the link survives only if heartbeats pass.
    let during = witnesses.measure(stale * 2).await?;
    during.within(before.p99() * 3 + Duration::from_millis(20), &before)?;

    let processes = [("relay", &relay.process), ("agent", &agent)];
    assert_growth(processes, memory_before, GROWTH_BYTES_MAX)?;
    let unsent = kernel_unsent_max(relay_port)?;
    assert!(unsent <= UNSENT_BYTES_MAX, "the kernel holds {unsent} B");
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    ensure!(metrics.get("relay_sessions") == 101, "{metrics}");

    // The stalled session was open until now and ends with the reset.
    abort(stalled)?;
    let all_but_one = |metrics: &Metrics| metrics.get("relay_sessions") == 100;
    relay
        .until("the stalled session to end", all_but_one)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_frontend_that_never_reads_stalls_nobody() -> Result<()> {
    others_go_on(async |stalled: &mut TcpStream| {
        stalled.write_all(b"f").await?;
        // Wait for data, but never read it.
        soon("a first byte", stalled.readable()).await??;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_target_that_never_reads_stalls_nobody() -> Result<()> {
    others_go_on(async |stalled: &mut TcpStream| {
        stalled.write_all(b"d").await?;
        send_until_stalled(stalled).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_frontends_that_never_read_share_one_budget() -> Result<()> {
    const FRONTENDS: usize = 200;
    // The link's budget (`LINK_BUDGET_BYTES`), the minimum of 16 KiB per session, and buffers.
    const GROWTH_BYTES_MAX: u64 = (64 + 4 + 24) * MIB;
    let _alone = alone().await;
    let target = target().await?;
    let relay = ChildRelay::start(child(), &["--shards", "2"])?;
    let agent = Child::agent(child(), &relay.agent_url(), &target.to_string(), "maya")?;
    let mut witness = relay.raw("maya").await?;
    echo_round_trip(&mut witness, b"echo").await?;
    let before = [relay.process.resident_bytes()?, agent.resident_bytes()?];

    let mut stalled = Vec::new();
    for _ in 0..FRONTENDS {
        let mut frontend = relay.raw("maya").await?;
        SockRef::from(&frontend).set_recv_buffer_size(OWN_BUFFER_BYTES)?;
        frontend.write_all(b"f").await?;
        stalled.push(frontend);
    }
    // Once no more bytes arrive, every session has used up its window.
    let mut passed = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = relay
            .metrics()
            .await?
            .labelled("relay_bytes_total", "to_frontend");
        if now == passed {
            break;
        }
        passed = now;
    }
    let took = soon("an echo", echo_round_trip(&mut witness, b"echo")).await??;
    assert!(took < Duration::from_secs(1), "an echo took {took:?}");
    assert_growth(
        [("relay", &relay.process), ("agent", &agent)],
        before,
        GROWTH_BYTES_MAX,
    )?;

    // Each frontend gets the rest once it reads.
    for mut frontend in stalled {
        let mut bytes = vec![0; 8 * 1024 * 1024];
        soon("the rest", frontend.read_exact(&mut bytes)).await??;
        ensure!(
            bytes[..65_536] == noise(1, 65_536),
            "the flood was changed on the way"
        );
        let whole = bytes
            .chunks_exact(65_536)
            .all(|block| *block == bytes[..65_536]);
        ensure!(whole, "the flood was changed on the way");
    }
    Ok(())
}

/// Largest send queue of an established connection with local port `port`, in bytes (proc(5), /proc/net/tcp).
fn kernel_unsent_max(port: u16) -> Result<u64> {
    let local = format!(":{port:04X}");
    let mut most = None;
    for line in std::fs::read_to_string("/proc/net/tcp")?.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, from, _, state, queues, ..] = fields[..] else {
            continue;
        };
        if state == ESTABLISHED && from.ends_with(&local) {
            let (unsent, _) = queues.split_once(':').context("queues")?;
            most = most.max(Some(u64::from_str_radix(unsent, 16)?));
        }
    }
    most.context("no connection from the relay's port")
}

/// Panics if the peak memory of a process exceeds `before` by more than `growth_max`.
fn assert_growth(processes: [(&str, &Child); 2], before: [u64; 2], growth_max: u64) -> Result<()> {
    for ((name, process), before) in processes.into_iter().zip(before) {
        let growth = process.resident_bytes_peak()?.saturating_sub(before);
        println!("{name}: grew by at most {} KiB", growth / 1024);
        assert!(
            growth <= growth_max,
            "the {name} grew by {} MiB",
            growth / MIB
        );
    }
    Ok(())
}
