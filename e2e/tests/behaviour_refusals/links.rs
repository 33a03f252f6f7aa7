//! Agents that violate the protocol: each loses its link with a reported and counted reason, and no other agent or
//! caller is affected.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{
    Metrics, TestRelay, WireAgent, WireKey, is_reset, read_to_close, registration, soon, within,
};
use tieline_wire::frame::{self, Kind};
use tieline_wire::limits::{
    DATA_BYTES_MAX, HANDSHAKE_TIMEOUT, SESSION_CREDIT_BYTES, TABLE_BYTES_MAX,
};
use tieline_wire::{LinkEnd, RefusalReason, Register, Scheme, SessionId, is_hidden};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bystander::Bystander;

const REFUSED: &str = "relay_link_refused_total";
const EVICTED: &str = "relay_link_evictions_total";

/// Waits until `reason` is counted once in `family`, and checks that no other reason is counted.
async fn counted(relay: &TestRelay, family: &str, reason: LinkEnd) -> Result<Metrics> {
    let metrics = relay
        .until("the reason is counted", |metrics| {
            metrics.labelled(family, reason.word()) == 1 && metrics.get("relay_links") == 1
        })
        .await?;
    let all = metrics.get(REFUSED) + metrics.get(EVICTED);
    ensure!(
        all == 1,
        "other reasons are counted besides {reason:?}\n{metrics}"
    );
    Ok(metrics)
}

/// Sends `bytes` to the agent port; returns the answer up to the end of the connection.
async fn answer_to(relay: &TestRelay, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(relay.agent_address()).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    // A reset is as good as an orderly end.
    let _end = soon("the link's end", stream.read_to_end(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_wrong_preface_is_closed_without_a_word() -> Result<()> {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"TLINE\r\n\x02",
        b"\x16\x03\x01\x02\0",
    ] {
        let relay = TestRelay::with().shards(2).start()?;
        let bystander = Bystander::beside(&relay).await?;
        let answer = answer_to(&relay, bytes).await?;
        ensure!(answer.is_empty(), "{answer:?}");
        counted(&relay, REFUSED, LinkEnd::Preface).await?;
        bystander.stays_well(&relay).await?;
    }
    Ok(())
}

/// Header of a frame that our own encoder would not produce.
fn header(kind: u8, session: u32, len: u32) -> Vec<u8> {
    let mut header = frame::encode(Kind::Data, SessionId(session), len, false);
    header[8] = kind;
    header.to_vec()
}

/// Checks the GOAWAY reason for an agent that sends `bytes` instead of its hello.
async fn broken_handshake(bytes: &[u8], reason: LinkEnd) -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let (mut link, _) = WireAgent::greeted(relay.agent_address()).await?;
    link.write(bytes).await?;
    ensure!(link.reason().await? == reason);
    counted(&relay, REFUSED, reason).await?;
    bystander.stays_well(&relay).await
}

#[tokio::test]
async fn a_frame_that_is_longer_than_allowed_is_refused_from_its_header() -> Result<()> {
    let hello = header(Kind::Hello as u8, 0, TABLE_BYTES_MAX + 1);
    broken_handshake(&hello, LinkEnd::FrameTooLong).await?;
    broken_handshake(
        &header(Kind::Data as u8, 1, u32::MAX),
        LinkEnd::FrameTooLong,
    )
    .await
}

#[tokio::test]
async fn a_table_that_fails_verification_is_refused() -> Result<()> {
    let mut frame = header(Kind::Hello as u8, 0, 64);
    // Offsets that point outside the table.
    frame.extend_from_slice(&[0xff; 64]);
    broken_handshake(&frame, LinkEnd::Table).await?;
    broken_handshake(&header(Kind::Hello as u8, 0, 0), LinkEnd::Table).await
}

#[tokio::test]
async fn a_frame_of_an_unknown_kind_or_out_of_turn_is_refused() -> Result<()> {
    broken_handshake(&header(99, 0, 4), LinkEnd::Protocol).await?;
    broken_handshake(&header(Kind::Data as u8, 1, 4), LinkEnd::Protocol).await?;
    broken_handshake(&header(Kind::Finish as u8, 0, 8), LinkEnd::Protocol).await
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_closed_at_the_deadline() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let started = Instant::now();
    let mut silent = TcpStream::connect(relay.agent_address()).await?;
    let (mut halfway, _) = WireAgent::greeted(relay.agent_address()).await?;
    let limit = HANDSHAKE_TIMEOUT + Duration::from_secs(3);
    let mut nothing = Vec::new();
    let end = within(
        limit,
        "the end of the silent connection",
        silent.read_to_end(&mut nothing),
    )
    .await?;
    ensure!(nothing.is_empty(), "{nothing:?} {end:?}");
    ensure!(halfway.reason().await? == LinkEnd::HandshakeTimeout);
    let took = started.elapsed();
    ensure!((HANDSHAKE_TIMEOUT..limit).contains(&took), "{took:?}");
    let metrics = relay
        .until("both are counted", |metrics| {
            metrics.get("relay_links") == 1
        })
        .await?;
    ensure!(
        metrics.labelled(REFUSED, "handshake_timeout") == 2 && metrics.get(REFUSED) == 2,
        "{metrics}"
    );
    bystander.stays_well(&relay).await
}

#[tokio::test]
async fn an_agent_that_dialled_another_relays_name_is_refused() -> Result<()> {
    let relay = TestRelay::with()
        .config(|config| config.domain = Some("relay.example".to_owned()))
        .start()?;
    let key = WireKey::new()?;
    let (mut link, hello) = WireAgent::greeted(relay.agent_address()).await?;
    link.mux.hello(&key.hello(&hello, "evil.example:9001", 1));
    link.flush().await?;
    ensure!(link.reason().await? == LinkEnd::RelayName);
    Ok(())
}

/// Opens a session on a link, sends `bytes`, and checks the relay's GOAWAY reason and that the session's
/// caller is reset.
async fn broken_session(
    opened: bool,
    bytes: impl FnOnce(SessionId) -> Vec<u8>,
    reason: LinkEnd,
) -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let mut evil = WireAgent::registered(relay.agent_address(), &WireKey::new()?, "evil").await?;
    let mut caller = relay.raw("evil").await?;
    let session = evil.opened().await?;
    if opened {
        evil.mux.opened(session);
    }
    evil.write(&bytes(session)).await?;
    ensure!(evil.reason().await? == reason);
    let (_, end) = soon("the caller's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");
    counted(&relay, EVICTED, reason).await?;
    // The name's home may be the other shard, which learns of the lost link a little later.
    relay
        .until("the tunnel is gone", |it| it.get("relay_tunnels") == 1)
        .await?;
    bystander.stays_well(&relay).await
}

