//! Configuration: flags, environment and file become one [`Config`], checked once and immutable from then on.
//! Long because each setting stands here once, with its default and its bounds.
//!
//! A program that embeds a relay starts from [`Config::default`]; [`Config::check`] applies the same rules to
//! that configuration.

mod acme;
mod audit;
mod auth;
mod callers;
mod denylist;
mod file;
mod limits;
mod listen;
mod load;
mod memory;
mod names;
mod parse;
mod place;
mod public_url;
mod raw;
mod secret;
mod settings;
mod sources;
mod tls;
mod tokens;
mod url;
mod values;
mod warnings;
mod words;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tieline_token::KeySet;
use tieline_wire::limits::{LINK_BUDGET_BYTES, SESSIONS_MAX, STALE_TIMEOUT};

pub use self::acme::{AcmeConfig, ExternalAccount};
pub use self::audit::AuditConfig;
pub use self::callers::CallersConfig;
pub use self::denylist::{Denied, Denylist};
pub(crate) use self::file::{
    Stamp, read_authorities, read_certificates, read_jwks, read_secret_file,
};
pub use self::file::{read_denylist, read_tokens};
pub use self::limits::{Allowance, LimitsConfig};
pub use self::listen::ListenAddress;
pub use self::load::load;
pub(crate) use self::memory::QUIC_WINDOWS_PART;
pub use self::public_url::PublicUrl;
pub(crate) use self::public_url::listener_of_urls;
pub use self::raw::Layer;
pub(crate) use self::raw::{Origin, Raw};
pub use self::secret::{Secret, read_named_secret, read_secret};
pub(crate) use self::settings::every_setting;
pub use self::sources::{CONFIG_VARIABLE, environment};
pub use self::tls::{CertificateFiles, TlsConfig};
pub(crate) use self::tokens::is_token_char;
pub use self::tokens::{
    LISTED_CHARS_MAX, TOKEN_PREFIX, TokenEntry, TokenHash, TokenTable, is_listable, rfc3339,
};
pub use self::url::HttpUrl;
pub use self::values::parse_duration;
use crate::error::{ConfigError, ListenKind};

/// Largest number of shards of one relay.
pub const SHARDS_MAX: usize = 1024;

/// Largest value of [`Config::max_tunnels`].
pub const TUNNELS_MAX: usize = 1_000_000;

/// Default of [`Config::bulk_run_bytes`].
const BULK_RUN_BYTES: u64 = 256 * 1024;

/// Default of [`Config::shard_budget_bytes`] where memory is not short: room for two links at full rate over a
/// long round trip, and as much again for small windows.
const SHARD_BUDGET_BYTES: u64 = 4 * LINK_BUDGET_BYTES;

/// Bounds of [`Config::shard_budget_bytes`].
const SHARD_BUDGET_BYTES_MIN: u64 = 1024 * 1024;
const SHARD_BUDGET_BYTES_MAX: u64 = 1 << 40;

/// Longest time that a shard polls before it sleeps, in microseconds. A longer one would hardly ever let it
/// sleep.
pub const SPIN_US_MAX: u32 = 10_000;

