//! Dials over QUIC, and what is told of those that fail.

use std::net::UdpSocket;

use super::quic_relay::QuicRelay;
use super::*;
use crate::error::{ConfigError, ProxyError};

/// The error of a dial that fails at a relay which answers.
async fn refused(relay: &mut QuicRelay, dialler: Dialler) -> Error {
    tokio::select! {
        dialled = dialler.dial() => dialled.err().unwrap(),
        () = relay.serve() => unreachable!("the relay serves for ever"),
    }
}

fn relay_at(port: u16) -> RelayUrl {
    RelayUrl::parse(&format!("quic://127.0.0.1:{port}")).unwrap()
}

#[tokio::test]
async fn a_dial_over_quic_finds_its_relay_and_measures_the_path() {
    let server = Server::relay().await;
    let (mut relay, mut quic) = QuicRelay::dialled(&server).await;
    assert!(quic.exporter().is_some());
    let details = quic.tls_details().unwrap();
    assert_eq!(details.version, "TLS 1.3");
    assert!(!details.certificate.is_empty());
    let limit = std::time::Duration::from_secs(20);
    tokio::select! {
        () = quic.find_mtu(limit) => {}
        () = relay.serve() => unreachable!("the relay serves for ever"),
    }
    assert_eq!(quic.path().mtu, 1452);
}

#[tokio::test]
async fn a_path_that_carries_more_than_a_handshake_is_proved() {
    let server = Server::relay().await;
    let mut relay = QuicRelay::of(&server).await;
    let dialler = relay.dialler(&server);
    tokio::select! {
        proved = dialler.prove_quic() => assert!(proved.unwrap().is_over_quic()),
        () = relay.serve() => unreachable!("the relay serves for ever"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told_as_over_tls() {
    let (server, other) = (Server::relay().await, Server::relay().await);
    let mut relay = QuicRelay::of(&server).await;
    let dialler = relay.dialler(&other);
    let message = tls_problem::<()>(Err(refused(&mut relay, dialler).await));
    assert!(message.contains("in the file of --ca"), "{message}");

    let server = Server::bind("relay.example", AGENTS).await;
    let mut relay = QuicRelay::of(&server).await;
    let dialler = relay.dialler(&server);
    let message = tls_problem::<()>(Err(refused(&mut relay, dialler).await));
    assert!(
        message.contains("another name (relay.example)"),
        "{message}"
    );

    let server = Server::bind("localhost", b"h3").await;
    let mut relay = QuicRelay::of(&server).await;
    let dialler = relay.dialler(&server);
    let message = tls_problem::<()>(Err(refused(&mut relay, dialler).await));
    assert!(message.contains("not a Tieline relay"), "{message}");
}

#[tokio::test]
async fn a_server_of_another_version_of_quic_is_told() {
    let server = Server::relay().await;
    // A draft of version 1.
    let mut relay = QuicRelay::with_version(&server, 0xff00_001d).await;
    let dialler = relay.dialler(&server);
    let error = refused(&mut relay, dialler).await;
    let message = error.to_string();
    assert!(message.contains("version 1 of QUIC"), "{message}");
    assert!(
        matches!(error, Error::Dial { .. }) && !error.is_final(),
        "{message}"
    );
}

#[tokio::test]
async fn a_port_that_answers_nothing_is_told_with_what_to_dial() {
    let server = Server::relay().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let dialler = Dialler::new(relay_at(port), Some(&server.ca), &Proxies::Never).unwrap();
    // Time passes at once while all tasks wait.
    tokio::time::pause();
    let error = dialler.dial().await.err().unwrap();
    let message = error.to_string();
    assert!(
        message.contains("nothing answers over UDP")
            && message.contains(&format!("https://127.0.0.1:{port} ")),
        "{message}"
    );
    let Error::Dial { source, .. } = error else {
        panic!("{message}");
    };
    assert_eq!(source.kind(), io::ErrorKind::TimedOut);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[tokio::test]
async fn a_port_without_a_program_is_told_before_the_time_is_over() {
    let server = Server::relay().await;
    let port = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let dialler = Dialler::new(relay_at(port), Some(&server.ca), &Proxies::Never).unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let message = dialler.dial().await.err().unwrap().to_string();
    assert!(message.contains("no program listens"), "{message}");
    assert!(begun.elapsed() < DIAL_TIMEOUT / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn quic_and_a_proxy_exclude_each_other_but_for_this_machine() {
    let server = Server::relay().await;
    let proxies = Proxies::parse("http://ada:secret@proxy:3128").unwrap();
    let new = |url: &str| {
        let relay = RelayUrl::parse(url).unwrap();
        Dialler::new(relay, Some(&server.ca), &proxies)
    };
    let error = new("quic://relay.test").err().unwrap();
    assert!(
        matches!(error, ConfigError::Proxy(ProxyError::Quic { .. })),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("the proxy http://proxy:3128") && message.contains("write https://"),
        "{message}"
    );
    assert!(!message.contains("secret") && message.lines().count() == 1);
    assert!(new("quic://localhost").is_ok());
}
