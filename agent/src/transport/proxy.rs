//! Which proxy a connection goes through, and the ways through it: CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928).

use std::env;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_socks::tcp::Socks5Stream;

use super::head::{Head, INTERIM_MAX, NoHead};
use super::heard::Heard;
use super::logins::{Login, Logins};
use super::refusal::Problem;
use super::variables::{self, breaks_user, unknown_scheme};
use crate::address::HostPort;
use crate::error::ProxyError;
use crate::plain::address_without_user;

/// Text of the setting for no proxy.
const NONE: &str = "none";

/// Port of an HTTP proxy whose URL names none.
const HTTP_PORT: u16 = 80;

/// Port of a SOCKS proxy whose URL names none (RFC 1928, section 3).
const SOCKS_PORT: u16 = 1080;

/// Stands in messages for the URL of a proxy that came from a variable or from the system.
const UNKNOWN: &str = "… (HTTPS_PROXY, ALL_PROXY or the system's)";

/// Bytes that one read of a proxy's answer takes.
const READ_BYTES: usize = 4 * 1024;

/// Which proxy connections go through; none of them leads to a loopback address.
#[derive(Clone, Debug, Default)]
pub enum Proxies {
    /// The proxy that the environment names (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), else the system's settings.
    #[default]
    System,
    /// No proxy.
    Never,
    /// This proxy, whatever the environment says.
    Always(Proxy),
}

impl Proxies {
    /// Parses a setting: the URL of a proxy, or `none`.
    ///
    /// # Errors
    /// [`ProxyError`] says what is wrong with the URL.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        if text.eq_ignore_ascii_case(NONE) {
            return Ok(Self::Never);
        }
        if let Some(scheme) = unknown_scheme(text) {
            return Err(ProxyError::Kind { scheme });
        }
        let matcher = Matcher::builder().all(text).build();
        let found = matcher.intercept(&Uri::from_static("https://relay.invalid"));
        let wrong = || ProxyError::Url {
            text: address_without_user(text),
        };
        let found = found.filter(|_| !breaks_user(text)).ok_or_else(wrong)?;
        match Proxy::of(&found) {
            Err(ProxyError::Url { .. }) => Err(wrong()),
            made => made.map(Self::Always),
        }
    }

    /// The way to `to`, as the environment and the system's settings name it now. The settings change when a laptop
    /// changes its network, so each connection asks anew.
    ///
    /// # Errors
    /// [`ProxyError`] if the environment or the system names a proxy of a kind that is not supported.
    pub fn way(&self, to: &HostPort) -> Result<Way, ProxyError> {
        let proxy = match self {
            _ if to.is_loopback() => None,
            Self::System => of_system(to)?,
            Self::Never => None,
            Self::Always(proxy) => Some(proxy.clone()),
        };
        Ok(Way {
            to: to.clone(),
            proxy,
            logins: Logins::default(),
        })
    }
}

/// The proxy that the environment, else the system names for `to`. The first call of a process tells of variables that
/// cannot be read; no part of a value is shown, since it may hold a password.
fn of_system(to: &HostPort) -> Result<Option<Proxy>, ProxyError> {
    static TOLD: Once = Once::new();

    let wrong = variables::wrong(|name| env::var_os(name));
    TOLD.call_once(|| {
        for name in &wrong.passed_over {
            tracing::warn!(
                "{name} is not used: its value is not the URL of a proxy (http://, socks5:// or socks5h://; / ? # @ : % \
                 and characters outside ASCII in a password percent-encoded)"
            );
        }
    });
    let exempt = variables::no_proxy(|name| env::var_os(name)).unwrap_or_default();
    if exempts(&exempt, to) {
        return Ok(None);
    }
    if let Some(scheme) = wrong.scheme {
        return Err(ProxyError::Kind { scheme });
    }
    match named_by(&Matcher::from_system(), to)? {
        Some(_) if wrong.is_broken => Err(ProxyError::Url {
            text: UNKNOWN.to_owned(),
        }),
        Some(proxy) => {
            tell_misspelt(&exempt);
            Ok(Some(proxy))
        }
        None => Ok(None),
    }
}

/// Tells once of entries in `NO_PROXY` that match no host, and may have been meant for a relay that a proxy leads to.
fn tell_misspelt(no_proxy: &str) {
    static TOLD: Once = Once::new();

    TOLD.call_once(|| {
        for (entry, right) in variables::misspelt(no_proxy) {
            tracing::warn!("NO_PROXY: the entry {entry:?} matches no host: write {right}");
        }
    });
}