/// Everything that is configurable about a relay. Times and counts have bounds, see [`Config::check`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses that agents connect to; at least one.
    pub agent_listen: Vec<ListenAddress>,
    /// Addresses for raw TCP callers.
    pub tcp_listen: Vec<ListenAddress>,
    /// Addresses for HTTP callers.
    pub http_listen: Vec<ListenAddress>,
    /// UDP addresses for agents and callers over QUIC.
    pub quic_listen: Vec<SocketAddr>,
    /// Addresses of the admin pages: tunnels, health, metrics.
    pub admin_listen: Vec<SocketAddr>,
    /// Certificates of the addresses with TLS.
    pub tls: TlsConfig,
    /// How the relay orders a certificate by itself; `None` if it does not.
    pub acme: Option<AcmeConfig>,
    /// The relay's own DNS name; each tunnel is also reached under a subdomain of it.
    pub domain: Option<String>,
    /// Beginning of public URLs; by default `https` if an HTTP listener has TLS, else `http`, and `domain` or the
    /// listener's address, with its port.
    pub public_url: Option<PublicUrl>,
    /// Number of shards: threads that move bytes.
    pub shards: usize,
    /// Kernel interface that shards use for I/O.
    pub driver: DriverChoice,
    /// How long a shard polls before it sleeps, in microseconds.
    pub spin_us: u32,
    /// How agents authenticate.
    pub auth: Auth,
    /// How callers authenticate.
    pub caller_auth: CallerAuth,
    /// Token ids, subjects and agent keys that are refused even with a valid token.
    pub denylist: Denylist,
    /// File of the denylist, read again when it changes.
    pub denylist_file: Option<PathBuf>,
    /// Token that operators must present on the admin port, if one is set.
    pub admin_token: Option<Secret>,
    /// Silence after which a link is evicted.
    pub stale_timeout: Duration,
    /// Time for a frontend to name its tunnel.
    pub preamble_timeout: Duration,
    /// Time for sessions to end at shutdown.
    pub drain_timeout: Duration,
    /// Limit of registered tunnels.
    pub max_tunnels: usize,
    /// Limit of sessions on one link.
    pub sessions_max: u32,
    /// Payload bytes in consecutive large pieces after which a raw TCP session is offered a bulk
    /// lane; 0 means never.
    pub bulk_run_bytes: u64,
    /// Payload bytes that the sessions of one shard may buffer per direction, beyond each session's
    /// initial window.
    pub shard_budget_bytes: u64,
    /// Memory that the whole relay may use, in bytes, if the machine or a cgroup limits it.
    pub memory_limit_bytes: Option<u64>,
    /// Settings for callers: permissions, trusted proxies, and waits.
    pub callers: CallersConfig,
    /// Settings of the audit log; `None` for no audit log.
    pub audit: Option<AuditConfig>,
    /// Rate and count limits of token holders and addresses.
    pub limits: LimitsConfig,
    /// The relay's own folder, which keeps name bindings over a restart, if it has one.
    pub state_dir: Option<PathBuf>,
    /// Whether to take over from a relay that runs with the same `state_dir`, if there is one.
    pub take_over: bool,
}

/// Kernel interface that shards use for I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// `io_uring`, or epoll if the kernel refuses `io_uring`.
    #[default]
    Auto,
    /// `io_uring`; the start fails without it.
    Uring,
    /// Epoll.
    Epoll,
}

/// How agents authenticate.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Without credentials.
    Open {
        /// Whether agents on other machines are accepted, too.
        anywhere: bool,
    },
    /// With a token listed in a file.
    Tokens(TokensAuth),
    /// With a signed token.
    Jwt(JwtAuth),
    /// With a token that a provider, another server, judges.
    Provider(ProviderAuth),
}

/// The provider that decides about agents' tokens.
#[derive(Clone, Debug)]
pub struct ProviderAuth {
    /// Base URL of the provider; `/api/verify` is appended.
    pub url: HttpUrl,
    /// Secret that the relay authenticates with at the provider.
    pub secret: Secret,
    /// Time between two questions about a live tunnel.
    pub interval: Duration,
    /// Time that a tunnel outlives `interval` while the provider does not answer.
    pub grace: Duration,
}

impl ProviderAuth {
    /// A provider with the default times.
    #[must_use]
    pub const fn new(url: HttpUrl, secret: Secret) -> Self {
        Self {
            url,
            secret,
            interval: Duration::from_secs(60),
            grace: Duration::from_secs(10 * 60),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let days = |count: u64| Duration::from_secs(count * 86_400);
        let second = Duration::from_secs(1);
        in_range("auth_provider_interval", self.interval, second, days(1))?;
        in_range("auth_provider_grace", self.grace, days(0), days(7))
    }
}

/// How callers authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallerAuth {
    /// Without credentials: every caller who knows a tunnel's name may use the tunnel.
    #[default]
    None,
    /// With a token of the same kind as agents'.
    Token,
}

/// Static tokens that are accepted.
#[derive(Clone, Debug, Default)]
pub struct TokensAuth {
    /// File that lists the tokens, read again when it changes.
    pub file: Option<PathBuf>,
    /// Tokens that the file listed at the start.
    pub table: TokenTable,
}

