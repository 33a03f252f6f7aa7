//! Certificates: chosen by name, and read again while the relay runs.

use std::sync::Arc;

use anyhow::{Result, bail};
use tieline_e2e::behaviour::{
    Digest, HttpStream, QuicCaller, QuicCallerStream, SOON, Target, TestCertificate, TestRelay,
    noise, read_to_close, soon, tls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::{agent, behind_tls, url};

/// Connects again and again until the relay shows the present certificate.
async fn until_renewed(certificate: &TestCertificate, relay: &TestRelay) -> Result<()> {
    let since = Instant::now();
    while certificate
        .connect(relay.http_address(), None)
        .await
        .is_err()
    {
        if since.elapsed() > SOON {
            bail!("the relay still shows the old certificate");
        }
        sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_old_ones_go_on() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).shards(2).start()?;
    let echo = Target::echo().await?;
    let agent = agent(&echo, &certificate).start_at(&url(&relay)).await?;
    let mut caller = certificate
        .raw(relay.http_address(), agent.tunnel())
        .await?;
    let mut answer = [0; 6];
    caller.write_all(b"before").await?;
    soon("the echo", caller.read_exact(&mut answer)).await??;

    certificate.renew()?;
    until_renewed(&certificate, &relay).await?;
    caller.write_all(&noise(1, 100_000)).await?;
    caller.shutdown().await?;
    let (heard, end) = soon("the rest", read_to_close(&mut caller)).await?;
    end?;
    assert_eq!(heard, Digest::of_noise(1, 100_000));
    Ok(())
}

/// Sends some bytes to an echo, and reads them back.
async fn echoes(stream: &mut QuicCallerStream) -> Result<()> {
    stream.write_all(b"some").await?;
    soon("the echo", stream.read_exact(&mut [0; 4])).await??;
    Ok(())
}

/// Connects over QUIC until all shards show the present certificate, and returns the last caller.
async fn until_renewed_over_quic(
    certificate: &TestCertificate,
    relay: &TestRelay,
) -> Result<QuicCaller> {
    let since = Instant::now();
    let mut in_a_row = 0;
    loop {
        match relay.quic_caller(certificate).await {
            // A connection's shard is random: all of these on one of two shards are one run in 256.
            Ok(caller) if in_a_row == 8 => return Ok(caller),
            Ok(_) => in_a_row += 1,
            Err(_) => {
                in_a_row = 0;
                sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        if since.elapsed() > SOON {
            bail!("the relay still shows the old certificate over QUIC");
        }
    }
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_over_quic_and_old_ones_go_on() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with().shards(2).quic(&certificate).start()?;
    let echo = Target::echo().await?;
    let agent = agent(&echo, &certificate);
    let agent = agent.start_at(&relay.quic_url()).await?;
    let old = relay.quic_caller(&certificate).await?;
    let mut stream = old.raw(agent.tunnel()).await?;
    echoes(&mut stream).await?;

    certificate.renew()?;
    let new = until_renewed_over_quic(&certificate, &relay).await?;
    echoes(&mut new.raw(agent.tunnel()).await?).await?;
    // The old caller's stream, and a new one on its connection; the agent's link is older than the certificate, too.
    echoes(&mut stream).await?;
    echoes(&mut old.raw(agent.tunnel()).await?).await?;
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_links_total"), 1, "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_bad_certificate_leaves_the_old_one_in_use() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let old = Arc::new(certificate.client(None)?);
    for (file, bad) in [("cert.pem", &b"no certificate"[..]), ("key.pem", b"")] {
        certificate.replace(file, bad)?;
        // Two looks at the files are a second apart.
        sleep(std::time::Duration::from_millis(2_500)).await;
        tls::connect(relay.http_address(), Arc::clone(&old), "localhost").await?;
    }
    certificate.renew()?;
    until_renewed(&certificate, &relay).await
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() -> Result<()> {
    let (first, second) = (
        TestCertificate::new("one.test")?,
        TestCertificate::new("*.two.test")?,
    );
    let files = vec![first.files(), second.files()];
    let relay = TestRelay::with().config(move |config| {
        config.http_listen = vec![tls::listen_address()];
        config.tls.certificates = files;
    });
    let relay = relay.start()?;
    for (certificate, name) in [(&first, "one.test"), (&second, "a.two.test")] {
        let config = Arc::new(certificate.client(None)?);
        tls::connect(relay.http_address(), config, name).await?;
    }
    // A name of none of them gets the first, which a client then refuses by itself.
    let config = Arc::new(second.client(None)?);
    assert!(
        tls::connect(relay.http_address(), config, "other.test")
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn a_session_resumes_on_any_shard_and_after_a_reload() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).shards(2).start()?;
    let config = Arc::new(certificate.client(Some("http/1.1"))?);
    for round in 0..8 {
        if round == 4 {
            certificate.renew()?;
            until_renewed(&certificate, &relay).await?;
        }
        let stream = tls::connect(relay.http_address(), Arc::clone(&config), "localhost").await?;
        let mut http = HttpStream::new(stream);
        // The answer brings the tickets along.
        http.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        soon("the answer", http.answer()).await??;
        let is_resumed =
            http.stream().get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        assert_eq!(is_resumed, round > 0, "round {round}");
    }
    let resumed = relay.metrics().await?.get("relay_tls_resumed_total");
    assert_eq!(resumed, 7);
    Ok(())
}
