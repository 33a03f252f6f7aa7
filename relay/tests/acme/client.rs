//! Clients of a relay: those who trust the test's CA, and the CA itself when it checks a name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};

/// Time limit of each read and write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection over TLS.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Accepts every certificate, as a CA does that checks a name.
#[derive(Debug)]
struct Blind(Arc<CryptoProvider>);

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    Ok(stream)
}

/// Completes a handshake; with `root` the certificate must be of that CA and for `name`.
pub(crate) fn shake(
    address: SocketAddr,
    name: &str,
    protocol: &str,
    root: Option<&CertificateDer<'static>>,
) -> Result<Tls, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = match root {
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root.clone()).unwrap();
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Blind(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, connect(address)?);
    while stream.conn.is_handshaking() {
        let done = stream.conn.complete_io(&mut stream.sock);
        done.map_err(|error| error.to_string())?;
    }
    Ok(stream)
}

/// The certificate that a relay shows, without a check.
pub(crate) fn certificate(stream: &Tls) -> CertificateDer<'static> {
    let chain = stream.conn.peer_certificates().unwrap();
    chain[0].clone().into_owned()
}

/// Asks for the relay's health over an open connection, which stays open.
pub(crate) fn is_alive(stream: &mut Tls) -> bool {
    let request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    if stream.write_all(request).is_err() {
        return false;
    }
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"{\"status\":\"ok\"}") {
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
            _ => return false,
        }
    }
    answer.starts_with(b"HTTP/1.1 200")
}

/// Status and body of a page, for a request with the host `host`.
pub(crate) fn page(address: SocketAddr, host: &str, path: &str) -> Result<(u16, String), String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let done = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer));
    done.map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    let status = head.get(9..12).and_then(|it| it.parse().ok());
    Ok((status.ok_or("no status")?, body.to_owned()))
}
