//! Where a shard asks how much somebody may do.

use std::net::IpAddr;

use tieline_wire::{Reason, Refusal};

use super::Shard;
use super::callers::Caller;
use crate::limits::{Limited, Limits, Pass};

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
        self.counted(checked).map_err(|limited| Refusal {
            reason: Reason::Limited,
            message: limited.to_string(),
        })
    }

    fn counted<T>(&self, outcome: Result<T, Limited>) -> Result<T, Limited> {
        if let Err(limited) = &outcome {
            self.metrics.limited(limited.kind);
        }
        outcome
    }
}
