//! `tieline diag`: tries each step on the way to the relay and to the targets separately, and says what
//! to do about a step that fails. Running agents are not disturbed.

mod check;
mod clock;
mod network;
mod quic;
mod target;
mod tls;
mod trial;
mod web;
mod websocket;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use self::check::{Check, Outcome};
use self::clock::Evidence;
use crate::exit::{DONE, Ended, FAILED};
use crate::paint::{complain, print_json, say};
use crate::settings::{self, ConfigFile, ServeArgs};
use crate::token_show::{Validity, standing};
use tieline_agent::Config;
use tieline_agent::Transport;
use tieline_agent::error::{ConfigError, Error};
use tieline_agent::identity;
use tieline_agent::token;
use tieline_agent::transport::{Connection, Dialler, Proxy, Way};

/// Flags of `tieline diag`: those of `tieline serve`, so that a failing command line can be tried unchanged.
#[derive(Debug, Args)]
pub struct DiagArgs {
    /// Flags of `tieline serve`.
    #[command(flatten)]
    #[allow(missing_docs)]
    pub serve: ServeArgs,
}

impl DiagArgs {
    /// The given flags that no check tries, because they only say how an agent runs.
    fn untried(&self) -> Vec<&'static str> {
        let it = &self.serve;
        let flags = [
            ("--links", it.links.is_some()),
            ("--drain-timeout", it.drain_timeout.is_some()),
            ("--once", it.once),
            ("--stand-by", it.stand_by),
            ("--no-look", it.no_look),
            ("--machine", it.machine.is_some()),
            ("--stdio-share", it.stdio.stdio_share.is_some()),
            ("--stdio-max", it.stdio.stdio_max.is_some()),
            ("--stdio-idle", it.stdio.stdio_idle.is_some()),
        ];
        let given = flags.into_iter().filter(|(_, is_given)| *is_given);
        given.map(|(flag, _)| flag).collect()
    }
}

/// Runs `tieline diag`; returns the exit code: 0 if nothing failed.
pub(crate) async fn run(args: DiagArgs) -> Result<u8, Ended> {
    let json = args.serve.json;
    let untried = args.untried();
    if !untried.is_empty() && !json {
        complain(&format!("no check tries {}", untried.join(", ")));
    }
    let config = settings(&args.serve).map_err(Ended::usage)?;
    let dialler = config.dialler();
    let dialler = dialler.map_err(|error| Ended::new(error.exit_code(), error))?;
    let dialler = dialler.for_one_run();
    let mut teller = Teller { json, failed: 0 };
    look(&config, &dialler, &mut teller).await;
    Ok(if teller.failed > 0 { FAILED } else { DONE })
}

/// The settings that `tieline serve` would have. The token file is not read here: it has its own check.
fn settings(args: &ServeArgs) -> Result<Config, ConfigError> {
    let file = ConfigFile::of_args(args)?;
    if let (Some(file), false) = (&file, args.json) {
        complain(&format!("settings from {}", file.path.display()));
    }
    let config = settings::merged(args, file, false)?;
    if !config.targets.is_empty() {
        config.check_but_token()?;
    }
    Ok(config)
}

/// Prints each check as soon as it is done.
struct Teller {
    json: bool,
    failed: usize,
}

impl Teller {
    fn tell(&mut self, check: &Check) {
        self.failed += usize::from(check.outcome == Outcome::Failed);
        if self.json {
            print_json(check);
        } else {
            say(check);
        }
    }
}

async fn look(config: &Config, dialler: &Dialler, teller: &mut Teller) {
    // With a proxy, this check is about the proxy's name, which this machine needs first.
    let way = dialler.way().ok();
    let proxy = way.as_ref().and_then(Way::proxy);
    let first = proxy.map_or(config.relay.address(), Proxy::address);
    let named = network::dns(first).await;
    let has_address = named.outcome != Outcome::Failed;
    teller.tell(&named);
    teller.tell(&network::proxy(dialler));
    let connection = match config.relay.transport() {
        Transport::Quic => over_quic(dialler, has_address, teller).await,
        _ => over_tcp(dialler, has_address, teller).await,
    };
    teller.tell(&key(config));
    if let Some(check) = clear_text(config) {
        teller.tell(&check);
    }

    let now = now_seconds();
    let token = config.token_file.as_deref();
    let (known, evidence) = auth(config, token, connection, now, teller).await;
    let evidence = Evidence {
        date: web::date_of(&evidence.urls, config.ca.as_deref(), &config.proxies).await,
        since: known.as_ref().and_then(|token| token.since),
        until: known.as_ref().and_then(|token| token.until),
        ..evidence
    };
    teller.tell(&clock::judge(now_seconds(), &evidence));
    if config.targets.is_empty() {
        let text = "no target is given: --to TARGET, or to in tieline.toml";
        teller.tell(&Check::not_applicable("target", text));
    }
    for target in &config.targets {
        teller.tell(&target::check(target).await);
    }
}

