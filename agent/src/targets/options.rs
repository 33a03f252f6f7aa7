//! How the program of a `stdio:` target is run: its processes, their environment and their folder.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tieline_bridge::{Settings, Share};

use crate::error::ConfigError;
use crate::stdio::{Command, CommandError, check_name, check_variable};

/// Largest number of processes of one program at a time; each may use hundreds of MiB.
pub const CHILDREN_MAX: u16 = 1024;

/// Default of [`StdioOptions::children_max`].
pub const CHILDREN: u16 = 32;

/// Shortest [`StdioOptions::idle`]: less would end a process between two calls of one task.
pub const IDLE_MIN: Duration = Duration::from_secs(1);

/// Longest [`StdioOptions::idle`], a week.
pub const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Default of [`StdioOptions::idle`].
pub const IDLE: Duration = Duration::from_secs(30 * 60);

/// Which callers share a process of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StdioShare {
    /// Each session of a caller has a process of its own.
    Never,
    /// All sessions of a caller share a process.
    Caller,
    /// One process serves all callers.
    Always,
}

impl StdioShare {
    /// The words for the choices, as on the command line.
    pub const WORDS: [&'static str; 3] = ["never", "caller", "always"];
}

impl FromStr for StdioShare {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "never" => Ok(Self::Never),
            "caller" => Ok(Self::Caller),
            "always" => Ok(Self::Always),
            _ => Err(ConfigError::Share {
                text: text.to_owned(),
            }),
        }
    }
}

/// How the program of a `stdio:` target is run.
///
/// ```
/// use tieline_agent::{StdioOptions, TargetConfig};
///
/// let options = StdioOptions::default().with_environment("API_KEY=secret")?;
/// let target = TargetConfig::new("stdio:npx -y @scope/server")?.with_stdio(options);
/// assert_eq!(target.target.to_string(), "stdio:npx -y @scope/server");
/// # Ok::<(), tieline_agent::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StdioOptions {
    /// Which callers share a process. By default the program decides: one that speaks MCP without sessions serves all
    /// callers with one process, and another one has a process for each session.
    pub share: Option<StdioShare>,
    /// Most processes at a time; 1 to [`CHILDREN_MAX`].
    pub children_max: u16,
    /// Time without use after which a session or a process ends; [`IDLE_MIN`] to [`IDLE_MAX`].
    pub idle: Duration,
    /// Folder that the processes start in; by default the agent's own.
    pub directory: Option<PathBuf>,
    /// Environment variables with their values, which may be secrets.
    variables: Vec<(String, String)>,
    /// Names of the agent's own variables that the processes inherit besides the usual ones.
    inherited: Vec<String>,
}

impl Default for StdioOptions {
    fn default() -> Self {
        Self {
            share: None,
            children_max: CHILDREN,
            idle: IDLE,
            directory: None,
            variables: Vec::new(),
            inherited: Vec::new(),
        }
    }
}

impl StdioOptions {
    /// Sets which callers share a process.
    #[must_use]
    pub const fn with_share(mut self, share: StdioShare) -> Self {
        self.share = Some(share);
        self
    }

    /// Sets the largest number of processes at a time.
    #[must_use]
    pub const fn with_children_max(mut self, children_max: u16) -> Self {
        self.children_max = children_max;
        self
    }

