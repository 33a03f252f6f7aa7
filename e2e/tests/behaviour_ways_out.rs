//! How agents get out where a relay's HTTP port alone is reachable: links over WebSockets, with TLS and without, and
//! through a proxy.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tieline_agent::Proxies;
use tieline_agent::event::AgentEvent;
use tieline_e2e::behaviour::{
    AgentBuilder, PatientTarget, Target, TestAgent, TestCertificate, TestRelay, echo_round_trip,
    noise, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

on_each_driver!(
    bytes_and_half_closes_pass_over_a_websocket,
    several_sessions_share_a_websocket,
    an_agent_comes_back_over_a_websocket_after_a_restart_of_the_relay,
    an_agent_that_stops_gives_its_tunnel_back_over_a_websocket,
);

/// A relay whose HTTP port takes agents, over TLS or not, the URL to dial, and the certificate to trust.
struct Front {
    relay: TestRelay,
    url: String,
    certificate: Option<TestCertificate>,
}

impl Front {
    fn plain(driver: DriverChoice) -> Result<Self> {
        let relay = TestRelay::with().driver(driver).shards(2).start()?;
        Ok(Self {
            url: format!("ws://{}", relay.http_address()),
            relay,
            certificate: None,
        })
    }

    fn over_tls(driver: DriverChoice) -> Result<Self> {
        let certificate = TestCertificate::new("relay-test")?;
        let relay = TestRelay::with().driver(driver).shards(2);
        let relay = relay.http_over_tls(&certificate).start()?;
        Ok(Self {
            url: format!("https://localhost:{}", relay.http_address().port()),
            relay,
            certificate: Some(certificate),
        })
    }

    /// One relay of each kind.
    fn each(driver: DriverChoice) -> Result<[Self; 2]> {
        Ok([Self::plain(driver)?, Self::over_tls(driver)?])
    }

    fn agent(&self, target: &Target) -> AgentBuilder {
        let agent = TestAgent::of(target);
        match &self.certificate {
            Some(certificate) => agent.trusting(certificate),
            None => agent,
        }
    }
}

async fn bytes_and_half_closes_pass_over_a_websocket(driver: DriverChoice) -> Result<()> {
    for front in Front::each(driver)? {
        let mut target = PatientTarget::start().await?;
        let agent = front.agent(target.target()).start_at(&front.url).await?;
        let mut caller = front.relay.raw(agent.tunnel()).await?;
        target.answers(&mut caller).await?;
    }
    Ok(())
}

async fn several_sessions_share_a_websocket(driver: DriverChoice) -> Result<()> {
    for front in Front::each(driver)? {
        let target = Target::echo().await?;
        let agent = front.agent(&target).start_at(&front.url).await?;
        let mut callers = Vec::new();
        for _ in 0..20 {
            callers.push(front.relay.raw(agent.tunnel()).await?);
        }
        for round in 0..5 {
            for caller in &mut callers {
                echo_round_trip(caller, &noise(round, 1_000)).await?;
            }
        }
    }
    Ok(())
}

async fn an_agent_comes_back_over_a_websocket_after_a_restart_of_the_relay(
    driver: DriverChoice,
) -> Result<()> {
    for front in Front::each(driver)? {
        let target = Target::echo().await?;
        let mut agent = front.agent(&target).start_at(&front.url).await?;
        let relay = front.relay.restart()?;
        agent.registered().await?;
        let mut caller = relay.raw(agent.tunnel()).await?;
        echo_round_trip(&mut caller, b"again").await?;
    }
    Ok(())
}

async fn an_agent_that_stops_gives_its_tunnel_back_over_a_websocket(
    driver: DriverChoice,
) -> Result<()> {
    for front in Front::each(driver)? {
        let target = Target::echo().await?;
        let agent = front.agent(&target).start_at(&front.url).await?;
        ensure!(agent.stop().await?.is_ok());
        front
            .relay
            .until("no tunnel is left", |metrics| {
                metrics.get("relay_tunnels") == 0
            })
            .await?;
    }
    Ok(())
}

/// An HTTP proxy that leads to one server, whatever it is asked for.
struct Proxy {
    address: SocketAddr,
    serving: JoinHandle<()>,
    /// What was asked for.
    asked: mpsc::Receiver<String>,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tell, asked) = mpsc::channel(8);
        let serving = tokio::spawn(async move {
            // Dropping the set cuts the connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, server, tell.clone()));
            }
        });
        Ok(Self {
            address,
            serving,
            asked,
        })
    }
}

/// Serves one connection of the proxy.
async fn pass(mut stream: TcpStream, server: SocketAddr, tell: mpsc::Sender<String>) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let asked = head.lines().next().unwrap_or_default().to_owned();
    tell.send(asked).await?;
    let mut server = TcpStream::connect(server).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}

#[tokio::test]
async fn a_link_goes_through_a_proxy_over_each_transport_and_takes_no_lane() -> Result<()> {
    let relay = TestRelay::start()?;
    let target = Target::echo().await?;
    for (scheme, server) in [("tcp", relay.agent_address()), ("ws", relay.http_address())] {
        let mut proxy = Proxy::to(server).await?;
        let proxies = Proxies::parse(&format!("http://{}", proxy.address))?;
        let agent = TestAgent::of(&target).config(move |config| config.with_proxies(proxies));
        // No name server is asked for this name: the proxy leads to the relay.
        let agent = agent
            .start_at(&format!("{scheme}://relay-test:9999"))
            .await?;
        let asked = soon("a request to the proxy", proxy.asked.recv()).await?;
        assert_eq!(asked.as_deref(), Some("CONNECT relay-test:9999 HTTP/1.1"));
        let mut caller = relay.raw(agent.tunnel()).await?;
        echo_round_trip(&mut caller, &noise(1, 100_000)).await?;
        ensure!(agent.stop().await?.is_ok());
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_proxy_is_gone_says_so_in_the_proxys_name() -> Result<()> {
    let relay = TestRelay::start()?;
    let target = Target::echo().await?;
    let mut proxy = Proxy::to(relay.http_address()).await?;
    let address = proxy.address;
    let proxies = Proxies::parse(&format!("http://{address}"))?;
    let agent = TestAgent::of(&target).config(move |config| config.with_proxies(proxies));
    let mut agent = agent.start_at("ws://relay-test:9080").await?;
    soon("a request to the proxy", proxy.asked.recv()).await?;
    proxy.serving.abort();
    let named = format!("the proxy http://{address}: ");
    agent
        .saw(|event| match event {
            AgentEvent::Disconnected { message, .. } => message.contains(&named).then_some(()),
            _ => None,
        })
        .await
}
