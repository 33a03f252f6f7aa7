//! The relay's QUIC with software that others wrote: aioquic as caller and as agent, ngtcp2's client, and tshark, which
//! decodes what was sent. Caller and agent on aioquic are written from docs/PROTOCOL.md.
//!
//! aioquic comes from PyPI, ngtcp2's client and tshark are packages of Debian. Where one is missing, its tests are reported
//! as ignored with the reason. With `TIELINE_INTEROP=require` in the environment they fail instead.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use libtest_mimic::Arguments;
use serde_json::{Value, json};
use tieline_e2e::behaviour::{
    Digest, Target, TestAgent, TestRelay, abort, echo_round_trip, is_reset, noise, read_to_close,
    soon,
};
use tieline_e2e::foreign_quic::{Foreign, Needs, ngtcp2};
use tieline_e2e::trials::{self, Test};
use tieline_e2e::trust::Trust;
use tieline_wire::{CallerRefusal, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

/// Time limit of one test. Every wait inside a test has a shorter limit.
const TEST_LIMIT: Duration = Duration::from_secs(150);

/// Bytes of a long echo.
const LONG: usize = 8 * 1024 * 1024;

/// Name of the tunnel in most tests.
const TUNNEL: &str = "bay";

/// Checks one fact.
type Check = fn(&Foreign) -> Result<()>;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let tests: [(&str, Needs, Check); 13] = [
        ("aioquic_caller::bytes_come_back", Needs::Aioquic, echo),
        (
            "aioquic_caller::streams_run_side_by_side",
            Needs::Aioquic,
            several,
        ),
        (
            "aioquic_caller::ends_pass_in_both_directions",
            Needs::Aioquic,
            half_closes,
        ),
        (
            "aioquic_caller::resets_pass_in_both_directions",
            Needs::Aioquic,
            resets,
        ),
        (
            "aioquic_caller::a_refused_stream_is_told_why",
            Needs::Aioquic,
            refused,
        ),
        (
            "aioquic_agent::bytes_pass_both_ways",
            Needs::Aioquic,
            agent_echoes,
        ),
        (
            "aioquic_agent::messages_pass_both_ways",
            Needs::Aioquic,
            agent_echoes_messages,
        ),
        (
            "aioquic_agent::a_stalled_caller_holds_up_no_other",
            Needs::Aioquic,
            agent_stalls,
        ),
        (
            "aioquic_agent::resets_pass_in_both_directions",
            Needs::Aioquic,
            agent_resets,
        ),
        (
            "aioquic_agent::the_link_is_bound_and_ends_in_order",
            Needs::Aioquic,
            agent_leaves,
        ),
        (
            "ngtcp2::http_3_is_refused_in_the_handshake",
            Needs::Ngtcp2,
            ngtcp2_is_refused,
        ),
        (
            "ngtcp2::a_handshake_completes_and_bytes_come_back",
            Needs::Ngtcp2,
            ngtcp2_echoes,
        ),
        (
            "tshark::a_callers_datagrams_are_decoded",
            Needs::AioquicAndTshark,
            decoded,
        ),
    ];
    let tests = tests.into_iter().map(|(name, needs, check)| {
        let missing = move |setup: &Foreign| setup.missing(needs);
        Test::new(name.to_owned(), missing, check)
    });
    trials::run("QUIC", &arguments, TEST_LIMIT, tests.collect(), || {
        let directory = trials::directory(env!("CARGO_TARGET_TMPDIR"));
        Ok(Foreign::prepare(&directory, Trust::new()?))
    })
}

/// Starts a relay with QUIC. A caller's connection is on one of its shards by chance.
fn relay(setup: &Foreign) -> Result<TestRelay> {
    let relay = setup.trust().relay().shards(2);
    let relay = relay.config(|config| {
        config.quic_listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    });
    relay.start()
}

/// A relay, and an agent of ours that publishes a target as [`TUNNEL`].
struct Tunnel {
    _agent: TestAgent,
    relay: TestRelay,
    _target: Target,
    /// The target's tasks run on it.
    runtime: Runtime,
}

impl Tunnel {
    fn open(setup: &Foreign, target: impl Future<Output = Result<Target>>) -> Result<Self> {
        let relay = relay(setup)?;
        let runtime = Runtime::new()?;
        let (target, agent) = runtime.block_on(async {
            let target = target.await?;
            let agent = TestAgent::of(&target).named(TUNNEL).start(&relay).await?;
            anyhow::Ok((target, agent))
        })?;
        Ok(Self {
            _agent: agent,
            relay,
            _target: target,
            runtime,
        })
    }

    /// Waits until all sessions are over.
    fn until_idle(&self) -> Result<()> {
        let idle = self
            .relay
            .until("no session", |metrics| metrics.get("relay_sessions") == 0);
        self.runtime.block_on(idle)?;
        Ok(())
    }
}