/// Connects over TCP, layer by layer, with a check of each; then over QUIC, if the relay's URL leaves the transport open.
async fn over_tcp(dialler: &Dialler, has_address: bool, teller: &mut Teller) -> Option<Connection> {
    let (reached, connected) = network::tcp(dialler, has_address).await;
    teller.tell(&reached);
    let (shaken, secured) = tls::shake(dialler, connected, now_seconds()).await;
    teller.tell(&shaken);
    let (opened, stream) = websocket::open(dialler, secured).await;
    teller.tell(&opened);
    let is_open = stream.is_some();
    let (tried, quic) = quic::beside(dialler, has_address, is_open, now_seconds()).await;
    teller.tell(&tried);
    stream.map(Connection::Bytes).or(quic)
}

/// Connects over QUIC, which has one check, and leaves the steps out that it does not have.
async fn over_quic(
    dialler: &Dialler,
    has_address: bool,
    teller: &mut Teller,
) -> Option<Connection> {
    for (name, text) in [
        ("tcp", "a quic:// link goes over UDP"),
        ("tls", "a quic:// link has TLS inside, see quic"),
        ("websocket", "a quic:// link has none"),
    ] {
        teller.tell(&Check::not_applicable(name, text));
    }
    let (check, connection) = quic::connect(dialler, has_address, now_seconds()).await;
    teller.tell(&check);
    connection
}

/// Checks that no other user can read or replace the agent's key, if there is a key.
fn key(config: &Config) -> Check {
    let looked = config.state_dir().map_err(Error::from).and_then(|folder| {
        let place = folder.display();
        Ok(match identity::has_key(&folder)? {
            true => Check::ok("key", format!("the key in {place} is private")),
            false => Check::not_applicable(
                "key",
                format!("no key in {place} yet: tieline serve makes one"),
            ),
        })
    });
    looked.unwrap_or_else(|error| {
        Check::failed("key", error, "tieline serve cannot start until fixed")
    })
}

/// Warns of a token that the network can read.
fn clear_text(config: &Config) -> Option<Check> {
    let is_exposed = config.token_file.is_some() && config.relay.exposes_tokens();
    is_exposed.then(|| {
        let text = format!(
            "your token goes to {} in clear text, where the network can read it",
            config.relay.name()
        );
        let advice =
            "use https:// or tls:// if the relay has it, or a network that you trust, or a VPN";
        Check::warning("clear_text", text, advice)
    })
}

/// Reads the token, and tries it if the relay was reached. Returns what the token says, and what the
/// relay's answer shows about the relay's clock.
async fn auth(
    config: &Config,
    path: Option<&Path>,
    connection: Option<Connection>,
    now: u64,
    teller: &mut Teller,
) -> (Option<Validity>, Evidence) {
    let nothing = Evidence::default();
    let token = match path.map(token::read).transpose() {
        Ok(token) => token,
        Err(error) => {
            teller.tell(&Check::failed(
                "auth",
                &error,
                "the file must hold one token that only you can read",
            ));
            return (None, nothing);
        }
    };
    let known = token.as_deref().map(|token| standing(token, now));
    let Some(connection) = connection else {
        let text = match &known {
            None => "the relay was not reached, and no token file is given".to_owned(),
            Some(token) => format!("the relay was not reached; {}", words(token)),
        };
        teller.tell(&Check::not_applicable("auth", text));
        return (known, nothing);
    };
    let trial = trial::run(config, token.as_deref().unwrap_or_default(), connection).await;
    let (check, evidence) = trial::judge(trial, config, known.as_ref());
    teller.tell(&check);
    (known, evidence)
}

/// The token's expiry, as a clause of a message.
fn words(token: &Validity) -> String {
    match &token.expiry {
        Some(expiry) if token.has_expired => format!("the token expired {expiry}"),
        Some(expiry) => format!("the token expires {expiry}"),
        None => "the token does not say when it expires".to_owned(),
    }
}

fn now_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
