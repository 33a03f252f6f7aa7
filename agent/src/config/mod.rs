//! Settings of an agent: checked once at the start, then constant.

mod target;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::Register;

pub use self::target::TargetConfig;
use crate::error::{ConfigError, TokenError};
use crate::event::{AgentEvent, EventHook};
use crate::identity::{Identity, default_state_dir};
use crate::stdio::{Guard, GuardProgram, StdioSettings};
use crate::targets::WatchedTarget;
use crate::token;
use crate::transport::{Dialler, Proxies, RelayUrl};

/// Largest number of links of one agent; more links than the relay has shards gain nothing.
pub const LINKS_MAX: u16 = 64;

/// Largest number of targets of one agent: each link goes through all of them, and so does a person.
pub const TARGETS_MAX: usize = 256;

/// Default of [`Config::drain_timeout`].
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest [`Config::drain_timeout`]; a relay has the same limit.
pub const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Default of [`Config::quic_retry`]. A failed attempt is a few packets.
pub const QUIC_RETRY: Duration = Duration::from_secs(300);

/// Settings of an agent.
///
/// ```
/// use tieline_agent::{Config, TargetConfig};
///
/// let config = Config::new("tcp://relay.studio:9001", "http://127.0.0.1:8765/mcp")?
///     .with_dcc("maya")
///     .with_name("maya-seat-12")?
///     .with_event_hook(|event| println!("{event}"));
/// assert_eq!(config.links, 1);
///
/// // Several targets, each with a tunnel of its own, over the same link.
/// let config = config.with_target(TargetConfig::new("127.0.0.1:8188")?.with_dcc("comfy"));
/// assert_eq!(config.targets.len(), 2);
/// # Ok::<(), tieline_agent::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The relay to dial.
    pub relay: RelayUrl,
    /// The targets to publish, each under its own tunnel; 1 to [`TARGETS_MAX`].
    pub targets: Vec<TargetConfig>,
    /// File with the token to register with; read again at every attempt, and before the permission that the token
    /// gave ends.
    pub token_file: Option<PathBuf>,
    /// File with certificates (PEM) to trust for a relay with TLS, besides the system's; read once, at the start.
    pub ca: Option<PathBuf>,
    /// File with the agent's own certificate (PEM), for a `tls` relay that asks for one; read once, at the start.
    pub client_cert: Option<PathBuf>,
    /// File with the private key (PEM) of `client_cert`.
    pub client_key: Option<PathBuf>,
    /// The proxy that leads to the relay; by default that of the environment, else the system's.
    pub proxies: Proxies,
    /// Kind of application given for all targets; `diag` uses it if no target is given.
    pub dcc: String,
    /// Number of links to the relay, spread over the relay's shards; each link serves all tunnels.
    pub links: u16,
    /// Directory of the key and the status socket; by default the platform's directory for state.
    pub state_dir: Option<PathBuf>,
    /// Replaces the system's machine id, for containers and cloned hosts.
    pub machine: Option<String>,
    /// Time that calls in flight get to finish after the agent was asked to stop.
    pub drain_timeout: Duration,
    /// Shortest time between two attempts to get a link over QUIC at an `https` relay while a link is over a WebSocket;
    /// the longest is twice as long.
    pub quic_retry: Duration,
    /// True if `tieline status` can find this agent.
    pub status_socket: bool,
    stdio: StdioSettings,
    pub(crate) on_event: EventHook,
}

impl Config {
    /// Settings for `relay` and `target`, both written as on the command line; all other settings are default.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with `relay` or `target`.
    pub fn new(relay: &str, target: &str) -> Result<Self, ConfigError> {
        Self::of(relay, vec![TargetConfig::new(target)?])
    }

    /// Settings for `relay` and all of `targets`.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with the relay; the targets are checked when the agent starts.
    pub fn of(relay: &str, targets: Vec<TargetConfig>) -> Result<Self, ConfigError> {
        Ok(Self {
            relay: RelayUrl::parse(relay)?,
            targets,
            token_file: None,
            ca: None,
            client_cert: None,
            client_key: None,
            proxies: Proxies::System,
            dcc: String::new(),
            links: 1,
            state_dir: None,
            machine: None,
            drain_timeout: DRAIN_TIMEOUT,
            quic_retry: QUIC_RETRY,
            status_socket: true,
            stdio: StdioSettings::default(),
            on_event: EventHook::default(),
        })
    }

