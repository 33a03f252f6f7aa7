//! Agents that must show a certificate of their own, beside callers that need none.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tieline_agent::AgentEvent;
use tieline_e2e::behaviour::{
    AgentBuilder, HttpStream, Metrics, RelayBuilder, Target, TestAuthority, TestCertificate,
    TestRelay, soon, tls,
};
use tieline_relay::CertificateFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{agent, behind_tls, is_served, url};

/// A relay whose agents must show a certificate that `authority` signed.
fn relay(certificate: &TestCertificate, authority: &TestAuthority) -> RelayBuilder {
    let ca = authority.ca();
    behind_tls(certificate).config(move |config| {
        config.agent_listen = vec![tls::listen_address()];
        config.tls.agent_ca = Some(ca);
    })
}

fn with(agent: AgentBuilder, files: CertificateFiles) -> AgentBuilder {
    agent.config(move |config| config.with_client_certificate(files.cert, files.key))
}

/// Waits until the relay has counted a handshake that failed for `reason`.
async fn is_counted(relay: &TestRelay, reason: &str) -> Result<()> {
    let failed = |metrics: &Metrics| metrics.labelled("relay_tls_failures_total", reason) > 0;
    relay.until(reason, failed).await.map(|_| ())
}

/// Waits until the agent is told of a failed link in these words.
async fn is_told(agent: AgentBuilder, relay: &TestRelay, words: &str) -> Result<()> {
    let mut agent = agent.spawn_at(&url(relay))?;
    let message = agent.saw(|event| match event {
        AgentEvent::Disconnected { message, .. } => Some(message.clone()),
        _ => None,
    });
    let message = message.await?;
    ensure!(message.contains(words), "{message}");
    Ok(())
}

#[tokio::test]
async fn an_agent_with_a_certificate_is_served_and_callers_need_none() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let relay = relay(&certificate, &authority).shards(2).start()?;
    let echo = Target::echo().await?;
    let agent = with(agent(&echo, &certificate), authority.sign("seat-12")?).links(2);
    let agent = agent.start_at(&url(&relay)).await?;
    is_served(&relay, &certificate, &agent).await?;
    for protocol in [None, Some("http/1.1")] {
        let stream = certificate.connect(relay.http_address(), protocol).await?;
        let mut http = HttpStream::new(stream);
        http.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        let (head, _) = soon("the answer", http.answer()).await??;
        assert_eq!(head.status(), 200);
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_without_a_certificate_is_told_to_give_one() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let relay = relay(&certificate, &authority).start()?;
    let echo = Target::echo().await?;
    let words = "asks for a client certificate";
    is_told(agent(&echo, &certificate), &relay, words).await?;
    is_counted(&relay, "no_client_certificate").await
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let other = TestAuthority::new("Others")?;
    let relay = relay(&certificate, &authority).start()?;
    let echo = Target::echo().await?;
    let agent = with(agent(&echo, &certificate), other.sign("seat-12")?);
    let words = "does not accept the certificate of --client-cert";
    is_told(agent, &relay, words).await?;
    is_counted(&relay, "bad_client_certificate").await
}

#[tokio::test]
async fn no_protocol_leads_around_the_certificate() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let relay = relay(&certificate, &authority).start()?;
    // An address for agents takes clients that name no protocol for agents.
    for (address, protocol) in [
        (relay.agent_address(), None),
        (relay.agent_address(), Some("tieline-agent/1")),
        (relay.http_address(), Some("tieline-agent/1")),
    ] {
        // The relay's refusal comes behind the client's own end of the handshake.
        if let Ok(mut stream) = certificate.connect(address, protocol).await {
            let _ = stream.write_all(b"TLINE\r\n\x01").await;
            let mut answer = Vec::new();
            let _ = soon("the close", stream.read_to_end(&mut answer)).await?;
            ensure!(answer.is_empty(), "{protocol:?}: {answer:?}");
        }
    }
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_tls_handshakes_total"), 0);
    is_counted(&relay, "no_client_certificate").await
}

#[tokio::test]
async fn a_callers_ticket_does_not_stand_in_for_a_certificate() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let relay = relay(&certificate, &authority).start()?;
    let mut config = certificate.client(Some("http/1.1"))?;
    let name = "localhost";
    let caller = Arc::new(config.clone());
    let stream = tls::connect(relay.http_address(), caller, name).await?;
    let mut http = HttpStream::new(stream);
    http.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await?;
    // The answer brings the tickets along, which clones of the settings share.
    soon("the answer", http.answer()).await??;
    config.alpn_protocols = vec![b"tieline-agent/1".to_vec()];
    let agent = Arc::new(config);
    if let Ok(mut stream) = tls::connect(relay.http_address(), agent, name).await {
        let mut answer = Vec::new();
        let _ = soon("the close", stream.read_to_end(&mut answer)).await?;
        ensure!(answer.is_empty(), "{answer:?}");
    }
    is_counted(&relay, "no_client_certificate").await
}