/// True if `no_proxy` exempts `to`, as [`Matcher`] reads it, or one of its entries with a port.
fn exempts(no_proxy: &str, to: &HostPort) -> bool {
    let matcher = Matcher::builder()
        .all("http://proxy.invalid")
        .no(variables::at_port(no_proxy, to.port()))
        .build();
    named_by(&matcher, to).is_ok_and(|named| named.is_none())
}

/// The proxy that `matcher` names for `to`. Links of all transports go through a tunnel of the proxy, so the proxy is that
/// for `https`.
fn named_by(matcher: &Matcher, to: &HostPort) -> Result<Option<Proxy>, ProxyError> {
    let Ok(uri) = Uri::try_from(format!("https://{to}")) else {
        return Ok(None);
    };
    let found = matcher.intercept(&uri);
    found.map(|found| Proxy::of(&found)).transpose()
}

/// How a proxy is asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    /// The names of servers are looked up here.
    Socks5,
    /// The proxy looks up the names of servers.
    Socks5h,
}

/// A proxy, with the user name and password for it.
#[derive(Clone)]
pub struct Proxy {
    kind: Kind,
    address: HostPort,
    /// Value of `Proxy-Authorization` for an HTTP proxy.
    basic: Option<HeaderValue>,
    /// User name and password for a SOCKS proxy.
    user: Option<(String, String)>,
}

impl Proxy {
    fn of(found: &Intercept) -> Result<Self, ProxyError> {
        let uri = found.uri();
        let (kind, port) = match uri.scheme_str().unwrap_or("http") {
            "http" => (Kind::Http, HTTP_PORT),
            "socks5" => (Kind::Socks5, SOCKS_PORT),
            "socks5h" => (Kind::Socks5h, SOCKS_PORT),
            other => {
                return Err(ProxyError::Kind {
                    scheme: other.to_owned(),
                });
            }
        };
        let authority = uri.authority().map_or("", |it| it.as_str());
        // What is taken for the host may be a part of a password.
        let address = HostPort::parse(authority, Some(port)).map_err(|_| ProxyError::Url {
            text: UNKNOWN.to_owned(),
        })?;
        let user = found.raw_auth();
        Ok(Self {
            kind,
            address,
            basic: found.basic_auth().cloned(),
            user: user.map(|(user, password)| (user.to_owned(), password.to_owned())),
        })
    }

    /// Host and port of the proxy.
    #[must_use]
    pub const fn address(&self) -> &HostPort {
        &self.address
    }

    fn login(&self) -> Login {
        let basic = self.basic.as_ref().map(|it| it.as_bytes().to_vec());
        let user = self.user.as_ref();
        let user = user.map(|(user, password)| format!("{user}\0{password}").into_bytes());
        Login {
            proxy: self.to_string(),
            user: basic.or(user),
        }
    }

    /// Asks the proxy at the other end of `socket` for a connection to `to`.
    async fn open(&self, socket: &mut TcpStream, to: &HostPort) -> Result<(), Problem> {
        match self.kind {
            Kind::Http => self.connect(socket, to).await,
            Kind::Socks5 | Kind::Socks5h => self.socks(socket, to).await,
        }
    }

