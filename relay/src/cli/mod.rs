//! The command line: flags of the settings, which [`crate::config`] defines, and the commands for tokens.
//!
//! Values of settings are unparsed text here; [`crate::config`] parses and checks them.

mod log;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use tieline_token::Scope;

pub use self::log::start_logging;
use crate::config::{Layer, Origin, Raw, every_setting};

/// Claims of a token to make, as given on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct TokenOrder {
    /// Person or machine that the token is for: its holder.
    #[arg(long = "sub", value_name = "NAME")]
    pub subject: String,
    /// Applications (DCCs) that the token allows; empty allows any.
    #[arg(
        long,
        value_name = "DCC",
        help = "Allowed kind of application, as in maya; may be repeated [default: any]"
    )]
    pub dcc: Vec<String>,
    /// Patterns of tunnel names that the token allows; empty allows any.
    #[arg(
        long = "tunnel",
        value_name = "PATTERN",
        help = "Allowed tunnel names, as in 'maya-*'; may be repeated [default: any]",
        value_parser = tunnel_pattern
    )]
    pub tunnels: Vec<String>,
    /// Scopes of the token; empty means agent and caller.
    #[arg(
        long = "scope",
        value_name = "SCOPE",
        help = "What the token may be used for; may be repeated [default: agent and caller]",
        value_parser = PossibleValuesParser::new(Scope::ALL.map(Scope::word))
    )]
    pub scopes: Vec<String>,
    /// Lifetime, such as `8h`; may be empty for a random token, which then does not expire.
    #[arg(skip)]
    pub ttl: String,
    /// File with the secret that signs a signed token.
    #[arg(skip)]
    pub secret_file: PathBuf,
    /// Issuer to name in the token.
    #[arg(skip)]
    pub issuer: Option<String>,
    /// Relays that the token is meant for; empty means any.
    #[arg(skip)]
    pub audience: Vec<String>,
    /// Groups that the holder belongs to.
    #[arg(
        long = "group",
        value_name = "NAME",
        help = "Group of the holder, whose members reach each other's tunnels; may be repeated",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub groups: Vec<String>,
    /// Patterns of other holders' tunnels that a caller with this token may reach.
    #[arg(
        long,
        value_name = "PATTERN",
        help = "Tunnels of other holders that the holder may reach, as in 'farm-*'; may be repeated",
        value_parser = tunnel_pattern
    )]
    pub reach: Vec<String>,
    /// Whether agents with this token may share a tunnel name with other agents.
    #[arg(
        long,
        help = "Agents may share a tunnel name with others of the same --sub or --group"
    )]
    pub shared: bool,
}

/// Flags of `token issue`.
#[derive(Args)]
struct Issue {
    #[command(flatten)]
    order: TokenOrder,
    /// Lifetime, as in 8h
    #[arg(long, value_name = "TIME")]
    ttl: String,
    /// File with the secret that signs the token, that of the relay's --jwt-secret-file
    #[arg(long, value_name = "FILE")]
    jwt_secret_file: PathBuf,
    /// Issuer to name in the token, for relays with --jwt-issuer
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Relay that the token is meant for, one of its --jwt-audience; may be repeated
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
}

/// Flags of `token new`.
#[derive(Args)]
struct New {
    #[command(flatten)]
    order: TokenOrder,
    /// Lifetime, as in 90d [default: no end]
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
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
                .subcommand(
                    Issue::augment_args(Command::new("issue")).about("Prints a signed token"),
                )
                .subcommand(
                    New::augment_args(Command::new("new"))
                        .about("Prints a random token, and its entry for --auth-tokens-file"),
                ),
        )
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
        Some(("issue", issue)) => {
            let issue = Issue::from_arg_matches(issue)?;
            return Ok(Invocation::IssueToken(TokenOrder {
                ttl: issue.ttl,
                secret_file: issue.jwt_secret_file,
                issuer: issue.issuer,
                audience: issue.audience,
                ..issue.order
            }));
        }
        Some((_, new)) => {
            let New { order, ttl } = New::from_arg_matches(new)?;
            let ttl = ttl.unwrap_or_default();
            return Ok(Invocation::NewToken(TokenOrder { ttl, ..order }));
        }
        None => {}
    }
    let mut flags = Layer::default();
    for setting in every_setting() {
        let key = setting.get_id().as_str();
        if matches.value_source(key) == Some(ValueSource::CommandLine) {
            let texts = matches.get_many::<String>(key).into_iter().flatten();
            let (values, origin) = (texts.cloned().collect(), Origin::Flag);
            flags.0.insert(key.to_owned(), Raw { values, origin });
        }
    }
    let config = matches.get_one::<PathBuf>("config").cloned();
    Ok(Invocation::Serve { config, flags })
}

#[cfg(test)]
mod tests;
