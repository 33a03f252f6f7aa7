//! The certificate of a run: made at the start, valid for this machine only, and its own authority.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsClient;
use super::tls::NAME;

/// A certificate in files, and the client's settings that trust it.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// File with the certificate (PEM).
    pub(crate) cert: PathBuf,
    /// File with the private key (PEM).
    pub(crate) key: PathBuf,
    /// File with both, as HAProxy reads them.
    pub(crate) both: PathBuf,
    /// Settings of clients.
    pub(crate) client: TlsClient,
}

impl Certificate {
    /// Makes a certificate (ECDSA P-256) and writes it to `folder`.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let names = [NAME, "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)
            .context("cannot make a certificate for this run")?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            // A relay may refuse a key that other users can read.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            anyhow::Ok(file)
        };
        Ok(Self {
            cert: write("cert.pem", &cert)?,
            key: write("key.pem", &key)?,
            both: write("both.pem", &format!("{cert}{key}"))?,
            client: TlsClient::trusting(made.cert.der().clone())?,
        })
    }
}

/// Settings of the target's TLS with the certificate and the key in these files.
pub(crate) fn server_config(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let certificate = CertificateDer::from_pem_file(cert)
        .with_context(|| format!("{} is not a certificate (PEM)", cert.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("{} is not a private key (PEM)", key.display()))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)
        .context("the key does not belong to the certificate")?;
    Ok(Arc::new(config))
}
