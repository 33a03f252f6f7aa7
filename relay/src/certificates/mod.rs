//! Certificates of the addresses with TLS, and the configurations of TLS that are made from them.
//!
//! [`Certificates::read`] reads them at the start; the control thread reads them again when a file changes, and gives
//! each shard the new configurations. Nothing here knows a socket.

mod authorities;
mod certificate;
mod table;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ServerConfig};

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
        let table = CertificateTable::of(config)?;
        Ok(Some(Self {
            table: Arc::new(table),
            ticketer: aws_lc_rs::Ticketer::new().map_err(|_| StartError::Randomness)?,
        }))
    }

    /// The configurations of TLS with these certificates.
    pub(crate) fn configs(&self) -> Arc<ServerConfigs> {
        ServerConfigs::new(Arc::clone(&self.table), Arc::clone(&self.ticketer))
    }
}

/// The configurations of TLS for those who come to the relay. The two differ if agents need a certificate of their own:
/// callers are then asked for none, and cannot speak as agents.
#[derive(Debug)]
pub(crate) struct ServerConfigs {
    pub(crate) callers: Arc<ServerConfig>,
    pub(crate) agents: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// Configurations with the certificates in `table`; callers resume their sessions with tickets of `ticketer`.
    pub(crate) fn new(
        table: Arc<CertificateTable>,
        ticketer: Arc<dyn ProducesTickets>,
    ) -> Arc<Self> {
        // The first that the client offers too is taken.
        let Some(verifier) = table.agents() else {
            let mut config = server_config(table, None, &[HTTP2, HTTP1, HTTP10, AGENT, RAW]);
            config.ticketer = ticketer;
            let callers = Arc::new(config);
            return Arc::new(Self {
                agents: Arc::clone(&callers),
                callers,
            });
        };
        // A session that is resumed shows no certificate: agents get no tickets, and callers' tickets are not theirs.
        let agents = server_config(Arc::clone(&table), Some(verifier), &[AGENT]);
        let mut callers = server_config(table, None, &[HTTP2, HTTP1, HTTP10, RAW]);
        callers.ticketer = ticketer;
        Arc::new(Self {
            callers: Arc::new(callers),
            agents: Arc::new(agents),
        })
    }

    /// The configuration for a client, by the protocols that it offers; `takes_agents` tells whether a client that offers
    /// none is an agent.
    pub(crate) fn choose(&self, hello: &ClientHello<'_>, takes_agents: bool) -> Arc<ServerConfig> {
        let is_agent = hello.alpn().map_or(takes_agents, is_agents);
        Arc::clone(match is_agent {
            true => &self.agents,
            false => &self.callers,
        })
    }
}

/// Whether a client with these protocols becomes an agent: it offers that of agents, and none that the relay prefers.
fn is_agents<'a>(offered: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut is_agent = false;
    for protocol in offered {
        if [HTTP2, HTTP1, HTTP10].contains(&protocol) {
            return false;
        }
        is_agent |= protocol == AGENT;
    }
    is_agent
}

/// The cryptography that the relay's TLS uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The configuration of TLS with the certificates in `table`, for clients of these protocols whose own certificates
/// `verifier` checks: TLS 1.2 and 1.3, without tickets, and without early data, which could be sent again by an attacker.
fn server_config(
    table: Arc<CertificateTable>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of TLS 1.2 and 1.3");
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(table);
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    // Tickets need no store, which shards would have to share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config
}

#[cfg(test)]
pub(crate) mod tests;
