//! A shard's checks of limits on agents: registrations, new links and provider questions.

use std::net::SocketAddr;
use std::time::Duration;

use tieline_wire::limits::FIRST_TUNNEL_TIMEOUT;
use tieline_wire::{Refusal, RefusalReason};

use super::Agents;
use crate::limits::{AddressCount, Limited, Limits};
use crate::metrics::LimitKind;

/// Open provider questions of one address, for agents without a tunnel: a sixteenth of the queue.
pub(crate) const ADDRESS_QUESTIONS_MAX: u32 = 64;

/// Refusal of a question beyond the limit of its link or its address.
pub(super) const TOO_MANY_QUESTIONS: Limited = Limited {
    kind: LimitKind::Registrations,
    retry_after: Duration::from_secs(1),
};

impl Agents {
    /// Charges a registration to the account that `charge` selects, if the relay has limits.
    ///
    /// # Errors
    /// The account has reached its limit.
    pub(super) fn charge_registration(
        &self,
        charge: impl FnOnce(&Limits) -> Result<(), Limited>,
    ) -> Result<(), Refusal> {
        let limits = self.kit.peers.limits.as_deref();
        let charged = limits.map_or(Ok(()), charge);
        self.kit.counted(charged).map_err(refused)
    }

    /// Counts an agent's connection from `peer` until its agent has a tunnel. Connections of trusted proxies are not
    /// counted, since they bring agents of many addresses.
    ///
    /// # Errors
    /// The address has too many such connections.
    pub(in crate::shard) fn count_new_link(
        &self,
        peer: SocketAddr,
    ) -> Result<AddressCount, Limited> {
        let Some(counted) = &self.kit.peers.new_links else {
            return Ok(AddressCount::default());
        };
        if self.kit.is_trusted_proxy(peer.ip()) {
            return Ok(AddressCount::default());
        }
        let place = counted.enter(peer.ip().to_canonical());
        self.kit.counted(place.ok_or(Limited {
            kind: LimitKind::Links,
            retry_after: FIRST_TUNNEL_TIMEOUT,
        }))
    }

    /// Counts a provider question of an agent without a tunnel at `peer` until the question is answered.
    ///
    /// # Errors
    /// The address has too many open questions.
    pub(super) fn question_from(&self, peer: SocketAddr) -> Result<AddressCount, Limited> {
        let Some(counted) = &self.kit.peers.new_questions else {
            return Ok(AddressCount::default());
        };
        let place = counted.enter(peer.ip());
        self.kit.counted(place.ok_or(TOO_MANY_QUESTIONS))
    }
}

/// The refusal that tells an agent which limit it exceeded.
pub(super) fn refused(limited: Limited) -> Refusal {
    Refusal::new(RefusalReason::Limited, limited.to_string())
}
