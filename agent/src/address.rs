//! The address type [`HostPort`]: parsing, name lookup, and connecting within a deadline; and whether an address is this
//! machine's.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::socket::{self, CloseMode};

/// Limit on the addresses that are tried for one host name.
const ADDRESSES_MAX: usize = 8;

/// Limit on the addresses of a name lookup that are looked at.
const LOOKED_AT_MAX: usize = 64;

/// Wait for one address before the next is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

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
        let wrong = "the port is not a number from 1 to 65535";
        let port = match (port, default_port) {
            (Some(port), _) => port_number(port).ok_or(wrong)?,
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

    /// True for a loopback address, `localhost` and the names below it, also with a dot at the end (RFC 6761, section 6.3).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }

    /// Connects to the address that answers first, before `deadline`. An address that stays silent holds up the others
    /// for a moment only (RFC 8305).
    ///
    /// # Errors
    /// The error of the address that tells most; `TimedOut` if the deadline passed without one that tells more.
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
        let connect = |address| socket::connect(address, unfinished);
        first_connected(addresses, deadline, connect).await
    }

    /// Calls `connect` for the addresses of the host, a quarter of a second apart or as soon as no attempt runs, before
    /// `deadline`; returns the first success.
    ///
    /// # Errors
    /// What the name lookup says; the error of the address that tells most; `TimedOut` if the deadline passed without one
    /// that tells more.
    pub(crate) async fn first<T, F: Future<Output = io::Result<T>>>(
        &self,
        deadline: Instant,
        connect: impl Fn(SocketAddr) -> F,
    ) -> io::Result<T> {
        let addresses = timeout_at(deadline, self.resolve()).await;
        let addresses =
            addresses.map_err(|_| io::Error::other("no name server answered in time"))??;
        first_connected(addresses, deadline, connect).await
    }

    /// True if the host needs no name server: an IP address, or `localhost`.
    #[must_use]
    pub fn is_known(&self) -> bool {
        match &self.host {
            Host::Ip(_) => true,
            Host::Name(name) => name == "localhost",
        }
    }

    /// Addresses of the host, at most 8, in the order in which they are tried: the system's, with the families in turn.
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
                let mut addresses = interleaved(found.take(LOOKED_AT_MAX).collect());
                addresses.truncate(ADDRESSES_MAX);
                Ok(addresses)
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

/// `addresses` with IPv4 and IPv6 in turn, each in the given order, and the family of the first in front.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == is_v6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return all;
        }
        all.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// Calls `connect` for each of `addresses`, [`ATTEMPT_DELAY`] apart or as soon as no attempt runs, and returns the first
/// success, or the error that tells most.
async fn first_connected<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut rest = addresses.into_iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut next_at = Instant::now();
    loop {
        if next_at <= Instant::now()
            && let Some(address) = rest.next()
        {
            running.push(Box::pin(connect(address)));
            next_at = Instant::now() + ATTEMPT_DELAY;
        }
        if running.is_empty() {
            return Err(error);
        }
        let wakes_at = match rest.len() {
            0 => deadline,
            _ => next_at.min(deadline),
        };
        tokio::select! {
            biased;
            ended = poll_fn(|cx| poll_any(&mut running, cx)) => match ended {
                Ok(connected) => return Ok(connected),
                Err(failed) => {
                    error = more_telling(error, failed);
                    next_at = Instant::now();
                }
            },
            () = sleep_until(wakes_at) => {
                if wakes_at == deadline {
                    return Err(more_telling(error, too_late()));
                }
            }
        }
    }
}

/// Ready with the result of one of the attempts, which is removed.
fn poll_any<F: Future>(running: &mut Vec<Pin<Box<F>>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    for index in 0..running.len() {
        if let Poll::Ready(ended) = running[index].as_mut().poll(cx) {
            drop(running.swap_remove(index));
            return Poll::Ready(ended);
        }
    }
    Poll::Pending
}

/// The one of two errors that tells more; the second of two that tell as much.
fn more_telling(first: io::Error, second: io::Error) -> io::Error {
    match rank(&first) > rank(&second) {
        true => first,
        false => second,
    }
}

/// How much the error of one address tells about why there is no connection; more is better. Most names have addresses
/// of two families, of which one leads nowhere on many machines.
fn rank(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable => 0,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => 1,
        // What the server at the address has said, as an error of TLS or QUIC.
        _ if error.get_ref().is_some() => 3,
        _ => 2,
    }
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

/// The port with this number; `None` for 0, and for more than digits, such as the sign that [`str::parse`] allows.
fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse::<u16>().ok();
    port.filter(|port| is_number && *port > 0)
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

