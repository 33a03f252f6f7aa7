//! A shard's checks of limits per address and per token holder.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tieline_wire::limits::FIRST_TUNNEL_TIMEOUT;
use tieline_wire::{Reason, Refusal};

use super::Shard;
use super::callers::Caller;
use crate::limits::{Limited, Limits, Pass, Place};
use crate::metrics::LimitKind;

/// Open provider questions of one address, for agents without a tunnel: a sixteenth of the queue.
pub(crate) const ADDRESS_QUESTIONS_MAX: u32 = 64;

/// Refusal of a question beyond the limit of its link or its address.
pub(super) const TOO_MANY_QUESTIONS: Limited = Limited {
    kind: LimitKind::Registrations,
    retry_after: Duration::from_secs(1),
};

impl Shard {
    /// Admits a caller by its address, if the limits of the address allow.
    pub(super) fn arrive(&self, address: IpAddr) -> Result<Pass, Limited> {
        self.counted(Pass::arrive(self.kit.peers.limits.as_ref(), address))
    }

    /// Counts an admitted caller for its token's holder too, if the limits of the holder allow.
    pub(super) fn identify(&self, pass: &mut Pass, caller: &Caller) -> Result<(), Limited> {
        match caller.known() {
            Some(known) => self.counted(pass.identify(known.identity().sub())),
            None => Ok(()),
        }
    }

    /// Whether the limit that `check` tests allows another registration.
    pub(super) fn may_register(
        &self,
        check: impl FnOnce(&Limits) -> Result<(), Limited>,
    ) -> Result<(), Refusal> {
        let limits = self.kit.peers.limits.as_deref();
        let checked = limits.map_or(Ok(()), check);
        self.counted(checked).map_err(refused)
    }

    /// Counts an agent's connection from `peer` until its agent has a tunnel. Connections of trusted proxies are not
    /// counted, since they bring agents of many addresses.
    ///
    /// # Errors
    /// The address has too many such connections.
    pub(super) fn stranger(&self, peer: SocketAddr) -> Result<Place, Limited> {
        let address = peer.ip().to_canonical();
        let mut proxies = self.kit.peers.config.http.trusted_proxies.iter();
        let Some(counted) = &self.kit.peers.new_links else {
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

    /// Counts a provider question of an agent without a tunnel at `peer` until the question is answered.
    ///
    /// # Errors
    /// The address has too many open questions.
    pub(super) fn question_from(&self, peer: SocketAddr) -> Result<Place, Limited> {
        let Some(counted) = &self.kit.peers.new_questions else {
            return Ok(Place::default());
        };
        let place = counted.enter(peer.ip());
        self.counted(place.ok_or(TOO_MANY_QUESTIONS))
    }

    fn counted<T>(&self, outcome: Result<T, Limited>) -> Result<T, Limited> {
        if let Err(limited) = &outcome {
            self.kit.metrics.limited(limited.kind);
        }
        outcome
    }
}

/// The refusal that tells an agent which limit it exceeded.
pub(super) fn refused(limited: Limited) -> Refusal {
    Refusal {
        reason: Reason::Limited,
        message: limited.to_string(),
    }
}
