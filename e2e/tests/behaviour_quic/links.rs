//! Links over QUIC with callers over TCP: bytes and ends of their sessions, and sessions that do not wait for each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{
    Digest, LONG_BYTES, Metrics, PatientTarget, QuicCaller, Target, TestAgent, TestCertificate,
    TestRelay, abort, echo_round_trip, is_reset, noise, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::{Auth, DriverChoice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::relay;

on_each_driver!(
    bytes_pass_both_ways_over_a_link,
    one_address_serves_agents_and_callers_of_ipv4_and_ipv6,
    half_closes_pass_in_both_directions_over_a_link,
    a_caller_that_reads_slowly_loses_nothing_over_a_link,
    what_a_target_breaks_off_is_reset_behind_its_last_byte_over_a_link,
    what_a_caller_cancels_is_reset_at_its_target_over_a_link,
    a_target_that_resets_in_an_upload_does_the_link_no_harm,
    many_sessions_share_a_link,
    a_hundred_stalled_sessions_hold_up_no_other,
);

/// A relay, and an agent with a link over QUIC.
struct Rig {
    relay: TestRelay,
    agent: TestAgent,
    /// Keeps the files of relay and agent.
    _certificate: TestCertificate,
}

impl Rig {
    async fn start(driver: DriverChoice, target: &Target) -> Result<Self> {
        let certificate = TestCertificate::new("relay.test")?;
        let relay = relay(driver, &certificate)?;
        let agent = TestAgent::of(target).trusting(&certificate);
        let agent = agent.start_at(&relay.quic_url()).await?;
        Ok(Self {
            relay,
            agent,
            _certificate: certificate,
        })
    }

    /// Opens a session as a caller over TCP.
    async fn call(&self) -> Result<TcpStream> {
        self.relay.raw(self.agent.tunnel()).await
    }

    /// Waits until the relay has `count` sessions, and checks that it still has its first link.
    async fn has_sessions(&self, count: i64) -> Result<()> {
        let wanted = |metrics: &Metrics| metrics.get("relay_sessions") == count;
        let metrics = self.relay.until("these sessions", wanted).await?;
        ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
        ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
        Ok(())
    }
}

async fn bytes_pass_both_ways_over_a_link(driver: DriverChoice) -> Result<()> {
    const LEN: usize = 2 * 1024 * 1024;
    let echo = Target::echo().await?;
    let rig = Rig::start(driver, &echo).await?;
    // Several callers, so that some are accepted on a shard without the link, and move.
    for seed in 0..4 {
        let (mut reads, mut writes) = rig.call().await?.into_split();
        let sending = async {
            writes.write_all(&noise(seed, LEN)).await?;
            writes.shutdown().await
        };
        let echoed = async { tokio::join!(sending, read_to_close(&mut reads)) };
        let (sent, (heard, end)) = soon("the echo", echoed).await?;
        sent?;
        end?;
        assert_eq!(heard, Digest::of_noise(seed, LEN));
    }
    let rows = rig.relay.tunnels().await?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&*rows[0].transport, rows[0].channel_bound), ("quic", true));
    rig.has_sessions(0).await
}

async fn one_address_serves_agents_and_callers_of_ipv4_and_ipv6(
    driver: DriverChoice,
) -> Result<()> {
    const LEN: usize = 300_000;
    let hosts = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ];
    // The machine may lack IPv6.
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return Ok(());
    }
    let certificate = TestCertificate::new("::1")?;
    let relay = TestRelay::with().driver(driver).shards(2);
    let relay = relay.quic(&certificate).config(|config| {
        config.quic_listen = vec![(Ipv6Addr::UNSPECIFIED, 0).into()];
        config.auth = Auth::Open { anywhere: true };
    });
    let relay = relay.start()?;
    let port = relay.quic_address().port();
    let at = |host| SocketAddr::new(host, port);
    let echo = Target::echo().await?;
    let mut agents = Vec::new();
    for (host, name) in hosts.into_iter().zip(["four", "six"]) {
        let agent = TestAgent::of(&echo).trusting(&certificate).named(name);
        agents.push(agent.start_at(&format!("quic://{}", at(host))).await?);
    }
    for host in hosts {
        let caller = QuicCaller::connect(at(host), &certificate, "tieline").await?;
        for agent in &agents {
            let (mut reads, mut writes) = tokio::io::split(caller.raw(agent.tunnel()).await?);
            let sending = async {
                writes.write_all(&noise(1, LEN)).await?;
                writes.shutdown().await
            };
            let echoed = async { tokio::join!(sending, read_to_close(&mut reads)) };
            let (sent, (heard, end)) = soon("the echo", echoed).await?;
            sent?;
            end?;
            assert_eq!(heard, Digest::of_noise(1, LEN), "{host}");
        }
    }
    let rows = relay.tunnels().await?;
    let is_over_quic = rows.iter().all(|row| row.transport == "quic");
    ensure!(rows.len() == 2 && is_over_quic, "{rows:?}");
    Ok(())
}

async fn half_closes_pass_in_both_directions_over_a_link(driver: DriverChoice) -> Result<()> {
    let mut target = PatientTarget::start().await?;
    let rig = Rig::start(driver, target.target()).await?;
    for _ in 0..4 {
        let mut caller = rig.call().await?;
        target.answers(&mut caller).await?;
    }
    rig.has_sessions(0).await
}

