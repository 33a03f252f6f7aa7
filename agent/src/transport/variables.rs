//! The environment variables that name a proxy, and the hosts that are reached without one.

use std::borrow::Cow;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use crate::address::HostPort;

/// Names of the variables for a proxy, each in lower and in upper case; the first that is set and not empty counts, as
/// for curl.
const PROXY: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Names of the variable for hosts that are reached without a proxy; the first that is set and not empty counts.
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// What the entry `*` stands for: [`Matcher`] takes it for names alone.
const ALL: &str = "*,0.0.0.0/0,::/0";

/// Bits of an IPv6 network in front of the IPv4 address that it maps (RFC 4291, section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Largest number of misspelt entries that are told.
const MISSPELT_MAX: usize = 8;

/// Proposal for an entry that does not show which hosts it means.
const PLAIN_ENTRY: &str = "a name, .suffix, an address or a network such as 10.0.0.0/8";

/// Name and value of the variable that says which proxy is used.
pub(super) fn proxy(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<(&'static str, OsString)> {
    first(&PROXY, variable)
}

/// Name and value of the variable for hosts that are reached without a proxy.
pub(super) fn no_proxy(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<(&'static str, String)> {
    let (name, value) = first(&NO_PROXY, variable)?;
    Some((name, value.to_string_lossy().into_owned()))
}

/// The first of `names` that has a value.
fn first(
    names: &[&'static str],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<(&'static str, OsString)> {
    let mut set = names
        .iter()
        .filter_map(|name| Some((*name, variable(name)?)));
    set.find(|(_, value)| !value.is_empty())
}

/// The entry of `no_proxy` that exempts `to`, if there is one.
pub(super) fn exemption<'a>(no_proxy: &'a str, to: &HostPort) -> Option<&'a str> {
    // The list is read once, since it may be long, and its entries one by one only if one of them is found.
    if !exempts(no_proxy, to) {
        return None;
    }
    let mut entries = no_proxy.split(',').map(str::trim);
    entries.find(|entry| exempts(entry, to))
}

/// True if an entry of `no_proxy` exempts `to`.
fn exempts(no_proxy: &str, to: &HostPort) -> bool {
    let Some(uri) = uri(to) else {
        return false;
    };
    let matcher = Matcher::builder()
        .all("http://proxy.invalid")
        .no(at_port(no_proxy, to.port()))
        .build();
    matcher.intercept(&uri).is_none()
}

/// The URL of `to` for [`Matcher`]: without a dot at the end of the name, and with an IPv4 address that is mapped into
/// IPv6 as itself. Links of all transports go through a tunnel of the proxy, so the proxy is that for `https`.
pub(super) fn uri(to: &HostPort) -> Option<Uri> {
    let host = to.host();
    let host = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Err(_) => without_dot(&host).to_owned(),
    };
    Uri::try_from(format!("https://{host}:{}", to.port())).ok()
}

/// The entries of `NO_PROXY` for a server at `port`, as [`Matcher`] reads them: it knows no ports, so those with this
/// port are without it, and those with another one match nothing.
fn at_port(no_proxy: &str, port: u16) -> String {
    let entries = no_proxy.split(',').map(str::trim);
    let entries = entries.map(|entry| match with_port(entry) {
        Some((host, at)) if at == port => comparable(host),
        Some(_) => Cow::Borrowed(entry),
        None => comparable(entry),
    });
    entries.collect::<Vec<_>>().join(",")
}

/// An entry without a port in the form in which [`uri`] has hosts.
fn comparable(entry: &str) -> Cow<'_, str> {
    if entry == "*" {
        return Cow::Borrowed(ALL);
    }
    let (address, bits) = match entry.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (entry, None),
    };
    let ip: Option<Ipv6Addr> = address.parse().ok();
    let Some(ip) = ip.and_then(|ip| ip.to_ipv4_mapped()) else {
        return Cow::Borrowed(without_dot(entry));
    };
    match bits.map(|bits| bits.parse::<u8>().ok()?.checked_sub(MAPPED_BITS)) {
        None => Cow::Owned(ip.to_string()),
        Some(Some(bits)) => Cow::Owned(format!("{ip}/{bits}")),
        Some(None) => Cow::Borrowed(entry),
    }
}