#[tokio::test]
async fn more_bytes_than_there_is_credit_for_end_the_link() -> Result<()> {
    let too_much = |session: SessionId| header(Kind::Data as u8, session.0, SESSION_CREDIT_BYTES);
    broken_session(true, too_much, LinkEnd::CreditOverrun).await?;
    let one_frame = |session: SessionId| header(Kind::Data as u8, session.0, DATA_BYTES_MAX);
    broken_session(true, one_frame, LinkEnd::CreditOverrun).await
}

#[tokio::test]
async fn a_session_that_was_never_opened_ends_the_link() -> Result<()> {
    let data = |session: SessionId| header(Kind::Data as u8, session.0 + 1, 0);
    broken_session(true, data, LinkEnd::UnknownSession).await?;
    let reset = |session: SessionId| {
        let mut frame = header(Kind::Reset as u8, session.0 + 7, 2);
        frame.extend_from_slice(&[1, 0]);
        frame
    };
    broken_session(true, reset, LinkEnd::UnknownSession).await
}

#[tokio::test]
async fn an_oversized_frame_on_a_link_that_is_up_ends_it() -> Result<()> {
    let data = |session: SessionId| header(Kind::Data as u8, session.0, DATA_BYTES_MAX + 1);
    broken_session(true, data, LinkEnd::FrameTooLong).await
}

#[tokio::test]
async fn a_direction_that_ends_with_other_bytes_than_were_sent_ends_the_link() -> Result<()> {
    let finish = |session: SessionId| {
        let mut frame = header(Kind::Finish as u8, session.0, 8);
        frame.extend_from_slice(&1_u64.to_le_bytes());
        frame
    };
    broken_session(true, finish, LinkEnd::LengthMismatch).await
}

#[tokio::test]
async fn data_before_the_target_is_connected_ends_the_link() -> Result<()> {
    let data = |session: SessionId| header(Kind::Data as u8, session.0, 0);
    broken_session(false, data, LinkEnd::Protocol).await
}

