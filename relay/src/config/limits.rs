//! Settings that limit what one token holder or one address may use.

use clap::Args;

use super::values::{number, set};
use super::{Auth, conflict, in_range};
use crate::error::ConfigError;

/// Largest limit on a count; a higher limit would have no effect.
const COUNT_MAX: u32 = 1_000_000;

/// Largest limit on bytes per second.
const BYTES_MAX: u64 = 1 << 40;

/// Settings of the limits.
#[derive(Debug, Default, Args)]
pub(super) struct LimitsSettings {
    /// Registrations per minute of each token holder [default: no limit]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_sub_registrations_per_minute: Option<u32>,
    /// Open sessions and requests of each token holder [default: no limit]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_sub_sessions: Option<u32>,
    /// Requests and new sessions per second of each token holder [default: no limit]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_sub_requests_per_second: Option<u32>,
    /// Payload bytes per second of each token holder [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = number::<u64>)]
    limits_sub_bytes_per_second: Option<u64>,
    /// Tunnels at a time of each token holder; 0: no limit [default: an eighth of max_tunnels]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_sub_tunnels: Option<u32>,
    /// Tunnels at a time of each address whose agents have no token holder; 0: no limit [default: 16384]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_address_tunnels: Option<u32>,
    /// Registrations per minute of each address [default: no limit]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_address_registrations_per_minute: Option<u32>,
    /// Open sessions and requests of each address [default: no limit]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_address_sessions: Option<u32>,
    /// Requests and new sessions per second of each address [default: no limit]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_address_requests_per_second: Option<u32>,
    /// Payload bytes per second of each address [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = number::<u64>)]
    limits_address_bytes_per_second: Option<u64>,
    /// Links of each address that have no tunnel yet; 0: no limit [default: 1024]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    limits_address_new_links: Option<u32>,
}

impl LimitsSettings {
    pub(super) fn config(self) -> LimitsConfig {
        let mut limits = LimitsConfig {
            sub: Allowance {
                registrations_per_minute: self
                    .limits_sub_registrations_per_minute
                    .unwrap_or_default(),
                sessions: self.limits_sub_sessions.unwrap_or_default(),
                requests_per_second: self.limits_sub_requests_per_second.unwrap_or_default(),
                bytes_per_second: self.limits_sub_bytes_per_second.unwrap_or_default(),
            },
            address: Allowance {
                registrations_per_minute: self
                    .limits_address_registrations_per_minute
                    .unwrap_or_default(),
                sessions: self.limits_address_sessions.unwrap_or_default(),
                requests_per_second: self.limits_address_requests_per_second.unwrap_or_default(),
                bytes_per_second: self.limits_address_bytes_per_second.unwrap_or_default(),
            },
            sub_tunnels: self.limits_sub_tunnels,
            address_tunnels: self.limits_address_tunnels,
            ..LimitsConfig::default()
        };
        set(&mut limits.address_new_links, self.limits_address_new_links);
        limits
    }
}

/// Limits of one token holder or one address; 0 means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Registrations per minute, renewals included.
    pub registrations_per_minute: u32,
    /// Raw sessions, and HTTP requests being answered, at a time.
    pub sessions: u32,
    /// New HTTP requests and raw sessions per second.
    pub requests_per_second: u32,
    /// Payload bytes per second, both directions together.
    pub bytes_per_second: u64,
}

/// Tunnels at a time that each token holder may have at least by default, if that is at most half of
/// `max_tunnels`.
const SUB_TUNNELS_MIN: usize = 1024;

/// Default of [`LimitsConfig::address_tunnels`]: a quarter of the default of `max_tunnels`.
const ADDRESS_TUNNELS: u32 = 16_384;

/// Limits per token holder and per address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Limits of each token holder.
    pub sub: Allowance,
    /// Limits of each address; an IPv6 address counts by its first 64 bits.
    pub address: Allowance,
    /// Tunnels at a time of each token holder; 0 means no limit, `None` an eighth of `max_tunnels`, at
    /// least 1,024 but at most half of it.
    pub sub_tunnels: Option<u32>,
    /// Tunnels at a time of each address whose agents have no token holder; 0 means no limit.
    pub address_tunnels: Option<u32>,
    /// Links of each address whose agents have no tunnel yet; 0 means no limit.
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
    /// Limit of tunnels at a time of each token holder, for a relay with `max_tunnels`; 0 means no limit. The
    /// default is an eighth of `max_tunnels`; of few tunnels it is more, but never more than half.
    pub(crate) fn tunnels_of_sub(&self, max_tunnels: usize) -> u32 {
        let share = (max_tunnels / 8).max(SUB_TUNNELS_MIN.min(max_tunnels / 2));
        let share = u32::try_from(share.max(1)).unwrap_or(u32::MAX);
        self.sub_tunnels.unwrap_or(share)
    }

    /// Limit of tunnels at a time of each address, for agents without a token holder; 0 means no limit.
    pub(crate) fn tunnels_of_address(&self) -> u32 {
        self.address_tunnels.unwrap_or(ADDRESS_TUNNELS)
    }

    pub(super) fn check(&self, auth: &Auth) -> Result<(), ConfigError> {
        let is_sub_limited = self.sub != Allowance::default() || self.sub_tunnels.is_some();
        if is_sub_limited && matches!(auth, Auth::Open { .. }) {
            return conflict(
                "limits_sub does nothing here: with auth open there are no tokens; \
                 limits_address counts by address",
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
