//! Where a shard asks how much somebody may do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tieline_wire::limits::FIRST_TUNNEL_TIMEOUT;
use tieline_wire::{Reason, Refusal};

use super::Shard;
use super::callers::Caller;
use crate::limits::{Limited, Limits, Pass, Place};
use crate::metrics::LimitKind;

/// Questions to a provider that may be open for strangers at one address: a sixteenth of the queue.
pub(crate) const ADDRESS_QUESTIONS_MAX: u32 = 64;

/// More questions of one agent, or of one address, than may be open.
pub(super) const TOO_MANY_QUESTIONS: Limited = Limited {
    kind: LimitKind::Registrations,
    retry_after: Duration::from_secs(1),
};

impl Shard {
    /// Lets somebody from an address in, unless there is too much from there.
    pub(super) fn arrive(&self, address: IpAddr) -> Result<Pass, Limited> {
        self.counted(Pass::arrive(self.peers.limits.as_ref(), address))
    }

    /// The same for who they turned out to be.
    pub(super) fn identify(&self, pass: &mut Pass, caller: &Caller) -> Result<(), Limited> {
        match caller.known() {
            Some(known) => self.counted(pass.identify(known.identity().sub())),
            None => Ok(()),
        }
    }

    /// Whether another registration may be looked at, as `check` has it.
    pub(super) fn may_register(
        &self,
        check: impl FnOnce(&Limits) -> Result<(), Limited>,
    ) -> Result<(), Refusal> {
        let limits = self.peers.limits.as_deref();
        let checked = limits.map_or(Ok(()), check);
        self.counted(checked).map_err(refused)
    }

    /// Counts an agent's connection from `peer` until its agent has a tunnel. Proxies that bring agents
    /// in bring those of many addresses.
    ///
    /// # Errors
    /// There are too many from that address.
    pub(super) fn stranger(&self, peer: SocketAddr) -> Result<Place, Limited> {
        let address = peer.ip().to_canonical();
        let mut proxies = self.peers.config.http.trusted_proxies.iter();
        let Some(counted) = &self.peers.new_links else {
            return Ok(Place::default());
        };
        if proxies.any(|net| net.contains(&address)) {
            return Ok(Place::default());
        }
        let place = counted.enter(address);
        self.counted(place.ok_or(Limited {
            kind: LimitKind::Links,
            retry_after: FIRST_TUNNEL_TIMEOUT,
        }))
    }

    /// Counts a question about a tunnel of a stranger at `peer` until it is answered.
    ///
    /// # Errors
    /// Too many wait that come from that address.
    pub(super) fn question_from(&self, peer: SocketAddr) -> Result<Place, Limited> {
        let Some(counted) = &self.peers.new_questions else {
            return Ok(Place::default());
        };
        let place = counted.enter(peer.ip());
        self.counted(place.ok_or(TOO_MANY_QUESTIONS))
    }

    fn counted<T>(&self, outcome: Result<T, Limited>) -> Result<T, Limited> {
        if let Err(limited) = &outcome {
            self.metrics.limited(limited.kind);
        }
        outcome
    }
}

/// What an agent hears that did too much.
pub(super) fn refused(limited: Limited) -> Refusal {
    Refusal {
        reason: Reason::Limited,
        message: limited.to_string(),
    }
}