/// Unknown frames that are marked as optional belong to a later version and are harmless.
#[tokio::test]
async fn an_optional_frame_of_an_unknown_kind_is_skipped_and_counted() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let mut link = WireAgent::registered(relay.agent_address(), &WireKey::new()?, "newer").await?;
    let mut frame = header(99, 0, 4);
    frame[9] = frame::OPTIONAL;
    frame.extend_from_slice(&[1, 2, 3, 4]);
    link.write(&frame).await?;
    relay
        .until("the frame to be counted", |metrics| {
            metrics.labelled("relay_frames_dropped_total", "optional") == 1
        })
        .await?;
    let _caller = relay.raw("newer").await?;
    link.opened().await.map(drop)
}

/// The relay has ended a session, and the agent does not know it yet.
#[tokio::test]
async fn data_for_a_session_that_was_just_reset_is_dropped_and_counted() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let mut link = WireAgent::registered(relay.agent_address(), &WireKey::new()?, "late").await?;
    let caller = relay.raw("late").await?;
    let session = link.opened().await?;
    link.mux.opened(session);
    link.flush().await?;
    tieline_e2e::behaviour::abort(caller)?;
    relay
        .until("the session is gone", |metrics| {
            metrics.get("relay_sessions") == 0
        })
        .await?;
    let mut frame = header(Kind::Data as u8, session.0, 4);
    frame.extend_from_slice(b"late");
    link.write(&frame).await?;
    let metrics = relay
        .until("the frame to be counted", |metrics| {
            metrics.labelled("relay_frames_dropped_total", "ended_session") > 0
        })
        .await?;
    ensure!(
        metrics.get(EVICTED) == 0 && metrics.get("relay_links") == 1,
        "{metrics}"
    );
    let _caller = relay.raw("late").await?;
    let next = link
        .opened()
        .await
        .context("the link takes no more sessions")?;
    ensure!(next > session);
    Ok(())
}

/// An agent that sends requests endlessly and never reads answers must cost a bounded amount of memory.
#[tokio::test]
async fn an_agent_that_never_reads_what_it_asks_for_loses_its_link() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let mut link = WireAgent::registered(relay.agent_address(), &WireKey::new()?, "greedy").await?;
    let flooded = async {
        loop {
            for _ in 0..100 {
                link.mux.register(&registration(Some("greedy")));
            }
            if link.flush().await.is_err() {
                return;
            }
        }
    };
    within(Duration::from_secs(60), "the link's end", flooded).await?;
    counted(&relay, EVICTED, LinkEnd::Overload).await?;
    bystander.stays_well(&relay).await
}

/// Fields of a registration appear in `Host` headers, in URLs and in lists.
#[tokio::test]
async fn a_registration_that_could_not_be_passed_on_is_refused_and_the_link_goes_on() -> Result<()>
{
    let relay = TestRelay::with().shards(2).start()?;
    let mut link = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    let good = || Register {
        scheme: Scheme::Http,
        base_path: "/mcp".to_owned(),
        dcc: "maya".to_owned(),
        ..registration(None)
    };
    let with = |change: fn(&mut Register)| {
        let mut it = good();
        change(&mut it);
        it
    };
    for wrong in [
        with(|it| it.authority = String::new()),
        with(|it| it.authority = "ada@evil.example".to_owned()),
        with(|it| it.authority = "a b:1".to_owned()),
        with(|it| it.authority = "stra\u{df}e.example:1".to_owned()),
        with(|it| it.authority = "x".repeat(500)),
        with(|it| it.base_path = "mcp".to_owned()),
        with(|it| it.base_path = "/a\u{202e}b".to_owned()),
        with(|it| it.dcc = "maya/../nuke".to_owned()),
        with(|it| it.dcc = "unreal engine".to_owned()),
        with(|it| it.dcc = "m".repeat(500)),
        with(|it| it.label = "a\u{200b}b".to_owned()),
        with(|it| it.capabilities = vec!["a\u{2066}b".to_owned()]),
    ] {
        let refusal = link.ask_for(&wrong).await?.err();
        let refusal = refusal.with_context(|| format!("granted: {wrong:?}"))?;
        ensure!(
            refusal.reason == RefusalReason::RegistrationInvalid,
            "{refusal:?}"
        );
        let is_shown = !refusal.message.chars().any(is_hidden);
        ensure!(is_shown, "{refusal:?}");
    }
    for authority in [
        "127.0.0.1:1",
        "[::1]:80",
        "localhost",
        "render_01.farm:8765",
    ] {
        let mut right = good();
        right.authority = authority.to_owned();
        let granted = link.ask_for(&right).await??;
        ensure!(!granted.urls.is_empty(), "{granted:?}");
    }
    let wrong = relay.metrics().await?;
    let wrong = wrong.labelled("relay_registration_refused_total", "registration_invalid");
    ensure!(wrong == 12, "{wrong}");
    Ok(())
}
