//! Trust between clients, agents and relays with TLS: one authority for the test process, which signed the
//! certificate of those relays.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use tieline_relay::{CertificateFiles, ListenAddress};

use crate::behaviour::{AgentBuilder, RelayBuilder, TestAgent, TestAuthority, TestRelay};

/// An authority, and the certificate for this machine that it signed. Dropping it removes the files.
pub struct Trust {
    authority: TestAuthority,
    certificate: CertificateFiles,
}

impl Trust {
    /// Makes the authority and the certificate.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new() -> Result<Self> {
        let authority = TestAuthority::new("Tieline interop tests")?;
        let certificate = authority.sign(&Ipv4Addr::LOCALHOST.to_string())?;
        Ok(Self {
            authority,
            certificate,
        })
    }

    /// Path of the authority's own certificate, which clients must trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// Builder of a relay whose HTTP port takes TLS only.
    pub fn relay(&self) -> RelayBuilder {
        let certificate = self.certificate.clone();
        let address = ListenAddress {
            is_tls: true,
            ..ListenAddress::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        };
        TestRelay::with().config(move |config| {
            config.http_listen = vec![address];
            config.tls.certificates = vec![certificate];
        })
    }

    /// Starts an agent whose link is a WebSocket to the HTTP port of `relay`, and waits until its tunnel is up.
    ///
    /// # Errors
    /// The tunnel is not up in time, or the agent ends first.
    pub async fn start_agent(&self, agent: AgentBuilder, relay: &TestRelay) -> Result<TestAgent> {
        let ca = self.ca();
        let agent = agent.config(move |config| config.with_ca(ca));
        let url = format!("wss://{}", relay.http_address());
        agent.start_at(&url).await
    }
}