fn echo(setup: &Foreign) -> Result<()> {
    let tunnel = Tunnel::open(setup, Target::echo())?;
    let report = setup.call(&tunnel.relay, "echo", TUNNEL)?;
    ensure_same(&report)?;
    ensure!(report["alpn"] == "tieline", "{report}");
    tunnel.until_idle()
}

/// Checks that a script got back the [`LONG`] bytes that it sent.
fn ensure_same(report: &Value) -> Result<()> {
    ensure!(report["sent"]["bytes"] == LONG, "{report}");
    ensure!(report["heard"] == report["sent"], "{report}");
    Ok(())
}

fn several(setup: &Foreign) -> Result<()> {
    let tunnel = Tunnel::open(setup, Target::echo())?;
    let report = setup.call(&tunnel.relay, "several", TUNNEL)?;
    ensure!(report["same"] == json!(vec![true; 8]), "{report}");
    tunnel.until_idle()
}

fn half_closes(setup: &Foreign) -> Result<()> {
    let in_order =
        |heard: &str| json!({ "alpn": "tieline", "heard": heard, "reset": null, "stopped": null });
    let (tell, mut requests) = mpsc::channel(1);
    let answers = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            let (request, end) = read_to_close(&mut stream).await;
            end?;
            tell.send(request).await?;
            stream.write_all(b"answer").await?;
            Ok(())
        }
    });
    let tunnel = Tunnel::open(setup, answers)?;
    let report = setup.call(&tunnel.relay, "caller_ends_first", TUNNEL)?;
    ensure!(report == in_order("answer"), "{report}");
    ensure!(requests.try_recv()? == Digest::of(b"question"));

    let (tell, mut requests) = mpsc::channel(1);
    let speaks_first = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"first").await?;
            stream.shutdown().await?;
            let (request, end) = read_to_close(&mut stream).await;
            end?;
            tell.send(request).await?;
            Ok(())
        }
    });
    let tunnel = Tunnel::open(setup, speaks_first)?;
    let report = setup.call(&tunnel.relay, "target_ends_first", TUNNEL)?;
    ensure!(report == in_order("first"), "{report}");
    let request = soon("the caller's bytes", requests.recv());
    let request = tunnel.runtime.block_on(request)?;
    ensure!(request == Some(Digest::of(b"afterwards")), "{request:?}");
    Ok(())
}

fn resets(setup: &Foreign) -> Result<()> {
    let (tell, mut ends) = mpsc::channel(2);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut some = [0; 4];
            stream.read_exact(&mut some).await?;
            stream.write_all(&some).await?;
            let (rest, end) = read_to_close(&mut stream).await;
            match end {
                Ok(()) => stream.write_all(b"still here").await?,
                Err(_) => tell.send((rest, is_reset(&end))).await?,
            }
            Ok(())
        }
    });
    let tunnel = Tunnel::open(setup, target)?;
    let report = setup.call(&tunnel.relay, "reset", TUNNEL)?;
    let code = SessionEnd::FrontendReset.code();
    ensure!(report["reset"]["reset"] == code, "{report}");
    ensure!(report["stopped"]["stopped"] == code, "{report}");
    ensure!(report["other"] == true, "{report}");
    for _ in 0..2 {
        let end = soon("a reset at the target", ends.recv());
        let end = tunnel.runtime.block_on(end)?;
        ensure!(end == Some((Digest::of(b""), true)), "{end:?}");
    }
    tunnel.until_idle()?;

    let resets = Target::tcp(|mut stream| async move {
        stream.write_all(b"some").await?;
        stream.read_exact(&mut [0; 3]).await?;
        Ok(abort(stream)?)
    });
    let tunnel = Tunnel::open(setup, resets)?;
    let report = setup.call(&tunnel.relay, "target_resets", TUNNEL)?;
    let code = SessionEnd::TargetReset.code();
    let wanted = json!({ "alpn": "tieline", "heard": "", "reset": code, "stopped": code });
    ensure!(report == wanted, "{report}");
    Ok(())
}

fn refused(setup: &Foreign) -> Result<()> {
    let tunnel = Tunnel::open(setup, Target::echo())?;
    let report = setup.call(&tunnel.relay, "refused", TUNNEL)?;
    let unknown = CallerRefusal::UnknownTunnel as u16;
    let preamble = CallerRefusal::Preamble as u16;
    let codes = |stream: &str| {
        (
            report[stream]["reset"].clone(),
            report[stream]["stopped"].clone(),
        )
    };
    ensure!(
        codes("unknown") == (json!(unknown), json!(unknown)),
        "{report}"
    );
    ensure!(
        codes("garbage") == (json!(preamble), json!(preamble)),
        "{report}"
    );
    // These callers had ended, so the relay has nothing to stop.
    for stream in ["cut", "empty"] {
        ensure!(codes(stream) == (json!(preamble), Value::Null), "{report}");
    }
    ensure!(report["live"] == true, "{report}");
    Ok(())
}

