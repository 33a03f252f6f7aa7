//! Certificates of test relays, and callers over TLS.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, generate_simple_self_signed,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tieline_relay::{CertificateFiles, ListenAddress};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate for `localhost`, `127.0.0.1` and one more name, in files of its own folder.
#[derive(Debug)]
pub struct TestCertificate {
    folder: TempDir,
    name: String,
}

impl TestCertificate {
    /// Makes a certificate that is also valid for `name`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let it = Self {
            folder: TempDir::new()?,
            name: name.to_owned(),
        };
        it.renew()?;
        Ok(it)
    }

    /// Replaces the files by a new key and its certificate.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn renew(&self) -> Result<()> {
        let names = ["localhost", "127.0.0.1", &self.name].map(str::to_owned);
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names)?;
        // A rename replaces each file whole; the relay waits until both fit together.
        self.replace("key.pem", signing_key.serialize_pem().as_bytes())?;
        self.replace("cert.pem", cert.pem().as_bytes())
    }

    /// Replaces one of the files.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn replace(&self, file: &str, content: &[u8]) -> Result<()> {
        let (new, path) = (self.path("new"), self.path(file));
        write_private(&new, content)?;
        Ok(fs::rename(new, path)?)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Path of the certificate, which is its own authority.
    #[must_use]
    pub fn cert(&self) -> PathBuf {
        self.path("cert.pem")
    }

    /// The files, as settings of a relay.
    #[must_use]
    pub fn files(&self) -> CertificateFiles {
        CertificateFiles {
            cert: self.cert(),
            key: self.path("key.pem"),
        }
    }

    /// Settings of a client that trusts the present certificate, and names `protocol` in its handshake.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn client(&self, protocol: Option<&str>) -> Result<ClientConfig> {
        client(&self.cert(), protocol)
    }

    /// Settings of a server that shows the present certificate, and leaves the protocol open.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn server(&self) -> Result<ServerConfig> {
        let files = self.files();
        let chain = vec![CertificateDer::from_pem_file(&files.cert)?];
        let key = PrivateKeyDer::from_pem_file(&files.key)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?)
    }

    /// Connects to `relay`, and names `protocol` in the handshake.
    ///
    /// # Errors
    /// The connection or the handshake fails.
    pub async fn connect(
        &self,
        relay: SocketAddr,
        protocol: Option<&str>,
    ) -> Result<TlsStream<TcpStream>> {
        connect(relay, Arc::new(self.client(protocol)?), "localhost").await
    }

    /// Opens a raw frontend connection over TLS, and sends the preamble for `tunnel`.
    ///
    /// # Errors
    /// The connection or the handshake fails.
    pub async fn raw(&self, relay: SocketAddr, tunnel: &str) -> Result<TlsStream<TcpStream>> {
        use tokio::io::AsyncWriteExt;

        let mut stream = self.connect(relay, Some("tieline")).await?;
        let mut preamble = u16::try_from(tunnel.len())?.to_be_bytes().to_vec();
        preamble.extend_from_slice(tunnel.as_bytes());
        stream.write_all(&preamble).await?;
        Ok(stream)
    }
}

/// Writes a file that its owner alone may read.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    io::Write::write_all(&mut options.open(path)?, content)
}

/// An authority that signs certificates of agents or relays, in files of its own folder.
pub struct TestAuthority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl TestAuthority {
    /// Makes an authority called `name`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Python 3.13 and later refuse an authority without key usage (RFC 5280, section 4.2.1.3), and a certificate
        // without its authority's key identifier (section 4.2.1.1).
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let it = Self {
            folder: TempDir::new()?,
            issuer: Issuer::new(params, key),
        };
        write_private(&it.ca(), certificate.pem().as_bytes())?;
        Ok(it)
    }

    /// Path of the authority's own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a new certificate for `name`, a DNS name or an IP address; returns its files.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn sign(&self, name: &str) -> Result<CertificateFiles> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let path = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let files = CertificateFiles {
            cert: path("pem"),
            key: path("key"),
        };
        write_private(&files.cert, certificate.pem().as_bytes())?;
        write_private(&files.key, key.serialize_pem().as_bytes())?;
        Ok(files)
    }
}

/// A free loopback address that takes TLS.
#[must_use]
pub fn listen_address() -> ListenAddress {
    ListenAddress {
        is_tls: true,
        ..ListenAddress::from(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

/// Settings of a client that trusts the certificate in the file `cert` alone, and names `protocol` in its handshake.
///
/// # Errors
/// The certificate cannot be read.
pub fn client(cert: &Path, protocol: Option<&str>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocol
        .map(|it| it.as_bytes().to_vec())
        .into_iter()
        .collect();
    Ok(config)
}

/// Connects to `relay` as `name`, and completes the handshake.
///
/// # Errors
/// The connection or the handshake fails.
pub async fn connect(
    relay: SocketAddr,
    config: Arc<ClientConfig>,
    name: &str,
) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(relay).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned())?;
    let connector = TlsConnector::from(config);
    connector
        .connect(name, stream)
        .await
        .context("the handshake failed")
}
