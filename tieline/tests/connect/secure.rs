//! Tests with relays that speak TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tieline::connect::Connect;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::rig::{Peer, Proxy, Relay, soon, switching, upgrade};

const REQUEST: &str = "GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A relay with a self-signed certificate, and a file with that certificate for --ca.
struct TlsRelay {
    relay: Relay,
    acceptor: TlsAcceptor,
    ca: PathBuf,
    _dir: TempDir,
}

impl TlsRelay {
    async fn bind(name: &str) -> Self {
        Self::with(rcgen::CertificateParams::new([name.to_owned()]).unwrap()).await
    }

    async fn with(params: rcgen::CertificateParams) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        Self {
            relay: Relay::bind().await,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca,
            _dir: dir,
        }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.relay.address().port())
    }

    async fn accept(&self) -> Option<Peer<TlsStream<TcpStream>>> {
        let stream = self.relay.accept().await.stream;
        soon(self.acceptor.accept(stream)).await.ok().map(Peer::new)
    }
}

/// The message for a caller whose proxy refuses the relay's TLS.
async fn refusal(relay: &TlsRelay, url: &str, change: impl FnOnce(Connect) -> Connect) -> String {
    let proxy = Proxy::start_with(url, change).await;
    let mut caller = proxy.caller().await;
    caller.send(REQUEST).await;
    let (accepted, (head, body)) = tokio::join!(relay.accept(), caller.json());
    assert!(accepted.is_none());
    assert_eq!(head.start(), "HTTP/1.1 502 Bad Gateway");
    assert_eq!(body["error"], "relay_tls");
    body["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "local")]
async fn a_stream_comes_over_tls_and_ends_with_its_caller() {
    let relay = TlsRelay::bind("localhost").await;
    let proxy = Proxy::start_with(&relay.url("localhost"), |c| c.with_ca(&relay.ca)).await;
    let mut caller = proxy.caller().await;
    caller.send(REQUEST).await;
    let mut target = relay.accept().await.unwrap();
    let head = target.head().await;
    let port = relay.relay.address().port();
    assert_eq!(head.value("host"), format!("localhost:{port}"));
    target
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    caller.head().await;
    for number in 0..3 {
        let event = format!("9\r\ndata: {number}\n\n\r\n");
        target.send(&event).await;
        assert_eq!(caller.until("\n\n\r\n").await, event);
    }
    drop(caller);
    target.gone().await;
}

#[tokio::test(flavor = "local")]
async fn an_answer_over_tls_that_is_cut_is_cut_for_the_caller() {
    let relay = TlsRelay::bind("localhost").await;
    let proxy = Proxy::start_with(&relay.url("localhost"), |c| c.with_ca(&relay.ca)).await;
    let mut caller = proxy.caller().await;
    // An answer without a length ends with the connection; only TLS can tell such an end from a cut.
    caller.send(REQUEST).await;
    let mut target = relay.accept().await.unwrap();
    target.head().await;
    target.send("HTTP/1.1 200 OK\r\n\r\nhalf").await;
    caller.until("half").await;
    drop(target);
    let (text, _) = caller.rest().await;
    assert!(!text.ends_with("0\r\n\r\n"), "{text:?}");
}

#[tokio::test(flavor = "local")]
async fn a_websocket_over_tls_that_is_cut_is_a_reset_and_one_that_ends_is_not() {
    for is_cut in [true, false] {
        let relay = TlsRelay::bind("localhost").await;
        let proxy = Proxy::start_with(&relay.url("localhost"), |c| c.with_ca(&relay.ca)).await;
        let mut caller = proxy.caller().await;
        caller.send(&(upgrade("") + "early")).await;
        let mut target = relay.accept().await.unwrap();
        target.head().await;
        target.send(&(switching("") + "first")).await;
        caller.head().await;
        caller.until("first").await;
        // The caller's end arrives with TLS's own notice; without it `rest` would be an error.
        caller.stream.shutdown().await.unwrap();
        assert_eq!(target.rest().await, ("early".to_owned(), false));
        target.send("last").await;
        caller.until("last").await;
        if !is_cut {
            target.stream.shutdown().await.unwrap();
        }
        drop(target);
        assert_eq!(caller.rest().await, (String::new(), is_cut));
    }
}

#[tokio::test(flavor = "local")]
async fn a_caller_that_breaks_a_websocket_off_is_cut_at_a_relay_with_tls() {
    let relay = TlsRelay::bind("localhost").await;
    let proxy = Proxy::start_with(&relay.url("localhost"), |c| c.with_ca(&relay.ca)).await;
    let mut caller = proxy.caller().await;
    caller.send(&upgrade("")).await;
    let mut target = relay.accept().await.unwrap();
    target.head().await;
    target.send(&switching("")).await;
    caller.head().await;
    caller.stream.set_zero_linger().unwrap();
    drop(caller);
    assert!(target.rest().await.1);
}

#[tokio::test(flavor = "local")]
async fn a_certificate_that_nobody_signed_is_told_with_what_to_do() {
    let relay = TlsRelay::bind("localhost").await;
    let message = refusal(&relay, &relay.url("localhost"), |c| c).await;
    assert!(message.contains("--ca"), "{message}");
}

#[tokio::test(flavor = "local")]
async fn a_certificate_that_the_file_of_ca_did_not_sign_is_told_so() {
    let (relay, other) = (
        TlsRelay::bind("localhost").await,
        TlsRelay::bind("localhost").await,
    );
    let url = relay.url("localhost");
    let message = refusal(&relay, &url, |c| c.with_ca(&other.ca)).await;
    assert!(message.contains("in the file of --ca"), "{message}");
    assert!(!message.contains("name its file"), "{message}");
}

#[tokio::test(flavor = "local")]
async fn an_authoritys_own_certificate_is_told_with_what_to_make_instead() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let relay = TlsRelay::with(params).await;
    let message = refusal(&relay, &relay.url("localhost"), |c| c.with_ca(&relay.ca)).await;
    assert!(
        message.contains("CA:TRUE") && message.contains("CA:FALSE"),
        "{message}"
    );
}

#[tokio::test(flavor = "local")]
async fn a_certificate_for_another_name_is_told_as_such() {
    let relay = TlsRelay::bind("relay.example").await;
    let message = refusal(&relay, &relay.url("localhost"), |c| c.with_ca(&relay.ca)).await;
    assert!(message.contains("another name"), "{message}");
}

#[tokio::test(flavor = "local")]
async fn a_plain_port_is_not_mistaken_for_tls() {
    let relay = TlsRelay::bind("localhost").await;
    let url = relay.url("localhost");
    let proxy = Proxy::start_with(&url, |c| c.with_ca(&relay.ca)).await;
    let mut caller = proxy.caller().await;
    caller.send(REQUEST).await;
    let mut target = relay.relay.accept().await;
    target.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let (_, body) = caller.json().await;
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("http://"), "{message}");
}

#[tokio::test(flavor = "local")]
async fn files_without_certificates_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let refused = async |path: &Path| {
        let connect = Connect::new("https://localhost").unwrap().with_ca(path);
        let error = soon(connect.run(std::future::pending())).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        let message = error.to_string();
        assert!(message.starts_with("the file of --ca, "), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        message
    };
    for content in [
        "",
        "not PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&path, content).unwrap();
        let message = refused(&path).await;
        assert!(
            message.contains("begin with -----BEGIN CERTIFICATE-----"),
            "{message}"
        );
    }
    assert!(refused(dir.path()).await.contains("it is a folder"));
    assert!(
        refused(&dir.path().join("none"))
            .await
            .contains("cannot read it")
    );
}
