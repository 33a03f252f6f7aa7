//! Settings of one target, and its registration with the relay.

use std::path::PathBuf;
use std::sync::Arc;

use tieline_wire::limits::{CAPABILITIES_MAX, CAPABILITY_BYTES_MAX, STRING_BYTES_MAX};
use tieline_wire::{Register, Token, TunnelId};

use crate::error::ConfigError;
use crate::event::EventHook;
use crate::identity::Identity;
use crate::stdio::Guard;
use crate::targets::{ProgramError, StdioOptions, Target, WatchedTarget, find_program};

/// Settings of one target: the local server and how to publish it.
///
/// ```
/// use tieline_agent::TargetConfig;
///
/// let maya = TargetConfig::new("http://127.0.0.1:8765/mcp")?
///     .with_name("maya-seat-12")?
///     .with_dcc("maya");
/// assert_eq!(maya.target.to_string(), "http://127.0.0.1:8765/mcp");
/// # Ok::<(), tieline_agent::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetConfig {
    /// The server that sessions connect to.
    pub target: Target,
    /// The tunnel's name; without one the relay derives it from key, machine and label.
    pub name: Option<TunnelId>,
    /// Text that tells this target apart from the others on the host; by default made from the target.
    pub label: Option<String>,
    /// The kind of application behind the target, such as `maya`; may be empty.
    pub dcc: String,
    /// Words that the relay lists beside the tunnel.
    pub capabilities: Vec<String>,
    /// True if callers may use every path of an HTTP target, not only those under the target's own path.
    pub expose_all: bool,
    /// How the program of a `stdio:` target is run.
    pub stdio: StdioOptions,
}

impl TargetConfig {
    /// Settings for a target written as on the command line; all other settings are default.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with `target`.
    pub fn new(target: &str) -> Result<Self, ConfigError> {
        Ok(Self::of(Target::parse(target)?))
    }

    /// Settings for a target; all other settings are default.
    #[must_use]
    pub fn of(target: Target) -> Self {
        Self {
            target,
            name: None,
            label: None,
            dcc: String::new(),
            capabilities: Vec::new(),
            expose_all: false,
            stdio: StdioOptions::default(),
        }
    }

    /// Asks for the tunnel name `name`.
    ///
    /// # Errors
    /// [`ConfigError::Name`] if `name` is not a valid tunnel name.
    pub fn with_name(mut self, name: &str) -> Result<Self, ConfigError> {
        let parsed = TunnelId::parse(name).map_err(|source| ConfigError::Name {
            text: name.to_owned(),
            source,
        })?;
        self.name = Some(parsed);
        Ok(self)
    }

    /// Sets the label that a derived tunnel name is made from.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the kind of application behind the target.
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

    /// Lets callers use every path of an HTTP target.
    #[must_use]
    pub const fn exposing_all(mut self) -> Self {
        self.expose_all = true;
        self
    }

    /// Sets how the program of a `stdio:` target is run.
    #[must_use]
    pub fn with_stdio(mut self, options: StdioOptions) -> Self {
        self.stdio = options;
        self
    }

    /// Finds the file of a `stdio:` target's program, without starting it; `None` for a target at an address.
    #[must_use]
    pub fn program(&self) -> Option<Result<PathBuf, ProgramError>> {
        let command = self.stdio.applied(self.target.command()?).ok()?;
        Some(find_program(&command))
    }

    /// Finds what a relay would refuse, and settings of a program that no program can have.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.expose_all && !self.target.has_paths() {
            let target = self.target.to_string();
            return Err(match self.target.is_stdio() {
                true => ConfigError::OnePath { target },
                false => ConfigError::NoPaths { target },
            });
        }
        self.check_program()?;
        let capabilities = &self.capabilities;
        let lengths = [
            (
                "capabilities",
                capabilities.len(),
                CAPABILITIES_MAX,
                "entries",
            ),
            ("dcc", self.dcc.len(), STRING_BYTES_MAX, "bytes"),
            ("label", self.label().len(), STRING_BYTES_MAX, "bytes"),
        ];
        let of_word = |word: &String| ("capability", word.len(), CAPABILITY_BYTES_MAX, "bytes");
        let mut lengths = lengths.into_iter().chain(capabilities.iter().map(of_word));
        if let Some((field, _, limit, unit)) = lengths.find(|(_, len, limit, _)| len > limit) {
            return Err(ConfigError::TooLong { field, limit, unit });
        }
        Ok(self.registration("").check()?)
    }

    fn check_program(&self) -> Result<(), ConfigError> {
        let Some(command) = self.target.command() else {
            return match self.stdio == StdioOptions::default() {
                true => Ok(()),
                false => Err(ConfigError::NotProgram {
                    target: self.target.to_string(),
                }),
            };
        };
        self.stdio.check()?;
        self.stdio.applied(command).map(drop)
    }

    /// The target that sessions connect to; `guard` ends the processes of a program if the agent is killed, and `hook`
    /// is told of the target.
    pub(super) fn watched(
        &self,
        guard: Option<&Arc<Guard>>,
        hook: &EventHook,
    ) -> Result<WatchedTarget, ConfigError> {
        WatchedTarget::of(&self.target, &self.stdio, guard, hook)
    }

    /// Name of the tunnel that the relay grants for this target, if it grants one.
    pub(crate) fn tunnel(&self, identity: &Identity) -> TunnelId {
        self.name.clone().unwrap_or_else(|| {
            TunnelId::derive(&identity.key(), &identity.machine(), &self.label())
        })
    }

    /// Registration for this target; the link sets the request number.
    pub(super) fn registration(&self, token: &str) -> Register {
        Register {
            request: 0,
            name: self.name.as_ref().map(|name| name.as_str().to_owned()),
            label: self.label(),
            scheme: self.target.scheme(),
            authority: self.target.authority(),
            base_path: self.target.base_path().to_owned(),
            dcc: self.dcc.clone(),
            capabilities: self.capabilities.clone(),
            token: Token::new(token.to_owned()),
            expose_all: self.expose_all,
        }
    }

    /// The label: the one that was set, or one made from the target and the kind of application.
    #[must_use]
    pub fn label(&self) -> String {
        self.label
            .clone()
            .unwrap_or_else(|| self.target.label(&self.dcc))
    }
}
