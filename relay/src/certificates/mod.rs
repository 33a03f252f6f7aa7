//! Certificates of the addresses with TLS, and the configurations of TLS that are made from them.
//!
//! [`Certificates::read`] reads them at the start; the control thread reads them again when a file changes, and gives
//! each shard the new configurations. One of the files may be that of the certificate that the control thread orders by
//! itself (ACME), whose open [`Challenges`] are answered from here. This module uses no socket.

mod authorities;
mod certificate;
mod challenges;
mod if_shown;
mod ordered;
mod protocols;
mod sources;
mod table;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConfig,
};
use rustls::version::TLS13;
use rustls::{ALL_VERSIONS, SupportedProtocolVersion};
use tracing::warn;

pub(crate) use self::challenges::{Challenges, OpenChallenge};
use self::if_shown::IfShown;
pub(crate) use self::ordered::OrderedCertificate;
use self::protocols::{ACME_TLS, AGENT, HTTP1, HTTP10, RAW, is_agents};
pub(crate) use self::protocols::{HTTP2, Served};
pub(crate) use self::sources::Sources;
pub(crate) use self::table::CertificateTable;
use crate::clock::now_seconds;
use crate::config::{AcmeConfig, TlsConfig};
use crate::error::{ListenKind, StartError};

/// The certificates that the relay starts with.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) table: Arc<CertificateTable>,
    /// Makes the tickets with which clients resume a session, on any shard. One for the relay's whole life: tickets
    /// outlast a change of certificates.
    pub(crate) ticketer: Arc<dyn ProducesTickets>,
    /// Files that the certificates are in.
    pub(crate) sources: Sources,
    /// What was wrong with the file of the ordered certificate, in the words of the log.
    pub(crate) told: Option<String>,
    /// Answers to a CA, if the relay orders a certificate.
    pub(crate) challenges: Option<Arc<Challenges>>,
}

impl Certificates {
    /// Reads the certificates in `config`, and the one that was ordered as `acme` says; `None` if neither of the two is
    /// configured. A certificate that has expired does not stop the start, because a relay must come back after a
    /// reboot; [`CertificateTable::endings`] warns of it.
    ///
    /// # Errors
    /// [`StartError::Config`] names the file, and what is wrong with it.
    pub(crate) fn read(
        config: &TlsConfig,
        acme: Option<&AcmeConfig>,
    ) -> Result<Option<Self>, StartError> {
        if config.certificates.is_empty() && acme.is_none() {
            return Ok(None);
        }
        let sources = Sources::new(config, acme);
        let (table, problem) = sources.read_at_start(now_seconds())?;
        let told = problem.map(|it| it.to_string());
        if let Some(problem) = &told {
            warn!("{problem}");
        }
        Ok(Some(Self {
            table: Arc::new(table),
            sources,
            told,
            challenges: acme.map(|_| Arc::default()),
            ticketer: aws_lc_rs::Ticketer::new().map_err(|_| StartError::Randomness)?,
        }))
    }

    /// The configurations of TLS with these certificates.
    pub(crate) fn configs(&self) -> Arc<ServerConfigs> {
        let (table, ticketer) = (Arc::clone(&self.table), Arc::clone(&self.ticketer));
        ServerConfigs::new(table, ticketer, self.challenges.as_ref())
    }
}

