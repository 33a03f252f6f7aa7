//! An interrupted transfer never looks complete: if a program on the path is killed, the reader sees a reset.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Addresses, AgentProgram, Child, ChildRelay, HttpStream, RelayProgram, Target, TestAgent,
    half_close, is_reset, noise, read_to_close, soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const DRIVERS: [&str; 2] = ["auto", "epoll"];

/// One piece of an endless stream.
const PIECE: [u8; 16 * 1024] = [7; 16 * 1024];

/// Number of pieces after which a session has moved to a bulk lane.
const LANE_PIECES: usize = 512;

/// A raw TCP target that sends without end: slowly if the caller's first byte is `s`, else at full speed.
async fn endless() -> Result<Target> {
    Target::tcp(|mut stream| async move {
        let pause = match stream.read_u8().await? {
            b's' => Duration::from_millis(5),
            _ => Duration::ZERO,
        };
        loop {
            stream.write_all(&PIECE).await?;
            tokio::time::sleep(pause).await;
        }
    })
    .await
}

/// An HTTP target with endless chunked answers, sent slowly.
async fn endless_answers() -> Result<Target> {
    Target::http_requests(|mut http, _| async move {
        http.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        loop {
            http.write_chunk(&PIECE).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Requests an endless answer from the target of `agent` and reads the start of it.
async fn downloads(mut caller: HttpStream, agent: &TestAgent, version: &str) -> Result<TcpStream> {
    let path = agent.path("/mcp");
    caller
        .write(format!("GET {path} {version}\r\nHost: localhost\r\n\r\n"))
        .await?;
    let mut caller = caller.into_stream();
    read_pieces(&mut caller, 2).await?;
    Ok(caller)
}

/// Reads `pieces` pieces and leaves later bytes unread.
async fn read_pieces(stream: &mut TcpStream, pieces: usize) -> Result<()> {
    let mut buffer = vec![0; PIECE.len()];
    for _ in 0..pieces {
        soon("a piece", stream.read_exact(&mut buffer)).await??;
    }
    Ok(())
}

async fn ends_with_a_reset(what: &str, mut stream: TcpStream) -> Result<()> {
    let (_, end) = soon(what, read_to_close(&mut stream)).await?;
    ensure!(is_reset(&end), "{what}: {end:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_downloads_through_a_relay_that_is_killed_end_with_a_reset() -> Result<()> {
    for driver in DRIVERS {
        let flags = ["--shards", "2", "--driver", driver];
        let relay = RelayProgram::start(&[], Addresses::any(), &flags)?;
        let target = endless().await?;
        let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
        let mut callers = Vec::new();
        for (what, first, pieces, is_half_closed) in [
            ("a slow download", b"s", 2, false),
            ("a slow download with a half-closed caller", b"s", 2, true),
            ("a download on a bulk lane", b"f", LANE_PIECES, false),
            (
                "a download on a bulk lane with a half-closed caller",
                b"f",
                LANE_PIECES,
                true,
            ),
        ] {
            for _ in 0..4 {
                let mut caller = relay.raw(agent.tunnel()).await?;
                caller.write_all(first).await?;
                if is_half_closed {
                    half_close(&caller)?;
                }
                read_pieces(&mut caller, pieces).await?;
                callers.push((what, caller));
            }
        }
        let metrics = relay.metrics().await?;
        ensure!(metrics.get("relay_lanes") > 0, "{metrics}");
        drop(relay);
        for (what, caller) in callers {
            ends_with_a_reset(&format!("{what}, {driver}"), caller).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_through_a_relay_that_is_killed_end_with_a_reset() -> Result<()> {
    for driver in DRIVERS {
        let flags = ["--shards", "2", "--driver", driver];
        let relay = RelayProgram::start(&[], Addresses::any(), &flags)?;
        // The answer has no length: for an HTTP/1.0 caller, only the close of the connection ends it.
        let target = endless_answers().await?;
        let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
        let mut callers = Vec::new();
        for version in ["HTTP/1.0", "HTTP/1.1"] {
            for _ in 0..4 {
                let caller = downloads(relay.http().await?, &agent, version).await?;
                callers.push((version, caller));
            }
        }
        drop(relay);
        for (version, caller) in callers {
            ends_with_a_reset(&format!("{version}, {driver}"), caller).await?;
        }
    }
    Ok(())
}

/// A target that reports when it has read `pieces` pieces, and later whether its connection was reset.
async fn listener(told: mpsc::Sender<bool>, pieces: usize) -> Result<Target> {
    Target::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            if stream.read_u8().await? == b'h' {
                // Half-closed: the answer is complete while the request goes on.
                stream.write_all(b"done").await?;
                half_close(&stream)?;
            }
            read_pieces(&mut stream, pieces).await?;
            told.send(false).await?;
            let (_, end) = read_to_close(&mut stream).await;
            told.send(is_reset(&end)).await?;
            Ok(())
        }
    })
    .await
}

/// Starts uploads, runs `kill`, which drops one of the two programs, and checks that each upload is reset.
async fn uploads<T>(
    first: u8,
    pieces: usize,
    kill: impl FnOnce(RelayProgram, AgentProgram) -> T,
) -> Result<()> {
    const UPLOADS: usize = 8;
    let relay = RelayProgram::start(&[], Addresses::any(), &["--shards", "2"])?;
    let (tell, mut told) = mpsc::channel(UPLOADS * 2);
    let target = listener(tell, pieces).await?;
    let state_dir = TempDir::new()?;
    let agent = AgentProgram::start(
        Path::new(env!("CARGO_BIN_EXE_child")),
        &relay.agent_url(),
        &target.to_string(),
        state_dir.path(),
        &[],
    )?;
    let (tunnel, _) = agent.registered(1)?;
    let mut callers = JoinSet::new();
    for _ in 0..UPLOADS {
        let mut caller = relay.raw(&tunnel).await?;
        caller.write_all(&[first]).await?;
        callers.spawn(async move { while caller.write_all(&PIECE).await.is_ok() {} });
    }
    for _ in 0..UPLOADS {
        soon("the uploads to start", told.recv()).await?;
    }
    let _other = kill(relay, agent);
    for _ in 0..UPLOADS {
        let is_reset = soon("the end of an upload at the target", told.recv()).await?;
        ensure!(is_reset == Some(true), "an upload looked complete");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_through_an_agent_that_is_killed_end_with_a_reset_at_the_target() -> Result<()> {
    for (first, pieces) in [(b'u', 2), (b'u', LANE_PIECES), (b'h', 2)] {
        uploads(first, pieces, |relay, _agent| relay).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_through_a_relay_that_is_killed_end_with_a_reset_at_the_target() -> Result<()> {
    for (first, pieces) in [(b'u', 2), (b'u', LANE_PIECES), (b'h', 2)] {
        uploads(first, pieces, |_relay, agent| agent).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_over_stay_complete_when_their_relay_is_killed() -> Result<()> {
    let body = noise(3, 300_000);
    let sent = body.clone();
    let target = Target::tcp(move |mut stream| {
        let sent = sent.clone();
        async move {
            stream.read_u8().await?;
            stream.write_all(&sent).await?;
            Ok(())
        }
    })
    .await?;
    let program = Path::new(env!("CARGO_BIN_EXE_child"));
    let relay = ChildRelay::start(program, &[])?;
    let agent = Child::agent(program, &relay.agent_url(), &target.to_string(), "whole")?;
    let mut caller = relay.raw("whole").await?;
    caller.write_all(b"x").await?;
    let mut answer = vec![0; body.len()];
    soon("the answer", caller.read_exact(&mut answer)).await??;
    relay
        .until("the target's end", |metrics| {
            metrics.get("relay_sessions") <= 1
        })
        .await?;
    // The caller has not ended its own direction.
    let end = soon("the end", caller.read(&mut [0])).await?;
    ensure!(end? == 0 && answer == body);
    drop((relay, agent));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_proxy_of_callers_was_answering_ends_with_a_reset() -> Result<()> {
    let target = endless_answers().await?;
    let relay = RelayProgram::start(&[], Addresses::any(), &["--shards", "1"])?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let program = Path::new(env!("CARGO_BIN_EXE_child"));
    let (proxy, address) = Child::proxy(program, &format!("http://{}", relay.addresses.http))?;
    let mut callers = Vec::new();
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let caller = HttpStream::connect(address).await?;
        callers.push((version, downloads(caller, &agent, version).await?));
    }
    drop(proxy);
    for (version, caller) in callers {
        ends_with_a_reset(version, caller).await?;
    }
    Ok(())
}
