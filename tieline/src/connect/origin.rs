//! Which hosts and web pages may use the proxy.
//! Long because the tests list every spelling of a host and of an origin.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};
use tieline_hop::browser;

use super::error::ConnectError;
use super::problem::Problem;
use tieline_agent::address::HostPort;

/// Web origins that may use the proxy besides those of this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(Vec<String>);

impl Origins {
    pub(super) fn allow(&mut self, origin: &str) -> Result<(), ConnectError> {
        let rest = origin.split_once("://").map(|(_, rest)| rest);
        let is_origin = rest.is_some_and(|rest| {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            !rest.is_empty() && !rest.contains(['/', '*', '@', ' '])
        });
        if !is_origin {
            return Err(ConnectError::AllowOrigin {
                text: origin.to_owned(),
            });
        }
        self.0.push(normal(origin));
        Ok(())
    }

    fn has(&self, origin: &str) -> bool {
        is_loopback(origin) || self.0.contains(&normal(origin))
    }
}

/// Names by which clients may call the proxy besides those of this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn allow(&mut self, name: &str) -> Result<(), ConnectError> {
        let is_name = !name.contains([':', '*', '@', '/', '[']);
        let named = HostPort::parse(name, Some(80)).ok().filter(|_| is_name);
        let named = named.ok_or_else(|| ConnectError::AllowHost {
            text: name.to_owned(),
        })?;
        self.0.push(named.host());
        Ok(())
    }
}

/// Normal form of an origin for comparison: lower case, no default port, no final slash.
fn normal(origin: &str) -> String {
    let origin = origin.strip_suffix('/').unwrap_or(origin);
    let origin = origin.to_ascii_lowercase();
    for (scheme, port) in [("http://", ":80"), ("https://", ":443")] {
        if let Some(host) = origin.strip_suffix(port)
            && origin.starts_with(scheme)
        {
            return host.to_owned();
        }
    }
    origin
}

fn is_loopback(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    matches!(scheme, "http" | "https")
        && HostPort::parse(authority, Some(80)).is_ok_and(|address| address.is_loopback())
}