    async fn connect(&self, socket: &mut TcpStream, to: &HostPort) -> Result<(), Problem> {
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
        if let Some(value) = &self.basic {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let written = socket.write_all(&request).await;
        written.map_err(|error| error.to_string())?;
        let head = read_head(socket).await?;
        match head.status {
            200..=299 => Ok(()),
            _ => Err(Problem::of_http(&head, to, self.basic.is_some())),
        }
    }

    async fn socks(&self, socket: &mut TcpStream, to: &HostPort) -> Result<(), Problem> {
        let host = match self.kind {
            Kind::Socks5 => {
                let found = to.resolve().await;
                let found = found.map_err(|error| format!("{}: {error}", to.host()))?;
                reachable(&found).map_or_else(|| to.host(), |ip| ip.to_string())
            }
            Kind::Http | Kind::Socks5h => to.host(),
        };
        let target = (host.as_str(), to.port());
        let mut socket = Heard {
            socket,
            bytes: Vec::new(),
        };
        let through = &mut socket;
        let opened = match &self.user {
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(through, target, user, password)
                    .await
                    .map(drop)
            }
            None => Socks5Stream::connect_with_socket(through, target)
                .await
                .map(drop),
        };
        let has_user = self.user.is_some();
        opened.map_err(|error| Problem::of_socks(&error, &socket.bytes, to, has_user))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
            Kind::Socks5h => "socks5h",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// Shows the proxy's URL without user name and password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// The way to a server: straight, or through a proxy.
#[derive(Clone, Debug)]
pub struct Way {
    to: HostPort,
    proxy: Option<Proxy>,
    logins: Logins,
}

impl Way {
    /// The same way, whose dials heed the refusals that `logins` knows, and add theirs to it.
    #[must_use]
    pub fn with_logins(self, logins: &Logins) -> Self {
        Self {
            logins: logins.clone(),
            ..self
        }
    }

    /// True if the proxy has refused the login, and must not be asked yet.
    pub(crate) fn is_barred(&self) -> bool {
        let login = self.proxy.as_ref().map(Proxy::login);
        login.is_some_and(|login| self.logins.refusal(&login).is_some())
    }

    /// The proxy on the way, if there is one.
    #[must_use]
    pub const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Connects to the server, before `deadline`.
    ///
    /// # Errors
    /// The system's error; with a proxy also what the proxy says, in words that name it: a [`RefusedLogin`] if it does
    /// not accept the login, also without a connection if it has refused the login a short time ago.
    ///
    /// [`RefusedLogin`]: crate::RefusedLogin
    pub async fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        let Some(proxy) = &self.proxy else {
            return self.to.connect(deadline).await;
        };
        let login = proxy.login();
        if let Some(refusal) = self.logins.refusal(&login) {
            return Err(refusal.into());
        }
        let words = |problem: &dyn fmt::Display| format!("the proxy {proxy}: {problem}");
        let named = |kind, problem: &dyn fmt::Display| io::Error::new(kind, words(problem));
        let connected = proxy.address.connect(deadline).await;
        let mut socket = connected.map_err(|error| named(error.kind(), &error))?;
        // After the connection, so that one whose packets are lost holds up no other dial.
        let turn = self.logins.turn(&login, deadline).await;
        let turn = turn.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => named(error.kind(), &"no answer in time"),
            _ => error,
        })?;
        match timeout_at(deadline, proxy.open(&mut socket, &self.to)).await {
            Ok(Ok(())) => {
                turn.accepted();
                Ok(socket)
            }
            Ok(Err(problem)) if problem.wants_login => {
                Err(turn.refused(words(&problem.text)).into())
            }
            Ok(Err(problem)) => Err(named(io::ErrorKind::Other, &problem.text)),
            Err(_) => Err(named(io::ErrorKind::TimedOut, &"no answer in time")),
        }
    }
}

/// The address of a server that a proxy reaches most likely: many proxies have no IPv6, whatever this machine has.
fn reachable(addresses: &[SocketAddr]) -> Option<IpAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or(addresses.first()).map(SocketAddr::ip)
}

/// Reads the head of the proxy's answer, and leaves what comes behind it in the socket: it is the server's.
async fn read_head(socket: &mut TcpStream) -> Result<Head, String> {
    for _ in 0..=INTERIM_MAX {
        let head = read_next_head(socket).await?;
        if !head.is_interim() {
            return Ok(head);
        }
    }
    Err("it sends interim answers (1xx) without end".to_owned())
}

