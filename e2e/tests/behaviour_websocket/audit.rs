//! What the audit log says about WebSockets.

use std::fs;

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::{Metrics, Target, TestAgent, TestRelay, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::{AuditConfig, DriverChoice};
use tokio_tungstenite::tungstenite::Message;

use crate::{chat, close_of, connect};

on_each_driver!(
    a_websocket_of_an_http_target_is_noted_at_its_beginning_and_at_its_end,
    a_websocket_of_payload_is_noted_like_a_raw_session,
);

/// More callers than shards, so that the sessions of some are on another shard.
const CALLERS: usize = 8;

/// Length of a message, and of the frames that carry it to the target and back.
const MESSAGE_BYTES: usize = 1000;
const FRAME_BYTES_UP: u64 = 2 + 2 + 4 + 1000;
const FRAME_BYTES_DOWN: u64 = 2 + 2 + 1000;

/// Bytes of the frames that end a connection, at most.
const END_BYTES_MAX: u64 = 100;

/// Lets callers of `target` exchange one message each at the path `path` of its tunnel; returns the audit log.
async fn log_of_callers(driver: DriverChoice, target: &Target, path: &str) -> Result<Vec<Value>> {
    let home = TempDir::new()?;
    let file = home.path().join("audit.log");
    let audit = AuditConfig::new(file.clone());
    let relay = TestRelay::with().shards(2).driver(driver);
    let relay = relay.config(|config| config.audit = Some(audit)).start()?;
    let agent = TestAgent::of(target).start(&relay).await?;
    for _ in 0..CALLERS {
        let mut socket = connect(&relay, &agent.path(path)).await?;
        let message = Message::binary(vec![7; MESSAGE_BYTES]);
        socket.send(message.clone()).await?;
        let heard = soon("the echo", socket.next()).await?;
        ensure!(heard.context("an end")?? == message);
        socket.close(None).await?;
        close_of(&mut socket).await?;
    }
    let is_over = |metrics: &Metrics| metrics.get("relay_sessions") == 0;
    relay.until("the sessions' end", is_over).await?;
    drop(agent);
    relay.stop();
    let text = fs::read_to_string(&file)?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Checks that `log` has an end for each caller, with `up` and `down` bytes, or a few more.
fn check_ends(log: &[Value], (up, down): (u64, u64)) -> Result<()> {
    let ends: Vec<_> = log
        .iter()
        .filter(|it| it["event"] == "session_ended")
        .collect();
    ensure!(ends.len() == CALLERS, "{log:?}");
    for end in ends {
        let is_about = |field: &str, bytes: u64| {
            let found = end[field].as_u64();
            found.is_some_and(|found| (bytes..=bytes + END_BYTES_MAX).contains(&found))
        };
        ensure!(is_about("bytes_to_target", up), "{end}");
        ensure!(is_about("bytes_to_frontend", down), "{end}");
        ensure!(
            end["address"] == "127.0.0.1" && end["port"].is_u64(),
            "{end}"
        );
        ensure!(end["tunnel"].is_string(), "{end}");
    }
    Ok(())
}

async fn a_websocket_of_an_http_target_is_noted_at_its_beginning_and_at_its_end(
    driver: DriverChoice,
) -> Result<()> {
    let log = log_of_callers(driver, &chat().await?, "/chat").await?;
    let switched = |it: &&Value| it["event"] == "request" && it["status"] == 101;
    ensure!(log.iter().filter(switched).count() == CALLERS, "{log:?}");
    check_ends(&log, (FRAME_BYTES_UP, FRAME_BYTES_DOWN))
}

async fn a_websocket_of_payload_is_noted_like_a_raw_session(driver: DriverChoice) -> Result<()> {
    let log = log_of_callers(driver, &Target::echo().await?, "").await?;
    let began = |it: &&Value| it["event"] == "session";
    ensure!(log.iter().filter(began).count() == CALLERS, "{log:?}");
    let payload = MESSAGE_BYTES as u64;
    check_ends(&log, (payload, payload))
}
