//! Settings of how much a token holder or an address may use.

use super::load::{NUMBER, Settings, number, set};
use super::{Auth, conflict, in_range};
use crate::error::ConfigError;

/// Most of what is counted one by one: more would be no limit.
const COUNT_MAX: u32 = 1_000_000;

/// Most bytes in a second.
const BYTES_MAX: u64 = 1 << 40;

/// What one holder of a token, or one address, may use; 0 is as much as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Tunnels that its agents may ask for in a minute, again or for the first time.
    pub registrations_per_minute: u32,
    /// Raw sessions, and HTTP requests that are being answered, at a time.
    pub sessions: u32,
    /// HTTP requests, and raw sessions, that may begin in a second.
    pub requests_per_second: u32,
    /// Payload in either direction in a second.
    pub bytes_per_second: u64,
}

/// Tunnels at a time that one holder of tokens may have, whatever `max_tunnels` is, unless that would
/// be more than half of it.
const SUB_TUNNELS_MIN: usize = 1024;

/// Default of [`LimitsConfig::address_tunnels`]: a quarter of what a relay holds by default.
const ADDRESS_TUNNELS: u32 = 16_384;

/// What is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// For each holder of tokens.
    pub sub: Allowance,
    /// For each address; a network of 64 bits with IPv6.
    pub address: Allowance,
    /// Tunnels at a time of one holder of tokens; 0 is as many as it likes, and without a number it is
    /// an eighth of all that there may be.
    pub sub_tunnels: Option<u32>,
    /// The same of one address, for tunnels whose agents show no holder.
    pub address_tunnels: Option<u32>,
    /// Links of each address whose agents have no tunnel yet; 0 is as many as come.
    pub address_new_links: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            sub: Allowance::default(),
            address: Allowance::default(),
            sub_tunnels: None,
            address_tunnels: None,
            address_new_links: 1024,
        }
    }
}

impl LimitsConfig {
    /// What the sources say.
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let mut limits = Self::default();
        for (whose, it) in [("sub", &mut limits.sub), ("address", &mut limits.address)] {
            let key = |what: &str| format!("limits_{whose}_{what}");
            for (what, place) in [
                ("registrations_per_minute", &mut it.registrations_per_minute),
                ("sessions", &mut it.sessions),
                ("requests_per_second", &mut it.requests_per_second),
            ] {
                set(place, settings.one(&key(what), NUMBER, number)?);
            }
            let bytes = settings.one(&key("bytes_per_second"), NUMBER, number)?;
            set(&mut it.bytes_per_second, bytes);
        }
        limits.sub_tunnels = settings.one("limits_sub_tunnels", NUMBER, number)?;
        limits.address_tunnels = settings.one("limits_address_tunnels", NUMBER, number)?;
        let links = settings.one("limits_address_new_links", NUMBER, number)?;
        set(&mut limits.address_new_links, links);
        Ok(limits)
    }

    /// Tunnels at a time of one holder of tokens, where the relay holds `max_tunnels`; 0 is any number.
    /// By default one holder never has more than half of the places, and never needs more than an eighth
    /// of many.
    pub(crate) fn tunnels_of_sub(&self, max_tunnels: usize) -> u32 {
        let share = (max_tunnels / 8).max(SUB_TUNNELS_MIN.min(max_tunnels / 2));
        let share = u32::try_from(share.max(1)).unwrap_or(u32::MAX);
        self.sub_tunnels.unwrap_or(share)
    }

    /// Tunnels at a time of one address, for agents without a holder; 0 is any number.
    pub(crate) fn tunnels_of_address(&self) -> u32 {
        self.address_tunnels.unwrap_or(ADDRESS_TUNNELS)
    }

    pub(super) fn check(&self, auth: &Auth) -> Result<(), ConfigError> {
        let is_sub_limited = self.sub != Allowance::default() || self.sub_tunnels.is_some();
        if is_sub_limited && matches!(auth, Auth::Open { .. }) {
            return conflict(
                "limits_sub does nothing here: without --auth tokens, jwt or provider nobody has a \
                 token; limits_address counts by address",
            );
        }
        for (whose, it) in [("sub", &self.sub), ("address", &self.address)] {
            for (what, count) in [
                ("registrations_per_minute", it.registrations_per_minute),
                ("sessions", it.sessions),
                ("requests_per_second", it.requests_per_second),
            ] {
                in_range(&format!("limits_{whose}_{what}"), count, 0, COUNT_MAX)?;
            }
            let key = format!("limits_{whose}_bytes_per_second");
            in_range(&key, it.bytes_per_second, 0, BYTES_MAX)?;
        }
        for (whose, count) in [("sub", self.sub_tunnels), ("address", self.address_tunnels)] {
            let key = format!("limits_{whose}_tunnels");
            in_range(&key, count.unwrap_or_default(), 0, COUNT_MAX)?;
        }
        in_range(
            "limits_address_new_links",
            self.address_new_links,
            0,
            COUNT_MAX,
        )
    }
}