/// Keys and expected claims of signed tokens.
#[derive(Clone, Debug, Default)]
pub struct JwtAuth {
    /// Keys that stay valid as long as the relay runs.
    pub keys: KeySet,
    /// Source of further keys, which may change.
    pub jwks: Option<JwksSource>,
    /// The only accepted issuer, if one is set.
    pub issuer: Option<String>,
    /// Accepted audiences; empty accepts only tokens without an audience.
    pub audience: Vec<String>,
}

/// Source of a key set that may change.
#[derive(Clone, Debug)]
pub enum JwksSource {
    /// A file, read again when it changes.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Keys that the file had at the start.
        keys: KeySet,
    },
    /// A URL, fetched when the relay starts and then at intervals.
    Url(HttpUrl),
}

/// A configuration, and the output settings of the program that runs it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration of the relay.
    pub config: Config,
    /// Log filter, if one is set.
    pub log: Option<String>,
    /// Whether to print JSON on stdout.
    pub json: bool,
}

impl Default for Config {
    /// Loopback only, each port chosen by the kernel, one shard per core, no authentication.
    fn default() -> Self {
        Self::on_ports(0, 0, 0, 0)
    }
}

impl Config {
    /// What `tieline-relay` runs without any setting.
    #[must_use]
    pub fn standard() -> Self {
        Self::on_ports(9001, 9002, 9080, 9003)
    }