/// Refuses what a foreign web page could make a browser send: a request for a host name that is not this
/// machine's (DNS rebinding), or from an origin that is not allowed. Returns the page's origin, if a page
/// sent the request, and the host by which the caller knows the proxy.
///
/// `local` is the address that the caller connected to.
pub(super) fn check(
    uri: &Uri,
    headers: &HeaderMap,
    local: IpAddr,
    origins: &Origins,
    hosts: &Hosts,
) -> Result<(Option<HeaderValue>, String), Problem> {
    // A host in the request line overrides the header (RFC 9112, section 3.2.2). If both are there, both
    // must pass. A request has at most one `Host` header.
    let header = headers.get(HOST).map(text);
    let line = uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    for host in [&line, &header].into_iter().flatten() {
        if !is_own(host, local, hosts) {
            return Err(Problem::host_refused(host));
        }
    }
    let host = line.or(header).ok_or_else(|| Problem::host_refused(""))?;
    let mut origin = None;
    for value in headers.get_all(ORIGIN) {
        let named = text(value);
        if origin.is_some() || !origins.has(&named) {
            return Err(Problem::origin_refused(&named));
        }
        origin = Some(value.clone());
    }
    // Images and links in a page send no `Origin`, and the token would go with them (Fetch Metadata,
    // section 2.3). `same-site` means another port of the same host name: allowed for loopback names
    // only.
    let is_loopback = HostPort::parse(&host, Some(80)).is_ok_and(|it| it.is_loopback());
    let own = ["none", "same-origin", "same-site"];
    let own = &own[..if is_loopback { 3 } else { 2 }];
    if origin.is_none() && browser::is_foreign(headers, own) {
        return Err(Problem::origin_refused("another site"));
    }
    Ok((origin, host))
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// True for names of this machine's loopback, for the address that the caller connected to (a foreign
/// page cannot have that address), and for allowed names.
fn is_own(host: &str, local: IpAddr, hosts: &Hosts) -> bool {
    let Ok(address) = HostPort::parse(host, Some(80)) else {
        return false;
    };
    let ip: Option<IpAddr> = address.host().parse().ok();
    address.is_loopback()
        || hosts.0.contains(&address.host())
        || ip.is_some_and(|ip| ip.to_canonical() == local.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn word(host: &str, origin: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        let mut origins = Origins::default();
        origins.allow("https://Studio.example:443").unwrap();
        origins.allow("vscode-webview://abc").unwrap();
        let local = Ipv4Addr::new(10, 1, 2, 3).into();
        let mut hosts = Hosts::default();
        hosts.allow("Host.Docker.internal").unwrap();
        let uri = Uri::from_static("/w/x/mcp");
        match check(&uri, &headers, local, &origins, &hosts) {
            Ok(_) => "passes".to_owned(),
            Err(problem) => {
                let body: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
                body["error"].as_str().unwrap().to_owned()
            }
        }
    }

    #[test]
    fn only_names_of_this_machine_pass_as_host() {
        for host in [
            "localhost",
            "LOCALHOST:51822",
            "127.0.0.1:51822",
            "127.9.9.9",
            "[::1]:1",
            "10.1.2.3:51822",
            "host.docker.internal:51822",
            "HOST.docker.internal",
        ] {
            assert_eq!(word(host, None), "passes", "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:51822",
            "127.0.0.1.evil.example",
            "10.1.2.4",
            "0.0.0.0",
            "[::ffff:10.1.2.4]",
            "user@localhost",
            "x.host.docker.internal",
            "",
        ] {
            assert_eq!(word(host, None), "host_refused", "{host}");
        }
    }

    #[test]
    fn a_host_in_the_request_line_is_checked_as_well() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let local = Ipv4Addr::LOCALHOST.into();
        let refused = |uri: &'static str| {
            let uri = Uri::from_static(uri);
            check(
                &uri,
                &headers,
                local,
                &Origins::default(),
                &Hosts::default(),
            )
            .is_err()
        };
        assert!(refused("http://evil.example/w/x/mcp"));
        assert!(!refused("http://localhost:51822/w/x/mcp"));
    }

    #[test]
    fn pages_elsewhere_are_refused_unless_they_are_listed() {
        for origin in [
            "http://localhost:6274",
            "https://127.0.0.1",
            "http://[::1]:3000",
            "https://studio.example",
            "vscode-webview://abc",
        ] {
            assert_eq!(word("localhost", Some(origin)), "passes", "{origin}");
        }
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://studio.example",
            "https://studio.example:8443",
            "http://localhost.evil.example",
            "file://",
            "http://127.0.0.1@evil.example",
        ] {
            assert_eq!(
                word("localhost", Some(origin)),
                "origin_refused",
                "{origin}"
            );
        }
    }

    #[test]
    fn what_a_page_asks_without_saying_whose_it_is_passes_on_loopback_names_of_one_site() {
        let passes = |host: &'static str, sites: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            for site in sites {
                headers.append("sec-fetch-site", HeaderValue::from_static(site));
            }
            let mut hosts = Hosts::default();
            hosts.allow("host.docker.internal").unwrap();
            let uri = Uri::from_static("/w/x/mcp");
            let local = Ipv4Addr::LOCALHOST.into();
            check(&uri, &headers, local, &Origins::default(), &hosts).is_ok()
        };
        for host in ["localhost:51822", "host.docker.internal:51822"] {
            for own in [&[][..], &["none"], &["same-origin"]] {
                assert!(passes(host, own), "{host} {own:?}");
            }
            for foreign in [&["cross-site"][..], &["none", "Cross-Site"], &["x"]] {
                assert!(!passes(host, foreign), "{host} {foreign:?}");
            }
        }
        assert!(passes("localhost:51822", &["same-site"]));
        assert!(!passes("host.docker.internal:51822", &["same-site"]));
    }

    #[test]
    fn an_origin_to_allow_is_a_whole_one() {
        for wrong in [
            "*",
            "null",
            "studio.example",
            "https://",
            "https://*.x",
            "https://x/y",
        ] {
            assert!(Origins::default().allow(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_to_allow_is_a_name() {
        for wrong in ["", "*", "*.x", "a b", "host:80", "[::1]", "http://x", "u@x"] {
            assert!(Hosts::default().allow(wrong).is_err(), "{wrong}");
        }
    }
}