    /// Publishes one more target, with a tunnel of its own.
    #[must_use]
    pub fn with_target(mut self, target: TargetConfig) -> Self {
        self.targets.push(target);
        self
    }

    /// Asks for the tunnel name `name` for the target added last.
    ///
    /// # Errors
    /// [`ConfigError::Name`] if `name` is not a valid tunnel name.
    pub fn with_name(mut self, name: &str) -> Result<Self, ConfigError> {
        if let Some(target) = self.targets.pop() {
            self.targets.push(target.with_name(name)?);
        }
        Ok(self)
    }

    /// Sets the label of the target added last; a derived tunnel name is made from the label.
    #[must_use]
    pub fn with_label(self, label: impl Into<String>) -> Self {
        self.change_last(|target| target.with_label(label))
    }

    /// Sets the kind of application behind the target added last.
    #[must_use]
    pub fn with_dcc(self, dcc: impl Into<String>) -> Self {
        self.change_last(|target| target.with_dcc(dcc))
    }

    /// Adds a capability of the target added last.
    #[must_use]
    pub fn with_capability(self, capability: impl Into<String>) -> Self {
        self.change_last(|target| target.with_capability(capability))
    }

    fn change_last(mut self, change: impl FnOnce(TargetConfig) -> TargetConfig) -> Self {
        if let Some(target) = self.targets.pop() {
            self.targets.push(change(target));
        }
        self
    }

    /// Sets the file that the token is read from.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Trusts the certificates in this file for a relay with TLS, besides the system's.
    #[must_use]
    pub fn with_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Shows a relay with TLS the certificate in the file `cert`, with the key in the file `key`.
    #[must_use]
    pub fn with_client_certificate(
        mut self,
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.client_cert = Some(cert.into());
        self.client_key = Some(key.into());
        self
    }

    /// Sets the proxy that leads to the relay.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Sets the number of links.
    #[must_use]
    pub const fn with_links(mut self, links: u16) -> Self {
        self.links = links;
        self
    }

    /// Sets the directory of the key and the status socket.
    #[must_use]
    pub fn with_state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Replaces the system's machine id.
    #[must_use]
    pub fn with_machine(mut self, machine: impl Into<String>) -> Self {
        self.machine = Some(machine.into());
        self
    }

    /// Sets the time that calls in flight get to finish after the agent was asked to stop.
    #[must_use]
    pub const fn with_drain_timeout(mut self, drain_timeout: Duration) -> Self {
        self.drain_timeout = drain_timeout;
        self
    }

    /// Sets the program that ends the processes of `stdio:` targets if the agent is killed; it must call
    /// [`run_guard`](crate::run_guard) when it is started with these arguments.
    ///
    /// Without it, the processes of a killed agent end when they find their standard input closed. Windows needs none.
    #[must_use]
    pub fn with_guard(
        mut self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        self.stdio.guard = Some(GuardProgram {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// Calls `hook` with every event; `hook` must not block.
    #[must_use]
    pub fn with_event_hook(mut self, hook: impl Fn(&AgentEvent) + Send + Sync + 'static) -> Self {
        self.on_event = EventHook::new(hook);
        self
    }

    /// Checks all settings, so that a wrong one is a usage error at the start.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_but_token()?;
        if let Some(path) = &self.token_file {
            token::read(path)?;
        }
        Ok(())
    }

    /// Checks all settings but the token file.
    pub fn check_but_token(&self) -> Result<(), ConfigError> {
        if !(1..=LINKS_MAX).contains(&self.links) {
            return Err(ConfigError::Links {
                max: LINKS_MAX,
                given: self.links,
            });
        }
        if !(1..=TARGETS_MAX).contains(&self.targets.len()) {
            return Err(ConfigError::Targets {
                max: TARGETS_MAX,
                given: self.targets.len(),
            });
        }
        if self.drain_timeout > DRAIN_TIMEOUT_MAX {
            return Err(ConfigError::DrainTimeout {
                max_s: DRAIN_TIMEOUT_MAX.as_secs(),
            });
        }
        if self.ca.is_some() || self.client_cert.is_some() || self.client_key.is_some() {
            self.dialler()?;
        }
        self.proxies.way(self.relay.address())?;
        let mut ways = HashSet::new();
        for target in &self.targets {
            target.check()?;
            let what = match &target.name {
                Some(name) => format!("the name {name}"),
                None => format!("the label {}", target.label()),
            };
            if let Some(what) = ways.replace(what) {
                return Err(ConfigError::Twice { what });
            }
        }
        Ok(())
    }

    /// The dialler for the relay; reads the certificates to trust, and the agent's own.
    ///
    /// # Errors
    /// [`ConfigError`] if the certificates cannot be read or are given for a relay without TLS, or the proxy is of a
    /// kind that is not supported.
    pub fn dialler(&self) -> Result<Dialler, ConfigError> {
        let alone = |given, missing| Err(ConfigError::ClientCertAlone { given, missing });
        let dialler = || Dialler::new(self.relay.clone(), self.ca.as_deref(), &self.proxies);
        match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => dialler()?.with_client_certificate(cert, key),
            (None, None) => dialler(),
            (Some(_), None) => alone("--client-cert", "--client-key"),
            (None, Some(_)) => alone("--client-key", "--client-cert"),
        }
    }

    /// The state directory to use.
    pub fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        self.state_dir.clone().map_or_else(default_state_dir, Ok)
    }

