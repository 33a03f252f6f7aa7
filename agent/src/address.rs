//! The address type [`HostPort`]: parsing, name lookup, and connecting within a deadline.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::socket::{self, CloseMode};

/// Limit on the addresses that are tried for one host name.
const ADDRESSES_MAX: usize = 8;

/// A host, by name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl HostPort {
    /// Parses `host:port`; an IPv6 address needs brackets. A missing port becomes `default_port`.
    ///
    /// # Errors
    /// A text for a usage error that says what is wrong with `text`.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, &'static str> {
        let (host, port) = split(text)?;
        let port = match (port, default_port) {
            (Some(port), _) => match port.parse() {
                Ok(0) | Err(_) => return Err("the port is not a number from 1 to 65535"),
                Ok(port) => port,
            },
            (None, Some(port)) => port,
            (None, None) => return Err("the port is missing"),
        };
        Ok(Self {
            host: parse_host(host)?,
            port,
        })
    }

    /// Parses the part of a relay's URL after `scheme`; one slash at the end is allowed.
    pub fn of_relay(scheme: &str, rest: &str, default_port: Option<u16>) -> Result<Self, String> {
        if rest.contains('@') {
            return Err(
                "the address must not hold a user name or password; put the token into a file, named by \
                 --token-file"
                    .to_owned(),
            );
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
        let address = Self::parse(&authority[..end], default_port)?;
        match end == authority.len() {
            true => Ok(address),
            false => Err(format!(
                "the address must end after host and port, without the path: write {scheme}{}",
                &authority[..end]
            )),
        }
    }

    /// The port number.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The host without brackets, in lower case.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// True for a loopback address, `localhost` and the names below it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Connects to the first address that answers, before `deadline`.
    ///
    /// # Errors
    /// The last address's error; `TimedOut` if the deadline passed.
    pub async fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        self.connect_with(deadline, CloseMode::Ends).await
    }

    /// Like [`HostPort::connect`]; `unfinished` decides how the peer sees a close before the orderly end.
    pub(crate) async fn connect_with(
        &self,
        deadline: Instant,
        unfinished: CloseMode,
    ) -> io::Result<TcpStream> {
        let addresses = timeout_at(deadline, self.resolve())
            .await
            .map_err(|_| too_late())??;
        let mut last_error = None;
        for (index, address) in addresses.iter().enumerate() {
            // Each address gets an equal share of the time left: one that drops packets leaves time for the next.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
            let connecting = socket::connect(*address, unfinished);
            match timeout_at(Instant::now() + share, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last_error = Some(error),
                Err(_) => last_error = Some(too_late()),
            }
        }
        Err(last_error
            .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    /// True if the host needs no name server: an IP address, or `localhost`.
    #[must_use]
    pub fn is_known(&self) -> bool {
        match &self.host {
            Host::Ip(_) => true,
            Host::Name(name) => name == "localhost",
        }
    }

    /// Addresses of the host, at most 16.
    ///
    /// # Errors
    /// What the name lookup says.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            // RFC 6761, 6.3: never ask a name server for `localhost`. This also saves a lookup thread per session.
            Host::Name(name) if name == "localhost" => Ok(vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), self.port),
            ]),
            Host::Name(name) => {
                let found = tokio::net::lookup_host((name.as_str(), self.port)).await?;
                Ok(found.take(ADDRESSES_MAX).collect())
            }
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// The moment `duration` from now.
#[must_use]
pub fn deadline_in(duration: Duration) -> Instant {
    Instant::now() + duration
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn split(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the ']' is missing")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("something other than a port follows the ']'"),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, port)) if port.contains(':') => Err("an IPv6 address needs brackets"),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn parse_host(text: &str) -> Result<Host, &'static str> {
    if text.is_empty() {
        return Err("the host is missing");
    }
    if let Ok(ip) = text.parse() {
        return Ok(Host::Ip(ip));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    // RFC 1035, 2.3.4: 255 bytes on the wire are at most 253 characters.
    if text.len() > 253 || !text.chars().all(plain) {
        return Err("the host is not a valid name or address");
    }
    Ok(Host::Name(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, &'static str> {
        HostPort::parse(text, None).map(|address| address.to_string())
    }

    #[test]
    fn hosts_are_names_or_numbers_with_a_port() {
        assert_eq!(read("127.0.0.1:80").as_deref(), Ok("127.0.0.1:80"));
        assert_eq!(
            read("Render-01.farm:7001").as_deref(),
            Ok("render-01.farm:7001")
        );
        assert_eq!(read("[::1]:80").as_deref(), Ok("[::1]:80"));
        for wrong in [
            "",
            ":80",
            "host",
            "host:0",
            "host:65536",
            "host:",
            "::1:80",
            "[::1]80",
            "a b:1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(HostPort::parse("host", Some(80)).unwrap().port(), 80);
    }

    #[test]
    fn this_machine_is_recognised() {
        for (text, local) in [
            ("localhost:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(
                HostPort::parse(text, None).unwrap().is_loopback(),
                local,
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn localhost_reaches_a_server_on_either_family() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(server) = tokio::net::TcpListener::bind(address).await else {
                continue;
            };
            let port = server.local_addr().unwrap().port();
            let target = HostPort::parse(&format!("localhost:{port}"), None).unwrap();
            target
                .connect(deadline_in(Duration::from_secs(5)))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_at_once() {
        let port = {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            server.local_addr().unwrap().port()
        };
        let target = HostPort::parse(&format!("127.0.0.1:{port}"), None).unwrap();
        let error = target
            .connect(deadline_in(Duration::from_secs(5)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
