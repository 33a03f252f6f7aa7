//! Rate and count limits, per token holder and per address.

mod handshakes;
mod per_address;
mod table;
mod tunnels;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::handshakes::{Handshake, Handshakes};
pub(crate) use self::per_address::{AddressCount, PerAddress};
use self::table::{Index, Occupied, Rate, Table};
pub(crate) use self::tunnels::{LiveTunnels, Registrant};
use crate::config::{Allowance, LimitsConfig};
use crate::metrics::LimitKind;

/// Token holders, and addresses, that are counted separately: 1 MiB and 4 MiB of memory, where limits are set.
const SUBS: usize = 16 * 1024;
const ADDRESSES: usize = 64 * 1024;

/// Time whose allowance may be used at once, for registrations, and for requests and bytes.
const REGISTRATIONS_WINDOW: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(10);

/// Longest time that exceeding a byte limit counts: one night's transfer must not lock its owner out for a week.
const DEBT_MAX: Duration = Duration::from_secs(600);

/// Retry delay for an account with too many sessions: the relay does not know when one ends.
const SESSIONS_RETRY: Duration = Duration::from_secs(5);

/// Bytes that are charged in one step: each step costs an atomic operation or two.
const CHARGE_BYTES: u64 = 64 * 1024;

/// Indices of the rates in a [`Table`].
const REGISTRATIONS: usize = 0;
const REQUESTS: usize = 1;
const BYTES: usize = 2;

/// A limit is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {} at the moment", kind.word())]
pub(crate) struct Limited {
    /// The limit that is exceeded.
    pub(crate) kind: LimitKind,
    /// Time after which a retry may succeed.
    pub(crate) retry_after: Duration,
}

impl Limited {
    fn new(kind: LimitKind, retry_after_ns: u64) -> Self {
        Self {
            kind,
            retry_after: Duration::from_nanos(retry_after_ns),
        }
    }
}

/// Recent usage of all token holders and addresses, shared by all shards.
#[derive(Debug)]
pub(crate) struct Limits {
    started: Instant,
    hasher: RandomState,
    subs: Option<Side>,
    addresses: Option<Side>,
}