async fn read_next_head(socket: &mut TcpStream) -> Result<Head, String> {
    let mut head = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        let count = socket.peek(&mut piece).await;
        let count = count.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("it closed the connection in place of an answer".to_owned());
        }
        let before = head.len();
        head.extend_from_slice(&piece[..count]);
        let parsed = Head::parse(&head);
        let own = match &parsed {
            Ok(Some((_, len))) => len - before,
            Ok(None) | Err(_) => count,
        };
        let taken = socket.read_exact(&mut piece[..own]).await;
        taken.map_err(|error| error.to_string())?;
        match parsed {
            Ok(Some((head, _))) => return Ok(head),
            Ok(None) => {}
            Err(NoHead::NotHttp) => {
                return Err("it does not speak HTTP: is it a SOCKS proxy (socks5h://)?".to_owned());
            }
            Err(NoHead::TooLong) => return Err("the head of its answer is too long".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> HostPort {
        HostPort::parse(text, None).unwrap()
    }

    #[test]
    fn the_environment_names_the_proxy_and_the_exceptions() {
        let matcher = Matcher::builder()
            .https("http://ada:secret@proxy.studio:3128")
            .no("internal.studio, 10.0.0.0/8")
            .build();
        for (host, proxy) in [
            ("relay.example:9001", Some("http://proxy.studio:3128")),
            ("internal.studio:443", None),
            ("relay.internal.studio:443", None),
            ("10.1.2.3:9001", None),
            ("[2001:db8::1]:443", Some("http://proxy.studio:3128")),
        ] {
            let found = named_by(&matcher, &to(host)).unwrap();
            let shown = found.as_ref().map(ToString::to_string);
            assert_eq!(shown.as_deref(), proxy, "{host}");
            assert!(!format!("{found:?}").contains("secret"));
        }
        let all = Matcher::builder().all("socks5h://proxy").build();
        let found = named_by(&all, &to("relay:1")).unwrap().unwrap();
        assert_eq!(found.to_string(), "socks5h://proxy:1080");
    }

    #[test]
    fn an_exception_with_a_port_is_for_that_port_alone() {
        let exempt = "relay.test:8443,[2001:db8::1]:443,10.9.8.7:1,*:7,.plain.test";
        for (host, is_exempt) in [
            ("relay.test:8443", true),
            ("below.relay.test:8443", true),
            ("relay.test:443", false),
            ("otherrelay.test:8443", false),
            ("[2001:db8::1]:443", true),
            ("[2001:db8::1]:8443", false),
            ("10.9.8.7:1", true),
            ("10.9.8.7:2", false),
            ("any.test:7", true),
            ("10.1.1.1:7", true),
            ("[2001:db8::2]:7", true),
            ("10.1.1.1:8", false),
            ("a.plain.test:443", true),
        ] {
            assert_eq!(exempts(exempt, &to(host)), is_exempt, "{host}");
        }
    }

    #[test]
    fn a_setting_is_none_or_the_url_of_a_proxy() {
        for (text, shown) in [
            ("http://proxy:3128", Some("http://proxy:3128")),
            ("proxy:3128", Some("http://proxy:3128")),
            ("http://proxy", Some("http://proxy:80")),
            ("socks5://[::1]:9050/", Some("socks5://[::1]:9050")),
            ("socks5h://u:p@proxy", Some("socks5h://proxy:1080")),
            ("None", None),
        ] {
            let way = Proxies::parse(text).unwrap().way(&to("relay:1")).unwrap();
            let proxy = way.proxy().map(ToString::to_string);
            assert_eq!(proxy.as_deref(), shown, "{text}");
        }
        for (text, words) in [
            ("https://proxy:3128", "https://"),
            ("socks4://proxy", "socks4://"),
            (
                "socks://ada:secret@proxy",
                "http://, socks5:// or socks5h://",
            ),
            ("http://ada:sécret@proxy", "outside ASCII"),
            ("", "expected http://"),
            ("http://a b", "expected http://"),
            // Characters that must be percent-encoded.
            ("http://ada:secret/x@proxy", "percent-encoded"),
            ("http://ada:1/secret@proxy", "percent-encoded"),
            ("http://ada:a#secret@proxy:1", "percent-encoded"),
            ("ada:a?secret@proxy:1", "percent-encoded"),
            ("socks5h://ada:x@secret@proxy", "percent-encoded"),
            ("http://ada:secret@proxy:port", "expected http://"),
        ] {
            let error = Proxies::parse(text).unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_password_in_a_variable_that_is_not_encoded_is_not_shown() {
        for text in ["http://ada:secret/x@proxy:1", "http://ada:x@secret@proxy:1"] {
            let matcher = Matcher::builder().all(text).build();
            let error = named_by(&matcher, &to("relay:1")).unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains("HTTPS_PROXY"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_proxy_is_given_the_ipv4_address_of_a_server_that_has_one() {
        let of = |texts: &[&str]| -> Option<String> {
            let parsed = texts.iter().map(|text| text.parse().unwrap());
            let addresses: Vec<SocketAddr> = parsed.collect();
            reachable(&addresses).map(|ip| ip.to_string())
        };
        let (v6, v4) = ("[2001:db8::1]:443", "192.0.2.1:443");
        assert_eq!(of(&[v6, v4, "192.0.2.2:443"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(&[v6]).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn this_machine_is_never_reached_through_a_proxy() {
        let proxies = Proxies::parse("http://proxy:3128").unwrap();
        for text in ["localhost:1", "127.0.0.1:1", "[::1]:1", "relay.localhost:1"] {
            assert!(proxies.way(&to(text)).unwrap().proxy().is_none(), "{text}");
        }
    }
}
