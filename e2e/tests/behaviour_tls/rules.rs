//! Rules that hold over TLS as on plain ports: a proxy's header, and answers that end with their connection.

use std::net::SocketAddr;

use anyhow::Result;
use tieline_agent::AgentEvent;
use tieline_e2e::behaviour::{
    Target, TestCertificate, TestRelay, half_close, is_reset, read_to_close, soon, tls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::{agent, behind_tls, url};

#[tokio::test]
async fn an_address_of_agents_with_tls_takes_nothing_from_a_proxy_without_its_header() -> Result<()>
{
    let certificate = TestCertificate::new("relay.test")?;
    let files = certificate.files();
    let relay = TestRelay::with().config(move |config| {
        config.agent_listen = vec![tls::listen_address()];
        config.tls.certificates = vec![files];
        config.callers.proxy_protocol = true;
        config.callers.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let relay = relay.start()?;
    for protocol in ["http/1.1", "tieline", "tieline-agent/1"] {
        let refused = certificate.connect(relay.agent_address(), Some(protocol));
        assert!(soon("the end", refused).await?.is_err(), "{protocol}");
    }
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_tls_handshakes_total"), 0);
    Ok(())
}

/// PROXY v2 headers that name no remote address: of a caller over a Unix socket, of the proxy itself, and of
/// `127.0.0.1:40000`.
fn headers_of_no_remote_address() -> [Vec<u8>; 3] {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let here = [127, 0, 0, 1, 127, 0, 0, 1, 0x9c, 0x40, 0, 80];
    [
        [SIGNATURE, b"\x21\x31\0\xd8", &[0; 216]].concat(),
        [SIGNATURE, b"\x20\0\0\0"].concat(),
        [SIGNATURE, b"\x21\x11\0\x0c", &here].concat(),
    ]
}

/// A load balancer that sends `header` in front of each connection to `relay`; returns its address.
async fn balancer(relay: SocketAddr, header: Vec<u8>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(relay).await?;
            far.write_all(&header).await?;
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
        std::io::Result::Ok(())
    });
    Ok(address)
}

#[tokio::test]
async fn an_agent_behind_a_proxy_that_names_no_remote_address_is_not_local() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).config(|config| {
        config.callers.proxy_protocol = true;
        config.callers.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let relay = relay.start()?;
    let target = Target::echo().await?;
    for header in headers_of_no_remote_address() {
        let port = balancer(relay.http_address(), header.clone()).await?.port();
        let url = format!("tls://localhost:{port}");
        let mut agent = agent(&target, &certificate).spawn_at(&url)?;
        let refused = agent.saw(|event| match event {
            AgentEvent::Refused { reason, .. } => Some(*reason),
            AgentEvent::Registered { .. } => Some("registered"),
            _ => None,
        });
        assert_eq!(refused.await?, "not_loopback", "{header:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_reset_if_the_caller_ends_first() -> Result<()> {
    let target = Target::http(|mut http| async move {
        http.head().await?;
        http.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        http.write_chunk(&[b'x'; 10_000]).await?;
        // Holds the connection open until the relay closes it.
        let _ = http.closed().await;
        Ok(())
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = behind_tls(&certificate).start()?;
    let agent = agent(&target, &certificate).start_at(&url(&relay)).await?;
    let request = format!("GET /w/{}/ HTTP/1.0\r\n\r\n", agent.tunnel());
    // With TLS's own end, and with a bare FIN, which any host on the way can send.
    for in_order in [true, false] {
        let mut caller = certificate.connect(relay.http_address(), None).await?;
        caller.write_all(request.as_bytes()).await?;
        let mut some = [0; 5_000];
        soon("the answer", caller.read_exact(&mut some)).await??;
        match in_order {
            true => caller.shutdown().await?,
            false => half_close(caller.get_ref().0)?,
        }
        let (_, end) = soon("the end", read_to_close(&mut caller)).await?;
        let is_cut =
            matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof);
        assert!(is_cut || is_reset(&end), "in order: {in_order}: {end:?}");
    }
    Ok(())
}