/// A name without the dot that ends it: `relay.test.` and `relay.test` are the same host.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Host and port of an entry that has both; an IPv6 address is in brackets then.
fn with_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = match entry.strip_prefix('[') {
        Some(inner) => inner.split_once("]:")?,
        // An IPv6 address has more than one colon.
        None => entry.split_once(':')?,
    };
    Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
}

/// The entries of `NO_PROXY` that match no host because of their spelling, each with a right one; [`MISSPELT_MAX`] at
/// most.
pub(super) fn misspelt(no_proxy: &str) -> Vec<(String, String)> {
    let entries = no_proxy.split(',').map(str::trim);
    let wrong = entries.filter_map(|entry| Some((entry.to_owned(), right_spelling(entry)?)));
    wrong.take(MISSPELT_MAX).collect()
}

/// How to write an entry that matches no host; `None` if it is right.
fn right_spelling(entry: &str) -> Option<String> {
    let between = |c: char| c.is_whitespace() || c == ';';
    let words: Vec<&str> = entry.split(between).filter(|it| !it.is_empty()).collect();
    if entry.contains(between) {
        return Some(match words.is_empty() {
            true => PLAIN_ENTRY.to_owned(),
            false => words.join(","),
        });
    }
    if entry.contains("://") {
        return Some("the host alone".to_owned());
    }
    if let Some((host, port)) = with_port(entry) {
        let right = right_host(host)?;
        return Some(match right == PLAIN_ENTRY {
            true => right,
            false => format!("{right}:{port}"),
        });
    }
    if let Some(inner) = entry.strip_prefix('[') {
        return Some(without_brackets(inner));
    }
    // What is behind the only colon is no port.
    if let Some((host, rest)) = entry.split_once(':')
        && !rest.contains(':')
    {
        return Some(right_or_same(host));
    }
    right_host(entry)
}

/// How to write an entry with brackets and no port, from what is behind its first bracket.
fn without_brackets(inner: &str) -> String {
    match inner.split_once(']') {
        Some((address, bits)) if bits.starts_with('/') => {
            right_or_same(&format!("{address}{bits}"))
        }
        Some((address, _)) => right_or_same(address),
        None => right_or_same(inner),
    }
}

/// How to write an entry whose port or brackets are left out.
fn right_or_same(host: &str) -> String {
    match host.is_empty() || host.starts_with('[') {
        true => PLAIN_ENTRY.to_owned(),
        false => right_host(host).unwrap_or_else(|| host.to_owned()),
    }
}

/// How to write an entry without a port that matches no host; `None` if it is right.
fn right_host(host: &str) -> Option<String> {
    if host == "*" {
        return None;
    }
    if let Some(suffix) = host.strip_prefix('*')
        && !suffix.contains('*')
    {
        return Some(right_or_same(suffix));
    }
    if let Some(rest) = host.strip_prefix("..") {
        let suffix = format!(".{}", rest.trim_start_matches('.'));
        return Some(right_or_same(&suffix));
    }
    let name = without_dot(host);
    let is_wrong = host.contains('*')
        || (name.is_empty() && !host.is_empty())
        || is_broken_name(name)
        || is_broken_address(name);
    is_wrong.then(|| PLAIN_ENTRY.to_owned())
}

/// True for text that is meant for a name, and that no host has: with an empty part between dots, or with characters
/// other than letters, digits, hyphens (RFC 1123, section 2.1) and the underscore, which some names have all the same.
fn is_broken_name(text: &str) -> bool {
    let is_meant = !text.is_empty() && !text.contains(['/', ':']);
    let mut parts = text.strip_prefix('.').unwrap_or(text).split('.');
    let is_part = |part: &str| {
        let mut chars = part.chars();
        !part.is_empty() && chars.all(|c| c.is_alphanumeric() || c == '-' || c == '_')
    };
    is_meant && !parts.all(is_part)
}

/// True for text that is meant for an address or a network, and is none: [`Matcher`] takes it for a name, which no host
/// has.
fn is_broken_address(text: &str) -> bool {
    let is_meant =
        text.contains(['/', ':']) || text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    let is_one = match address.parse() {
        Ok(IpAddr::V6(ip)) => matches_itself(text, &format!("[{ip}]")),
        Ok(IpAddr::V4(ip)) => matches_itself(text, &ip.to_string()),
        Err(_) => false,
    };
    is_meant && !text.is_empty() && !is_one
}