fn agent_echoes(setup: &Foreign) -> Result<()> {
    let relay = relay(setup)?;
    let agent = setup.agent(&relay, TUNNEL, "closed")?;
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let (mut reads, mut writes) = relay.raw(TUNNEL).await?.into_split();
        let sending = async {
            writes.write_all(&noise(1, LONG)).await?;
            writes.shutdown().await
        };
        let echoed = async { tokio::join!(sending, read_to_close(&mut reads)) };
        let (sent, (heard, end)) = soon("the echo", echoed).await?;
        sent?;
        end?;
        ensure!(heard == Digest::of_noise(1, LONG), "{heard:?}");
        anyhow::Ok(())
    })?;
    agent.told("finished")?;
    // From end to end without a stack of ours in the two programs.
    ensure_same(&setup.call(&relay, "echo", TUNNEL)?)?;
    let report = setup.call(&relay, "several", TUNNEL)?;
    ensure!(report["same"] == json!(vec![true; 8]), "{report}");
    runtime.block_on(is_sound(&relay))
}

/// Checks that the relay has its link, and has ended none.
async fn is_sound(relay: &TestRelay) -> Result<()> {
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links") == 1, "{metrics}");
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    Ok(())
}

fn agent_echoes_messages(setup: &Foreign) -> Result<()> {
    let relay = setup.trust().relay().shards(2);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let relay = relay.config(|config| {
        config.quic_listen = vec![loopback];
        config.http_listen = vec![loopback.into()];
    });
    let relay = relay.start()?;
    let _agent = setup.agent(&relay, TUNNEL, "closed")?;
    Runtime::new()?.block_on(async {
        let stream = TcpStream::connect(relay.http_address()).await?;
        let url = format!("ws://{}/tunnel/{TUNNEL}", relay.http_address());
        let (mut socket, _) = soon("the handshake", client_async(url, stream)).await??;
        // Lengths with numbers of one, two and four bytes in front of them, and one that is more than the credit.
        for len in [1, 31, 32, 8_191, 8_192, 30_000, 200_000] {
            let message = noise(len as u64, len);
            socket.send(Message::binary(message.clone())).await?;
            let mut heard = Vec::new();
            // Borders of long messages are not kept towards the caller.
            while heard.len() < len {
                let piece = soon("the echo", socket.next()).await?;
                heard.extend_from_slice(&piece.context("the end")??.into_data());
            }
            ensure!(heard == message, "{len}: {} bytes came back", heard.len());
        }
        is_sound(&relay).await
    })
}

fn agent_stalls(setup: &Foreign) -> Result<()> {
    let relay = relay(setup)?;
    let _agent = setup.agent(&relay, TUNNEL, "closed")?;
    Runtime::new()?.block_on(async {
        let mut stalled = relay.raw(TUNNEL).await?;
        // More than fits into the windows on its way; none of it is read.
        let stalling = tokio::spawn(async move {
            let _ = stalled.write_all(&noise(1, 4 * LONG)).await;
            std::future::pending::<()>().await;
        });
        relay
            .until("the stalled session is under way", |metrics| {
                metrics.labelled("relay_bytes_total", "to_frontend") > 200_000
            })
            .await?;
        let mut live = relay.raw(TUNNEL).await?;
        for seed in 0..50 {
            let payload = noise(seed, 2_000);
            let echoed = echo_round_trip(&mut live, &payload);
            soon("an echo", echoed).await??;
        }
        stalling.abort();
        is_sound(&relay).await
    })
}

fn agent_resets(setup: &Foreign) -> Result<()> {
    let relay = relay(setup)?;
    let agent = setup.agent(&relay, TUNNEL, "closed")?;
    Runtime::new()?.block_on(async {
        let mut refused = relay.raw("closed").await?;
        let (_, end) = soon("the refusal", read_to_close(&mut refused)).await?;
        ensure!(is_reset(&end), "{end:?}");
        let metrics = relay.metrics().await?;
        let refused = metrics.labelled("relay_session_resets_total", "target_refused");
        ensure!(refused == 1, "{metrics}");

        let mut caller = relay.raw(TUNNEL).await?;
        echo_round_trip(&mut caller, b"hello").await?;
        abort(caller)?;
        let told = agent.told("reset")?;
        ensure!(told["code"] == SessionEnd::FrontendReset.code(), "{told}");
        is_sound(&relay).await
    })
}