impl Limits {
    /// The limits set in `config`; `None` if there are none.
    pub(crate) fn new(config: &LimitsConfig) -> Option<Arc<Self>> {
        let subs = Side::new(&config.sub, SUBS);
        let addresses = Side::new(&config.address, ADDRESSES);
        let is_on = subs.is_some() || addresses.is_some();
        is_on.then(|| {
            Arc::new(Self {
                started: Instant::now(),
                hasher: RandomState::new(),
                subs,
                addresses,
            })
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }

    fn address(&self, address: IpAddr) -> Option<(&Side, Occupied<'_>)> {
        let side = self.addresses.as_ref()?;
        let hash = self.hasher.hash_one(counted_part(address));
        Some((side, side.table.find(hash)?))
    }

    fn sub(&self, sub: &str) -> Option<(&Side, Occupied<'_>)> {
        let side = self.subs.as_ref()?;
        Some((side, side.table.find(self.hasher.hash_one(sub))?))
    }

    /// Counts a registration by an agent at `address`.
    ///
    /// # Errors
    /// The address has reached its limit of registrations.
    pub(crate) fn register_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.register(self.address(address))
    }

    /// Counts a registration by the token holder `sub`.
    ///
    /// # Errors
    /// The holder has reached its limit of registrations.
    pub(crate) fn register_as(&self, sub: &str) -> Result<(), Limited> {
        self.register(self.sub(sub))
    }

    fn register(&self, found: Option<(&Side, Occupied<'_>)>) -> Result<(), Limited> {
        let Some((side, at)) = found else {
            return Ok(());
        };
        let Some(rate) = side.registrations else {
            return Ok(());
        };
        side.table
            .spend(*at, REGISTRATIONS, rate, 1, self.now_ns())
            .map_err(|late_ns| Limited::new(LimitKind::Registrations, late_ns))
    }
}

/// The part of an address that is counted. IPv6 counts by the first 64 bits, because a machine can have any number of
/// addresses in its /64.
pub(crate) fn counted_part(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// Limits and usage of one kind of account: token holders, or addresses.
#[derive(Debug)]
struct Side {
    table: Table,
    registrations: Option<Rate>,
    requests: Option<Rate>,
    bytes: Option<Rate>,
    /// Limit of open sessions.
    sessions: Option<u32>,
}

impl Side {
    fn new(allowance: &Allowance, places: usize) -> Option<Self> {
        let rate = |count: u64, window: Duration| {
            let window_ns = window.as_secs() * 1_000_000_000;
            (count > 0).then_some(Rate { count, window_ns })
        };
        let per_second = |count: u64| rate(count * WINDOW.as_secs(), WINDOW);
        (*allowance != Allowance::default()).then(|| Self {
            table: Table::new(places),
            registrations: rate(
                allowance.registrations_per_minute.into(),
                REGISTRATIONS_WINDOW,
            ),
            requests: per_second(allowance.requests_per_second.into()),
            bytes: per_second(allowance.bytes_per_second),
            sessions: (allowance.sessions > 0).then_some(allowance.sessions),
        })
    }

    /// Counts a request or session, if the limits allow it. Its place stays with the account until [`Side::leave`], so
    /// that no other account is charged.
    fn enter(&self, at: Occupied<'_>, now_ns: u64) -> Result<Index, Limited> {
        if let Some(rate) = self.bytes {
            let checked = self.table.check(*at, BYTES, rate, now_ns);
            checked.map_err(|late_ns| Limited::new(LimitKind::Bytes, late_ns))?;
        }
        if let Some(max) = self.sessions
            && !self.table.open(*at, max)
        {
            return Err(Limited {
                kind: LimitKind::Sessions,
                retry_after: SESSIONS_RETRY,
            });
        }
        let slot = at.keep();
        if let Some(rate) = self.requests
            && let Err(late_ns) = self.table.spend(slot, REQUESTS, rate, 1, now_ns)
        {
            self.leave(slot);
            return Err(Limited::new(LimitKind::Requests, late_ns));
        }
        Ok(slot)
    }

    fn leave(&self, slot: Index) {
        if self.sessions.is_some() {
            self.table.close(slot);
        }
        self.table.leave(slot);
    }
}

/// Counts a raw session, or an HTTP request and its answer, until it is dropped. Empty if there are no limits; each
/// session's task has a pass.
#[derive(Debug, Default)]
pub(crate) struct RatePass(Option<Box<Counted>>);

#[derive(Debug)]
struct Counted {
    limits: Arc<Limits>,
    address: Option<Index>,
    sub: Option<Index>,
    /// Bytes that were moved and not charged yet.
    uncharged: Cell<u64>,
}

impl RatePass {
    /// Counts a session or request from `address`.
    ///
    /// # Errors
    /// The address has reached a limit.
    pub(crate) fn arrive(limits: Option<&Arc<Limits>>, address: IpAddr) -> Result<Self, Limited> {
        let Some(limits) = limits else {
            return Ok(Self::default());
        };
        let address = match limits.address(address) {
            Some((side, at)) => Some(side.enter(at, limits.now_ns())?),
            None => None,
        };
        Ok(Self(Some(Box::new(Counted {
            limits: Arc::clone(limits),
            address,
            sub: None,
            uncharged: Cell::new(0),
        }))))
    }

    /// Also counts it for the token holder `sub`.
    ///
    /// # Errors
    /// The holder has reached a limit.
    pub(crate) fn identify(&mut self, sub: &str) -> Result<(), Limited> {
        if let Some(it) = &mut self.0
            && it.sub.is_none()
            && let Some((side, at)) = it.limits.sub(sub)
        {
            it.sub = Some(side.enter(at, it.limits.now_ns())?);
        }
        Ok(())
    }

    /// Counts payload bytes, in either direction.
    pub(crate) fn moved(&self, count: u64) {
        if let Some(it) = &self.0 {
            let bytes = it.uncharged.get() + count;
            it.uncharged.set(bytes);
            if bytes >= CHARGE_BYTES {
                it.charge();
            }
        }
    }
}

impl Counted {
    fn charge(&self) {
        let bytes = self.uncharged.take();
        let debt_ns = DEBT_MAX.as_secs() * 1_000_000_000;
        for (side, slot) in self.slots() {
            if let Some(rate) = side.bytes {
                let when = (self.limits.now_ns(), debt_ns);
                side.table.charge(slot, BYTES, rate, bytes, when);
            }
        }
    }

    fn slots(&self) -> impl Iterator<Item = (&Side, Index)> {
        let address = self.limits.addresses.as_ref().zip(self.address);
        let sub = self.limits.subs.as_ref().zip(self.sub);
        [address, sub].into_iter().flatten()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.uncharged.get() > 0 {
            self.charge();
        }
        for (side, slot) in self.slots() {
            side.leave(slot);
        }
    }
}

#[cfg(test)]
mod tests;
