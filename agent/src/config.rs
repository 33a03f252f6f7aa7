//! An agent's settings: checked once, then frozen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tieline_wire::limits::{CAPABILITIES_MAX, CAPABILITY_BYTES_MAX, STRING_BYTES_MAX};
use tieline_wire::{Register, Token, TunnelId};

use crate::dial::RelayUrl;
use crate::error::{ConfigError, TokenError};
use crate::event::{AgentEvent, EventHook};
use crate::identity::default_state_dir;
use crate::target::Target;
use crate::token;

/// Most links of one agent; more than a relay has shards gain nothing.
pub const LINKS_MAX: u16 = 64;

/// How long running sessions may go on after the agent was asked to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What an agent needs to know.
///
/// ```
/// use tieline_agent::Config;
///
/// let config = Config::new("tcp://relay.studio:9001", "http://127.0.0.1:8765/mcp")?
///     .with_dcc("maya")
///     .with_name("maya-seat-12")?
///     .with_event_hook(|event| println!("{event}"));
/// assert_eq!(config.links, 1);
/// # Ok::<(), tieline_agent::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where to dial.
    pub relay: RelayUrl,
    /// Where sessions are taken to.
    pub target: Target,
    /// The tunnel's name; without one the relay derives it from key, machine and label.
    pub name: Option<TunnelId>,
    /// What tells this target apart from others on the host; by default made from the target.
    pub label: Option<String>,
    /// The kind of application behind the target, such as `maya`; may be empty.
    pub dcc: String,
    /// Words that the relay lists beside the tunnel.
    pub capabilities: Vec<String>,
    /// A file that holds the token to register with; read again at every attempt.
    pub token_file: Option<PathBuf>,
    /// Links to the relay, all serving the one tunnel; they go round the relay's shards.
    pub links: u16,
    /// Where key and status socket are kept; by default the platform's place for state.
    pub state_dir: Option<PathBuf>,
    /// Replaces the system's machine id, for containers and cloned hosts.
    pub machine: Option<String>,
    /// How long running sessions may go on after the agent was asked to stop.
    pub drain_timeout: Duration,
    /// Whether `tieline status` finds this agent.
    pub status_socket: bool,
    pub(crate) on_event: EventHook,
}

impl Config {
    /// Settings for `relay` and `target`, written as on the command line; the rest is default.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with either.
    pub fn new(relay: &str, target: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            relay: RelayUrl::parse(relay)?,
            target: Target::parse(target)?,
            name: None,
            label: None,
            dcc: String::new(),
            capabilities: Vec::new(),
            token_file: None,
            links: 1,
            state_dir: None,
            machine: None,
            drain_timeout: DRAIN_TIMEOUT,
            status_socket: true,
            on_event: EventHook::default(),
        })
    }

    /// Asks for this tunnel name.
    ///
    /// # Errors
    /// [`ConfigError::Name`] if it is no tunnel name.
    pub fn with_name(mut self, name: &str) -> Result<Self, ConfigError> {
        let parsed = TunnelId::parse(name).map_err(|source| ConfigError::Name {
            text: name.to_owned(),
            source,
        })?;
        self.name = Some(parsed);
        Ok(self)
    }

    /// Sets the label that a derived name is made from.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the kind of application.
    #[must_use]
    pub fn with_dcc(mut self, dcc: impl Into<String>) -> Self {
        self.dcc = dcc.into();
        self
    }

    /// Adds a capability.
    #[must_use]
    pub fn with_capability(mut self, capability: impl Into<String>) -> Self {
        self.capabilities.push(capability.into());
        self
    }

    /// Sets the file that the token is read from.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the number of links.
    #[must_use]
    pub const fn with_links(mut self, links: u16) -> Self {
        self.links = links;
        self
    }

    /// Sets where key and status socket are kept.
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

    /// Tells every event to `hook`, which must not block.
    #[must_use]
    pub fn with_event_hook(mut self, hook: impl Fn(&AgentEvent) + Send + Sync + 'static) -> Self {
        self.on_event = EventHook::new(hook);
        self
    }

    /// Finds what would fail later, so that a wrong setting is a usage error at the start.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=LINKS_MAX).contains(&self.links) {
            return Err(ConfigError::Links {
                max: LINKS_MAX,
                given: self.links,
            });
        }
        if self.capabilities.len() > CAPABILITIES_MAX {
            let limit = CAPABILITIES_MAX;
            return Err(ConfigError::TooLong {
                field: "capabilities",
                limit,
                unit: "entries",
            });
        }
        let label = self.label();
        let texts = [("dcc", &self.dcc), ("label", &label)];
        let texts = texts.map(|(field, text)| (field, text, STRING_BYTES_MAX));
        let words = self
            .capabilities
            .iter()
            .map(|word| ("capability", word, CAPABILITY_BYTES_MAX));
        for (field, text, limit) in texts.into_iter().chain(words) {
            if text.len() > limit {
                return Err(ConfigError::TooLong {
                    field,
                    limit,
                    unit: "bytes",
                });
            }
        }
        if let Some(path) = &self.token_file {
            token::read(path)?;
        }
        Ok(())
    }

    /// The state directory to use.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        self.state_dir
            .as_deref()
            .map_or_else(default_state_dir, |dir| Ok(Path::to_owned(dir)))
    }

    /// The registration of this agent's tunnel, with the token as its file has it now.
    pub(crate) fn registration(&self) -> Result<Register, TokenError> {
        let token = match &self.token_file {
            Some(path) => token::read(path)?,
            None => String::new(),
        };
        Ok(Register {
            request: 1,
            name: self.name.as_ref().map(|name| name.as_str().to_owned()),
            label: self.label(),
            scheme: self.target.scheme(),
            authority: self.target.authority(),
            base_path: self.target.base_path().to_owned(),
            dcc: self.dcc.clone(),
            capabilities: self.capabilities.clone(),
            token: Token::new(token),
            expose_all: false,
        })
    }

    fn label(&self) -> String {
        self.label
            .clone()
            .unwrap_or_else(|| self.target.label(&self.dcc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            .registration()
            .unwrap();
        assert_eq!(register.label, "maya-8765/mcp");
        assert_eq!(register.base_path, "/mcp");
        assert_eq!(register.authority, "127.0.0.1:8765");
        assert_eq!(register.capabilities, ["mcp"]);
        assert_eq!(register.name, None);
        assert_eq!(
            config().with_label("seat").registration().unwrap().label,
            "seat"
        );
    }
}
