//! Bulk lanes: a session that moves to its own connection loses no bytes, and ends there as it would have
//! ended on its link.

#[path = "behaviour_lanes/plan.rs"]
mod plan;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tieline_e2e::behaviour::{
    Digest, Metrics, Target, TestAgent, TestRelay, abort, half_close, is_reset, noise,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::limits::{LANE_HELLO_BYTES, LANE_PREFACE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::plan::{Plan, write_noise};

/// Value of `bulk_run_bytes` that moves a session to a lane after a few reads.
const EARLY: u64 = 64 * 1024;

/// Enough bytes to get a lane and to fill all buffers on the path.
const LONG_BYTES: usize = 12 * 1024 * 1024;

on_each_driver!(
    both_directions_arrive_whole_whenever_they_move_to_a_lane,
    a_session_that_pauses_on_its_lane_goes_on,
    a_target_that_resets_on_a_lane_resets_its_caller_behind_the_bytes_before,
    a_caller_that_resets_on_a_lane_resets_its_target,
    an_upload_on_a_lane_ends_at_once_when_its_tunnel_is_paused_or_kicked,
    a_caller_that_stops_reading_stops_its_target_and_nobody_else,
    a_killed_agent_never_makes_a_transfer_look_complete,
    a_lane_that_cannot_be_dialled_is_done_without,
    a_connection_with_a_nonce_that_was_never_offered_is_closed_and_counted,
    a_chat_of_small_messages_never_gets_a_lane,
);

fn relay(driver: DriverChoice, bulk_run_bytes: u64) -> Result<TestRelay> {
    TestRelay::with()
        .driver(driver)
        .shards(2)
        .config(|config| config.bulk_run_bytes = bulk_run_bytes)
        .start()
}

fn lane_bytes(metrics: &Metrics) -> [i64; 2] {
    ["to_target", "to_frontend"].map(|way| metrics.labelled("relay_lane_bytes_total", way))
}

async fn nothing_left(relay: &TestRelay) -> Result<Metrics> {
    let gauges = ["relay_lanes", "relay_sessions", "relay_frontends"];
    let none = |metrics: &Metrics| gauges.iter().all(|gauge| metrics.get(gauge) == 0);
    relay.until("nothing is left", none).await
}

async fn both_directions_arrive_whole_whenever_they_move_to_a_lane(
    driver: DriverChoice,
) -> Result<()> {
    const SESSIONS: u64 = 12;
    let (plans, planned) = std::sync::mpsc::sync_channel(1);
    let planned = std::sync::Arc::new(std::sync::Mutex::new(planned));
    let (tell, mut served) = mpsc::channel(1);
    let target = Target::tcp(move |stream| {
        let (tell, planned) = (tell.clone(), std::sync::Arc::clone(&planned));
        async move {
            let plan: Plan = planned.lock().ok().context("poisoned")?.try_recv()?;
            tell.send(plan.serve(stream).await).await?;
            Ok(())
        }
    })
    .await?;
    // Values of `bulk_run_bytes`: no lanes, after the first large piece, early, and in mid-stream.
    for run in [0, 1, EARLY, 1024 * 1024] {
        let relay = relay(driver, run)?;
        let agent = TestAgent::of(&target).start(&relay).await?;
        for seed in 0..SESSIONS {
            let plan = Plan::new(run + seed);
            plans.try_send(plan)?;
            let caller = relay.raw(agent.tunnel()).await?;
            let answer = soon("the answer", plan.call(caller)).await?;
            let answer = answer.with_context(|| format!("{plan:?}, run {run}"))?;
            assert_eq!(
                answer,
                Digest::of_noise(plan.answer_seed(), plan.down),
                "{plan:?}"
            );
            let request = soon("the request", served.recv())
                .await?
                .context("no target")?;
            let request = request.with_context(|| format!("{plan:?}, run {run}"))?;
            assert_eq!(request, Digest::of_noise(plan.seed, plan.up), "{plan:?}");
        }
        let metrics = nothing_left(&relay).await?;
        assert_eq!(metrics.get("relay_lanes_total") > 0, run > 0, "{metrics}");
        assert_eq!(metrics.get("relay_session_resets_total"), 0, "{metrics}");
    }
    Ok(())
}

/// Opens an echo session whose bytes go over a lane in both directions.
async fn on_a_lane(relay: &TestRelay, agent: &TestAgent) -> Result<TcpStream> {
    let mut caller = relay.raw(agent.tunnel()).await?;
    let message = noise(7, 1024 * 1024);
    let both = |metrics: &Metrics| lane_bytes(metrics).iter().all(|bytes| *bytes > 0);
    for _ in 0..100 {
        exchange(&mut caller, &message).await?;
        if both(&relay.metrics().await?) {
            return Ok(caller);
        }
    }
    anyhow::bail!("no lane after 100 MiB")
}

async fn exchange(caller: &mut TcpStream, message: &[u8]) -> Result<()> {
    soon(
        "an echo",
        tieline_e2e::behaviour::echo_round_trip(caller, message),
    )
    .await??;
    Ok(())
}

async fn a_session_that_pauses_on_its_lane_goes_on(driver: DriverChoice) -> Result<()> {
    let target = Target::echo().await?;
    let relay = relay(driver, EARLY)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = on_a_lane(&relay, &agent).await?;
    for len in [1, 100_000, 3] {
        // Long enough for every reader to run out of bytes.
        tokio::time::sleep(Duration::from_millis(20)).await;
        exchange(&mut caller, &noise(9, len)).await?;
    }
    // The lane of one session does not delay the sessions on the link.
    exchange(&mut relay.raw(agent.tunnel()).await?, b"small").await?;
    half_close(&caller)?;
    let (rest, end) = soon("the end", read_to_close(&mut caller)).await?;
    ensure!(rest.is_empty() && end.is_ok(), "{rest:?} {end:?}");
    drop(caller);
    nothing_left(&relay).await?;
    Ok(())
}

async fn a_target_that_resets_on_a_lane_resets_its_caller_behind_the_bytes_before(
    driver: DriverChoice,
) -> Result<()> {
    let (go_on, told) = mpsc::channel::<()>(1);
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let target = Target::tcp(move |mut stream| {
        let told = std::sync::Arc::clone(&told);
        async move {
            stream.write_all(&noise(3, LONG_BYTES)).await?;
            told.lock().await.recv().await;
            abort(stream)?;
            Ok(())
        }
    })
    .await?;
    let relay = relay(driver, EARLY)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    let mut answer = vec![0; LONG_BYTES];
    soon("the answer", caller.read_exact(&mut answer)).await??;
    ensure!(
        answer == noise(3, LONG_BYTES),
        "the answer was changed on the way"
    );
    go_on.send(()).await?;
    let (rest, end) = soon("the reset", read_to_close(&mut caller)).await?;
    assert!(rest.is_empty() && is_reset(&end), "{rest:?} {end:?}");
    let metrics = nothing_left(&relay).await?;
    assert!(lane_bytes(&metrics)[1] > 0, "{metrics}");
    Ok(())
}

async fn a_caller_that_resets_on_a_lane_resets_its_target(driver: DriverChoice) -> Result<()> {
    let (tell, mut ends) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(read_to_close(&mut stream).await).await?;
            Ok(())
        }
    })
    .await?;
    let relay = relay(driver, EARLY)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    caller.write_all(&noise(4, LONG_BYTES)).await?;
    relay
        .until("the upload is on a lane", |metrics| {
            let passed_on = metrics.labelled("relay_bytes_total", "to_target");
            lane_bytes(metrics)[0] > 0 && passed_on == i64::try_from(LONG_BYTES).unwrap_or(0)
        })
        .await?;
    abort(caller)?;
    let (_, end) = soon("the target's end", ends.recv())
        .await?
        .context("no target")?;
    assert!(is_reset(&end), "{end:?}");
    nothing_left(&relay).await?;
    Ok(())
}

