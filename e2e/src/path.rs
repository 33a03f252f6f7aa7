//! The ways on which a test reaches a server: directly, or through relay and agent.

use anyhow::Result;

use crate::tunnel::{Tunnel, Way};

/// A way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The server's own address.
    Direct,
    /// A relay in front, an agent beside the server.
    Tunnel(Way),
}

impl Path {
    /// The shortest way through relay and agent.
    pub const RELAY: Self = Self::Tunnel(Way::Name);

    /// The way over every program of ours.
    pub const CONNECT: Self = Self::Tunnel(Way::Proxy);

    /// The way on which each request looks for an agent.
    pub const ANY_OF_KIND: Self = Self::Tunnel(Way::AnyOfKind);

    /// Every way, the plain one first.
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::RELAY,
        Self::Tunnel(Way::Kind),
        Self::ANY_OF_KIND,
        Self::Tunnel(Way::Domain),
        Self::CONNECT,
    ];

    /// Its name in the name of a test.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel(Way::Name) => "relay",
            Self::Tunnel(Way::Kind) => "dcc",
            Self::Tunnel(Way::AnyOfKind) => "any_of_kind",
            Self::Tunnel(Way::Domain) => "domain",
            Self::Tunnel(Way::Proxy) => "connect",
        }
    }

    /// Opens the way to the MCP server at `target`, an `http://` URL.
    ///
    /// # Errors
    /// Something of ours did not start, or the agent was not registered in time.
    pub fn open(self, target: &str) -> Result<Opened> {
        match self {
            Self::Direct => Ok(Opened::Direct {
                url: target.to_owned(),
            }),
            Self::Tunnel(way) => Ok(Opened::Tunnel(Box::new(Tunnel::start(way, target)?))),
        }
    }
}

/// An open way. It closes when it is dropped.
pub enum Opened {
    /// Nothing in between.
    Direct {
        /// The server's own URL.
        url: String,
    },
    /// Relay and agent in between.
    Tunnel(Box<Tunnel>),
}

impl Opened {
    /// The URL that a client is given.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Direct { url } => url,
            Self::Tunnel(tunnel) => tunnel.url(),
        }
    }
}