    /// Sets the time without use after which a session or a process ends.
    #[must_use]
    pub const fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets the folder that the processes start in.
    #[must_use]
    pub fn with_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets an environment variable of the processes.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] if no variable can have this name or value.
    pub fn with_variable(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        check_variable(name, value).map_err(environment)?;
        self.variables.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// Has the processes inherit the agent's environment variable `name`, if the agent has it.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] if no variable can have this name.
    pub fn with_inherited(mut self, name: &str) -> Result<Self, ConfigError> {
        // With a value behind the name, the error of `check_name` would show a secret.
        if name.contains('=') {
            let problem = "the name of an environment variable to inherit has no `=`".to_owned();
            return Err(ConfigError::Environment { problem });
        }
        check_name(name).map_err(environment)?;
        self.inherited.push(name.to_owned());
        Ok(self)
    }

    /// Sets an environment variable that is written as `NAME=VALUE`, or inherits the one of the name `NAME`.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] if no variable can have this name or value.
    pub fn with_environment(self, text: &str) -> Result<Self, ConfigError> {
        match text.split_once('=') {
            Some((name, value)) => self.with_variable(name, value),
            None => self.with_inherited(text),
        }
    }

    /// Names of variables to inherit that this process does not have.
    #[must_use]
    pub fn unset_variables(&self) -> Vec<&str> {
        let names = self.inherited.iter().map(String::as_str);
        names
            .filter(|name| std::env::var_os(name).is_none())
            .collect()
    }

    /// Finds a number outside its range.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=CHILDREN_MAX).contains(&self.children_max) {
            return Err(ConfigError::Children {
                max: CHILDREN_MAX,
                given: self.children_max,
            });
        }
        if !(IDLE_MIN..=IDLE_MAX).contains(&self.idle) {
            return Err(ConfigError::Idle {
                min_s: IDLE_MIN.as_secs(),
                max_h: IDLE_MAX.as_secs() / 3600,
            });
        }
        Ok(())
    }

    /// `command` with these variables and this folder.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] if there are too many variables.
    pub(crate) fn applied(&self, command: &Command) -> Result<Command, ConfigError> {
        let mut command = command.clone();
        for name in &self.inherited {
            command = command.with_inherited(name).map_err(environment)?;
        }
        for (name, value) in &self.variables {
            command = command.with_variable(name, value).map_err(environment)?;
        }
        Ok(match &self.directory {
            Some(directory) => command.with_directory(directory),
            None => command,
        })
    }

    /// The settings of the bridge to the processes.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            share: match self.share {
                None => Share::Auto,
                Some(StdioShare::Never) => Share::Never,
                Some(StdioShare::Caller) => Share::Caller,
                Some(StdioShare::Always) => Share::Always,
            },
            children_max: usize::from(self.children_max),
            idle: self.idle,
        }
    }
}

/// Leaves out the values of environment variables, which may be secrets.
impl fmt::Debug for StdioOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("StdioOptions")
            .field("share", &self.share)
            .field("children_max", &self.children_max)
            .field("idle", &self.idle)
            .field("directory", &self.directory)
            .field("variables", &names)
            .field("inherited", &self.inherited)
            .finish()
    }
}

fn environment(error: CommandError) -> ConfigError {
    ConfigError::Environment {
        problem: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_set_or_inherited_and_its_values_are_not_shown() {
        let options = StdioOptions::default()
            .with_environment("KEY=hunter2=2")
            .and_then(|options| options.with_environment("TIELINE_TEST_ABSENT"))
            .unwrap();
        assert_eq!(options.unset_variables(), ["TIELINE_TEST_ABSENT"]);
        let shown = format!("{options:?}");
        assert!(
            shown.contains("KEY") && !shown.contains("hunter2"),
            "{shown}"
        );
        let command = options.applied(&Command::parse("server").unwrap());
        let mut variables = command.unwrap().environment([]);
        let (name, value) = variables.pop().unwrap();
        assert!(name == "KEY" && value == "hunter2=2");
        assert!(variables.is_empty());
        for wrong in ["", "=hunter2", "A\0"] {
            let error = StdioOptions::default()
                .with_environment(wrong)
                .unwrap_err()
                .to_string();
            assert!(error.contains("not a name"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        let options = StdioOptions::default;
        assert!(options().check().is_ok());
        for wrong in [
            options().with_children_max(0),
            options().with_children_max(CHILDREN_MAX + 1),
            options().with_idle(Duration::ZERO),
            options().with_idle(IDLE_MAX + Duration::from_secs(1)),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn each_word_for_sharing_is_a_choice_and_the_default_is_the_bridges() {
        let share = |word: &str| word.parse::<StdioShare>();
        for word in StdioShare::WORDS {
            assert!(share(word).is_ok(), "{word}");
        }
        let error = share("sometimes").unwrap_err().to_string();
        assert!(error.contains("never, caller or always"), "{error}");
        let (own, bridge) = (StdioOptions::default().settings(), Settings::default());
        assert_eq!(
            (own.share, own.children_max, own.idle),
            (bridge.share, bridge.children_max, bridge.idle)
        );
        let never = StdioOptions::default().with_share(StdioShare::Never);
        assert_eq!(never.settings().share, Share::Never);
    }
}
