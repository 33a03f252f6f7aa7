//! Settings for callers: web pages and proxies that are trusted, the target's own credential, and waits.

use std::net::IpAddr;
use std::time::Duration;

use clap::{ArgAction, Args};
use http::HeaderName;
use ipnet::IpNet;

use super::in_range;
use super::values::{expected, number, set, switch, time};
use crate::error::ConfigError;

/// Values that some settings accept, for errors.
const ORIGIN: &str = "an origin such as https://app.example, or *";
const NETWORK: &str = "a network such as 10.0.0.0/8, or an address";
const FREE_FIELD: &str = "the name of a header field that is free, such as X-Target-Authorization";

/// Largest [`CallersConfig::quic_streams_max`]: 511 streams of 8 MiB are just below the 4 GiB that a window may have here.
const QUIC_STREAMS_MAX: u32 = 511;

/// Settings for callers.
#[derive(Debug, Default, Args)]
pub(super) struct CallersSettings {
    /// Origin of web pages that may use tunnels, as in https://app.example, or `*` for any; may be repeated
    #[arg(long, value_name = "ORIGIN", value_parser = expected(ORIGIN, origin))]
    allow_origin: Option<Vec<String>>,
    /// Proxy whose X-Forwarded-* fields are trusted, as in 10.0.0.5, or a network of such proxies; may be repeated
    #[arg(long, value_name = "NET", value_parser = expected(NETWORK, network))]
    trusted_proxies: Option<Vec<IpNet>>,
    /// Connections from trusted proxies begin with the PROXY protocol, version 2
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch)]
    proxy_protocol: Option<bool>,
    /// Redirect requests at plain addresses of http_listen to https://, and refuse WebSockets there
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch)]
    redirect_http: Option<bool>,
    /// Header field in which callers send the target's own Authorization, where Authorization has the relay's token
    #[arg(long, value_name = "FIELD", value_parser = expected(FREE_FIELD, free_field))]
    target_authorization_header: Option<HeaderName>,
    /// How long after an agent left requests wait for it to come back [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    offline_grace: Option<Duration>,
    /// Time after the start in which requests to unknown tunnels wait too, since agents still come back [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    start_grace: Option<Duration>,
    /// Idle time before an event stream gets a keep-alive comment; 0s: never [default: 15s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    sse_keepalive: Option<Duration>,
    /// Streams at a time of one caller's QUIC connection, each with a session [default: 16]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    quic_streams_max: Option<u32>,
}

impl CallersSettings {
    pub(super) fn config(self) -> CallersConfig {
        let mut callers = CallersConfig::default();
        set(&mut callers.allow_origins, self.allow_origin);
        set(&mut callers.trusted_proxies, self.trusted_proxies);
        set(&mut callers.proxy_protocol, self.proxy_protocol);
        set(&mut callers.redirect_http, self.redirect_http);
        callers.target_authorization = self.target_authorization_header;
        set(&mut callers.offline_grace, self.offline_grace);
        set(&mut callers.start_grace, self.start_grace);
        set(&mut callers.sse_keepalive, self.sse_keepalive);
        set(&mut callers.quic_streams_max, self.quic_streams_max);
        callers
    }
}

/// Settings for callers over HTTP, raw TCP and QUIC: permissions, trusted proxies, and waits. Those about web pages, header
/// fields and event streams concern HTTP only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallersConfig {
    /// Origins of web pages that may use tunnels, besides the relay's own; `*` for any.
    pub allow_origins: Vec<String>,
    /// Networks of proxies whose X-Forwarded-* fields are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections from these proxies begin with a PROXY protocol header, version 2, on the
    /// ports for callers.
    pub proxy_protocol: bool,
    /// Whether requests that come without TLS are redirected to the relay's `https` URL, and WebSockets refused.
    pub redirect_http: bool,
    /// Request field that becomes the target's `Authorization`, where the relay takes `Authorization` itself.
    pub target_authorization: Option<HeaderName>,
    /// How long requests wait for a lost agent to come back.
    pub offline_grace: Duration,
    /// Time after the relay's start in which an unknown tunnel counts as offline.
    pub start_grace: Duration,
    /// Idle time after which an event stream gets a comment; zero means never.
    pub sse_keepalive: Duration,
    /// Streams at a time of one caller's QUIC connection. Each may hold 8 MiB at the relay that its target has not read, about
    /// as much as a TCP connection holds in the kernel (6 MiB, `tcp_rmem`), and all streams of a shard half of
    /// [`Config::shard_budget_bytes`](super::Config::shard_budget_bytes).
    pub quic_streams_max: u32,
}

impl Default for CallersConfig {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            redirect_http: false,
            target_authorization: None,
            offline_grace: Duration::from_secs(5),
            start_grace: Duration::from_secs(30),
            sse_keepalive: Duration::from_secs(15),
            quic_streams_max: 16,
        }
    }
}

impl CallersConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            let text = "proxy_protocol: without trusted_proxies any caller could claim another caller's \
                        address; name the proxies in trusted_proxies";
            return Err(ConfigError::Conflict(text.to_owned()));
        }
        let ms = Duration::from_millis;
        in_range("offline_grace", self.offline_grace, ms(0), ms(60_000))?;
        in_range("start_grace", self.start_grace, ms(0), ms(3_600_000))?;
        in_range("sse_keepalive", self.sse_keepalive, ms(0), ms(3_600_000))?;
        in_range(
            "quic_streams_max",
            self.quic_streams_max,
            1,
            QUIC_STREAMS_MAX,
        )
    }
}

/// Parses an origin as browsers write it (RFC 6454, section 6.2), `null`, or `*`.
fn origin(text: &str) -> Option<String> {
    if matches!(text, "*" | "null") {
        return Some(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let is_authority = !authority.is_empty()
        && authority
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/?#@\\,".contains(&b));
    (is_scheme && is_authority).then(|| text.to_ascii_lowercase())
}

/// Parses the name of a header field that the relay does not use itself.
fn free_field(text: &str) -> Option<HeaderName> {
    let name: HeaderName = text.parse().ok()?;
    let is_taken = [
        "authorization",
        "host",
        "origin",
        "connection",
        "cookie",
        "te",
        "upgrade",
        "transfer-encoding",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
    ]
    .into_iter()
    .any(|taken| name == taken);
    let is_ours = ["x-forwarded-", "mcp-", "proxy-"]
        .iter()
        .any(|start| name.as_str().starts_with(start));
    (!is_taken && !is_ours).then_some(name)
}

/// Parses a network such as `10.0.0.0/8`, or a single address.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse()
        .ok()
        .map(|net: IpNet| net.trunc())
        .or_else(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_a_browser_sends() {
        for (text, expected) in [
            ("https://App.example", Some("https://app.example")),
            ("http://localhost:3000", Some("http://localhost:3000")),
            ("vscode-webview://abc", Some("vscode-webview://abc")),
            ("*", Some("*")),
            ("null", Some("null")),
            ("app.example", None),
            ("https://app.example/", None),
            ("https://", None),
            ("https://a,https://b", None),
        ] {
            assert_eq!(origin(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn proxies_are_networks_or_single_addresses() {
        for (text, expected) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("::1", Some("::1/128")),
            ("10.0.0.0/33", None),
            ("proxy.example", None),
        ] {
            let shown = network(text).map(|net| net.to_string());
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }
}
