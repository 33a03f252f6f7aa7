//! Handshakes: clients that speak something else or stop in the middle, and hellos in pieces.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};
use tieline_e2e::behaviour::{TestCertificate, TestRelay, soon, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::behind_tls;

/// Waits until the relay has counted a handshake that failed for `reason`.
async fn failed(relay: &TestRelay, reason: &str) -> Result<()> {
    let what = format!("a failure {reason}");
    let is_counted = |metrics: &_| {
        tieline_e2e::behaviour::Metrics::labelled(metrics, "relay_tls_failures_total", reason) == 1
    };
    relay.until(&what, is_counted).await.map(|_| ())
}

/// The alert with which `relay` refuses a handshake.
fn alert(error: &anyhow::Error) -> Option<AlertDescription> {
    let error = error.root_cause().downcast_ref::<std::io::Error>()?;
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn clear_text_on_a_tls_port_gets_an_alert_and_is_counted() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let mut caller = TcpStream::connect(relay.http_address()).await?;
    caller
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // An orderly end follows the alert: a reset could destroy it.
    soon("the close", caller.read_to_end(&mut answer)).await??;
    assert!(answer.starts_with(&[21, 3]), "{answer:?}");
    failed(&relay, "not_tls").await
}

#[tokio::test]
async fn a_protocol_that_the_relay_does_not_speak_is_refused() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let error = certificate
        .connect(relay.http_address(), Some("imap"))
        .await
        .unwrap_err();
    assert_eq!(
        alert(&error),
        Some(AlertDescription::NoApplicationProtocol),
        "{error:#}"
    );
    failed(&relay, "alpn").await
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_is_counted() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let refused = tls::connect(relay.http_address(), Arc::new(config), "localhost").await;
    assert!(refused.is_err());
    failed(&relay, "client_refused").await
}

#[tokio::test]
async fn a_handshake_that_stops_ends_in_time() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let timeout = Duration::from_millis(300);
    let relay = behind_tls(&certificate).preamble_timeout(timeout).start()?;
    let mut silent = TcpStream::connect(relay.http_address()).await?;
    failed(&relay, "timeout").await?;
    let _ = soon("the close", silent.read(&mut [0; 16])).await?;
    let left = TcpStream::connect(relay.http_address()).await?;
    drop(left);
    failed(&relay, "closed").await
}

/// The first flight of a client, and the client.
fn hello(certificate: &TestCertificate) -> Result<(Vec<u8>, ClientConnection)> {
    let config = Arc::new(certificate.client(Some("http/1.1"))?);
    let mut client = ClientConnection::new(config, ServerName::try_from("localhost")?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok((hello, client))
}

/// Completes a handshake whose first flight is cut in two before byte `at`.
async fn cut_in_two(certificate: &TestCertificate, relay: SocketAddr, at: usize) -> Result<()> {
    let (hello, client) = hello(certificate)?;
    let mut stream = TcpStream::connect(relay).await?;
    stream.set_nodelay(true)?;
    let (first, second) = hello.split_at(at.min(hello.len() - 1));
    stream.write_all(first).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(second).await?;
    answered(&mut stream, client).await
}

/// Reads until the relay's part of `client`'s handshake has come.
async fn answered(stream: &mut TcpStream, mut client: ClientConnection) -> Result<()> {
    while client.is_handshaking() {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await?;
        anyhow::ensure!(count > 0, "the relay closed the connection");
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_hello_cut_at_any_byte_is_accepted() -> Result<()> {
    let certificate = Arc::new(TestCertificate::new("relay.test")?);
    let relay = behind_tls(&certificate).start()?;
    let port = relay.http_address();
    let (whole, _) = hello(&certificate)?;
    let cuts: Vec<usize> = (1..whole.len()).collect();
    // An address may have 128 handshakes at a time.
    for cuts in cuts.chunks(64) {
        let mut trials = tokio::task::JoinSet::new();
        for at in cuts.iter().copied() {
            let certificate = Arc::clone(&certificate);
            trials.spawn(async move {
                let outcome = soon("the handshake", cut_in_two(&certificate, port, at)).await?;
                outcome.with_context(|| format!("cut before byte {at}"))
            });
        }
        while let Some(trial) = trials.join_next().await {
            trial??;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_address_has_a_limit_on_handshakes_at_a_time() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let mut silent = Vec::new();
    for _ in 0..129 {
        // The last may be reset even before it is seen to be connected.
        silent.push(TcpStream::connect(relay.http_address()).await);
    }
    failed(&relay, "overload").await?;
    drop(silent);
    relay
        .until("the handshakes ended", |metrics| {
            metrics.labelled("relay_tls_failures_total", "closed") == 128
        })
        .await?;
    certificate.connect(relay.http_address(), None).await?;
    Ok(())
}

/// Header of the PROXY protocol, version 2, for a client at 192.0.2.0 plus `number`.
fn proxy_header(number: u32) -> Vec<u8> {
    let client = u32::from_be_bytes([192, 0, 2, 0]) + number;
    let ports = [0x9c, 0x40, 1, 0xbb];
    let addresses = [&client.to_be_bytes()[..], &[127, 0, 0, 1], &ports].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &addresses[..]].concat()
}

#[tokio::test]
async fn clients_behind_a_proxy_that_arrive_together_take_no_place_from_each_other() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).shards(1);
    let relay = relay
        .preamble_timeout(Duration::from_secs(60))
        .config(|config| {
            config.callers.proxy_protocol = true;
            config.callers.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        });
    let relay = relay.start()?;
    let connect = || TcpStream::connect(relay.http_address());
    // All places of the shard belong to addresses with one each, whose clients are silent.
    let mut silent = Vec::new();
    for number in 0..512 {
        let mut stream = connect().await?;
        stream.write_all(&proxy_header(number)).await?;
        silent.push(stream);
    }
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(connect().await?);
    }
    for (number, stream) in (1_000..).zip(&mut clients) {
        let (hello, client) = hello(&certificate)?;
        stream.write_all(&proxy_header(number)).await?;
        stream.write_all(&hello).await?;
        soon("the handshake", answered(stream, client)).await??;
    }
    Ok(())
}
