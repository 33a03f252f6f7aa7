//! `tieline diag` reports why a relay refuses an agent, and leaves no tunnel behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{SECRET, order, token, write_token};
use tieline_e2e::behaviour::{SOON, Target, TestRelay, without_settings};
use tieline_e2e::process::Process;
use tieline_relay::cli::TokenOrder;

/// Result of the `auth` check, and the program's exit code.
struct Found {
    auth: Value,
    code: Option<i32>,
}

/// Runs `tieline diag` against `relay`, with or without a token file.
fn diag(relay: &TestRelay, token: Option<&Path>, flags: &[&str]) -> Result<Found> {
    let state = TempDir::new()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_child"));
    command.args(["agent", "diag", "--json", "--no-config"]);
    command.args(["--relay", &relay.agent_url()]).args(flags);
    command.arg("--state-dir").arg(state.path());
    if let Some(token) = token {
        command.arg("--token-file").arg(token);
    }
    without_settings(&mut command);
    let ended = Process::spawn("tieline diag", &mut command)?.ended(SOON)?;
    let checks = ended.stdout.lines().map(serde_json::from_str);
    let checks = checks.collect::<Result<Vec<Value>, _>>()?;
    let auth = checks.into_iter().find(|it| it["check"] == "auth");
    Ok(Found {
        auth: auth.with_context(|| ended.quote.clone())?,
        code: ended.status.code(),
    })
}

/// Writes `token` to a file called `name` in `folder`.
fn file(folder: &TempDir, name: &str, token: &str) -> Result<PathBuf> {
    let path = folder.path().join(name);
    write_token(&path, token)?;
    Ok(path)
}

async fn holds_nothing(relay: &TestRelay) -> Result<()> {
    let held = relay.tunnels().await?;
    ensure!(held.is_empty(), "{held:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_works_is_found_good_and_leaves_no_name_behind() -> Result<()> {
    let target = Target::echo().await?;
    let raw = target.address().to_string();
    let http = format!("http://{raw}/mcp");
    let folder = TempDir::new()?;
    let token = file(&folder, "good", &token(order(), &SECRET, 0)?)?;
    let guarded = super::auth::relay()?;
    let open = TestRelay::start()?;
    for (relay, token) in [(&guarded, Some(&*token)), (&open, None)] {
        for flags in [
            &[][..],
            &["--to", &raw],
            &["--to", &http],
            &["--to", "maya=1"],
        ] {
            let found = diag(relay, token, flags)?;
            ensure!(found.auth["outcome"] == "ok", "{flags:?}: {}", found.auth);
            // The exit code also reflects the target: an echo does not speak HTTP, and port 1 has no listener.
            let is_fine = flags.is_empty() || flags[1] == raw;
            ensure!(found.code == Some(i32::from(!is_fine)), "{flags:?}");
        }
        holds_nothing(relay).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_tells_its_own_cause() -> Result<()> {
    let relay = super::auth::relay()?;
    let folder = TempDir::new()?;
    let for_callers = TokenOrder {
        scopes: vec!["caller".to_owned()],
        ..order()
    };
    let wrong_secret = file(&folder, "secret", &token(order(), &[8; 32], 0)?)?;
    let expired = file(&folder, "expired", &token(order(), &SECRET, 9_000)?)?;
    let caller = file(&folder, "caller", &token(for_callers, &SECRET, 0)?)?;
    for (token, cause) in [
        (None, "this relay wants a token"),
        (Some(&*wrong_secret), "signature"),
        (Some(&*expired), "expired"),
        (Some(&*caller), "scope does not include `agent`"),
    ] {
        for flags in [&[][..], &["--to", "127.0.0.1:1"]] {
            let found = diag(&relay, token, flags)?;
            let detail = found.auth["detail"].as_str().unwrap_or_default();
            ensure!(found.auth["outcome"] == "failed", "{cause}: {}", found.auth);
            ensure!(detail.contains(cause), "{cause}: {detail}");
            ensure!(found.code == Some(1), "{cause}");
        }
    }
    holds_nothing(&relay).await
}
