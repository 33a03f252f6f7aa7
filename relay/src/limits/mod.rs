//! How much somebody may do: by the holder of a token, and by address.

#[cfg(test)]
mod model;
mod per_address;
mod table;
mod tunnels;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::per_address::{PerAddress, Place};
use self::table::{Index, Pin, Rate, Table};
pub(crate) use self::tunnels::{Account, LiveTunnels};
use crate::config::{Allowance, LimitsConfig};
use crate::metrics::LimitKind;

/// Holders of tokens, and addresses, that are told apart: 1 MiB and 4 MiB, if they are limited.
const SUBS: usize = 16 * 1024;
const ADDRESSES: usize = 64 * 1024;

/// In how long what is allowed may be used up at once.
const REGISTRATIONS_WINDOW: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(10);

/// For how long bytes are owed at most: a transfer of a night must not lock its owner out for a week.
const DEBT_MAX: Duration = Duration::from_secs(600);

/// When somebody with too many sessions may try again: nobody knows when one ends.
const SESSIONS_RETRY: Duration = Duration::from_secs(5);

/// Bytes that are counted together: each time costs an atomic operation or two.
const CHARGE_BYTES: u64 = 64 * 1024;

/// Places of the rates in a [`Table`].
const REGISTRATIONS: usize = 0;
const REQUESTS: usize = 1;
const BYTES: usize = 2;

/// More than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {} at the moment", kind.word())]
pub(crate) struct Limited {
    /// Of what.
    pub(crate) kind: LimitKind,
    /// When it may be tried again.
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

/// What everybody used lately, for all shards.
#[derive(Debug)]
pub(crate) struct Limits {
    started: Instant,
    hasher: RandomState,
    subs: Option<Side>,
    addresses: Option<Side>,
}

impl Limits {
    /// Nothing, where nothing is limited.
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

    fn address(&self, address: IpAddr) -> Option<(&Side, Pin<'_>)> {
        let side = self.addresses.as_ref()?;
        Some((side, side.table.find(address_hash(&self.hasher, address))?))
    }

    fn sub(&self, sub: &str) -> Option<(&Side, Pin<'_>)> {
        let side = self.subs.as_ref()?;
        Some((side, side.table.find(self.hasher.hash_one(sub))?))
    }

    /// An agent at `address` asks for a tunnel.
    ///
    /// # Errors
    /// It has asked too often.
    pub(crate) fn register_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.register(self.address(address))
    }

    /// The holder of a token asks for a tunnel.
    ///
    /// # Errors
    /// They have asked too often.
    pub(crate) fn register_as(&self, sub: &str) -> Result<(), Limited> {
        self.register(self.sub(sub))
    }

    fn register(&self, found: Option<(&Side, Pin<'_>)>) -> Result<(), Limited> {
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

/// What an address is known by. A network of IPv6 gives one machine as many addresses as it likes in
/// its /64.
fn address_hash(hasher: &RandomState, address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(ip) => hasher.hash_one(ip.octets()),
        IpAddr::V6(ip) => hasher.hash_one(&ip.segments()[..4]),
    }
}

/// What is allowed to each of one kind, and what they used.
#[derive(Debug)]
struct Side {
    table: Table,
    registrations: Option<Rate>,
    requests: Option<Rate>,
    bytes: Option<Rate>,
    /// How many may be open at once.
    sessions: Option<u32>,
}

impl Side {
    fn new(allowance: &Allowance, places: usize) -> Option<Self> {
        let window_ns = |window: Duration| window.as_secs() * 1_000_000_000;
        let rate = |per_second: u64| {
            (per_second > 0).then_some(Rate {
                count: per_second * WINDOW.as_secs(),
                window_ns: window_ns(WINDOW),
            })
        };
        let per_minute = u64::from(allowance.registrations_per_minute);
        (*allowance != Allowance::default()).then(|| Self {
            table: Table::new(places),
            registrations: (per_minute > 0).then_some(Rate {
                count: per_minute,
                window_ns: window_ns(REGISTRATIONS_WINDOW),
            }),
            requests: rate(allowance.requests_per_second.into()),
            bytes: rate(allowance.bytes_per_second),
            sessions: (allowance.sessions > 0).then_some(allowance.sessions),
        })
    }

    /// Lets a request or a session in.
    fn enter(&self, at: Pin<'_>, now_ns: u64) -> Result<Seat, Limited> {
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
        let seat = Seat(at.keep());
        if let Some(rate) = self.requests
            && let Err(late_ns) = self.table.spend(seat.0, REQUESTS, rate, 1, now_ns)
        {
            self.leave(seat);
            return Err(Limited::new(LimitKind::Requests, late_ns));
        }
        Ok(seat)
    }

    fn leave(&self, seat: Seat) {
        if self.sessions.is_some() {
            self.table.close(seat.0);
        }
        self.table.leave(seat.0);
    }
}

/// Somebody who was let in, for as long as what they do goes on: a raw session, or an HTTP request
/// and its answer. Nothing where nothing is limited; each session's task has one.
#[derive(Debug, Default)]
pub(crate) struct Pass(Option<Box<Counted>>);

#[derive(Debug)]
struct Counted {
    limits: Arc<Limits>,
    address: Option<Seat>,
    sub: Option<Seat>,
    /// Bytes that are still to be counted.
    uncharged: Cell<u64>,
}

/// A place in use: its holder keeps it, so that no other holder pays for these bytes.
#[derive(Clone, Copy, Debug)]
struct Seat(Index);

impl Pass {
    /// For somebody from `address`.
    ///
    /// # Errors
    /// There is too much from there.
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

    /// They have the token of `sub`.
    ///
    /// # Errors
    /// That holder does too much.
    pub(crate) fn identify(&mut self, sub: &str) -> Result<(), Limited> {
        if let Some(it) = &mut self.0
            && it.sub.is_none()
            && let Some((side, at)) = it.limits.sub(sub)
        {
            it.sub = Some(side.enter(at, it.limits.now_ns())?);
        }
        Ok(())
    }

    /// Bytes went one way or the other.
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
        for (side, seat) in self.seats() {
            if let Some(rate) = side.bytes {
                let when = (self.limits.now_ns(), debt_ns);
                side.table.charge(seat.0, BYTES, rate, bytes, when);
            }
        }
    }

    fn seats(&self) -> impl Iterator<Item = (&Side, Seat)> {
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
        for (side, seat) in self.seats() {
            side.leave(seat);
        }
    }
}

#[cfg(test)]
mod tests;
