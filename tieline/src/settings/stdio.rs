//! The flags of `tieline serve` for the programs among the targets of the command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use tieline_agent::{ConfigError, StdioOptions, StdioShare};

use super::time::parse_time;

/// Flags for programs, which are targets `stdio:COMMAND` or the command behind `--`.
#[derive(Args)]
pub struct StdioArgs {
    /// Environment variable of a program (stdio: target); may be repeated. NAME alone takes the value that the
    /// variable has here, so that a secret stays out of the list of processes. Without this flag a program gets
    /// PATH, HOME and the like alone
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    pub variables: Vec<String>,
    /// Folder that a program starts in, in place of this one
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Which callers share a process of a program; by default a program that speaks MCP without sessions serves all
    /// callers with one process, and another one has a process for each session
    #[arg(long, value_name = "WHO", value_parser = share_parser())]
    pub stdio_share: Option<StdioShare>,
    /// Most processes of a program at a time, 1 to 1024 [default: 32]
    #[arg(long, value_name = "N")]
    pub stdio_max: Option<u16>,
    /// Time without use after which a session or a process of a program ends, 1s to 168h [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub stdio_idle: Option<Duration>,
}

impl StdioArgs {
    /// One of these flags that is given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--env", !self.variables.is_empty()),
            ("--cwd", self.cwd.is_some()),
            ("--stdio-share", self.stdio_share.is_some()),
            ("--stdio-max", self.stdio_max.is_some()),
            ("--stdio-idle", self.stdio_idle.is_some()),
        ];
        let given = flags.into_iter().find(|(_, is_given)| *is_given);
        given.map(|(flag, _)| flag)
    }

    /// How the programs of the command line are run.
    ///
    /// # Errors
    /// [`ConfigError`] names an environment variable that cannot be set, without its value.
    pub(super) fn options(&self) -> Result<StdioOptions, ConfigError> {
        let mut variables = self.variables.iter();
        let set = |options: StdioOptions, text: &String| options.with_environment(text);
        let mut options = variables.try_fold(StdioOptions::default(), set)?;
        options.directory.clone_from(&self.cwd);
        options.share = self.stdio_share;
        options.children_max = self.stdio_max.unwrap_or(options.children_max);
        options.idle = self.stdio_idle.unwrap_or(options.idle);
        Ok(options)
    }
}

/// Leaves out the environment variables, which may be secrets.
impl fmt::Debug for StdioArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioArgs")
            .field("cwd", &self.cwd)
            .field("stdio_share", &self.stdio_share)
            .field("stdio_max", &self.stdio_max)
            .field("stdio_idle", &self.stdio_idle)
            .finish_non_exhaustive()
    }
}

fn share_parser() -> impl TypedValueParser<Value = StdioShare> {
    PossibleValuesParser::new(StdioShare::WORDS).try_map(|word| {
        let parsed = word.parse::<StdioShare>();
        parsed.map_err(|error| error.to_string())
    })
}
