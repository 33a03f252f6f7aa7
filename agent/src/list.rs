//! `tieline list`: the tunnels at a relay that this caller may reach.

use std::path::{Path, PathBuf};

use clap::Args;
use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::connect::credential::Credential;
use crate::connect::tls::Tls;
use crate::connect::{ConnectError, RelayOrigin};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say};
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
    /// File with the certificates (PEM) to check the relay by, instead of the system's
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
        Err(Problem { wants_token, .. }) if wants_token => {
            Known::Unsure(format!("{origin} tells its tunnels to token holders only"))
        }
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

    fn row(&self, told: Told) -> Row {
        let is_http = told.target_scheme != "tcp";
        Row {
            url: is_http.then(|| format!("{}{}", self.origin, told.path)),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A relay that gives these answers, one after the other, and tells what it was asked.
    async fn relay(answers: &'static [(&str, &str)]) -> (Relay, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                asked.push(String::from_utf8(request).unwrap());
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
            asked
        });
        let args = ListArgs {
            relay: format!("http://{address}"),
            token_file: None,
            ca: None,
            json: false,
        };
        let relay = Relay {
            authorization: Some(HeaderValue::from_static("Bearer t")),
            ..Relay::of(&args).unwrap()
        };
        (relay, serving)
    }

    #[tokio::test]
    async fn every_page_is_asked_for_with_the_token() {
        const FIRST: &str = r#"{"tunnels":[{"tunnel_id":"comfy","dcc":"","capabilities":[],
            "online":false,"path":"/w/comfy","target_scheme":"tcp"}],"next":"comfy"}"#;
        const SECOND: &str = r#"{"tunnels":[{"tunnel_id":"maya-1","dcc":"maya","capabilities":["x"],
            "online":true,"path":"/w/maya-1/mcp","target_scheme":"http","more":1}],"next":null}"#;
        let (relay, serving) = relay(&[("200 OK", FIRST), ("200 OK", SECOND)]).await;
        let rows = relay.rows().await.unwrap();
        assert_eq!(
            (rows.len(), &rows[0].url, rows[0].online),
            (2, &None, false)
        );
        let url = format!("{}/w/maya-1/mcp", relay.origin);
        assert_eq!((&rows[1].url, rows[1].online), (&Some(url), true));
        let asked = serving.await.unwrap();
        assert!(
            asked[0].starts_with("GET /tunnels?limit=1000 HTTP/1.1\r\n"),
            "{asked:?}"
        );
        assert!(
            asked[1].starts_with("GET /tunnels?limit=1000&after=comfy HTTP/1.1\r\n"),
            "{asked:?}"
        );
        assert!(
            asked
                .iter()
                .all(|it| it.contains("authorization: Bearer t\r\n"))
        );
    }

    #[tokio::test]
    async fn a_tunnel_is_known_unknown_or_not_to_be_told() {
        const ROWS: &str = r#"[{"tunnel_id":"maya-1","dcc":"maya","capabilities":[],
            "online":true,"path":"/w/maya-1/mcp","target_scheme":"http"}]"#;
        let answers = &[("200 OK", ROWS), ("200 OK", ROWS), ("401 U", "{}")];
        let (relay, _serving) = relay(answers).await;
        let origin = relay.origin.to_string();
        assert_eq!(is_known(&origin, "Maya-1").await, Known::Yes);
        let others = Known::No(vec!["maya-1".to_owned()]);
        assert_eq!(is_known(&origin, "nuke").await, others);
        let Known::Unsure(why) = is_known(&origin, "nuke").await else {
            panic!("it was not told")
        };
        assert!(why.contains("token holders only"), "{why}");
    }

    #[tokio::test]
    async fn a_refusal_says_what_to_do() {
        for (status, body, said) in [
            (
                "401 U",
                r#"{"message":"no token"}"#,
                "no token; your token goes",
            ),
            ("404 N", "", "tells nobody"),
            ("200 OK", "<html>", "no relay that lists"),
            ("503 S", "{}", "503 Service Unavailable: it gives no reason"),
        ] {
            let answers: &'static [(&str, &str)] = vec![(status, body)].leak();
            let (relay, _serving) = relay(answers).await;
            let problem = relay.rows().await.unwrap_err().text;
            assert!(problem.contains(said), "{problem}");
        }
    }
}