async fn an_upload_on_a_lane_ends_at_once_when_its_tunnel_is_paused_or_kicked(
    driver: DriverChoice,
) -> Result<()> {
    // `first`: the target finishes its own direction before it reads.
    for (order, first) in [("kick", false), ("kick", true), ("pause", false)] {
        let target = Target::tcp(move |mut stream| async move {
            if first {
                stream.shutdown().await?;
            }
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            Ok(())
        })
        .await?;
        let relay = relay(driver, EARLY)?;
        let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
        let mut caller = relay.raw(agent.tunnel()).await?;
        let upload = tokio::spawn(async move {
            let noise = noise(8, 256 * 1024);
            while caller.write_all(&noise).await.is_ok() {}
        });
        relay
            .until("the upload is on a lane", |metrics| {
                lane_bytes(metrics)[0] > 0
            })
            .await?;
        let path = format!("/tunnels/maya/{order}");
        let (_, answer) = relay.order(&path, &json!({})).await?;
        ensure!(answer["sessions_ended"] == 1, "{order}: {answer}");
        let at_once = lane_bytes(&relay.metrics().await?)[0];
        soon("the end of the upload", upload).await??;
        let metrics = nothing_left(&relay).await?;
        let later = lane_bytes(&metrics)[0] - at_once;
        ensure!(
            later == 0,
            "{order}, {first}: {later} bytes after the answer"
        );
    }
    Ok(())
}

