//! Paths from a test client to a server: direct, or through relay and agent.

use anyhow::Result;

use crate::trust::Trust;
use crate::tunnel::{Tunnel, UrlForm};

/// Path from a test client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The server's own address.
    Direct,
    /// Through a relay and an agent.
    Tunnel(UrlForm),
}

impl Path {
    /// The tunnel named in the path of the relay's URL: the plainest path through relay and agent.
    pub const RELAY: Self = Self::Tunnel(UrlForm::Name);

    /// Through every Tieline program: `tieline connect`, relay and agent.
    pub const CONNECT: Self = Self::Tunnel(UrlForm::Proxy);

    /// The URL names only the kind: the relay finds an agent for each request.
    pub const ANY_OF_KIND: Self = Self::Tunnel(UrlForm::AnyOfKind);

    /// TLS at the relay's HTTP port, for the client and for the agent.
    pub const HTTPS: Self = Self::Tunnel(UrlForm::Https);

    /// Every path, the direct one first.
    pub const ALL: [Self; 7] = [
        Self::Direct,
        Self::RELAY,
        Self::Tunnel(UrlForm::Kind),
        Self::ANY_OF_KIND,
        Self::Tunnel(UrlForm::Domain),
        Self::CONNECT,
        Self::HTTPS,
    ];

    /// Word for the path in the name of a test.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel(UrlForm::Name) => "relay",
            Self::Tunnel(UrlForm::Kind) => "dcc",
            Self::Tunnel(UrlForm::AnyOfKind) => "any_of_kind",
            Self::Tunnel(UrlForm::Domain) => "domain",
            Self::Tunnel(UrlForm::Proxy) => "connect",
            Self::Tunnel(UrlForm::Https) => "https",
        }
    }

    /// Opens the path to the MCP server at `target`, an `http://` URL. On [`Path::HTTPS`], `trust` has the relay's
    /// certificate.
    ///
    /// # Errors
    /// Relay, agent or proxy did not start, or the agent was not registered in time.
    pub fn open(self, target: &str, trust: &Trust) -> Result<Opened> {
        match self {
            Self::Direct => Ok(Opened::Direct {
                url: target.to_owned(),
            }),
            Self::Tunnel(way) => Ok(Opened::Tunnel(Box::new(Tunnel::start(way, target, trust)?))),
        }
    }
}

/// An open path. Dropping it stops the relay, agent and proxy.
pub enum Opened {
    /// The client connects to the server itself.
    Direct {
        /// The server's own URL.
        url: String,
    },
    /// The client connects through relay and agent.
    Tunnel(Box<Tunnel>),
}

impl Opened {
    /// URL at which clients reach the server on this path.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Direct { url } => url,
            Self::Tunnel(tunnel) => tunnel.url(),
        }
    }
}
