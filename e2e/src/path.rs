//! The ways on which a test reaches a server: directly, or through relay and agent.

use anyhow::Result;

use crate::tunnel::Tunnel;

/// A way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The server's own address.
    Direct,
    /// A relay in front, an agent beside the server.
    Relay,
}

impl Path {
    /// Every way, the plain one first.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Relay];

    /// Its name in the name of a test.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }

    /// Opens the way to the MCP server at `target`, an `http://` URL.
    ///
    /// # Errors
    /// Relay or agent did not start, or the agent was not registered in time.
    pub fn open(self, target: &str) -> Result<Opened> {
        match self {
            Self::Direct => Ok(Opened::Direct {
                url: target.to_owned(),
            }),
            Self::Relay => Ok(Opened::Relay(Box::new(Tunnel::start(target)?))),
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
    Relay(Box<Tunnel>),
}

impl Opened {
    /// The URL that a client is given.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Direct { url } => url,
            Self::Relay(tunnel) => tunnel.url(),
        }
    }
}