    /// Refuses two targets with the same tunnel: the name asked for one target may equal the derived name of another.
    pub(crate) fn check_tunnels(&self, identity: &Identity) -> Result<(), ConfigError> {
        let mut tunnels = HashSet::new();
        for target in &self.targets {
            if let Some(tunnel) = tunnels.replace(target.tunnel(identity)) {
                let what = format!("the name {tunnel}");
                return Err(ConfigError::Twice { what });
            }
        }
        Ok(())
    }

    /// The targets that sessions connect to, in the order of the settings. No program is started yet.
    pub(crate) fn watched(&self) -> Result<Arc<[WatchedTarget]>, ConfigError> {
        let guard = self.stdio.guard.clone().map(Guard::new);
        let targets = self.targets.iter();
        let targets = targets.map(|target| target.watched(guard.as_ref(), &self.on_event));
        targets.collect()
    }

    /// Registrations of all targets, with the token that the token file holds now.
    pub(crate) fn registrations(&self) -> Result<Vec<Register>, TokenError> {
        let token = self.token_file.as_deref().map(token::read_again);
        let token = token.transpose()?;
        let token = token.unwrap_or_default();
        let targets = self.targets.iter();
        Ok(targets.map(|target| target.registration(&token)).collect())
    }
}

#[cfg(test)]
mod tests {
    use tieline_wire::limits::STRING_BYTES_MAX;

    use super::*;
    use crate::targets::{StdioOptions, Target};

    fn config() -> Config {
        Config::new("tcp://127.0.0.1:9001", "http://127.0.0.1:8765/mcp").unwrap()
    }

    #[test]
    fn settings_beyond_the_protocols_bounds_are_named() {
        let wrong = [
            config().with_links(0),
            config().with_links(LINKS_MAX + 1),
            config().with_dcc("x".repeat(STRING_BYTES_MAX + 1)),
            config().with_label("x".repeat(STRING_BYTES_MAX + 1)),
            config().with_capability("x".repeat(STRING_BYTES_MAX + 1)),
        ];
        for config in wrong {
            assert!(config.check().is_err(), "{config:?}");
        }
        assert!(config().check().is_ok());
        let error = config().with_name("no spaces").unwrap_err();
        assert!(error.to_string().contains("no spaces"), "{error}");
    }

    #[test]
    fn a_registration_carries_the_settings() {
        let register = config()
            .with_dcc("maya")
            .with_capability("mcp")
            .registrations()
            .unwrap()
            .remove(0);
        assert_eq!(register.label, "maya-8765/mcp");
        assert_eq!(register.base_path, "/mcp");
        assert_eq!(register.authority, "127.0.0.1:8765");
        assert_eq!(register.capabilities, ["mcp"]);
        assert_eq!(register.name, None);
        let labelled = config().with_label("seat").registrations().unwrap();
        assert_eq!(labelled[0].label, "seat");
    }

