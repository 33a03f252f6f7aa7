//! Flags, environment and file become one [`Config`], checked once and then frozen.
//! Long because every setting stands here once, with its default and its bounds.
//!
//! A program that embeds a relay starts from [`Config::default`] instead, and
//! [`Config::check`] holds it to the same rules.

mod audit;
mod auth;
mod denylist;
mod file;
mod http;
mod limits;
mod load;
mod memory;
mod names;
mod place;
mod ports;
mod public_url;
mod secret;
mod tokens;
mod url;
mod warnings;
mod words;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tieline_wire::claims::KeySet;
use tieline_wire::limits::{LINK_BUDGET_BYTES, SESSIONS_MAX, STALE_TIMEOUT};

pub use self::audit::AuditConfig;
pub use self::denylist::{Denied, Denylist};
pub(crate) use self::file::{Stamp, read_jwks};
pub use self::file::{read_denylist, read_tokens};
pub use self::http::HttpConfig;
pub use self::limits::{Allowance, LimitsConfig};
pub use self::load::{load, parse_duration};
pub use self::public_url::PublicUrl;
pub(crate) use self::public_url::PublicUrls;
pub use self::secret::{Secret, read_named_secret, read_secret};
pub(crate) use self::tokens::is_token_char;
pub use self::tokens::{
    LISTED_CHARS_MAX, TOKEN_PREFIX, TokenEntry, TokenHash, TokenTable, is_listable, rfc3339,
};
pub use self::url::HttpUrl;
use crate::error::{ConfigError, ListenKind};

/// Most shards of one relay.
pub const SHARDS_MAX: usize = 1024;

/// Most tunnels that a relay can be told to hold.
pub const TUNNELS_MAX: usize = 1_000_000;

/// Default of [`Config::bulk_run_bytes`].
const BULK_RUN_BYTES: u64 = 256 * 1024;

/// Default of [`Config::shard_budget_bytes`] where there is memory enough: two links at full rate over a
/// long way, and as much for small windows.
const SHARD_BUDGET_BYTES: u64 = 4 * LINK_BUDGET_BYTES;

/// Bounds of [`Config::shard_budget_bytes`].
const SHARD_BUDGET_BYTES_MIN: u64 = 1024 * 1024;
const SHARD_BUDGET_BYTES_MAX: u64 = 1 << 40;

/// Longest time that a shard polls before it sleeps, in microseconds: longer, and it would hardly
/// ever sleep.
pub const SPIN_US_MAX: u32 = 10_000;

/// All that a relay is told. Times and counts have bounds, see [`Config::check`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where agents dial in; at least one.
    pub agent_listen: Vec<SocketAddr>,
    /// Where raw TCP frontends connect.
    pub tcp_listen: Vec<SocketAddr>,
    /// Where HTTP frontends connect.
    pub http_listen: Vec<SocketAddr>,
    /// Where tunnels, health and metrics are shown.
    pub admin_listen: Vec<SocketAddr>,
    /// The relay's own host name; each tunnel has a name in front of it.
    pub domain: Option<String>,
    /// How public URLs begin; without it, with `domain` or the HTTP listener's address, and its port.
    pub public_url: Option<PublicUrl>,
    /// Threads that move bytes.
    pub shards: usize,
    /// How shards talk to the kernel.
    pub driver: DriverChoice,
    /// How long a shard polls before it sleeps, in microseconds.
    pub spin_us: u32,
    /// How agents prove themselves.
    pub auth: Auth,
    /// How callers prove themselves.
    pub caller_auth: CallerAuth,
    /// Who is turned away although a token is good.
    pub denylist: Denylist,
    /// Where that stands, read again when it changes.
    pub denylist_file: Option<PathBuf>,
    /// What operators must present on the admin port, if they must.
    pub admin_token: Option<Secret>,
    /// A link that is silent for this long is evicted.
    pub stale_timeout: Duration,
    /// A frontend must have named its tunnel by then.
    pub preamble_timeout: Duration,
    /// How long sessions may take to end at shutdown.
    pub drain_timeout: Duration,
    /// Tunnels that may be registered.
    pub max_tunnels: usize,
    /// Sessions that one link may carry at a time.
    pub sessions_max: u32,
    /// Payload bytes in a row of large pieces after which a raw TCP session is offered a
    /// connection of its own; 0 is never.
    pub bulk_run_bytes: u64,
    /// Bytes that the sessions of one shard may hold in each direction, above what each starts
    /// with.
    pub shard_budget_bytes: u64,
    /// Bytes of memory that the whole relay may use, where the machine or a cgroup says so.
    pub memory_limit_bytes: Option<u64>,
    /// What callers over HTTP may do, and how long they wait.
    pub http: HttpConfig,
    /// Where it notes who did what, if it does.
    pub audit: Option<AuditConfig>,
    /// How much somebody may use.
    pub limits: LimitsConfig,
    /// The folder of this relay's own where bindings of names outlast a restart, if it has one.
    pub state_dir: Option<PathBuf>,
    /// Whether to take the place of a relay that runs with the same `state_dir`, if one does.
    pub take_over: bool,
}

