//! Certificates of the addresses with TLS, and the configuration of TLS that is made from them.
//!
//! [`Certificates::read`] reads them at the start; the control thread reads them again when a file changes, and gives
//! each shard the new configuration. Nothing here knows a socket.

mod certificate;
mod table;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig};

pub(crate) use self::table::CertificateTable;
use crate::config::TlsConfig;
use crate::error::StartError;

/// Protocol of HTTP/2 callers in the handshake of TLS (ALPN, RFC 7301).
pub(crate) const HTTP2: &[u8] = b"h2";

/// Protocol of HTTP/1.1 callers.
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// Protocol of HTTP/1.0 callers.
pub(crate) const HTTP10: &[u8] = b"http/1.0";

/// Protocol of agents.
pub(crate) const AGENT: &[u8] = b"tieline-agent/1";

/// Protocol of raw callers, which begin with a preamble.
pub(crate) const RAW: &[u8] = b"tieline";

/// The certificates that the relay starts with.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) table: Arc<CertificateTable>,
    /// Makes the tickets with which clients resume a session, on any shard. One for the relay's whole life: tickets
    /// outlast a change of certificates.
    pub(crate) ticketer: Arc<dyn ProducesTickets>,
}

impl Certificates {
    /// Reads the certificates in `config`; `None` if there are none. One that has expired stops no start, since a relay
    /// must come back after a reboot: [`CertificateTable::endings`] tells of it.
    ///
    /// # Errors
    /// [`StartError::Config`] names the file, and what is wrong with it.
    pub(crate) fn read(config: &TlsConfig) -> Result<Option<Self>, StartError> {
        if config.certificates.is_empty() {
            return Ok(None);
        }
        let table = CertificateTable::read(&config.certificates)?;
        Ok(Some(Self {
            table: Arc::new(table),
            ticketer: aws_lc_rs::Ticketer::new().map_err(|_| StartError::Randomness)?,
        }))
    }

    /// The configuration of TLS with these certificates.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        server_config(Arc::clone(&self.table), Arc::clone(&self.ticketer))
    }
}

/// The cryptography that the relay's TLS uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The configuration of TLS with the certificates in `table`: TLS 1.2 and 1.3, without early data, which could be sent
/// again by an attacker.
pub(crate) fn server_config(
    table: Arc<CertificateTable>,
    ticketer: Arc<dyn ProducesTickets>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(table);
    // The first that the client offers too is taken.
    config.alpn_protocols = [HTTP2, HTTP1, HTTP10, AGENT, RAW]
        .map(<[u8]>::to_vec)
        .into();
    config.ticketer = ticketer;
    // Tickets need no store, which shards would have to share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Arc::new(config)
}

#[cfg(test)]
pub(crate) mod tests;
