//! Registrations that a token allows.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};
use tieline_e2e::behaviour::{
    AgentProgram, Target, TestAgent, TestRelay, echo_round_trip, is_reset, read_to_close, soon,
};
use tieline_relay::Auth;
use tieline_relay::cli::TokenOrder;
use tieline_token::LEEWAY_SECONDS;
use tieline_wire::RefusalReason;

pub(crate) fn relay() -> Result<TestRelay> {
    let auth = studio()?;
    TestRelay::with()
        .shards(2)
        .config(|config| config.auth = auth)
        .start()
}

/// Reason of the final refusal of a registration with `token` as application `dcc`.
async fn refused(
    relay: &TestRelay,
    token: Option<&str>,
    dcc: &str,
    name: &str,
) -> Result<RefusalReason> {
    let target = Target::echo().await?;
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    if let Some(token) = token {
        write_token(&path, token)?;
    }
    let has_token = token.is_some();
    let dcc = dcc.to_owned();
    let agent = TestAgent::of(&target).named(name).config(move |config| {
        let config = config.with_dcc(dcc);
        if has_token {
            config.with_token_file(path)
        } else {
            config
        }
    });
    match agent.spawn(relay)?.ended().await? {
        Err(error @ Error::Refused { .. }) if error.exit_code() != 3 => {
            bail!("exit code {}: {error}", error.exit_code())
        }
        Err(Error::Refused { reason, .. }) => Ok(reason),
        other => bail!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_good_token_registers_and_a_bad_one_is_refused_for_good() -> Result<()> {
    let relay = relay()?;
    let target = Target::echo().await?;
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    write_token(&path, &token(order(), &SECRET, 0)?)?;
    let agent = TestAgent::of(&target)
        .named("maya")
        .config(move |config| config.with_token_file(path).with_dcc("maya"))
        .start(&relay)
        .await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"hello").await?;

    let of_other_secret = token(order(), &[8; 32], 0)?;
    let of_other_issuer = TokenOrder {
        issuer: Some("elsewhere".to_owned()),
        ..order()
    };
    let of_other_issuer = token(of_other_issuer, &SECRET, 0)?;
    let for_callers = TokenOrder {
        scopes: vec!["caller".to_owned()],
        ..order()
    };
    let for_callers = token(for_callers, &SECRET, 0)?;
    for bad in [
        None,
        Some("no.token.atall"),
        Some(&of_other_secret),
        Some(&of_other_issuer),
        Some(&for_callers),
    ] {
        let reason = refused(&relay, bad, "", "nuke").await?;
        ensure!(reason == RefusalReason::BadToken, "{reason} for {bad:?}");
    }
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.labelled("relay_registration_refused_total", "bad_token") == 5,
        "{metrics}"
    );
    echo_round_trip(&mut caller, b"undisturbed").await?;
    Ok(())
}

#[tokio::test]
async fn a_token_is_good_for_its_applications_and_names_only() -> Result<()> {
    let relay = relay()?;
    let token = token(
        TokenOrder {
            dcc: vec!["maya".to_owned()],
            tunnels: vec!["maya-*".to_owned()],
            ..order()
        },
        &SECRET,
        0,
    )?;
    let reason = refused(&relay, Some(&token), "nuke", "maya-1").await?;
    ensure!(reason == RefusalReason::DccNotAllowed, "{reason}");
    let reason = refused(&relay, Some(&token), "maya", "nuke-1").await?;
    ensure!(reason == RefusalReason::NameNotAllowed, "{reason}");
    Ok(())
}

#[tokio::test]
async fn an_expired_token_is_tried_again_once_its_file_has_a_new_one() -> Result<()> {
    let relay = relay()?;
    let target = Target::echo().await?;
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    write_token(&path, &token(order(), &SECRET, 2 * 3600)?)?;
    let at = path.clone();
    let mut agent = TestAgent::of(&target)
        .config(move |config| config.with_token_file(at))
        .spawn(&relay)?;
    let reason = agent
        .saw(|event| match event {
            AgentEvent::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
        .await?;
    ensure!(reason == "token_expired", "{reason}");
    write_token(&path, &token(order(), &SECRET, 0)?)?;
    agent.registered().await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"renewed").await?;
    Ok(())
}

/// A stolen token is usable only until it expires, even on an open link.
#[tokio::test]
async fn a_link_ends_with_its_token_and_comes_back_with_a_new_one() -> Result<()> {
    let relay = relay()?;
    let target = Target::echo().await?;
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    // Past its expiry, but within the accepted leeway for another two seconds.
    let age_seconds = 3600 + LEEWAY_SECONDS - 2;
    write_token(&path, &token(order(), &SECRET, age_seconds)?)?;
    let at = path.clone();
    let mut agent = TestAgent::of(&target)
        .config(move |config| config.with_token_file(at))
        .start(&relay)
        .await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"in time").await?;

    let (_, end) = soon("the session's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");
    let metrics = relay
        .until("the link is gone", |metrics| {
            metrics.get("relay_links") == 0
        })
        .await?;
    ensure!(
        metrics.labelled("relay_tunnels_withdrawn_total", "token_expired") == 1,
        "{metrics}"
    );
    write_token(&path, &token(order(), &SECRET, 0)?)?;
    agent.registered().await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"renewed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_exits_with_3_and_does_not_show_itself() -> Result<()> {
    let relay = relay()?;
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    let bad = token(order(), &[8; 32], 0)?;
    write_token(&path, &bad)?;
    let agent = AgentProgram::start(
        Path::new(env!("CARGO_BIN_EXE_child")),
        &relay.agent_url(),
        "127.0.0.1:1",
        folder.path(),
        &["--token-file", path.to_str().context("a path in UTF-8")?],
    )?;
    let ended = agent.ended()?;
    ensure!(ended.status.code() == Some(3), "{}", ended.quote);
    ensure!(
        ended.stderr.contains("the token is not valid here"),
        "{}",
        ended.quote
    );
    let signature = bad.rsplit('.').next().context("a signature")?;
    ensure!(!ended.stdout.contains(signature) && !ended.stderr.contains(signature));
    Ok(())
}

#[tokio::test]
async fn without_authentication_the_relay_is_for_this_machine_only() -> Result<()> {
    for outside in ["0.0.0.0:0", "[::]:0"] {
        let outside: SocketAddr = outside.parse()?;
        let open = |anywhere| {
            TestRelay::with().config(move |config| {
                config.agent_listen = vec![outside.into()];
                config.auth = Auth::Open { anywhere };
            })
        };
        let error = open(false).start().err().context("the relay started")?;
        ensure!(format!("{error:#}").contains("auth is open"), "{error:#}");
        // With `anywhere`, the operator has confirmed the setting; it fails only if the machine lacks IPv6.
        if let Err(error) = open(true).start() {
            ensure!(outside.is_ipv6(), "{error:#}");
        }
    }
    Ok(())
}
