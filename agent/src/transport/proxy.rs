//! A proxy, and the ways through it: CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use hyper_util::client::proxy::matcher::Intercept;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use super::head::{Head, INTERIM_MAX, NoHead};
use super::heard::{Heard, Said};
use super::logins::Login;
use super::refusal::{NoAnswer, Problem};
use crate::address::HostPort;

/// Port of an HTTP proxy whose URL names none.
const HTTP_PORT: u16 = 80;

/// Port of a SOCKS proxy whose URL names none (RFC 1928, section 3).
const SOCKS_PORT: u16 = 1080;

/// Bytes that one read of a proxy's answer takes.
const READ_BYTES: usize = 4 * 1024;

/// How a proxy is asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    /// The names of servers are looked up here.
    Socks5,
    /// The proxy looks up the names of servers.
    Socks5h,
}

/// Why a text names no proxy that can be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// The kind of proxy with this scheme is not supported.
    Kind(String),
    /// The text is not a proxy's URL. What is taken for its host may be a part of a password, so it is not kept.
    Url,
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
    pub(super) fn of(found: &Intercept) -> Result<Self, Unusable> {
        let uri = found.uri();
        let (kind, port) = match uri.scheme_str().unwrap_or("http") {
            "http" => (Kind::Http, HTTP_PORT),
            "socks5" => (Kind::Socks5, SOCKS_PORT),
            "socks5h" => (Kind::Socks5h, SOCKS_PORT),
            other => return Err(Unusable::Kind(other.to_owned())),
        };
        let authority = uri.authority().map_or("", |it| it.as_str());
        let address = HostPort::parse(authority, Some(port)).map_err(|_| Unusable::Url)?;
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

    pub(super) fn login(&self) -> Login {
        let basic = self.basic.as_ref().map(|it| it.as_bytes().to_vec());
        let user = self.user.as_ref();
        let user = user.map(|(user, password)| format!("{user}\0{password}").into_bytes());
        Login {
            proxy: self.to_string(),
            user: basic.or(user),
        }
    }

    /// Asks the proxy at the other end of `socket` for a connection to `to`. `said` gets what the proxy sends, of an
    /// HTTP proxy its answer's head alone.
    pub(super) async fn open(
        &self,
        socket: &mut TcpStream,
        to: &HostPort,
        said: &Said,
    ) -> Result<(), Problem> {
        match self.kind {
            Kind::Http => self.connect(socket, to, said).await,
            Kind::Socks5 | Kind::Socks5h => self.socks(socket, to, said).await,
        }
    }

    /// The problem of a proxy whose answer has not come in time; `said` is what [`Proxy::open`] has read of it.
    pub(super) fn late(&self, said: &Said) -> Problem {
        match self.kind {
            Kind::Http => Problem::of_late_http(&said.bytes(), self.basic.is_some()),
            Kind::Socks5 | Kind::Socks5h => {
                Problem::of_late_socks(&said.bytes(), self.user.is_some())
            }
        }
    }

    /// `problem` in words that name the proxy.
    pub(super) fn words(&self, problem: &dyn fmt::Display) -> String {
        format!("the proxy {self}: {problem}")
    }

    async fn connect(
        &self,
        socket: &mut TcpStream,
        to: &HostPort,
        said: &Said,
    ) -> Result<(), Problem> {
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
        if let Some(value) = &self.basic {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let has_user = self.basic.is_some();
        let read = match socket.write_all(&request).await {
            Ok(()) => read_head(socket, said).await,
            // A part of the request may have reached the proxy.
            Err(error) => Err(NoAnswer::of(&error)),
        };
        match read {
            Ok(head) if matches!(head.status, 200..=299) => Ok(()),
            Ok(head) => Err(Problem::of_http(&head, to, has_user)),
            Err(why) => Err(Problem::of_no_head(why, &said.bytes(), has_user)),
        }
    }

    async fn socks(
        &self,
        socket: &mut TcpStream,
        to: &HostPort,
        said: &Said,
    ) -> Result<(), Problem> {
        let host = match self.kind {
            Kind::Socks5 => {
                let found = to.resolve().await;
                let found = found.map_err(|error| format!("{}: {error}", to.host()))?;
                reachable(&found).map_or_else(|| to.host(), |ip| ip.to_string())
            }
            Kind::Http | Kind::Socks5h => to.host(),
        };
        let target = (host.as_str(), to.port());
        let mut socket = Heard { socket, said };
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
        opened.map_err(|error| Problem::of_socks(&error, &said.bytes(), to, has_user))
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

/// The address of a server that a proxy reaches most likely: many proxies have no IPv6, whatever this machine has.
fn reachable(addresses: &[SocketAddr]) -> Option<IpAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or(addresses.first()).map(SocketAddr::ip)
}

/// Reads the head of the proxy's answer, and leaves what comes behind it in the socket: it is the server's. `said`
/// gets the bytes of the head that is being read.
async fn read_head(socket: &mut TcpStream, said: &Said) -> Result<Head, NoAnswer> {
    for _ in 0..=INTERIM_MAX {
        said.clear();
        let head = read_next_head(socket, said).await?;
        if !head.is_interim() {
            return Ok(head);
        }
    }
    Err("it sends interim answers (1xx) without end"
        .to_owned()
        .into())
}

async fn read_next_head(socket: &mut TcpStream, said: &Said) -> Result<Head, NoAnswer> {
    let mut heard = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        let count = socket.peek(&mut piece).await;
        let count = count.map_err(|error| NoAnswer::of(&error))?;
        if count == 0 {
            return Err(NoAnswer {
                text: "it closed the connection in place of an answer".to_owned(),
                is_end: true,
            });
        }
        let before = heard.len();
        heard.extend_from_slice(&piece[..count]);
        said.add(&piece[..count]);
        let parsed = Head::parse(&heard);
        let own = match &parsed {
            Ok(Some((_, len))) => len - before,
            Ok(None) | Err(_) => count,
        };
        let taken = socket.read_exact(&mut piece[..own]).await;
        taken.map_err(|error| NoAnswer::of(&error))?;
        let text = match parsed {
            Ok(Some((head, _))) => return Ok(head),
            Ok(None) => continue,
            Err(NoHead::NotHttp) => "it does not speak HTTP: is it a SOCKS proxy (socks5h://)?",
            Err(NoHead::TooLong) => "the head of its answer is too long",
        };
        return Err(text.to_owned().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
