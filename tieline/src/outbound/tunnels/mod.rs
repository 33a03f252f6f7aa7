//! The list of tunnels that a relay gives a caller; without a list, the reason and a remedy.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::path::Path;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tieline_agent::Proxies;

use super::authorization;
use super::dial::Dial;
use super::error::OutboundError;
use super::failure::Failure;
use super::origin::RelayOrigin;
use super::request::Question;
use crate::paint::warn;

/// Path of the list, at most 1000 tunnels a page.
const PATH: &str = "/tunnels?limit=1000";

/// Path of the smallest request that shows whether the relay accepts the caller.
const PATH_SHORT: &str = "/tunnels?limit=1";

/// Page limit against a list without end: enough for the 1,000,000 tunnels that a relay may allow.
const PAGES_MAX: usize = 1_000;

/// Remedy for a wrong port.
const HTTP_PORT: &str =
    "give the relay's https:// URL, or its HTTP port (9080 unless its operator says otherwise)";

/// Remedy for a token that is not for callers.
const CALLER_TOKEN: &str = "ask the relay's operator for one with the scope caller (tieline token show FILE tells what yours has)";

/// A tunnel as the relay lists it, and as `tieline list` prints it.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ListedTunnel {
    #[serde(rename(serialize = "tunnel"))]
    pub(crate) tunnel_id: String,
    pub(crate) dcc: String,
    capabilities: Vec<String>,
    pub(crate) online: bool,
    #[serde(skip_serializing)]
    path: String,
    /// The tunnel's URLs, best first.
    #[serde(default, skip_serializing)]
    urls: Vec<String>,
    #[serde(skip_serializing)]
    target_scheme: String,
    /// The URL for this caller; `None` for a target that is not an HTTP server.
    #[serde(skip_deserializing)]
    pub(crate) url: Option<String>,
}

/// Whether a relay lists a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// The tunnel is among those that the caller may reach.
    Yes(ListedTunnel),
    /// The tunnel is not among those that the caller may reach, whose names these are.
    No(Vec<String>),
    /// The relay could not be asked, for this reason.
    Unsure(String),
}

/// One page of the relay's list of tunnels.
#[derive(Debug, Deserialize)]
struct Page {
    tunnels: Vec<ListedTunnel>,
    next: Option<String>,
}

/// The relay's answer: one page, or the whole list from a relay without pages.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Page(Page),
    All(Vec<ListedTunnel>),
}

/// Why a caller gets no list of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListErrorKind {
    /// No server accepts connections at the address.
    Away,
    /// The server at the address is not a relay's HTTP port.
    NoRelay,
    /// The address is that of the relay's admin port.
    AdminPort,
    /// The relay asks for a token, and the request had none.
    NeedsToken,
    /// The relay refuses the token.
    BadToken,
    /// The token lacks the scope for callers.
    NoScope,
    /// The relay does not list its tunnels.
    Hidden,
    /// Any other reason.
    Other,
}

impl ListErrorKind {
    /// Stable code for JSON output.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Away => "relay_unreachable",
            Self::NoRelay => "no_relay",
            Self::AdminPort => "admin_port",
            Self::NeedsToken => "unauthorized",
            Self::BadToken => "invalid_token",
            Self::NoScope => "insufficient_scope",
            Self::Hidden => "not_listed",
            Self::Other => "unknown",
        }
    }
}

/// Why a caller gets no list of tunnels, in words.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) why: ListErrorKind,
    /// The address, what is wrong there, and what to do.
    pub(crate) text: String,
}

/// A relay's HTTP port, as a caller uses it.
pub(crate) struct RelayHttp {
    pub(crate) origin: RelayOrigin,
    pub(crate) dial: Dial,
    pub(crate) authorization: Option<HeaderValue>,
    /// True if the address is that of the tieline connect on this machine.
    pub(crate) is_connect: bool,
}

impl RelayHttp {
    /// A relay at `origin`, reached by way of `proxies`, for a caller without a token.
    pub(crate) fn at(
        origin: &str,
        ca: Option<&Path>,
        proxies: &Proxies,
    ) -> Result<Self, OutboundError> {
        let origin = RelayOrigin::parse(origin)?;
        Ok(Self {
            dial: Dial::of(&origin, ca, proxies)?,
            origin,
            authorization: None,
            is_connect: false,
        })
    }

