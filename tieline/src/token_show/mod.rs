//! `tieline token show`: a token's claims, for people and programs. Nothing here checks a signature
//! or prints the token.

mod claims;
pub(crate) mod time;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use tieline_wire::limits::TOKEN_BYTES_MAX;

use self::claims::{Shown, TokenState};
use crate::exit::{DONE, Ended};
use crate::paint::{BAD, GOOD, WARN, complain, paint, print_json, say};
use tieline_agent::error::TokenError;
use tieline_agent::token;

/// A token that expires within this time gets a warning: long enough to ask for a new token.
const SOON_SECONDS: u64 = 30 * 60;

/// Flags of `tieline token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The command to run.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// The commands of `tieline token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Show what a token allows and until when, without checking its signature.
    Show(ShowArgs),
}

/// Flags of `tieline token show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The token's file (mode 0600), or - for standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The token's file, by the flag and variable that other commands use
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// When a token is valid, as far as the token says.
#[derive(Debug)]
pub(crate) struct Validity {
    /// Expiry in words; `None` for an opaque token.
    pub(crate) expiry: Option<String>,
    /// True if the token has expired.
    pub(crate) has_expired: bool,
    /// When the token was issued, or else becomes valid, in seconds since 1970.
    pub(crate) since: Option<u64>,
    /// When the token expires, in seconds since 1970.
    pub(crate) until: Option<u64>,
}

/// Reads the validity of `token` at the time `now`, in seconds since 1970.
pub(crate) fn standing(token: &str, now: u64) -> Validity {
    let shown = Shown::of(token, now);
    Validity {
        expiry: shown.expiry(),
        has_expired: shown.state() == TokenState::Expired,
        since: shown.time("iat").or_else(|| shown.time("nbf")),
        until: shown.time("exp"),
    }
}

/// Runs `tieline token`; returns the exit code: 1 for a token that has expired.
pub(crate) fn run(args: &TokenArgs) -> Result<u8, Ended> {
    let TokenCommand::Show(args) = &args.command;
    // The argument comes before --token-file, which may be set by the environment.
    let Some(file) = args.file.as_ref().or(args.token_file.as_ref()) else {
        let problem = "which token? tieline token show FILE (or --token-file FILE, or TIELINE_TOKEN_FILE); - reads \
                       standard input";
        return Err(Ended::usage(problem));
    };
    let token = read(file).map_err(Ended::failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let shown = Shown::of(&token, now.map_or(0, |now| now.as_secs()));
    if args.json {
        print_json(&shown);
    } else {
        for (name, text) in shown.lines() {
            say(&format!("{name:<9}{}", text));
        }
        if let Some(text) = shown.expiry() {
            let style = match shown.state() {
                TokenState::Expired => BAD,
                TokenState::Valid if !shown.ends_within(SOON_SECONDS) => GOOD,
                _ => WARN,
            };
            say(&format!("{:<9}{}", "expires", paint(style, text)));
        }
    }
    let problem = match shown.state() {
        TokenState::Expired => "the token has expired: ask for a new one",
        TokenState::NotYetValid => "the token is not valid yet, or this machine's clock is wrong",
        TokenState::Valid if shown.ends_within(SOON_SECONDS) => "the token expires soon",
        TokenState::Valid | TokenState::Unknown => return Ok(DONE),
    };
    complain(&problem);
    Ok(u8::from(shown.state() == TokenState::Expired))
}

fn read(file: &Path) -> Result<String, TokenError> {
    if file.as_os_str() != "-" {
        return token::read(file);
    }
    let path = || PathBuf::from("standard input");
    let content = |problem| TokenError::Content {
        path: path(),
        problem,
    };
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(TOKEN_BYTES_MAX as u64 + 3)
        .read_to_string(&mut text)
        .map_err(|source| TokenError::Read {
            path: path(),
            source,
        })?;
    token::checked(&text).map(str::to_owned).map_err(content)
}
