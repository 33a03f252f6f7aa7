//! The command line: flags of the settings, which [`crate::config`] defines, and the commands for tokens.
//!
//! Values of settings are unparsed text here; [`crate::config`] parses and checks them.

mod log;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tieline_token::Scope;

pub use self::log::start_logging;
use crate::config::{Layer, Origin, Raw, every_setting};

/// Claims of a token to make, as given on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenOrder {
    /// Holder of the token.
    pub subject: String,
    /// Applications (DCCs) that the token allows; empty allows any.
    pub dcc: Vec<String>,
    /// Patterns of tunnel names that the token allows; empty allows any.
    pub tunnels: Vec<String>,
    /// Scopes of the token; empty means agent and caller.
    pub scopes: Vec<String>,
    /// Lifetime, such as `8h`; may be empty for a random token, which then does not expire.
    pub ttl: String,
    /// File with the secret that signs a signed token.
    pub secret_file: PathBuf,
    /// Issuer to name in the token.
    pub issuer: Option<String>,
    /// Relays that the token is meant for; empty means any.
    pub audience: Vec<String>,
    /// Groups that the holder belongs to.
    pub groups: Vec<String>,
    /// Patterns of other holders' tunnels that a caller with this token may reach.
    pub reach: Vec<String>,
    /// Whether agents with this token may share a tunnel name with other agents.
    pub shared: bool,
}

/// Command chosen on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run a relay.
    Serve {
        /// The configuration file, if the command line names one.
        config: Option<PathBuf>,
        /// Settings given as flags.
        flags: Layer,
    },
    /// Print a signed token.
    IssueToken(TokenOrder),
    /// Print a random token, and its entry for the tokens file.
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
             the configuration file\n(stale_timeout); flags override the environment, which \
             overrides the file.",
        )
        .args_conflicts_with_subcommands(true)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("TOML file with settings")
                .value_parser(clap::value_parser!(PathBuf)),
        )
        .args(
            every_setting()
                .into_iter()
                .map(|setting| setting.value_parser(ValueParser::string())),
        )
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
        .arg(text("ttl", "TIME", "Lifetime, as in 8h").required(true))
        .arg(
            text("jwt-secret-file", "FILE", "File with the relay's secret")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf)),
        )
        .arg(text(
            "issuer",
            "NAME",
            "Issuer to name in the token, for relays with --jwt-issuer",
        ))
        .arg(
            text(
                "audience",
                "NAME",
                "Relay that the token is meant for, one of its --jwt-audience; repeats",
            )
            .action(ArgAction::Append),
        )
}

fn new_command() -> Command {
    Command::new("new")
        .about("Prints a random token, and its entry for --auth-tokens-file")
        .args(claim_arguments())
        .arg(text("ttl", "TIME", "Lifetime, as in 90d [default: no end]"))
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// Flags for the claims that signed and random tokens share.
fn claim_arguments() -> [Arg; 7] {
    let patterns = |name, help| {
        text(name, "PATTERN", help)
            .action(ArgAction::Append)
            .value_parser(tunnel_pattern)
    };
    let scopes = PossibleValuesParser::new(Scope::ALL.map(Scope::word));
    [
        text("sub", "NAME", "Holder of the token").required(true),
        text("dcc", "DCC", "Allowed application; repeats [default: any]").action(ArgAction::Append),
        patterns(
            "tunnel",
            "Allowed tunnel names, as in 'maya-*'; repeats [default: any]",
        ),
        text(
            "scope",
            "SCOPE",
            "What the token may be used for; repeats [default: agent and caller]",
        )
        .action(ArgAction::Append)
        .value_parser(scopes),
        text(
            "group",
            "NAME",
            "Group of the holder, whose members reach each other's tunnels; repeats",
        )
        .action(ArgAction::Append)
        .value_parser(NonEmptyStringValueParser::new()),
        patterns(
            "reach",
            "Tunnels of other holders that the holder may reach, as in 'farm-*'; repeats",
        ),
        Arg::new("shared")
            .long("shared")
            .help("Agents may share a tunnel name with others of the same --sub or --group")
            .action(ArgAction::SetTrue),
    ]
}

/// Refuses an empty pattern and characters that no tunnel name has.
fn tunnel_pattern(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '*';
    if text.is_empty() || !text.chars().all(fits) {
        return Err("a pattern has letters a-z, digits, '-' and '*'");
    }
    Ok(text.to_owned())
}

/// Parses the command line.
///
/// # Errors
/// `clap`'s error or text to print, `--help` and `--version` included.
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
    let mut flags = Layer::default();
    for setting in every_setting() {
        let key = setting.get_id().as_str();
        if matches.value_source(key) == Some(ValueSource::CommandLine) {
            let (values, origin) = (texts(&matches, key), Origin::Flag);
            flags.0.insert(key.to_owned(), Raw { values, origin });
        }
    }
    let config = matches.get_one::<PathBuf>("config").cloned();
    Ok(Invocation::Serve { config, flags })
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
    // `token new` lacks some flags of `token issue`, so an unknown name is fine.
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