/// True if this machine no longer has `address`, the local address of one of its connections.
pub(crate) fn is_gone(address: IpAddr) -> bool {
    // Binding sends nothing: the system only checks that the address is local.
    matches!(
        UdpSocket::bind((address, 0)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_gone_only_if_this_machine_lacks_it() {
        assert!(!is_gone("127.0.0.1".parse().unwrap()));
        // Reserved for documentation (RFC 5737): no machine has this address.
        assert!(is_gone("192.0.2.1".parse().unwrap()));
    }

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
            "host:+80",
            "host:",
            "::1:80",
            "[::1]80",
            "a b:1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(HostPort::parse("host", Some(80)).unwrap().port(), 80);
        assert_eq!(read("host:080").as_deref(), Ok("host:80"));
    }

    #[test]
    fn this_machine_is_recognised() {
        for (text, local) in [
            ("localhost:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("localhost.:1", true),
            ("relay.localhost.:1", true),
            ("notlocalhost.:1", false),
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

    /// What an address of a test does with a connection.
    #[derive(Clone, Copy)]
    enum Behaviour {
        /// Takes the connection after this many milliseconds.
        Takes(u64),
        /// Refuses the connection after this many milliseconds.
        Refuses(u64),
        /// Answers with a certificate that is not trusted.
        Answers,
        /// Has no route.
        Unreachable,
        /// Drops every packet.
        Silent,
    }

    /// Connects to addresses that behave so, and returns the number of the one that was reached, and the milliseconds
    /// that it took.
    async fn raced(all: &[Behaviour]) -> (io::Result<u16>, u128) {
        let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses = (0..).take(all.len()).map(address).collect();
        let begun = Instant::now();
        let connect = |address: SocketAddr| {
            let port = address.port();
            let behaviour = all[usize::from(port)];
            async move {
                match behaviour {
                    Behaviour::Takes(ms) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        Ok(port)
                    }
                    Behaviour::Refuses(ms) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        Err(io::ErrorKind::ConnectionRefused.into())
                    }
                    Behaviour::Answers => Err(io::Error::other("not trusted")),
                    Behaviour::Unreachable => Err(io::ErrorKind::NetworkUnreachable.into()),
                    Behaviour::Silent => std::future::pending().await,
                }
            }
        };
        let deadline = deadline_in(Duration::from_secs(10));
        let outcome = first_connected(addresses, deadline, connect).await;
        (outcome, begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_stays_silent_costs_a_quarter_of_a_second() {
        use Behaviour::{Refuses, Silent, Takes};
        for (all, port, took) in [
            (&[Takes(10), Takes(0)][..], 0, 10),
            (&[Silent, Takes(10)], 1, 260),
            (&[Silent, Silent, Takes(0)], 2, 500),
            // A refusal starts the next attempt at once.
            (&[Refuses(10), Takes(10)], 1, 20),
            // A slow answer is waited for beside the others.
            (&[Takes(300), Silent], 0, 300),
            (&[Takes(3_000), Refuses(0), Silent], 0, 3_000),
        ] {
            let (outcome, ms) = raced(all).await;
            assert_eq!(outcome.unwrap(), port);
            // The clock of tokio's timers counts in milliseconds, rounded up.
            assert!((took..took + 5).contains(&ms), "{ms} ms in place of {took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_address_that_answers_the_most_telling_error_or_the_deadline_is_told() {
        use Behaviour::{Answers, Refuses, Silent, Unreachable};
        let (outcome, ms) = raced(&[Refuses(0), Refuses(5)]).await;
        assert_eq!(
            outcome.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(ms < 10, "{ms} ms");
        let (outcome, ms) = raced(&[Silent, Refuses(0)]).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((10_000..10_010).contains(&ms), "{ms} ms");
        let (outcome, _) = raced(&[]).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::NotFound);
        for (all, kind) in [
            (&[Answers, Refuses(0)][..], io::ErrorKind::Other),
            (&[Refuses(0), Answers], io::ErrorKind::Other),
            (&[Answers, Unreachable, Silent], io::ErrorKind::Other),
            (&[Refuses(0), Unreachable], io::ErrorKind::ConnectionRefused),
            (&[Unreachable, Refuses(0)], io::ErrorKind::ConnectionRefused),
        ] {
            let (outcome, _) = raced(all).await;
            assert_eq!(outcome.unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c] = [1, 2, 3].map(|it| SocketAddr::from((Ipv4Addr::new(10, 0, 0, it), 1)));
        let [x, y] = [1, 2].map(|it| {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, it);
            SocketAddr::from((ip, 1))
        });
        assert_eq!(interleaved(vec![x, y, a, b, c]), [x, a, y, b, c]);
        assert_eq!(interleaved(vec![a, b, x]), [a, x, b]);
        assert!(interleaved(Vec::new()).is_empty());
    }
}