async fn a_caller_that_stops_reading_stops_its_target_and_nobody_else(
    driver: DriverChoice,
) -> Result<()> {
    let (tell, mut written) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut first = [0];
            if stream.read(&mut first).await? > 0 {
                // A small request gets its echo.
                stream.write_all(&first).await?;
                return Ok(());
            }
            stream.write_all(&noise(5, 64 * 1024 * 1024)).await?;
            tell.send(()).await?;
            Ok(())
        }
    })
    .await?;
    let relay = relay(driver, EARLY)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    half_close(&caller)?;
    let mut some = vec![0; LONG_BYTES];
    soon("the first part", caller.read_exact(&mut some)).await??;
    for _ in 0..20 {
        let mut other = relay.raw(agent.tunnel()).await?;
        exchange(&mut other, b"x").await?;
    }
    assert!(
        written.try_recv().is_err(),
        "64 MiB were taken although the caller does not read"
    );
    let (rest, end) = soon("the rest", read_to_close(&mut caller)).await?;
    end?;
    assert_eq!(rest.len() + LONG_BYTES as u64, 64 * 1024 * 1024);
    nothing_left(&relay).await?;
    Ok(())
}

async fn a_killed_agent_never_makes_a_transfer_look_complete(driver: DriverChoice) -> Result<()> {
    let target =
        Target::tcp(
            |mut stream| async move { write_noise(&mut stream, 6, 1024 * 1024 * 1024).await },
        )
        .await?;
    let relay = relay(driver, EARLY)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    let mut some = vec![0; LONG_BYTES];
    soon("the first part", caller.read_exact(&mut some)).await??;
    assert!(lane_bytes(&relay.metrics().await?)[1] > 0);
    tokio::task::spawn_blocking(move || agent.kill()).await??;
    let (_, end) = soon("the end", read_to_close(&mut caller)).await?;
    assert!(is_reset(&end), "{end:?}");
    nothing_left(&relay).await?;
    Ok(())
}

/// Forwards one connection to `to`, and closes every later connection.
async fn door_for_one(to: std::net::SocketAddr) -> Result<(std::net::SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let door = tokio::spawn(async move {
        let Ok((mut first, _)) = listener.accept().await else {
            return;
        };
        let through = async {
            let mut relay = TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut first, &mut relay).await
        };
        let closing = async { while listener.accept().await.is_ok() {} };
        tokio::select! {
            _ = through => {}
            () = closing => {}
        }
    });
    Ok((address, door))
}

async fn a_lane_that_cannot_be_dialled_is_done_without(driver: DriverChoice) -> Result<()> {
    let target = Target::echo().await?;
    let relay = relay(driver, EARLY)?;
    let (address, door) = door_for_one(relay.agent_address()).await?;
    let agent = TestAgent::of(&target)
        .start_at(&format!("tcp://{address}"))
        .await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    for seed in 0..4 {
        exchange(&mut caller, &noise(seed, LONG_BYTES / 4)).await?;
    }
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_lane_offers_total"), 1, "{metrics}");
    assert_eq!(lane_bytes(&metrics), [0, 0], "{metrics}");
    door.abort();
    Ok(())
}

async fn a_connection_with_a_nonce_that_was_never_offered_is_closed_and_counted(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver, EARLY)?;
    // Nonces for either shard, for a shard that does not exist, and one that is cut short.
    for (first, len) in [(0, 16), (1, 16), (0xff, 16), (0, 5)] {
        let mut nonce = [first, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];
        nonce[1] = if first == 0xff { 0xff } else { 0 };
        let mut hello = LANE_PREFACE.to_vec();
        hello.extend_from_slice(&nonce[..len]);
        assert_eq!(hello.len() == LANE_HELLO_BYTES, len == 16);
        let mut stranger = TcpStream::connect(relay.agent_address()).await?;
        stranger.write_all(&hello).await?;
        half_close(&stranger)?;
        let (answer, _) = soon("the close", read_to_close(&mut stranger)).await?;
        assert!(answer.is_empty(), "{answer:?}");
    }
    relay
        .until("all are counted", |metrics| {
            let refused = |reason| metrics.labelled("relay_link_refused_total", reason);
            refused("lane_refused") == 3 && refused("link_lost") == 1
        })
        .await?;
    Ok(())
}

async fn a_chat_of_small_messages_never_gets_a_lane(driver: DriverChoice) -> Result<()> {
    let target = Target::echo().await?;
    let relay = relay(driver, EARLY)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    for seed in 0..500 {
        exchange(&mut caller, &noise(seed, 4000)).await?;
    }
    assert_eq!(relay.metrics().await?.get("relay_lane_offers_total"), 0);
    Ok(())
}
