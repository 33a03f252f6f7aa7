//! Checks of the way from the relay's name to a connection.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::check::Check;
use tieline_agent::address::HostPort;
use tieline_agent::error::Error;
use tieline_agent::transport::{Connected, Dialler, Way, WayReason};

/// Longest wait for a name server: resolvers try for 5 s and then once more (resolv.conf(5)).
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn dns(address: &HostPort) -> Check {
    let host = address.host();
    if address.is_known() {
        return Check::not_applicable("dns", format!("{host} needs no name server"));
    }
    let advice = "is the name right, and does this machine reach its name server?";
    match timeout(LOOKUP_TIMEOUT, address.resolve()).await {
        Err(_) => Check::failed(
            "dns",
            format!("no name server answered for {host} in time"),
            advice,
        ),
        Ok(Err(error)) => Check::failed("dns", format!("{host}: {error}"), advice),
        Ok(Ok(found)) if found.is_empty() => {
            Check::failed("dns", format!("{host} has no address"), advice)
        }
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.iter().map(|it| it.ip().to_string()).collect();
            Check::ok("dns", format!("{host} is {}", addresses.join(", ")))
        }
    }
}

pub(super) async fn tcp(dialler: &Dialler, has_address: bool) -> (Check, Option<Connected>) {
    let relay = dialler.relay();
    if !has_address {
        let text = format!("there is no address to connect to for {relay}");
        return (Check::not_applicable("tcp", text), None);
    }
    let begun = Instant::now();
    match dialler.connect().await {
        Ok(connected) => {
            let took = begun.elapsed().as_micros();
            // The address at the other end is a proxy's own, if there is one.
            let to = match (connected.way().proxy(), connected.peer_addr()) {
                (Some(proxy), _) => format!("through {proxy}"),
                (None, Ok(address)) => format!("to {address}"),
                (None, Err(_)) => format!("to {relay}"),
            };
            let text = format!("connected {to} in {}.{} ms", took / 1000, took / 100 % 10);
            (Check::ok("tcp", text), Some(connected))
        }
        Err(error) => {
            let advice = match &error {
                Error::Dial { .. } if dialler.way().is_ok_and(|way| way.proxy().is_some()) => {
                    "is the proxy right, and does it let this machine reach the relay? --proxy none goes without"
                }
                Error::Dial { source, .. } => advice(source),
                _ => "try again",
            };
            (Check::failed("tcp", error, advice), None)
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: is the relay running, and is this its port (443 with TLS, else 9001 for tcp:// and 9080 for ws://)?"
        }
        io::ErrorKind::TimedOut => {
            "a firewall may drop the connection: is the relay's port for agents open to this network?"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "this network has no route to the relay: is a VPN off, or a cable unplugged?"
        }
        _ => "is the relay's address right, and reachable from this network?",
    }
}

/// Says which proxy leads to the relay and what names it, or why none does. A proxy's URL may contain a password, so no
/// variable's value is shown.
pub(super) fn proxy(dialler: &Dialler) -> Check {
    match dialler.way() {
        Ok(way) => of_way(dialler.relay().address(), &way),
        Err(error) => {
            let advice = "correct it, or give --proxy URL; --proxy none goes without";
            Check::failed("proxy", error, advice)
        }
    }
}

fn of_way(relay: &HostPort, way: &Way) -> Check {
    let by = match way.reason() {
        WayReason::Setting => "--proxy, TIELINE_PROXY or tieline.toml",
        WayReason::Variable(name) => *name,
        WayReason::System => "the system's settings",
        WayReason::Loopback => {
            let text = format!("none: {relay} is this machine, never reached through a proxy");
            return Check::not_applicable("proxy", text);
        }
        WayReason::Exempt { by, entry, from } => {
            let text = match from {
                Some(from) => format!("{from} set, and not used"),
                None => "none".to_owned(),
            };
            let text = format!("{text} for {relay}: the entry {entry:?} of {by} exempts it");
            return Check::ok("proxy", text);
        }
    };
    match (way.proxy(), way.reason()) {
        (Some(proxy), _) => Check::ok(
            "proxy",
            format!("{relay} is reached through {proxy} ({by})"),
        ),
        (None, WayReason::System) => {
            Check::not_applicable("proxy", "no proxy is set for this process")
        }
        (None, _) => Check::not_applicable("proxy", format!("none, as {by} says")),
    }
}

#[cfg(test)]
mod tests {
    use tieline_agent::{Proxies, RelayUrl};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::check::Outcome;
    use super::*;

    fn dialler(relay: &str, proxies: &Proxies) -> Dialler {
        Dialler::new(RelayUrl::parse(relay).unwrap(), None, proxies).unwrap()
    }

    #[test]
    fn the_proxy_is_named_or_why_there_is_none_without_its_password() {
        let always = Proxies::parse("http://ada:secret@proxy:3128").unwrap();
        let (away, here) = ("tcp://relay.invalid:1", "tcp://127.0.0.1:1");
        for (proxies, relay, outcome, words) in [
            (
                &Proxies::Never,
                away,
                Outcome::NotApplicable,
                "none, as --proxy",
            ),
            (
                &always,
                away,
                Outcome::Ok,
                "relay.invalid:1 is reached through http://proxy:3128 (--proxy",
            ),
            (&always, here, Outcome::NotApplicable, "is this machine"),
            (
                &Proxies::System,
                here,
                Outcome::NotApplicable,
                "is this machine",
            ),
        ] {
            let check = proxy(&dialler(relay, proxies));
            assert_eq!(check.outcome, outcome, "{check}");
            assert!(check.detail.contains(words), "{check}");
            assert!(!check.detail.contains("secret"), "{check}");
        }
    }

    #[tokio::test]
    async fn a_number_needs_no_name_server_and_a_wrong_name_is_told() {
        let address = |text| HostPort::parse(text, None).unwrap();
        for known in ["127.0.0.1:1", "[::1]:1", "localhost:1"] {
            assert_eq!(dns(&address(known)).await.outcome, Outcome::NotApplicable);
        }
        // No host has this name (RFC 6761, section 6.4).
        let wrong = dns(&address("relay.invalid:1")).await;
        assert_eq!(wrong.outcome, Outcome::Failed);
        assert!(wrong.detail.contains("relay.invalid"), "{}", wrong.detail);
    }

    #[tokio::test]
    async fn without_an_address_nobody_is_dialled() {
        let dialler = dialler("tcp://relay.invalid:1", &Proxies::Never);
        let (check, connected) = tcp(&dialler, false).await;
        assert!(check.outcome == Outcome::NotApplicable && connected.is_none());
    }

    #[tokio::test]
    async fn a_connection_through_a_proxy_names_it_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let dialler = dialler("tcp://relay.invalid:1", &Proxies::parse(&url).unwrap());
        let answering = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        };
        let ((check, connected), ()) = tokio::join!(tcp(&dialler, true), answering);
        assert!(connected.is_some(), "{check}");
        let words = format!("connected through {url} in ");
        assert!(check.detail.starts_with(&words), "{check}");
    }
}
