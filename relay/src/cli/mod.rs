//! Every setting in one table, and the command line and environment made from it.
//!
//! Values are text here and know where they came from; what they mean is [`crate::config`]'s.

mod environment;
mod log;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tieline_wire::claims::Scope;

pub use self::environment::{CONFIG_VARIABLE, ENVIRONMENT_PREFIX, Layer, environment};
pub(crate) use self::environment::{Origin, Raw};
pub use self::log::start_logging;
pub(crate) use self::settings::{Arity, SETTINGS, Setting};

/// A token to issue, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenOrder {
    /// Who gets it.
    pub subject: String,
    /// Applications it is good for; none given means any.
    pub dcc: Vec<String>,
    /// Patterns of tunnel names it may ask for; none given means any.
    pub tunnels: Vec<String>,
    /// What it may be used for; none given means agent and caller.
    pub scopes: Vec<String>,
    /// How long it lasts, such as `8h`; a random token may have none.
    pub ttl: String,
    /// The file with the secret, for a signed one.
    pub secret_file: PathBuf,
    /// Who issues it.
    pub issuer: Option<String>,
    /// Relays that it is meant for; none given means any.
    pub audience: Vec<String>,
    /// Groups that its holder belongs to.
    pub groups: Vec<String>,
    /// Patterns of tunnel names that a caller may reach beside its own.
    pub reach: Vec<String>,
    /// Whether its agents may share a name with others.
    pub shared: bool,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run a relay.
    Serve {
        /// The configuration file, if one is named.
        config: Option<PathBuf>,
        /// The flags.
        flags: Layer,
    },
    /// Print a signed token.
    IssueToken(TokenOrder),
    /// Print a random token, and its entry for the file of tokens.
    NewToken(TokenOrder),
}

/// The command line of `tieline-relay`.
#[must_use]
pub fn command() -> Command {
    Command::new("tieline-relay")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Joins remote callers to agents behind NAT")
        .after_help(
            "Each flag is also an environment variable (TIELINE_RELAY_STALE_TIMEOUT) and a key of \
             the configuration file\n(stale_timeout); flags win over the environment, and that \
             over the file.",
        )
        .args_conflicts_with_subcommands(true)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("TOML file with settings")
                .value_parser(clap::value_parser!(PathBuf)),
        )
        .args(SETTINGS.iter().map(Setting::argument))
        .subcommand(
            Command::new("token")
                .about("Tokens for agents and callers")
                .subcommand_required(true)
                .subcommand(issue_command())
                .subcommand(new_command()),
        )
}

fn issue_command() -> Command {
    Command::new("issue")
        .about("Prints a signed token")
        .args(claim_arguments())
        .arg(text("ttl", "TIME", "How long it lasts, as in 8h").required(true))
        .arg(
            text("jwt-secret-file", "FILE", "The relay's secret")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf)),
        )
        .arg(text(
            "issuer",
            "NAME",
            "Who issues it, for relays with --jwt-issuer",
        ))
        .arg(
            text(
                "audience",
                "NAME",
                "Meant for this relay, for those with --jwt-audience; repeats",
            )
            .action(ArgAction::Append),
        )
}

fn new_command() -> Command {
    Command::new("new")
        .about("Prints a random token, and its entry for --auth-tokens-file")
        .args(claim_arguments())
        .arg(text(
            "ttl",
            "TIME",
            "How long it lasts, as in 90d [default: for ever]",
        ))
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// What a token may say, of either kind.
fn claim_arguments() -> [Arg; 7] {
    let patterns = |name, help| {
        text(name, "PATTERN", help)
            .action(ArgAction::Append)
            .value_parser(tunnel_pattern)
    };
    let scopes = PossibleValuesParser::new(Scope::ALL.map(Scope::word));
    [
        text("sub", "NAME", "Who gets it").required(true),
        text("dcc", "DCC", "Good for this application only; repeats").action(ArgAction::Append),
        patterns(
            "tunnel",
            "Good for these tunnel names only, as in 'maya-*'; repeats",
        ),
        text(
            "scope",
            "SCOPE",
            "Good for this only; repeats [default: agent and caller]",
        )
        .action(ArgAction::Append)
        .value_parser(scopes),
        text(
            "group",
            "NAME",
            "Reaches the tunnels of this group, and they its own; repeats",
        )
        .action(ArgAction::Append)
        .value_parser(NonEmptyStringValueParser::new()),
        patterns(
            "reach",
            "Reaches these tunnels of others too, as in 'farm-*'; repeats",
        ),
        Arg::new("shared")
            .long("shared")
            .help("Its agents may share a name with others of the same --sub or --group")
            .action(ArgAction::SetTrue),
    ]
}

/// A pattern with any other character could match no tunnel name.
fn tunnel_pattern(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '*';
    if text.is_empty() || !text.chars().all(fits) {
        return Err("a pattern has letters a-z, digits, '-' and '*'");
    }
    Ok(text.to_owned())
}

/// Reads the command line.
///
/// # Errors
/// What `clap` says, `--help` and `--version` included.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    match matches
        .subcommand_matches("token")
        .and_then(ArgMatches::subcommand)
    {
        Some(("issue", issue)) => return Ok(Invocation::IssueToken(token_order(issue))),
        Some((_, new)) => return Ok(Invocation::NewToken(token_order(new))),
        None => {}
    }
    let given = |key: &str| matches.value_source(key) == Some(ValueSource::CommandLine);
    let flags = SETTINGS
        .iter()
        .filter(|setting| given(setting.key))
        .map(|setting| {
            let values = match setting.arity {
                Arity::Switch => vec!["true".to_owned()],
                Arity::One | Arity::Many => texts(&matches, setting.key),
            };
            (
                setting.key,
                Raw {
                    values,
                    origin: Origin::Flag,
                },
            )
        })
        .collect();
    let config = matches.get_one::<PathBuf>("config").cloned();
    Ok(Invocation::Serve {
        config,
        flags: Layer(flags),
    })
}

fn texts(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .try_get_many::<String>(name)
        .ok()
        .flatten()
        .into_iter()
        .flatten()
        .cloned()
        .collect()
}

fn token_order(matches: &ArgMatches) -> TokenOrder {
    // Not every command has every flag.
    let one = |name| matches.try_get_one::<String>(name).ok()?.cloned();
    TokenOrder {
        subject: one("sub").unwrap_or_default(),
        dcc: texts(matches, "dcc"),
        tunnels: texts(matches, "tunnel"),
        scopes: texts(matches, "scope"),
        ttl: one("ttl").unwrap_or_default(),
        secret_file: matches
            .try_get_one::<PathBuf>("jwt-secret-file")
            .ok()
            .flatten()
            .cloned()
            .unwrap_or_default(),
        issuer: one("issuer"),
        audience: texts(matches, "audience"),
        groups: texts(matches, "group"),
        reach: texts(matches, "reach"),
        shared: matches.get_flag("shared"),
    }
}

#[cfg(test)]
mod tests;