    #[test]
    fn certificates_to_trust_are_read_at_the_check_and_need_tls() {
        let own =
            |config: Config| config.with_client_certificate("/nowhere/a.pem", "/nowhere/a.key");
        let error = own(config()).check().unwrap_err();
        assert!(
            error.to_string().contains("this relay's URL is tcp://"),
            "{error}"
        );
        let error = config().with_ca("/nowhere/ca.pem").check().unwrap_err();
        assert!(error.to_string().contains("this relay's URL is tcp://"));
        let config = Config::new("tls://127.0.0.1", "127.0.0.1:1").unwrap();
        let error = config.with_ca("/nowhere/ca.pem").check().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("the file of --ca, /nowhere/ca.pem: "),
            "{text}"
        );
        assert_eq!(error.exit_code(), 2);
    }

    fn target(text: &str) -> TargetConfig {
        TargetConfig::new(text).unwrap()
    }

    #[test]
    fn each_target_registers_with_its_own_settings() {
        let comfy = target("http://127.0.0.1:8188").with_dcc("comfy");
        let config = config().with_target(comfy.exposing_all());
        let config = config.with_name("Comfy").unwrap().with_capability("images");
        let registers = config.registrations().unwrap();
        assert_eq!((&*registers[0].label, &*registers[0].dcc), ("8765/mcp", ""));
        assert_eq!(
            (registers[0].name.as_deref(), registers[0].expose_all),
            (None, false)
        );
        assert_eq!(registers[1].name.as_deref(), Some("comfy"));
        assert_eq!(
            (&*registers[1].dcc, registers[1].expose_all),
            ("comfy", true)
        );
        assert_eq!(registers[1].capabilities, ["images"]);
        assert!(config.check().is_ok());
    }

    #[test]
    fn targets_that_would_share_a_tunnel_are_refused() {
        let twice = config().with_target(target("http://localhost:8765/mcp"));
        let error = twice.check().unwrap_err().to_string();
        assert!(error.contains("the label 8765/mcp"), "{error}");
        assert!(twice.with_dcc("maya").check().is_ok());
        let named = |name| target("127.0.0.1:1").with_name(name).unwrap();
        let twice = config()
            .with_name("maya")
            .unwrap()
            .with_target(named("Maya"));
        let error = twice.check().unwrap_err().to_string();
        assert!(error.contains("the name maya"), "{error}");

        let state = tempfile::tempdir().unwrap();
        let identity = Identity::load(state.path(), Some("test")).unwrap();
        let derived = config().targets[0].tunnel(&identity).to_string();
        let twice = config().with_target(named(&derived));
        assert!(twice.check().is_ok());
        assert!(twice.check_tunnels(&identity).is_err());
    }

    #[test]
    fn a_program_has_one_path_and_settings_of_its_own() {
        let with = |target: TargetConfig| config().with_target(target).check();
        let program = || target("stdio:server --now");
        assert!(with(program()).is_ok());
        let error = with(program().exposing_all()).unwrap_err().to_string();
        assert!(error.contains("leave out --expose-all"), "{error}");
        let options = || StdioOptions::default().with_environment("KEY=hunter2");
        let options = || options().unwrap();
        assert!(with(program().with_stdio(options())).is_ok());
        let error = with(target("127.0.0.1:1").with_stdio(options())).unwrap_err();
        assert!(matches!(error, ConfigError::NotProgram { .. }), "{error}");
        let none = options().with_children_max(0);
        assert!(with(program().with_stdio(none)).is_err());
        let mut flood = options();
        for number in 0..300 {
            flood = flood.with_variable(&format!("V{number}"), "x").unwrap();
        }
        let error = with(program().with_stdio(flood)).unwrap_err().to_string();
        assert!(error.contains("more than 256"), "{error}");
        let registers = config().with_target(program()).registrations().unwrap();
        assert_eq!(registers[1].base_path, "/mcp");
        assert_eq!(registers[1].authority, "localhost");
        assert_eq!(registers[1].check(), Ok(()));
        let shown = format!("{:?}", program().with_stdio(options()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_program_is_looked_for_and_not_started() {
        assert_eq!(target("127.0.0.1:1").program(), None);
        let absent = target("stdio:/nonexistent/server").program().unwrap();
        assert!(absent.is_err());
        let own = std::env::current_exe().unwrap();
        let words = [own.display().to_string(), "--help".to_owned()];
        let own_target = TargetConfig::of(Target::of_command(&words).unwrap());
        assert_eq!(own_target.program(), Some(Ok(own)));
    }

    #[test]
    fn there_is_a_target_and_no_flood_of_them() {
        let of = |count: usize| {
            let targets = (1..=count).map(|port| target(&format!("127.0.0.1:{port}")));
            Config::of("tcp://127.0.0.1:9001", targets.collect()).unwrap()
        };
        assert!(of(0).check().is_err());
        assert!(of(TARGETS_MAX).check().is_ok());
        assert!(of(TARGETS_MAX + 1).check().is_err());
        let bytes = target("127.0.0.1:1").exposing_all();
        assert!(config().with_target(bytes).check().is_err());
    }
}
