//! Commands for the test's CA.

use std::path::PathBuf;
use std::time::Duration;

/// What the CA does on command.
#[derive(Clone)]
pub(crate) struct Script {
    /// Answers 503 to everything.
    pub(crate) is_down: bool,
    /// Requests to each path whose nonce is refused.
    pub(crate) bad_nonces: usize,
    /// Finds every name wrong.
    pub(crate) refuses: bool,
    /// Checks in an order beyond one for each name.
    pub(crate) surplus: usize,
    /// Kinds of checks.
    pub(crate) offers: Vec<&'static str>,
    /// Validity of certificates.
    pub(crate) life: Duration,
    /// Window of renewal, in seconds from now.
    pub(crate) window: Option<(i64, i64)>,
    /// Id and key that an account must be bound to.
    pub(crate) account_key: Option<(&'static str, Vec<u8>)>,
    /// File in which a hook writes its records.
    pub(crate) records: Option<PathBuf>,
    /// The CA's names in records that stay.
    pub(crate) issuers: Vec<&'static str>,
    /// Beginning of the names of accounts in records that stay, if the CA hashes them.
    pub(crate) hash_prefix: Option<&'static str>,
    /// Takes no order for so many seconds.
    pub(crate) busy_seconds: Option<u64>,
    /// Says of each certificate that another order has replaced it already.
    pub(crate) is_replaced: bool,
    /// Number of the first account that the CA knows.
    pub(crate) known_from: usize,
}

impl Script {
    /// Certificates for 24 s, which are due when a fifth of that is left, unless the CA makes them due before.
    pub(crate) fn short_lived() -> Self {
        Self {
            life: Duration::from_secs(24),
            window: Some((40, 45)),
            ..Self::default()
        }
    }

    /// Makes every certificate due after a quarter of its life.
    pub(crate) const fn make_due(&mut self) {
        self.window = Some((-10, -5));
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            is_down: false,
            bad_nonces: 0,
            refuses: false,
            surplus: 0,
            offers: vec!["tls-alpn-01", "http-01"],
            life: Duration::from_secs(3600),
            window: None,
            account_key: None,
            records: None,
            issuers: vec!["ca.example"],
            hash_prefix: None,
            busy_seconds: None,
            is_replaced: false,
            known_from: 0,
        }
    }
}