/// The configurations of TLS for callers and for agents, over TCP and over QUIC. Over TCP they differ if agents need a
/// certificate of their own: then callers are asked for none, and cannot choose the agents' protocol.
#[derive(Debug)]
pub(crate) struct ServerConfigs {
    pub(crate) callers: Arc<ServerConfig>,
    pub(crate) agents: Arc<ServerConfig>,
    /// For agents and callers over QUIC, which has TLS 1.3 alone. A QUIC endpoint does not choose a configuration by a
    /// client's hello, so all clients are asked for a certificate if agents need one, and callers show none.
    pub(crate) quic: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// Configurations with the certificates in `table`; callers resume their sessions with tickets of `ticketer`. At
    /// every address, a CA that checks a name gets the answer to its challenge while that is open.
    pub(crate) fn new(
        table: Arc<CertificateTable>,
        ticketer: Arc<dyn ProducesTickets>,
        challenges: Option<&Arc<Challenges>>,
    ) -> Arc<Self> {
        let verifier = table.agents();
        let resolver: Arc<dyn ResolvesServerCert> = match challenges {
            Some(challenges) => Arc::new(challenges::Resolver::new(table, Arc::clone(challenges))),
            None => table,
        };
        // rustls chooses the first of these that the client offers.
        let mut protocols = vec![HTTP2, HTTP1, HTTP10];
        if verifier.is_none() {
            protocols.push(AGENT);
        }
        protocols.push(RAW);
        if challenges.is_some() {
            // In the callers' configuration, because a CA that checks a name has no agent's certificate to show.
            protocols.push(ACME_TLS);
        }
        let quic = quic_config(Arc::clone(&resolver), verifier.clone(), &ticketer);
        let mut callers = server_config(Arc::clone(&resolver), None, &protocols, ALL_VERSIONS);
        callers.ticketer = ticketer;
        let callers = Arc::new(callers);
        let agents = match verifier {
            // A resumed session shows no certificate, so agents get no tickets, and callers' tickets do not work with
            // the agents' configuration.
            Some(verifier) => Arc::new(server_config(
                resolver,
                Some(verifier),
                &[AGENT],
                ALL_VERSIONS,
            )),
            None => Arc::clone(&callers),
        };
        Arc::new(Self {
            callers,
            agents,
            quic,
        })
    }

    /// The configuration for a client at an address of kind `listener`, by the protocols that it offers.
    pub(crate) fn choose(
        &self,
        hello: &ClientHello<'_>,
        listener: ListenKind,
    ) -> Arc<ServerConfig> {
        // Without any, the address decides.
        let takes_agents = listener == ListenKind::Agent;
        Arc::clone(match hello.alpn().map_or(takes_agents, is_agents) {
            true => &self.agents,
            false => &self.callers,
        })
    }

    /// What a client at an address of kind `listener` is served as after its handshake, by the protocol that was agreed
    /// on; `None` for an agent that has not shown the certificate that it needs. The configuration was chosen by the
    /// client's first hello, and a second one (RFC 8446, section 4.1.4), which rustls does not compare with the first,
    /// decides about the protocol.
    pub(crate) fn served(
        &self,
        agreed: Option<&[u8]>,
        listener: ListenKind,
        has_certificate: bool,
    ) -> Option<Served> {
        let served = Served::by(agreed, listener);
        let is_agent = served == Served::As(ListenKind::Agent);
        let needs_certificate = is_agent && !Arc::ptr_eq(&self.agents, &self.callers);
        (has_certificate || !needs_certificate).then_some(served)
    }
}

/// The cryptography that the relay's TLS uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The configuration of TLS in QUIC. Protocol `h3` stays free for HTTP/3. An agent that shows no certificate although it
/// needs one is refused by [`ServerConfigs::served`]; its session gets no ticket, as over TCP.
fn quic_config(
    resolver: Arc<dyn ResolvesServerCert>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Arc<ServerConfig> {
    let asks = verifier.is_some();
    let verifier = verifier.map(|it| Arc::new(IfShown(it)) as Arc<dyn ClientCertVerifier>);
    let mut config = server_config(resolver, verifier, &[AGENT, RAW], &[&TLS13]);
    if !asks {
        config.ticketer = Arc::clone(ticketer);
    }
    Arc::new(config)
}

/// The configuration of TLS with the certificates that `resolver` chooses, for clients of these protocols whose own
/// certificates `verifier` checks: without tickets, and without early data, which could be sent again by an attacker.
fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider has cipher suites of TLS 1.2 and 1.3");
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    // Tickets need no store, which shards would have to share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config
}

#[cfg(test)]
pub(crate) mod tests;
