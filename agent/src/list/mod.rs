//! `tieline list`: the tunnels at a relay that this caller may reach.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::Args;
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use crate::connect::credential::Credential;
use crate::connect::tls::Tls;
use crate::connect::{ConnectError, RelayOrigin};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say, warn};
use crate::web::Question;

/// Where a relay tells it, so many at a time.
const PATH: &str = "/tunnels?limit=1000";

/// Pages after which a relay that goes on is not believed: four times what one may hold.
const PAGES_MAX: usize = 1_000;

const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Flags of `tieline list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The relay: https://host or http://host:port; a tieline connect will do as well
    #[arg(long, value_name = "URL", env = "TIELINE_CONNECT_RELAY")]
    pub relay: String,
    /// File (mode 0600) with the token to ask with
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the certificates (PEM) to check an https:// relay by, instead of the system's; the relay
    /// itself has no TLS yet, so this is for a web server in front of it
    #[arg(long, value_name = "FILE", env = "TIELINE_CA")]
    pub ca: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// Some tunnels, as the relay tells them.
#[derive(Debug, Deserialize)]
struct Page {
    tunnels: Vec<Told>,
    next: Option<String>,
}

/// An answer: some of the tunnels, or all of them where the relay has no pages.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Page(Page),
    All(Vec<Told>),
}

#[derive(Debug, Deserialize)]
struct Told {
    tunnel_id: String,
    dcc: String,
    capabilities: Vec<String>,
    online: bool,
    path: String,
    /// Its URLs, the best one first.
    #[serde(default)]
    urls: Vec<String>,
    target_scheme: String,
}

/// A tunnel, as people and programs are told of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    tunnel: String,
    dcc: String,
    capabilities: Vec<String>,
    online: bool,
    /// None for a target that is no HTTP server.
    url: Option<String>,
}

/// Whom to ask, and as whom.
struct Relay {
    origin: RelayOrigin,
    tls: Option<Tls>,
    authorization: Option<HeaderValue>,
}

/// Runs `tieline list`; returns the exit code.
pub(crate) async fn run(args: ListArgs) -> u8 {
    let relay = match Relay::of(&args) {
        Ok(relay) => relay,
        Err(error) => {
            complain(&error);
            return error.exit_code();
        }
    };
    if relay.authorization.is_some() && relay.origin.exposes_tokens() {
        let relay = &relay.origin;
        warn(&format!(
            "your token goes to {relay} in clear text, where the network can read it; use https://"
        ));
    }
    let rows = match relay.rows().await {
        Ok(rows) => rows,
        Err(Problem { text, .. }) => {
            complain(&text);
            return FAILED;
        }
    };
    if args.json {
        rows.iter().for_each(print_json);
        return DONE;
    }
    if rows.is_empty() {
        complain(&"there is no tunnel at this relay that you may reach");
    }
    let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).len()).max();
    let names = width(|row| &row.tunnel).unwrap_or_default();
    let kinds = width(|row| &row.dcc).unwrap_or_default();
    for row in &rows {
        let state = match row.online {
            true => paint(GOOD, "online "),
            false => paint(BAD, "offline"),
        };
        let url = row.url.as_deref().unwrap_or("raw TCP");
        say(&format!(
            "{:names$}  {state}  {:kinds$}  {url}",
            row.tunnel, row.dcc
        ));
    }
    DONE
}

/// Why there is no list.
#[derive(Debug)]
struct Problem {
    /// The relay wants a token.
    wants_token: bool,
    text: String,
}

/// Whether a relay knows a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is among those that may be reached.
    Yes,
    /// It is not; these are.
    No(Vec<String>),
    /// Why that cannot be told.
    Unsure(String),
}

/// Asks the relay at `origin`, or the proxy there, for `tunnel`, without a token.
pub(crate) async fn is_known(origin: &str, tunnel: &str) -> Known {
    let relay = match Relay::at(origin, None) {
        Ok(relay) => relay,
        Err(error) => return Known::Unsure(error.to_string()),
    };
    match relay.rows().await {
        Ok(rows)
            if rows
                .iter()
                .any(|row| row.tunnel.eq_ignore_ascii_case(tunnel)) =>
        {
            Known::Yes
        }
        Ok(rows) => Known::No(rows.into_iter().map(|row| row.tunnel).collect()),
        Err(Problem { wants_token, .. }) if wants_token => Known::Unsure(format!(
            "{origin} answers token holders only, and an MCP client will need the token as well: \
                 without --relay the entry leads through tieline connect, which adds it"
        )),
        Err(Problem { text, .. }) => Known::Unsure(text),
    }
}

impl Relay {
    fn at(origin: &str, ca: Option<&Path>) -> Result<Self, ConnectError> {
        let origin = RelayOrigin::parse(origin)?;
        let tls = match (origin.https, ca) {
            (true, ca) => Some(Tls::new(&origin.address, ca)?),
            (false, Some(_)) => return Err(ConnectError::CaWithoutTls),
            (false, None) => None,
        };
        Ok(Self {
            origin,
            tls,
            authorization: None,
        })
    }

    fn of(args: &ListArgs) -> Result<Self, ConnectError> {
        let credential = args
            .token_file
            .as_deref()
            .map(Credential::read)
            .transpose()?;
        Ok(Self {
            authorization: credential.map(|it| it.current().0),
            ..Self::at(&args.relay, args.ca.as_deref())?
        })
    }

    async fn rows(&self) -> Result<Vec<Row>, Problem> {
        let mut rows = Vec::new();
        let mut path = PATH.to_owned();
        for _ in 0..PAGES_MAX {
            let page = match self.answer(&path).await? {
                Answer::Page(page) => page,
                Answer::All(tunnels) => Page {
                    tunnels,
                    next: None,
                },
            };
            rows.extend(page.tunnels.into_iter().map(|told| self.row(told)));
            match page.next {
                Some(next) => path = format!("{PATH}&after={next}"),
                None => return Ok(rows),
            }
        }
        Err(self.problem(&"its list of tunnels has no end"))
    }

    fn problem(&self, what: &dyn std::fmt::Display) -> Problem {
        Problem {
            wants_token: false,
            text: format!("{}: {what}", self.origin),
        }
    }

    async fn answer(&self, path: &str) -> Result<Answer, Problem> {
        let authority = self.origin.authority();
        let question = Question {
            method: Method::GET,
            authority: &authority,
            path,
            authorization: self.authorization.clone(),
        };
        let said = |what: &dyn std::fmt::Display| self.problem(what);
        let asked = question
            .ask_at(&self.origin.address, self.tls.as_ref(), true)
            .await;
        let (head, body) = asked.map_err(|why| said(&why))?;
        match head.status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|_| said(&"what answers there is no relay that lists tunnels")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Problem {
                wants_token: true,
                ..said(&format!(
                    "{}; your token goes into --token-file",
                    message(&body)
                ))
            }),
            StatusCode::NOT_FOUND => Err(said(
                &"this relay tells nobody which tunnels there are; ask whoever runs the one you want",
            )),
            status => Err(said(&format!("{status}: {}", message(&body)))),
        }
    }

    /// The best of the relay's own URLs that lead where it was asked; a proxy in front of it has others.
    fn url_of(&self, told: &Told) -> String {
        let asked = self.origin.address.host();
        let is_here = |url: &&String| {
            let uri: Option<Uri> = url.parse().ok();
            uri.as_ref().and_then(Uri::host).is_some_and(|host| {
                let host = host.to_ascii_lowercase();
                host == asked || host.ends_with(&format!(".{asked}"))
            })
        };
        let best = told.urls.iter().find(is_here).cloned();
        best.unwrap_or_else(|| format!("{}{}", self.origin, told.path))
    }

    fn row(&self, told: Told) -> Row {
        let is_http = told.target_scheme != "tcp";
        Row {
            url: is_http.then(|| self.url_of(&told)),
            tunnel: told.tunnel_id,
            dcc: told.dcc,
            capabilities: told.capabilities,
            online: told.online,
        }
    }
}

/// What the relay says to people.
fn message(body: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = value.as_ref().and_then(|it| it["message"].as_str());
    let text = text.unwrap_or("it gives no reason");
    text.chars().take(300).collect()
}