    /// A relay at an origin of its own URLs; the certificates in `ca` have a use only if they begin with `https`.
    pub(crate) fn at_own_url(
        origin: &str,
        ca: Option<&Path>,
        proxies: &Proxies,
    ) -> Result<Self, OutboundError> {
        let ca = ca.filter(|_| origin.starts_with("https:"));
        Self::at(origin, ca, proxies)
    }

    /// The same relay, for a command that ends after its requests.
    pub(crate) fn for_one_run(self) -> Self {
        Self {
            dial: self.dial.for_one_run(),
            ..self
        }
    }

    /// Adds the token of the file at `path`, if there is one.
    pub(crate) fn with_token_file(self, path: Option<&Path>) -> Result<Self, OutboundError> {
        Ok(Self {
            authorization: path.map(authorization).transpose()?,
            ..self
        })
    }

    /// Warns if the token crosses a network in clear text.
    pub(crate) fn warn_of_clear_text(&self) {
        if self.authorization.is_some() && self.origin.exposes_tokens() {
            warn(&format!(
                "your token goes to {} in clear text, where the network can read it; use https://",
                self.origin
            ));
        }
    }

    /// Asks for `path`; returns head and body of the answer. The body is empty without `wants_body`.
    pub(crate) async fn get(
        &self,
        path: &str,
        wants_body: bool,
    ) -> Result<(Parts, Bytes), Failure> {
        let question = Question {
            method: Method::GET,
            authority: &self.origin.authority(),
            path,
            authorization: self.authorization.clone(),
        };
        question.ask_over(&self.dial, wants_body).await
    }

    /// All tunnels that the caller may reach.
    pub(crate) async fn tunnels(&self) -> Result<Vec<ListedTunnel>, Problem> {
        let mut tunnels = Vec::new();
        let mut path = PATH.to_owned();
        for _ in 0..PAGES_MAX {
            let page = match self.answer(&path).await? {
                Answer::Page(page) => page,
                Answer::All(tunnels) => Page {
                    tunnels,
                    next: None,
                },
            };
            let with_url = |it: ListedTunnel| ListedTunnel {
                url: self.url_of(&it),
                ..it
            };
            tunnels.extend(page.tunnels.into_iter().map(with_url));
            match page.next {
                Some(next) => path = format!("{PATH}&after={next}"),
                None => return Ok(tunnels),
            }
        }
        Err(self.problem(ListErrorKind::Other, &"its list of tunnels has no end"))
    }

    /// Whether the relay, or the `tieline connect` in front of it, lists `tunnel`.
    pub(crate) async fn knows(&self, tunnel: &str) -> Listed {
        match self.tunnels().await {
            Ok(mut tunnels) => {
                let is_it = |it: &ListedTunnel| it.tunnel_id.eq_ignore_ascii_case(tunnel);
                match tunnels.iter().position(is_it) {
                    Some(at) => Listed::Yes(tunnels.swap_remove(at)),
                    None => Listed::No(tunnels.into_iter().map(|it| it.tunnel_id).collect()),
                }
            }
            Err(problem) if problem.why == ListErrorKind::NeedsToken => Listed::Unsure(format!(
                "{} answers token holders only, and an MCP client will need the token as well: without \
                 --relay the entry leads through tieline connect, which adds it",
                self.origin
            )),
            Err(problem) => Listed::Unsure(problem.text),
        }
    }

    /// Checks that the relay answers and accepts the caller.
    pub(crate) async fn look(&self) -> Result<(), Problem> {
        self.answer(PATH_SHORT).await.map(drop)
    }

    /// The tunnel's first URL with the host and port that were asked; otherwise this origin with the tunnel's
    /// path, since a proxy's address is not in the relay's list. `None` for a target that is not an HTTP server.
    fn url_of(&self, told: &ListedTunnel) -> Option<String> {
        if told.target_scheme == "tcp" {
            return None;
        }
        let (asked, port) = (self.origin.address.host(), self.origin.address.port());
        let is_here = |url: &&String| {
            let uri: Option<Uri> = url.parse().ok();
            uri.as_ref().is_some_and(|uri| {
                let usual = if uri.scheme_str() == Some("https") {
                    443
                } else {
                    80
                };
                let host = uri.host().unwrap_or_default().to_ascii_lowercase();
                let is_host = host == asked || host.ends_with(&format!(".{asked}"));
                is_host && uri.port_u16().unwrap_or(usual) == port
            })
        };
        let best = told.urls.iter().find(is_here).cloned();
        Some(best.unwrap_or_else(|| format!("{}{}", self.origin, told.path)))
    }