/// True if the entry `text` exempts `address`, which is a part of it.
fn matches_itself(text: &str, address: &str) -> bool {
    let to = HostPort::parse(address, Some(443));
    to.is_ok_and(|to| exempts(text, &to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_no_proxy_that_matches_nothing_is_told_with_the_right_spelling() {
        for (entry, right) in [
            ("*.test", ".test"),
            ("*.test:443", ".test:443"),
            ("*10.9.8", PLAIN_ENTRY),
            ("10.*:443", PLAIN_ENTRY),
            ("relay.test:", "relay.test"),
            ("relay.test:https", "relay.test"),
            ("10.9.8.7:65536", "10.9.8.7"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:x", "2001:db8::1"),
            ("[2001:db8::]/32", "2001:db8::/32"),
            ("[2001:db8::]/129", PLAIN_ENTRY),
            ("[2001:db8::]/32:443", PLAIN_ENTRY),
            ("[relay.test]", "relay.test"),
            ("[]", PLAIN_ENTRY),
            (":https", PLAIN_ENTRY),
            ("[[", PLAIN_ENTRY),
            ("a.test b.test", "a.test,b.test"),
            ("https://relay.test", "the host alone"),
            ("10.*", PLAIN_ENTRY),
            ("10.9.8.0/33", PLAIN_ENTRY),
            ("10.9.8.0/33:443", PLAIN_ENTRY),
            ("10.9.8", PLAIN_ENTRY),
            ("10.9.8:https", PLAIN_ENTRY),
            ("10.9.8.7/255.0.0.0", PLAIN_ENTRY),
            ("010.9.8.7", PLAIN_ENTRY),
            ("10.9.8.256", PLAIN_ENTRY),
            ("2001:db8:::1", PLAIN_ENTRY),
            ("fe80::1%eth0", PLAIN_ENTRY),
            ("::/129", PLAIN_ENTRY),
            ("relay.test/mcp", PLAIN_ENTRY),
            (".", PLAIN_ENTRY),
            ("relay.test..", PLAIN_ENTRY),
            ("..", PLAIN_ENTRY),
            ("..relay.test", ".relay.test"),
            ("...relay.test:443", ".relay.test:443"),
            ("relay..test", PLAIN_ENTRY),
            ("relay.test;foo", "relay.test,foo"),
            ("relay.test; foo;", "relay.test,foo"),
            ("relay.test;", "relay.test"),
            (";", PLAIN_ENTRY),
            ("relay.test|foo", PLAIN_ENTRY),
            ("\"relay.test\"", PLAIN_ENTRY),
        ] {
            let told = misspelt(&format!("one.test, {entry} ,.two.test"));
            assert_eq!(told, [(entry.to_owned(), right.to_owned())]);
        }
        for right in [
            "*, Relay.TEST,.test,,relay.test.,3com.test,10.test,my_relay,xn--bcher-kva.test",
            "10.0.0.0/8,10.9.8.7/32,10.9.8.7,2001:db8::1,2001:db8::/32,::1,::ffff:10.9.8.7,::ffff:10.0.0.0/104",
            "*:443, relay.test:443,relay.test.:443,.test:1,10.9.8.7:443,10.0.0.0/8:443,[2001:db8::1]:65535",
        ] {
            let told = misspelt(right);
            assert!(told.is_empty(), "{told:?}");
        }
        assert_eq!(misspelt(&"a*,".repeat(100)).len(), MISSPELT_MAX);
    }

    #[test]
    fn an_entry_with_a_port_is_for_that_port_alone() {
        let entries = "a.test, b.test:8443 ,[::1]:443,2001:db8::1,c:x";
        for (port, expected) in [
            (443, "a.test,b.test:8443,::1,2001:db8::1,c:x"),
            (8443, "a.test,b.test,[::1]:443,2001:db8::1,c:x"),
            (1, "a.test,b.test:8443,[::1]:443,2001:db8::1,c:x"),
        ] {
            assert_eq!(at_port(entries, port), expected);
        }
        assert_eq!(at_port("", 443), "");
    }

    #[test]
    fn the_entry_that_exempts_a_server_is_named() {
        for (entries, server, found) in [
            (
                "a.test, relay.test:8443",
                "relay.test:8443",
                Some("relay.test:8443"),
            ),
            (
                "relay.test:8443",
                "below.relay.test:8443",
                Some("relay.test:8443"),
            ),
            ("relay.test:8443", "relay.test:443", None),
            ("relay.test:8443", "otherrelay.test:8443", None),
            (
                "[2001:db8::1]:443",
                "[2001:db8::1]:443",
                Some("[2001:db8::1]:443"),
            ),
            ("[2001:db8::1]:443", "[2001:db8::1]:8443", None),
            ("10.9.8.7:1", "10.9.8.7:1", Some("10.9.8.7:1")),
            ("10.9.8.7:1", "10.9.8.7:2", None),
            ("*:7", "any.test:7", Some("*:7")),
            ("*:7", "10.1.1.1:7", Some("*:7")),
            ("*:7", "[2001:db8::2]:7", Some("*:7")),
            ("*:7", "10.1.1.1:8", None),
            (
                "b.test,.plain.test,*",
                "a.plain.test:443",
                Some(".plain.test"),
            ),
            // A dot at the end changes neither a name nor an entry.
            ("relay.test", "relay.test.:443", Some("relay.test")),
            ("relay.test.", "relay.test:443", Some("relay.test.")),
            (
                "relay.test.:443",
                "relay.test.:443",
                Some("relay.test.:443"),
            ),
            // Nor does the way in which an IPv4 address is written.
            ("::ffff:10.9.8.7", "10.9.8.7:1", Some("::ffff:10.9.8.7")),
            ("10.0.0.0/8", "[::ffff:10.9.8.7]:1", Some("10.0.0.0/8")),
            (
                "::ffff:10.0.0.0/104",
                "10.9.8.7:1",
                Some("::ffff:10.0.0.0/104"),
            ),
            ("::ffff:10.0.0.0/104", "11.9.8.7:1", None),
            ("10.9.8.0/33,10.9.8,010.9.8.7", "10.9.8.7:1", None),
            ("", "relay.test:1", None),
        ] {
            let to = HostPort::parse(server, None).unwrap();
            assert_eq!(exemption(entries, &to), found, "{entries} {server}");
        }
    }

    /// Variables that are set, and the name of the one that counts.
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'static str>);

    fn set(all: &[(&str, &str)], asked: &str) -> Option<OsString> {
        let found = all.iter().find(|(name, _)| *name == asked);
        found.map(|(_, value)| (*value).into())
    }

    #[test]
    fn a_variable_in_lower_case_counts_first_and_an_empty_one_not_at_all() {
        let cases: [Case<'_>; 8] = [
            (&[], None),
            (&[("HTTPS_PROXY", "")], None),
            (
                &[("HTTPS_PROXY", "a"), ("https_proxy", "b")],
                Some("https_proxy"),
            ),
            (
                &[("HTTPS_PROXY", "a"), ("https_proxy", "")],
                Some("HTTPS_PROXY"),
            ),
            (
                &[("HTTPS_PROXY", ""), ("https_proxy", "b")],
                Some("https_proxy"),
            ),
            (
                &[("HTTPS_PROXY", "a"), ("all_proxy", "b")],
                Some("HTTPS_PROXY"),
            ),
            (
                &[("HTTPS_PROXY", ""), ("ALL_PROXY", "b")],
                Some("ALL_PROXY"),
            ),
            (&[("HTTP_PROXY", "a")], None),
        ];
        for (all, name) in cases {
            let counts = proxy(|asked| set(all, asked));
            assert_eq!(counts.map(|(name, _)| name), name, "{all:?}");
        }
        let cases: [Case<'_>; 3] = [
            (&[("NO_PROXY", "a"), ("no_proxy", "b")], Some("no_proxy")),
            (&[("NO_PROXY", "a"), ("no_proxy", "")], Some("NO_PROXY")),
            (&[("NO_PROXY", "")], None),
        ];
        for (all, name) in cases {
            let counts = no_proxy(|asked| set(all, asked));
            assert_eq!(counts.map(|(name, _)| name), name, "{all:?}");
        }
    }
}
