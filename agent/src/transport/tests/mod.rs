//! Tests of dialling and of streams over TLS; the server's side is rustls's own.

mod detours;
mod quic;
pub(crate) mod quic_relay;
mod websockets;

use std::future::ready;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use socket2::SockRef;
use tempfile::TempDir;
use tieline_transport::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{TcpSocket, Wire};
use super::*;
use crate::error::Error;

const AGENTS: &[u8] = b"tieline-agent/1";

/// A server that speaks TLS on a port of this machine, and a file with its certificate.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    config: Arc<ServerConfig>,
    pub(crate) ca: PathBuf,
    _dir: TempDir,
}

impl Server {
    /// A relay whose certificate is for `localhost`.
    pub(crate) async fn relay() -> Self {
        Self::bind("localhost", AGENTS).await
    }

    async fn bind(name: &str, protocol: &[u8]) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            config: Arc::new(config),
            ca,
            _dir: dir,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        let (socket, _) = self.listener.accept().await?;
        Ok(Stream::over(self.shake(socket).await?))
    }

    /// Makes the server's end of the handshake over `socket`.
    async fn shake(&self, socket: TcpStream) -> io::Result<Wire> {
        let socket = TcpSocket::new(socket);
        let accepting = Tls::accept(&socket, |_| Arc::clone(&self.config), || ready(()));
        let tls = accepting.await?;
        assert_eq!(
            tls.agreed().application,
            self.config.alpn_protocols.first().cloned()
        );
        Ok(Wire::secured(socket, tls))
    }

    /// Both ends of a connection: the agent's, and the server's.
    pub(crate) async fn connected(&self) -> (Stream, Stream) {
        let dialler = dialler(&self.listener, Some(&self.ca));
        let (near, far) = tokio::join!(dialler.dial_stream(), self.accept());
        (near.unwrap(), far.unwrap())
    }

    /// The message of a dial that fails, which trusts the certificates in `ca`.
    async fn refused(&self, ca: &Path) -> String {
        let dialler = dialler(&self.listener, Some(ca));
        let (near, far) = tokio::join!(dialler.dial_stream(), self.accept());
        assert!(far.is_err());
        tls_problem(near)
    }
}

/// A dialler for the server behind `listener`, over TLS to `localhost`.
fn dialler(listener: &TcpListener, ca: Option<&Path>) -> Dialler {
    let port = listener.local_addr().unwrap().port();
    let relay = RelayUrl::parse(&format!("tls://localhost:{port}")).unwrap();
    Dialler::new(relay, ca, &Proxies::Never).unwrap()
}

fn tls_problem<T>(dialled: Result<T, Error>) -> String {
    let error = dialled.err().unwrap();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert!(!error.is_final());
    error.to_string()
}

fn noise(len: usize, seed: usize) -> Vec<u8> {
    let byte = |at: usize| (at * 7 + at / 251 + seed).to_le_bytes()[0];
    (0..len).map(byte).collect()
}

#[tokio::test]
async fn a_relay_that_is_not_there_is_named() {
    let port = {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        server.local_addr().unwrap().port()
    };
    let relay = RelayUrl::parse(&format!("tcp://127.0.0.1:{port}")).unwrap();
    let error = Dialler::new(relay, None, &Proxies::Never)
        .unwrap()
        .dial_stream()
        .await;
    let error = error.err().unwrap();
    assert!(
        error
            .to_string()
            .contains(&format!("tcp://127.0.0.1:{port}")),
        "{error}"
    );
    assert!(!error.is_final());
}