fn agent_leaves(setup: &Foreign) -> Result<()> {
    let relay = relay(setup)?;
    let agent = setup.agent(&relay, TUNNEL, "closed")?;
    ensure!(agent.is_bound());
    let runtime = Runtime::new()?;
    let rows = runtime.block_on(relay.tunnels())?;
    ensure!(rows.len() == 2, "{rows:?}");
    for row in &rows {
        ensure!(row.channel_bound && row.transport == "quic", "{row:?}");
        ensure!(row.agent_version == "aioquic-agent/1", "{row:?}");
    }
    agent.leaves()?;
    let over = relay.until("no link", |metrics| metrics.get("relay_links") == 0);
    let metrics = runtime.block_on(over)?;
    let evictions = metrics.get("relay_link_evictions_total");
    ensure!(evictions == 0, "{metrics}");
    Ok(())
}

fn ngtcp2_is_refused(setup: &Foreign) -> Result<()> {
    let relay = relay(setup)?;
    // The first packet has a version that no relay knows, so a negotiation comes before the refusal.
    let flags = ["--version=0x1a2a3a4a", "--preferred-versions=v1"];
    for flags in [&flags[..], &[]] {
        let printed = ngtcp2(&relay, None, flags)?;
        // The alert no_application_protocol (RFC 7301).
        ensure!(printed.contains("CRYPTO_ERROR(0x178)"), "{printed}");
    }
    let counted = relay.until("both are counted", |metrics| {
        metrics.labelled("relay_tls_failures_total", "alpn") == 2
            && metrics.labelled("relay_quic_dropped_total", "version") == 1
    });
    Runtime::new()?.block_on(counted)?;
    Ok(())
}

fn ngtcp2_echoes(setup: &Foreign) -> Result<()> {
    let tunnel = Tunnel::open(setup, Target::echo())?;
    let printed = ngtcp2(&tunnel.relay, Some(TUNNEL), &[])?;
    for line in [
        "QUIC handshake has completed",
        "Negotiated ALPN is tieline",
        // The bytes that came back, as the client dumps them.
        "68 6f 77 20 6e 6f 77 3f",
    ] {
        ensure!(printed.contains(line), "not printed: {line}\n{printed}");
    }
    let is_end = |line: &str| line.contains("frm rx") && line.contains("id=0x0 fin=1");
    ensure!(printed.lines().any(is_end), "no end\n{printed}");
    tunnel.until_idle()
}

fn decoded(setup: &Foreign) -> Result<()> {
    let tunnel = Tunnel::open(setup, Target::echo())?;
    let (report, capture) = setup.captured(&tunnel.relay, "caller_ends_first", TUNNEL)?;
    ensure!(report["heard"] == "question", "{report}");
    // The relay's choice of the protocol is encrypted.
    let chosen = capture.decoded(
        "tls.handshake.type == 8",
        &["tls.handshake.extensions_alpn_str"],
    )?;
    ensure!(!chosen.is_empty(), "no encrypted extensions");
    ensure!(
        chosen.iter().all(|packet| packet == &["tieline"]),
        "{chosen:?}"
    );
    let port = tunnel.relay.quic_address().port();
    let sent = capture.decoded(
        &format!("quic.stream_data && udp.dstport == {port}"),
        &[
            "quic.stream.stream_id",
            "quic.stream.offset",
            "quic.stream_data",
        ],
    )?;
    // The preamble: two bytes of length, and the name. Then the payload.
    let (bytes, wanted) = (stream_0(&sent)?, hex(b"\0\x03bayquestion"));
    ensure!(bytes == wanted, "{sent:?}");
    let ends = capture.decoded("quic.stream.fin == 1", &["udp.srcport"])?;
    ensure!(ends.len() >= 2, "no end in each direction: {ends:?}");
    let bad = capture.decoded("_ws.malformed || quic.decryption_failed", &["frame.number"])?;
    ensure!(bad.is_empty(), "{bad:?}");
    Ok(())
}

/// The bytes of stream 0, in hexadecimal, from packets with id, offset and bytes of one frame each. Some may be sent again.
fn stream_0(packets: &[Vec<String>]) -> Result<String> {
    let mut frames = Vec::new();
    for packet in packets {
        let [id, offset, bytes] = &packet[..] else {
            bail!("not three fields: {packet:?}");
        };
        ensure!(id == "0", "{packet:?}");
        // An end alone.
        if bytes == "<MISSING>" {
            continue;
        }
        // The first frame of a stream has none.
        let offset: usize = if offset.is_empty() {
            0
        } else {
            offset.parse()?
        };
        frames.push((offset * 2, bytes));
    }
    frames.sort();
    let mut whole = String::new();
    for (offset, bytes) in frames {
        ensure!(offset <= whole.len(), "a gap before {offset}: {packets:?}");
        whole.push_str(bytes.get(whole.len() - offset..).unwrap_or_default());
    }
    Ok(whole)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