    fn on_ports(agent: u16, tcp: u16, http: u16, admin: u16) -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let shards = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(SHARDS_MAX);
        let memory_limit_bytes = memory::limit();
        Self {
            agent_listen: vec![loopback(agent).into()],
            tcp_listen: vec![loopback(tcp).into()],
            http_listen: vec![loopback(http).into()],
            quic_listen: Vec::new(),
            admin_listen: vec![loopback(admin)],
            tls: TlsConfig::default(),
            acme: None,
            domain: None,
            public_url: None,
            shards,
            driver: DriverChoice::Auto,
            spin_us: 0,
            auth: Auth::Open { anywhere: false },
            caller_auth: CallerAuth::None,
            denylist: Denylist::default(),
            denylist_file: None,
            admin_token: None,
            stale_timeout: STALE_TIMEOUT,
            preamble_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            max_tunnels: 65_536,
            sessions_max: SESSIONS_MAX,
            bulk_run_bytes: BULK_RUN_BYTES,
            shard_budget_bytes: memory::shard_budget(memory_limit_bytes, shards, false),
            memory_limit_bytes,
            callers: CallersConfig::default(),
            audit: None,
            limits: LimitsConfig::default(),
            state_dir: None,
            take_over: false,
        }
    }

    /// The addresses to listen on for `kind`. Those for QUIC are not marked as such with TLS, although it is part of
    /// QUIC.
    #[must_use]
    pub fn listen(&self, kind: ListenKind) -> Vec<ListenAddress> {
        let without_mark = |all: &[SocketAddr]| all.iter().map(|it| (*it).into()).collect();
        match kind {
            ListenKind::Agent => self.agent_listen.clone(),
            ListenKind::Tcp => self.tcp_listen.clone(),
            ListenKind::Http => self.http_listen.clone(),
            ListenKind::Quic => without_mark(&self.quic_listen),
            ListenKind::Admin => without_mark(&self.admin_listen),
        }
    }

    /// Checks that a relay can run with this configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        // Addresses with TLS or QUIC take agents, too, and HTTP addresses take them over WebSocket.
        let has_agents = !self.agent_listen.is_empty()
            || !self.http_listen.is_empty()
            || !self.quic_listen.is_empty();
        if !has_agents && !self.tcp_listen.iter().any(|it| it.is_tls) {
            return conflict(
                "`agent_listen` and `http_listen` are empty, and no other address has TLS: no agent could ever connect",
            );
        }
        self.check_ports()?;
        self.check_packets()?;
        self.check_tls()?;
        self.check_open()?;
        if self.caller_auth == CallerAuth::Token
            && matches!(self.auth, Auth::Open { .. } | Auth::Provider(_))
        {
            return conflict(
                "caller_auth token wants tokens that the relay can check: add --auth tokens or jwt",
            );
        }
        if self.caller_auth == CallerAuth::None && self.callers.target_authorization.is_some() {
            return conflict(
                "target_authorization_header does nothing here: without --caller-auth token the \
                 target gets Authorization itself",
            );
        }
        if let Some(domain) = &self.domain
            && let Err(problem) = names::domain(domain)
        {
            return conflict(format!("domain: {domain:?} {problem}"));
        }
        if self.public_url.is_some() && self.http_listen.is_empty() {
            return conflict("public_url does nothing here: http_listen is off");
        }
        if let Auth::Provider(provider) = &self.auth {
            provider.check()?;
        }
        if let Some(audit) = &self.audit {
            audit.check()?;
        }
        self.limits.check(&self.auth)?;
        in_range("shards", self.shards, 1, SHARDS_MAX)?;
        in_range("spin_us", self.spin_us, 0, SPIN_US_MAX)?;
        in_range("max_tunnels", self.max_tunnels, 1, TUNNELS_MAX)?;
        in_range("sessions_max", self.sessions_max, 1, SESSIONS_MAX)?;
        in_range(
            "shard_budget_bytes",
            self.shard_budget_bytes,
            SHARD_BUDGET_BYTES_MIN,
            SHARD_BUDGET_BYTES_MAX,
        )?;
        let ms = Duration::from_millis;
        in_range("stale_timeout", self.stale_timeout, ms(100), ms(86_400_000))?;
        in_range(
            "preamble_timeout",
            self.preamble_timeout,
            ms(10),
            ms(600_000),
        )?;
        in_range("drain_timeout", self.drain_timeout, ms(0), ms(3_600_000))?;
        self.callers.check()
    }

    /// Refuses addresses for agents of other machines that need no token, unless `open_anywhere` allows them.
    fn check_open(&self) -> Result<(), ConfigError> {
        let Auth::Open { anywhere: false } = self.auth else {
            return Ok(());
        };
        let is_open = |it: &ListenAddress| !it.address.ip().to_canonical().is_loopback();
        for kind in [ListenKind::Agent, ListenKind::Quic] {
            if let Some(open) = self.listen(kind).into_iter().find(is_open) {
                return conflict(format!(
                    "{kind}_listen {open} can be reached from other machines and auth is open: \
                     use --auth tokens, jwt or provider, or say --open-anywhere as well"
                ));
            }
        }
        Ok(())
    }

    /// Refuses one address for two kinds of listeners, and with TLS beside without. Shards share their ports
    /// (`SO_REUSEPORT`), so the kernel would accept it and spread connections over both. QUIC has ports of its own, those
    /// of UDP.
    fn check_ports(&self) -> Result<(), ConfigError> {
        let all = ListenKind::ALL.into_iter().flat_map(|kind| {
            let addresses = self.listen(kind).into_iter().map(|it| it.address);
            let fixed = addresses.filter(|it| it.port() != 0);
            fixed.map(move |address| (kind, address))
        });
        let all: Vec<_> = all.collect();
        for (index, (kind, address)) in all.iter().enumerate() {
            let is_udp = |kind: ListenKind| kind == ListenKind::Quic;
            let is_same =
                |it: &&(ListenKind, SocketAddr)| it.1 == *address && is_udp(it.0) == is_udp(*kind);
            if let Some((other, _)) = all[..index].iter().find(is_same) {
                return conflict(format!(
                    "{other}_listen and {kind}_listen both name {address}"
                ));
            }
        }
        Ok(())
    }

    /// Refuses a second address for QUIC of which another one takes the packets already: for UDP the kernel lets no two
    /// sockets have them. `[::]` takes those of IPv4, too.
    fn check_packets(&self) -> Result<(), ConfigError> {
        let takes = |all: &SocketAddr, one: &SocketAddr| {
            let is_wider = all.is_ipv6() || one.is_ipv4();
            all.port() == one.port() && all.port() != 0 && all.ip().is_unspecified() && is_wider
        };
        for one in &self.quic_listen {
            let mut others = self.quic_listen.iter().filter(|it| *it != one);
            if let Some(all) = others.find(|all| takes(all, one)) {
                return conflict(format!(
                    "quic_listen {all} takes the packets for {one} as well: leave {one} out"
                ));
            }
        }
        Ok(())
    }
}

fn conflict<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Conflict(text.into()))
}

fn in_range<T>(key: &str, value: T, min: T, max: T) -> Result<(), ConfigError>
where
    T: PartialOrd + fmt::Debug,
{
    if value < min || value > max {
        return conflict(format!(
            "{key} is {value:?}, and must be {min:?} to {max:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