    fn problem(&self, why: ListErrorKind, what: &dyn Display) -> Problem {
        Problem {
            why,
            text: format!("{}: {what}", self.origin),
        }
    }

    async fn answer(&self, path: &str) -> Result<Answer, Problem> {
        let asked = self.get(path, true).await;
        let (head, body) = asked.map_err(|failure| self.no_answer(&failure))?;
        match head.status {
            StatusCode::OK if is_operators(&body) => Err(self.admin_port()),
            StatusCode::OK => serde_json::from_slice(&body).map_err(|_| self.stranger()),
            _ => Err(self.refusal(&head, &body)),
        }
    }

    fn no_answer(&self, failure: &Failure) -> Problem {
        match failure {
            Failure::Away(why) if self.is_connect => self.problem(
                ListErrorKind::Away,
                &format!(
                    "{why}; start tieline connect (give --connect ADDRESS if it listens elsewhere), or name the \
                     relay with --relay URL"
                ),
            ),
            Failure::Away(why) => self.problem(
                ListErrorKind::Away,
                &format!("{why}; is the relay up, and is this its address?"),
            ),
            Failure::Login { why, .. } | Failure::Untrusted(why) => {
                self.problem(ListErrorKind::Away, why)
            }
            Failure::Closed(_) => self.problem(
                ListErrorKind::NoRelay,
                &format!(
                    "what listens there closes the connection in place of an answer, as a relay's ports for \
                     agents (9001) and raw TCP (9002) do: {HTTP_PORT}"
                ),
            ),
            Failure::Strange(why) => self.problem(
                ListErrorKind::NoRelay,
                &format!("what listens there does not speak HTTP ({why}): {HTTP_PORT}"),
            ),
            Failure::Silent(why) => self.problem(
                ListErrorKind::NoRelay,
                &format!("what listens there gives {why}: {HTTP_PORT}"),
            ),
        }
    }

    fn stranger(&self) -> Problem {
        let what = format!(
            "an HTTP server answers there, and it is not a relay that lists tunnels: {HTTP_PORT}"
        );
        self.problem(ListErrorKind::NoRelay, &what)
    }

    fn admin_port(&self) -> Problem {
        let what = format!("this is the relay's admin port, for its operator: {HTTP_PORT}");
        self.problem(ListErrorKind::AdminPort, &what)
    }

    /// Explains an answer that is not a list.
    fn refusal(&self, head: &Parts, body: &[u8]) -> Problem {
        // A code for programs, and a message for people.
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let message = answer["message"].as_str();
        let message: Option<String> = message.map(|text| text.chars().take(300).collect());
        let Some(message) = message else {
            return match head.status {
                // Such an answer comes from a proxy in front of the relay, or from a server in the relay's place.
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    self.problem(
                        ListErrorKind::Other,
                        &format!("it answers {status} and gives no reason: try again in a moment"),
                    )
                }
                _ => self.stranger(),
            };
        };
        let has_token = self.authorization.is_some();
        match head.status {
            StatusCode::UNAUTHORIZED if message.contains("admin_token_file") => self.admin_port(),
            StatusCode::UNAUTHORIZED if !has_token => self.problem(
                ListErrorKind::NeedsToken,
                &format!("{message}: give the file of yours with --token-file FILE"),
            ),
            StatusCode::UNAUTHORIZED => self.problem(
                ListErrorKind::BadToken,
                &format!(
                    "{message}: tieline token show FILE shows what the token of --token-file says and when it \
                     ends; ask the relay's operator for a new one"
                ),
            ),
            StatusCode::FORBIDDEN if answer["error"] == "insufficient_scope" => self.problem(
                ListErrorKind::NoScope,
                &format!("the token is not for callers: {CALLER_TOKEN}"),
            ),
            StatusCode::NOT_FOUND => self.problem(
                ListErrorKind::Hidden,
                &"this relay does not list its tunnels; ask the people who publish the one you want for \
                  its URL",
            ),
            status => self.problem(ListErrorKind::Other, &format!("{status}: {message}")),
        }
    }
}

/// Whether `body` is the admin port's list of tunnels: only that list has a `total`.
fn is_operators(body: &[u8]) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    value.is_some_and(|it| it.get("total").is_some())
}
