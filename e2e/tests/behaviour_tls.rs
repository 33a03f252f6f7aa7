//! TLS at the relay: one port for agents, raw callers and HTTP; bytes and ends as without TLS; certificates that change
//! while connections live; clients that speak something else; agents that are bound to their connection.

#[path = "behaviour_tls/binding.rs"]
mod binding;
#[path = "behaviour_tls/certificates.rs"]
mod certificates;
#[path = "behaviour_tls/client_certificates.rs"]
mod client_certificates;
#[path = "behaviour_tls/handshakes.rs"]
mod handshakes;
#[path = "behaviour_tls/rules.rs"]
mod rules;

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{
    AgentBuilder, Digest, HttpStream, LONG_BYTES, PatientTarget, RelayBuilder, Target, TestAgent,
    TestCertificate, TestRelay, is_reset, noise, read_to_close, soon, tls,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

on_each_driver!(
    one_tls_port_serves_agents_raw_callers_and_http,
    bytes_and_half_closes_pass_in_both_directions,
    a_caller_that_reads_slowly_loses_nothing,
    what_breaks_off_does_not_look_complete,
    a_link_over_tls_gets_no_lane,
);

/// A relay whose only port for callers and agents is the HTTP listener, over TLS.
fn behind_tls(certificate: &TestCertificate) -> RelayBuilder {
    let relay = TestRelay::with().http_over_tls(certificate);
    relay.config(|config| config.tcp_listen = Vec::new())
}

/// An agent that trusts `certificate`.
fn agent(target: &Target, certificate: &TestCertificate) -> AgentBuilder {
    TestAgent::of(target).trusting(certificate)
}

fn url(relay: &TestRelay) -> String {
    format!("tls://localhost:{}", relay.http_address().port())
}

/// Sends some bytes to the agent's echo, and reads them back.
async fn is_served(
    relay: &TestRelay,
    certificate: &TestCertificate,
    agent: &TestAgent,
) -> Result<()> {
    let mut caller = certificate
        .raw(relay.http_address(), agent.tunnel())
        .await?;
    caller.write_all(b"some").await?;
    let mut heard = [0; 4];
    soon("the echo", caller.read_exact(&mut heard)).await??;
    ensure!(&heard == b"some", "{heard:?}");
    Ok(())
}

async fn one_tls_port_serves_agents_raw_callers_and_http(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).driver(driver).shards(2).start()?;
    let port = relay.http_address();
    let echo = Target::echo().await?;
    let pages = Target::http_requests(async |mut http, _| {
        http.respond("200 OK", "", b"page").await?;
        Ok(http)
    })
    .await?;
    let echo = agent(&echo, &certificate).start_at(&url(&relay)).await?;
    let pages = agent(&pages, &certificate).start_at(&url(&relay)).await?;

    // Several callers, so that some are accepted on a shard without the link, and move.
    for seed in 0..8 {
        let mut caller = certificate.raw(port, echo.tunnel()).await?;
        caller.write_all(&noise(seed, 10_000)).await?;
        caller.shutdown().await?;
        let (heard, end) = soon("the echo", read_to_close(&mut caller)).await?;
        end?;
        assert_eq!(heard, Digest::of_noise(seed, 10_000));

        let protocol = [None, Some("http/1.1")][usize::from(seed % 2 == 0)];
        let mut http = HttpStream::new(certificate.connect(port, protocol).await?);
        let path = format!("/w/{}/", pages.tunnel());
        for _ in 0..2 {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            http.write(request).await?;
            let (head, body) = soon("the answer", http.answer()).await??;
            assert_eq!((head.status(), &body.bytes[..]), (200, &b"page"[..]));
        }
    }
    let metrics = relay.metrics().await?;
    assert!(metrics.labelled("relay_tls_handshakes_total", "1.3") >= 18);
    Ok(())
}

async fn bytes_and_half_closes_pass_in_both_directions(driver: DriverChoice) -> Result<()> {
    let mut target = PatientTarget::start().await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).driver(driver).start()?;
    let agent = agent(target.target(), &certificate);
    let agent = agent.start_at(&url(&relay)).await?;

    let mut caller = certificate
        .raw(relay.http_address(), agent.tunnel())
        .await?;
    target.answers(&mut caller).await?;
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn a_caller_that_reads_slowly_loses_nothing(driver: DriverChoice) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(&noise(3, LONG_BYTES)).await?;
        Ok(())
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).driver(driver).start()?;
    let agent = agent(&target, &certificate).start_at(&url(&relay)).await?;

    let mut caller = certificate
        .raw(relay.http_address(), agent.tunnel())
        .await?;
    relay
        .until("the caller's buffers are full", |metrics| {
            metrics.labelled("relay_bytes_total", "to_frontend") > 100_000
        })
        .await?;
    let mut heard = Vec::new();
    let mut piece = [0; 50_000];
    let sizes = [1, 17, 50_000, 3].into_iter().cycle();
    for size in sizes {
        let count = soon("more", caller.read(&mut piece[..size])).await??;
        if count == 0 {
            break;
        }
        heard.extend_from_slice(&piece[..count]);
    }
    assert_eq!(Digest::of(&heard), Digest::of_noise(3, LONG_BYTES));
    Ok(())
}

async fn what_breaks_off_does_not_look_complete(driver: DriverChoice) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(&noise(4, 100_000)).await?;
        // Holds the connection open until the caller is gone.
        let _ = read_to_close(&mut stream).await;
        Ok(())
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).driver(driver).start()?;
    let agent = agent(&target, &certificate).start_at(&url(&relay)).await?;
    let mut caller = certificate
        .raw(relay.http_address(), agent.tunnel())
        .await?;
    let mut half = vec![0; 100_000];
    soon("the first half", caller.read_exact(&mut half)).await??;
    drop(agent);
    let (_, end) = soon("the end", read_to_close(&mut caller)).await?;
    let is_cut = matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof);
    assert!(is_cut || is_reset(&end), "{end:?}");
    Ok(())
}

async fn a_link_over_tls_gets_no_lane(driver: DriverChoice) -> Result<()> {
    let target = Target::echo().await?;
    let certificate = TestCertificate::new("relay.test")?;
    let files = certificate.files();
    let relay = TestRelay::with().driver(driver).config(move |config| {
        config.agent_listen.push(tls::listen_address());
        config.tls.certificates = vec![files];
        config.bulk_run_bytes = 1;
    });
    let relay = relay.start()?;
    let [plain, tls] = relay.relay().agent_addresses() else {
        panic!("two addresses were configured");
    };
    for (url, has_lane) in [
        (format!("tls://localhost:{}", tls.port()), false),
        (format!("tcp://{plain}"), true),
    ] {
        let agent = match has_lane {
            true => TestAgent::of(&target),
            false => agent(&target, &certificate),
        };
        let agent = agent.start_at(&url).await?;
        let mut caller = relay.raw(agent.tunnel()).await?;
        caller.write_all(&noise(5, LONG_BYTES / 10)).await?;
        caller.shutdown().await?;
        let (heard, end) = soon("the echo", read_to_close(&mut caller)).await?;
        end?;
        assert_eq!(heard, Digest::of_noise(5, LONG_BYTES / 10));
        let offers = relay.metrics().await?.get("relay_lane_offers_total");
        assert_eq!(offers > 0, has_lane, "{url}: {offers}");
    }
    Ok(())
}
