//! The handshake: from the preface to the end of the hello exchange.

use crate::error::Error;
use crate::message::{AgentHello, RelayHello};
use crate::reason::LinkEnd;

/// Role of this side, relay or agent, and its progress in the handshake.
#[derive(Debug)]
pub(super) enum Handshake {
    /// The relay waits for the agent's preface, and then sends its own preface and hello.
    RelayAwaitsPreface(RelayHello),
    /// The relay waits for the agent's hello, signed for the relay's nonce.
    RelayAwaitsHello(RelayHello),
    /// The relay has verified the agent's hello.
    RelayDone,
    /// The agent waits for the relay's preface and hello.
    AgentAwaitsHello,
    /// The agent knows the relay's nonce, and has to send its hello.
    AgentAnswers,
    /// The agent has sent its hello.
    AgentDone,
}

impl Handshake {
    pub(super) const fn is_relay(&self) -> bool {
        matches!(
            self,
            Self::RelayAwaitsPreface(_) | Self::RelayAwaitsHello(_) | Self::RelayDone
        )
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::RelayDone | Self::AgentDone)
    }

    /// True while nothing may be sent: a relay shows nothing to a peer that does not speak the protocol.
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self, Self::RelayAwaitsPreface(_))
    }

    /// The agent answers the relay's hello; false if no answer is due.
    pub(super) fn answered(&mut self) -> bool {
        let turn = matches!(self, Self::AgentAnswers);
        if turn {
            *self = Self::AgentDone;
        }
        turn
    }

    /// The peer's preface arrived: returns the hello with which a relay answers.
    pub(super) fn preface(&mut self) -> Option<RelayHello> {
        let Self::RelayAwaitsPreface(hello) = self else {
            return None;
        };
        let hello = hello.clone();
        *self = Self::RelayAwaitsHello(hello.clone());
        Some(hello)
    }

    /// The agent's hello arrived.
    pub(super) fn agent_hello(&mut self, hello: &AgentHello) -> Result<(), Error> {
        let Self::RelayAwaitsHello(ours) = self else {
            return Err(Error::peer(LinkEnd::Protocol, "a second hello"));
        };
        if !ours.offers(hello.version) {
            return Err(Error::peer(
                LinkEnd::Version,
                format!("the agent chose version {}", hello.version),
            ));
        }
        hello
            .verify(&ours.nonce)
            .map_err(|reason| Error::peer(reason, "the signature of the hello"))?;
        *self = Self::RelayDone;
        Ok(())
    }

    /// The relay's hello arrived.
    pub(super) fn relay_hello(&mut self, hello: &RelayHello) -> Result<(), Error> {
        if !matches!(self, Self::AgentAwaitsHello) {
            return Err(Error::peer(LinkEnd::Protocol, "a second hello"));
        }
        if hello.choose_version().is_none() {
            return Err(Error::peer(
                LinkEnd::Version,
                format!(
                    "the relay speaks versions {} to {}",
                    hello.version_min, hello.version_max
                ),
            ));
        }
        *self = Self::AgentAnswers;
        Ok(())
    }
}
