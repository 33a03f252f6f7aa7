//! Checks the relay's host names: its `domain`, and the host in its public URL.

use std::net::{IpAddr, Ipv6Addr};

use tieline_wire::limits::TUNNEL_ID_BYTES_MAX;

use crate::host::{address, is_loopback};

/// Longest DNS name (RFC 1035, 2.3.4), without the dot of the root.
const NAME_BYTES_MAX: usize = 253;

/// Longest label: a part of a DNS name between two dots (RFC 1035, 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Checks a DNS name for use as `domain`, under which tunnels have subdomains; returns it in lower case.
///
/// # Errors
/// What is wrong with `text`, worded to follow `text` in a sentence.
pub(super) fn domain(text: &str) -> Result<String, &'static str> {
    let wrong = if text.is_empty() {
        "is empty: a DNS name belongs here, such as relay.example"
    } else if text.contains("://") {
        "is a URL: the DNS name alone belongs here, such as relay.example; public_url takes a URL"
    } else if address(text.trim_matches(['[', ']'])).is_some() {
        "is an address, and no tunnel can have a name in front of it: a DNS name belongs here, such as \
         relay.example; leave domain out if the relay has none"
    } else if text.contains(':') {
        "has a port: the DNS name alone belongs here, such as relay.example; public_url takes a port"
    } else if text.contains('/') {
        "has a path: the DNS name alone belongs here, such as relay.example"
    } else if text.contains('*') {
        "has a *: the relay's own name belongs here, such as relay.example; the names of tunnels in \
         front of it need no *"
    } else if text.starts_with('.') || text.ends_with('.') {
        "begins or ends with a dot: the DNS name alone belongs here, such as relay.example"
    } else if is_loopback(text) && !text.to_ascii_lowercase().ends_with(".localhost") {
        "is each caller's own machine: a DNS name of the relay belongs here, such as relay.example; for \
         callers on this machine relay.localhost will do"
    } else if !text.is_ascii() {
        "has letters beyond a-z: write the DNS name as xn--..., as its certificate has it"
    } else if text.len() + ".".len() + TUNNEL_ID_BYTES_MAX > NAME_BYTES_MAX {
        "is too long: with a tunnel's name in front of it a name has at most 253 characters"
    } else if !text.split('.').all(is_label) || ends_in_a_number(text) {
        "is not a DNS name: letters, digits and hyphens in parts with dots between them belong here, as \
         in relay.example"
    } else {
        return Ok(text.to_ascii_lowercase());
    };
    Err(wrong)
}

/// True if `host` in a URL is an address, or a name that callers can look up.
pub(super) fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    // Container names may have an underscore.
    let is_part = |part: &str| is_label(&part.replace('_', "x"));
    host.parse::<IpAddr>().is_ok()
        || host.len() <= NAME_BYTES_MAX && host.split('.').all(is_part) && !ends_in_a_number(host)
}

/// True for a label: a part of a name between two dots (RFC 1123, 2.1).
fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// True for a name that clients parse as an IPv4 address or refuse (URL Standard, 3.5: "ends in a number").
fn ends_in_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    last.bytes().all(|b| b.is_ascii_digit()) || address(last).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_dns_name_and_whatever_else_is_told_what_it_is() {
        let long = ["a".repeat(63).as_str(); 3].join(".");
        for (text, wanted) in [
            ("", "is empty"),
            ("http://relay.example", "is a URL"),
            ("HTTPS://relay.example/", "is a URL"),
            ("127.0.0.1", "is an address"),
            ("192.0.2.7", "is an address"),
            ("127.1", "is an address"),
            ("0x7f000001", "is an address"),
            ("2130706433", "is an address"),
            ("::1", "is an address"),
            ("[2001:db8::1]", "is an address"),
            ("relay.example:9080", "has a port"),
            ("127.0.0.1:9080", "has a port"),
            ("relay.example/w", "has a path"),
            ("*.relay.example", "has a *"),
            ("relay.example.", "begins or ends with a dot"),
            (".relay.example", "begins or ends with a dot"),
            ("localhost", "is each caller's own machine"),
            ("LocalHost", "is each caller's own machine"),
            ("localhost.localdomain", "is each caller's own machine"),
            ("rel\u{e4}is.example", "has letters beyond a-z"),
            (long.as_str(), "is too long"),
            ("relay..example", "is not a DNS name"),
            ("-relay.example", "is not a DNS name"),
            ("my_relay.example", "is not a DNS name"),
            ("relay example", "is not a DNS name"),
            ("ada@relay.example", "is not a DNS name"),
            ("1.2.3.4.5", "is not a DNS name"),
            ("relay.0x1", "is not a DNS name"),
        ] {
            let problem = domain(text).unwrap_err();
            assert!(problem.starts_with(wanted), "{text}: {problem}");
        }
        for (text, name) in [
            ("relay.example", "relay.example"),
            ("Relay.Example", "relay.example"),
            ("relay", "relay"),
            ("relay.localhost", "relay.localhost"),
            ("xn--relis-gra.example", "xn--relis-gra.example"),
            ("3d.example", "3d.example"),
        ] {
            assert_eq!(domain(text).as_deref(), Ok(name));
        }
    }

    #[test]
    fn the_host_of_a_url_is_an_address_or_a_name() {
        for host in [
            "relay.example",
            "localhost",
            "my_relay",
            "192.0.2.7",
            "[2001:db8::1]",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            "*.relay.example",
            "relay.example.",
            "a..b",
            "127.1",
            "[::g]",
            "a%20b",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
