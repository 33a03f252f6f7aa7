//! Agents whose proof is bound to the TLS connection that brings it, and servers between them and the relay.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use tieline_agent::Error;
use tieline_e2e::behaviour::{
    Metrics, RelayBuilder, Target, TestAgent, TestCertificate, TestRelay, WireAgent, WireKey, tls,
};
use tieline_wire::LinkEnd;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{agent, behind_tls, is_served, url};

/// A relay that takes agents over TLS alone, and only bound ones.
fn strict(certificate: &TestCertificate) -> RelayBuilder {
    behind_tls(certificate).config(|config| {
        config.agent_listen = vec![tls::listen_address()];
        config.tls.require_binding = true;
    })
}

/// Starts a server that brings connections over its own TLS to the relay, which has `certificate`. With an `inspector`
/// it ends the client's TLS with that certificate; without, clients come in clear text.
async fn between(
    relay: &TestRelay,
    certificate: &TestCertificate,
    inspector: Option<&TestCertificate>,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let relay = relay.http_address();
    let config = Arc::new(certificate.client(Some("tieline-agent/1"))?);
    let acceptor = match inspector {
        Some(inspector) => Some(TlsAcceptor::from(Arc::new(inspector.server()?))),
        None => None,
    };
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (config, acceptor) = (Arc::clone(&config), acceptor.clone());
            // A failure ends the connection; the tests see it at its ends.
            tokio::spawn(serve(client, acceptor, relay, config));
        }
    });
    Ok(address)
}

async fn serve(
    client: TcpStream,
    acceptor: Option<TlsAcceptor>,
    relay: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<()> {
    match acceptor {
        Some(acceptor) => pass(acceptor.accept(client).await?, relay, config).await,
        None => pass(client, relay, config).await,
    }
}

async fn pass(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    relay: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<()> {
    let mut onward = tls::connect(relay, config, "localhost").await?;
    copy_bidirectional(&mut client, &mut onward).await?;
    Ok(())
}

/// Whether all links of the only tunnel are bound, and what they came over.
async fn shown(relay: &TestRelay) -> Result<(bool, String)> {
    let rows = relay.tunnels().await?;
    let [row] = &rows[..] else {
        bail!("not one tunnel: {rows:?}");
    };
    Ok((row.channel_bound, row.transport.clone()))
}

/// Waits until the relay has counted a link that it refused because it is not bound.
async fn is_counted(relay: &TestRelay) -> Result<()> {
    let refused = |metrics: &Metrics| metrics.labelled("relay_link_refused_total", "unbound") > 0;
    relay.until("a refusal", refused).await.map(|_| ())
}

#[tokio::test]
async fn an_agent_over_tls_is_bound_on_each_shard() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = strict(&certificate).shards(2).start()?;
    let echo = Target::echo().await?;
    // The two links go to two shards, so that the hello of some is read again on another shard.
    let agent = agent(&echo, &certificate).links(2);
    let agent = agent.start_at(&url(&relay)).await?;
    assert_eq!(shown(&relay).await?, (true, "tls".to_owned()));
    is_served(&relay, &certificate, &agent).await
}

#[tokio::test]
async fn an_agent_without_tls_is_served_and_not_bound() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    assert_eq!(shown(&relay).await?, (false, "tcp".to_owned()));
    is_served(&relay, &certificate, &agent).await
}

#[tokio::test]
async fn an_agent_behind_a_server_that_ends_tls_is_served_and_not_bound() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let inspector = TestCertificate::new("inspector.test")?;
    let relay = behind_tls(&certificate).start()?;
    let inspected = between(&relay, &certificate, Some(&inspector)).await?;
    let echo = Target::echo().await?;
    let url = format!("tls://localhost:{}", inspected.port());
    let agent = agent(&echo, &inspector).start_at(&url).await?;
    assert_eq!(shown(&relay).await?, (false, "tls".to_owned()));
    is_served(&relay, &certificate, &agent).await
}

#[tokio::test]
async fn a_relay_that_requires_binding_refuses_an_agent_behind_such_a_server() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let inspector = TestCertificate::new("inspector.test")?;
    let relay = strict(&certificate).start()?;
    let inspected = between(&relay, &certificate, Some(&inspector)).await?;
    let echo = Target::echo().await?;
    let url = format!("tls://localhost:{}", inspected.port());
    let agent = agent(&echo, &inspector).spawn_at(&url)?;
    let Err(error) = agent.ended().await? else {
        bail!("the agent ended in order");
    };
    let is_it = matches!(&error, Error::LinkRefused { reason, .. } if *reason == LinkEnd::Unbound);
    ensure!(is_it && error.exit_code() == 3, "{error:?}");
    ensure!(error.to_string().contains("not bound"), "{error}");
    is_counted(&relay).await
}

#[tokio::test]
async fn an_older_agent_is_served_unless_binding_is_required() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let key = WireKey::new()?;
    let relay = behind_tls(&certificate).start()?;
    let way = between(&relay, &certificate, None).await?;
    let link = WireAgent::registered(way, &key, "maya").await?;
    assert_eq!(shown(&relay).await?, (false, "tls".to_owned()));
    drop(link);

    let relay = strict(&certificate).start()?;
    let way = between(&relay, &certificate, None).await?;
    let mut link = WireAgent::dial(way, &key, 1).await?;
    assert_eq!(link.reason().await?, LinkEnd::Unbound);
    is_counted(&relay).await
}
