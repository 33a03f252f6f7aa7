//! Checks of the way from the relay's name to a connection.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::check::Check;
use tieline_agent::address::HostPort;
use tieline_agent::error::Error;
use tieline_agent::transport::{Connected, Dialler};

/// Longest wait for a name server: resolvers try for 5 s and then once more (resolv.conf(5)).
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Variables that name a proxy, or the exceptions from it.
const PROXIES: [&str; 3] = ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

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
            let to = connected.peer_addr();
            let to = to.map_or_else(|_| relay.to_string(), |address| address.to_string());
            let text = format!(
                "connected to {to} in {}.{} ms",
                took / 1000,
                took / 100 % 10
            );
            (Check::ok("tcp", text), Some(connected))
        }
        Err(error) => {
            let advice = match &error {
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
            "nothing listens there: is the relay running, and is this its port for agents (443 with TLS, else 9001)?"
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

/// Says that links do not use a proxy; a user who set the variables may expect a proxied link.
pub(super) fn proxy(variable: impl Fn(&str) -> Option<OsString>) -> Check {
    let is_set = |name: &&str| {
        let value = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
        value.is_some_and(|value| !value.is_empty())
    };
    let set: Vec<&str> = PROXIES.iter().copied().filter(is_set).collect();
    if set.is_empty() {
        return Check::not_applicable("proxy", "no proxy is set for this process");
    }
    let names = set.join(", ");
    Check::ok(
        "proxy",
        format!("{names} set, and not used: links go straight to the relay"),
    )
}

#[cfg(test)]
mod tests {
    use tieline_agent::RelayUrl;

    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn a_proxy_that_is_set_is_said_to_be_left_out() {
        let none = proxy(|_| None);
        assert_eq!(none.outcome, Outcome::NotApplicable);
        let empty = proxy(|_| Some(OsString::new()));
        assert_eq!(empty.outcome, Outcome::NotApplicable);
        // A proxy's URL may contain a password.
        let some = proxy(|name| (name == "all_proxy").then(|| "http://ada:secret@proxy:1".into()));
        assert!(
            some.detail.contains("ALL_PROXY set, and not used"),
            "{}",
            some.detail
        );
        assert!(!some.detail.contains("secret"));
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
        let relay = RelayUrl::parse("tcp://relay.invalid:1").unwrap();
        let dialler = Dialler::new(relay, None).unwrap();
        let (check, connected) = tcp(&dialler, false).await;
        assert!(check.outcome == Outcome::NotApplicable && connected.is_none());
    }
}