async fn a_caller_that_reads_slowly_loses_nothing_over_a_link(driver: DriverChoice) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(&noise(3, LONG_BYTES)).await?;
        Ok(())
    })
    .await?;
    let rig = Rig::start(driver, &target).await?;
    let mut caller = rig.call().await?;
    rig.relay
        .until("bytes wait for the caller", |metrics| {
            metrics.labelled("relay_bytes_total", "to_frontend") > 100_000
        })
        .await?;
    let mut heard = Vec::new();
    let mut piece = vec![0; 50_000];
    for size in [1, 17, 50_000, 3].into_iter().cycle() {
        let count = soon("more", caller.read(&mut piece[..size])).await??;
        if count == 0 {
            break;
        }
        heard.extend_from_slice(&piece[..count]);
    }
    assert_eq!(Digest::of(&heard), Digest::of_noise(3, LONG_BYTES));
    drop(caller);
    rig.has_sessions(0).await
}

async fn what_a_target_breaks_off_is_reset_behind_its_last_byte_over_a_link(
    driver: DriverChoice,
) -> Result<()> {
    // Fits a loopback socket buffer, so that all of it is sent before the reset.
    const BURST_BYTES: usize = 16 * 1024;
    let target = Target::tcp(|mut stream| async move {
        stream.read_exact(&mut [0; 5]).await?;
        stream.write_all(&noise(5, BURST_BYTES)).await?;
        Ok(abort(stream)?)
    })
    .await?;
    let rig = Rig::start(driver, &target).await?;
    for round in 0..20 {
        let mut caller = rig.call().await?;
        caller.write_all(b"begin").await?;
        let (heard, end) = soon("the reset", read_to_close(&mut caller)).await?;
        let wanted = Digest::of_noise(5, BURST_BYTES);
        assert_eq!(heard, wanted, "round {round}: {end:?}");
        assert!(is_reset(&end), "round {round}: {end:?}");
    }
    rig.has_sessions(0).await
}

async fn what_a_caller_cancels_is_reset_at_its_target_over_a_link(
    driver: DriverChoice,
) -> Result<()> {
    let (tell, mut ends) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            // The first bytes come back, so that the caller knows that they have arrived.
            let mut first = [0; 4];
            stream.read_exact(&mut first).await?;
            stream.write_all(&first).await?;
            let (_, end) = read_to_close(&mut stream).await;
            Ok(tell.send(is_reset(&end)).await?)
        }
    })
    .await?;
    let rig = Rig::start(driver, &target).await?;
    for _ in 0..10 {
        let mut caller = rig.call().await?;
        soon("the echo", echo_round_trip(&mut caller, b"some")).await??;
        abort(caller)?;
        let was_reset = soon("the target's end", ends.recv()).await?;
        assert!(was_reset.context("the target is gone")?);
    }
    rig.has_sessions(0).await
}

async fn a_target_that_resets_in_an_upload_does_the_link_no_harm(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.read_exact(&mut [0; 4]).await?;
        Ok(abort(stream)?)
    })
    .await?;
    let rig = Rig::start(driver, &target).await?;
    for _ in 0..10 {
        let (mut reads, mut writes) = rig.call().await?.into_split();
        let upload = async {
            let block = noise(8, 64 * 1024);
            while writes.write_all(&block).await.is_ok() {}
        };
        soon("the end of the upload", upload).await?;
        let (heard, end) = soon("the reset", read_to_close(&mut reads)).await?;
        // Without bytes: the failed write may have taken the error that a read would report.
        ensure!(heard.is_empty(), "{heard:?} {end:?}");
    }
    rig.has_sessions(0).await
}

async fn many_sessions_share_a_link(driver: DriverChoice) -> Result<()> {
    // More than the streams that a new link has at first.
    const SESSIONS: i64 = 300;
    let echo = Target::echo().await?;
    let rig = Rig::start(driver, &echo).await?;
    let mut callers = Vec::new();
    for _ in 0..SESSIONS {
        callers.push(rig.call().await?);
    }
    for round in 0..3 {
        for caller in &mut callers {
            soon("the echo", echo_round_trip(caller, &noise(round, 1_000))).await??;
        }
    }
    rig.has_sessions(SESSIONS).await?;
    drop(callers);
    rig.has_sessions(0).await
}

/// A target that follows its first byte: `f` floods, `d` never reads again, any other byte echoes.
async fn stalling() -> Result<Target> {
    Target::tcp(|mut stream| async move {
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

async fn a_hundred_stalled_sessions_hold_up_no_other(driver: DriverChoice) -> Result<()> {
    const STALLED: i64 = 100;
    let target = stalling().await?;
    let rig = Rig::start(driver, &target).await?;
    let (mut flooded, mut sending) = (Vec::new(), Vec::new());
    for nth in 0..STALLED {
        let mut caller = rig.call().await?;
        // Callers that read nothing, and targets that read nothing.
        if nth % 2 == 0 {
            caller.write_all(b"f").await?;
            flooded.push(caller);
        } else {
            caller.write_all(b"d").await?;
            sending.push(tokio::spawn(async move {
                let block = noise(1, 64 * 1024);
                // Stalls once windows and socket buffers are full.
                while caller.write_all(&block).await.is_ok() {}
            }));
        }
    }
    rig.has_sessions(STALLED).await?;
    let mut live = rig.call().await?;
    for seed in 0..20 {
        soon(
            "the echo",
            echo_round_trip(&mut live, &noise(seed, 100_000)),
        )
        .await??;
    }
    let metrics = rig.relay.metrics().await?;
    assert_eq!(metrics.get("relay_session_resets_total"), 0, "{metrics}");
    rig.has_sessions(STALLED + 1).await?;
    sending.iter().for_each(|it| it.abort());
    Ok(())
}