/// How shards talk to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// `io_uring`, or epoll where the kernel refuses it.
    #[default]
    Auto,
    /// `io_uring` or no start.
    Uring,
    /// Epoll.
    Epoll,
}

/// How agents prove themselves.
#[derive(Clone, Debug)]
pub enum Auth {
    /// They need not.
    Open {
        /// Whether agents on other machines are accepted too.
        anywhere: bool,
    },
    /// By a token out of a file.
    Tokens(TokensAuth),
    /// By a signed token.
    Jwt(JwtAuth),
    /// By whatever another server says of their token.
    Provider(ProviderAuth),
}

/// Whom the relay asks about agents.
#[derive(Clone, Debug)]
pub struct ProviderAuth {
    /// Where it is; `/api/verify` is added.
    pub url: HttpUrl,
    /// What the relay proves itself with.
    pub secret: Secret,
    /// How often it is asked again about a tunnel that lives.
    pub interval: Duration,
    /// How long a tunnel lives on if it gives no answer.
    pub grace: Duration,
}

impl ProviderAuth {
    /// With the standard times.
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

/// How callers prove themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallerAuth {
    /// They need not: every caller who knows a tunnel's name may use it.
    #[default]
    None,
    /// By a token of the kind that agents have.
    Token,
}

/// The tokens that are accepted.
#[derive(Clone, Debug, Default)]
pub struct TokensAuth {
    /// The file that they stand in, read again when it changes.
    pub file: Option<PathBuf>,
    /// What it said at the start.
    pub table: TokenTable,
}

/// What a token is checked against.
#[derive(Clone, Debug, Default)]
pub struct JwtAuth {
    /// The keys that may have signed it, for as long as the relay runs.
    pub keys: KeySet,
    /// Where more keys come from.
    pub jwks: Option<JwksSource>,
    /// The only issuer that is accepted, if one is named.
    pub issuer: Option<String>,
    /// What the relay is called as an audience, if tokens name theirs.
    pub audience: Vec<String>,
}

/// A set of keys that may change.
#[derive(Clone, Debug)]
pub enum JwksSource {
    /// A file, read again when it changes.
    File {
        /// Where it is.
        path: PathBuf,
        /// What it said at the start.
        keys: KeySet,
    },
    /// Behind a URL, fetched once the relay runs and then every now and again.
    Url(HttpUrl),
}

/// A configuration, and how the program that runs it talks.
#[derive(Clone, Debug)]
pub struct Options {
    /// For the relay.
    pub config: Config,
    /// What to log, if said.
    pub log: Option<String>,
    /// Whether to print JSON.
    pub json: bool,
}

impl Default for Config {
    /// Loopback only, each port chosen by the kernel, one shard per core, no authentication.
    fn default() -> Self {
        Self::on_ports(0, 0, 0, 0)
    }
}

impl Config {
    /// What `tieline-relay` runs when it is told nothing.
    #[must_use]
    pub fn standard() -> Self {
        Self::on_ports(9001, 9002, 9080, 9003)
    }

    fn on_ports(agent: u16, tcp: u16, http: u16, admin: u16) -> Self {
        let loopback = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        let shards = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(SHARDS_MAX);
        let memory_limit_bytes = memory::limit();
        Self {
            agent_listen: loopback(agent),
            tcp_listen: loopback(tcp),
            http_listen: loopback(http),
            admin_listen: loopback(admin),
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
            shard_budget_bytes: memory::shard_budget(memory_limit_bytes, shards),
            memory_limit_bytes,
            http: HttpConfig::default(),
            audit: None,
            limits: LimitsConfig::default(),
            state_dir: None,
            take_over: false,
        }
    }

    /// The addresses to listen on for `kind`.
    #[must_use]
    pub fn listen(&self, kind: ListenKind) -> &[SocketAddr] {
        match kind {
            ListenKind::Agent => &self.agent_listen,
            ListenKind::Tcp => &self.tcp_listen,
            ListenKind::Http => &self.http_listen,
            ListenKind::Admin => &self.admin_listen,
        }
    }

    /// Whether a relay can run on it.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.agent_listen.is_empty() {
            return conflict("`agent_listen` is empty: no agent could ever connect");
        }
        self.check_ports()?;
        if let Auth::Open { anywhere: false } = self.auth
            && let Some(open) = self
                .agent_listen
                .iter()
                .find(|a| !a.ip().to_canonical().is_loopback())
        {
            return conflict(format!(
                "agent_listen {open} can be reached from other machines and auth is open: \
                 use --auth tokens, jwt or provider, or say --open-anywhere as well"
            ));
        }
        if self.caller_auth == CallerAuth::Token
            && matches!(self.auth, Auth::Open { .. } | Auth::Provider(_))
        {
            return conflict(
                "caller_auth token wants tokens that the relay can check: add --auth tokens or jwt",
            );
        }
        if self.caller_auth == CallerAuth::None && self.http.target_authorization.is_some() {
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
        self.http.check()
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