#[tokio::test]
async fn a_dial_over_tls_agrees_on_the_protocol_of_agents_and_offers_no_lanes() {
    let server = Server::relay().await;
    let (near, far) = server.connected().await;
    let details = near.tls_details().unwrap();
    assert_eq!(details.version, "TLS 1.3");
    assert!(details.group.is_some() && !details.certificate.is_empty());
    assert_eq!(near.lane_address().unwrap(), None);
    drop(far);
    let port = server.listener.local_addr().unwrap();
    let relay = RelayUrl::parse(&format!("tcp://{port}")).unwrap();
    let plain = Dialler::new(relay, None, &Proxies::Never)
        .unwrap()
        .dial_stream()
        .await
        .unwrap();
    assert_eq!(plain.lane_address().unwrap(), Some(port));
    assert_eq!(plain.tls_details(), None);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_told_with_that_name() {
    let server = Server::bind("relay.example", AGENTS).await;
    let message = server.refused(&server.ca).await;
    assert!(
        message.contains("another name (relay.example)"),
        "{message}"
    );
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_told_with_what_to_give() {
    let (server, other) = (Server::relay().await, Server::relay().await);
    let message = server.refused(&other.ca).await;
    assert!(message.contains("in the file of --ca"), "{message}");
}

#[tokio::test]
async fn a_server_for_others_than_agents_is_no_relay() {
    let server = Server::bind("localhost", b"h2").await;
    let message = server.refused(&server.ca).await;
    assert!(message.contains("not a Tieline relay"), "{message}");
}

#[tokio::test]
async fn a_server_without_tls_is_told_with_what_to_dial() {
    let server = Server::relay().await;
    let port = server.listener.local_addr().unwrap().port();
    let dialler = dialler(&server.listener, Some(&server.ca));
    for (answer, words) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "does not speak TLS",
        ),
        (b"", "closed the connection"),
    ] {
        // A handshake that is cut is tried a second time.
        let answering = async {
            loop {
                let (mut socket, _) = server.listener.accept().await.unwrap();
                // Reads the hello first: closing with unread bytes would reset the connection.
                let mut hello = [0; 4096];
                assert_ne!(socket.read(&mut hello).await.unwrap(), 0);
                socket.write_all(answer).await.unwrap();
            }
        };
        let dialled = tokio::select! {
            dialled = dialler.dial_stream() => dialled,
            () = answering => unreachable!("the server answers for ever"),
        };
        let message = tls_problem(dialled);
        assert!(message.contains(words), "{message}");
        let hint = format!("dial tcp://localhost:{port} if");
        assert!(message.contains(&hint), "{message}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = Server::relay().await;
    let dialler = dialler(&server.listener, Some(&server.ca));
    let connected = dialler.connect().await.unwrap();
    // From here on time passes at once while all tasks wait.
    tokio::time::pause();
    let message = tls_problem(dialler.secure(connected).await);
    assert!(message.contains("no answer in time"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_goes_both_ways_at_once_through_small_buffers() {
    async fn send(writes: Writes, bytes: Vec<u8>) -> Writes {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = rest.len().min(100_000);
            let (one, other) = rest[..size].split_at(size / 3);
            let slices = [IoSlice::new(one), IoSlice::new(other)];
            rest = &rest[writes.send_vectored(&slices).await.unwrap()..];
        }
        writes
    }
    async fn receive(mut reads: Reads, bytes: Vec<u8>) -> Reads {
        let mut heard = BytesMut::new();
        while heard.len() < bytes.len() {
            heard.reserve(20_000);
            assert_ne!(reads.read(&mut heard).await.unwrap(), 0);
        }
        assert!(heard == bytes[..], "other bytes arrived");
        reads
    }
    let server = Server::relay().await;
    let (near, far) = server.connected().await;
    let ((near_reads, near_writes), (far_reads, far_writes)) = (near.split(), far.split());
    for socket in [near_writes.socket(), far_writes.socket()] {
        let options = SockRef::from(socket);
        options.set_send_buffer_size(32 * 1024).unwrap();
    }
    let (up, down) = (noise(1_000_000, 1), noise(1_000_000, 2));
    let all = (
        tokio::spawn(send(near_writes, up.clone())),
        tokio::spawn(send(far_writes, down.clone())),
        tokio::spawn(receive(near_reads, down)),
        tokio::spawn(receive(far_reads, up)),
    );
    let (sent, answered, heard, read) = tokio::join!(all.0, all.1, all.2, all.3);
    drop((
        sent.unwrap(),
        answered.unwrap(),
        heard.unwrap(),
        read.unwrap(),
    ));
}

#[tokio::test]
async fn an_end_in_order_is_told_from_a_cut() {
    let server = Server::relay().await;
    let mut buffer = BytesMut::new();
    let (near, far) = server.connected().await;
    let ((mut reads, writes), (mut far_reads, far_writes)) = (near.split(), far.split());
    reads.end_sending().await;
    assert_eq!(far_reads.read(&mut buffer).await.unwrap(), 0);
    // The other direction goes on.
    let sent = far_writes.send_vectored(&[IoSlice::new(b"more")]).await;
    assert_eq!(sent.unwrap(), 4);
    assert_eq!(reads.read(&mut buffer).await.unwrap(), 4);
    drop((far_reads, far_writes));
    let cut = reads.read(&mut buffer).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    assert!(cut.to_string().contains("cut"), "{cut}");
    drop(writes);
}
