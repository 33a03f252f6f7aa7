//! Host names and addresses as users write them; tells which of them mean the local machine.

use std::net::{IpAddr, Ipv4Addr};

/// Names of the local machine besides `*.localhost` (RFC 6761, 6.3), as Linux distributions write them into
/// `/etc/hosts`.
const LOCAL_NAMES: [&str; 4] = [
    "localhost",
    "localhost.localdomain",
    "ip6-localhost",
    "ip6-loopback",
];

/// The host in `host:port`, `[address]:port` or a host alone; without brackets, zone and the root's
/// dots.
pub(crate) fn host_of(authority: &str) -> &str {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        // More than one colon means an IPv6 address without brackets.
        None => match authority.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => authority,
        },
    };
    let host = host.split('%').next().unwrap_or(host);
    host.trim_end_matches('.')
}

/// The address that `host` is, in any spelling that resolvers accept as an address.
pub(crate) fn address(host: &str) -> Option<IpAddr> {
    let address = host.parse::<IpAddr>().ok();
    address
        .or_else(|| old_ipv4(host).map(IpAddr::V4))
        .map(|ip| ip.to_canonical())
}

/// True for a host that means the machine that connects. The unspecified address does, too (Linux: ip(7),
/// `INADDR_ANY`).
pub(crate) fn is_loopback(host: &str) -> bool {
    let is_local_name = || {
        let host = host.to_ascii_lowercase();
        LOCAL_NAMES.contains(&host.as_str()) || host.ends_with(".localhost")
    };
    match address(host) {
        Some(ip) => ip.is_loopback() || ip.is_unspecified(),
        None => is_local_name(),
    }
}

/// True for the unspecified address, which stands for all addresses of a machine.
pub(crate) fn is_unspecified(host: &str) -> bool {
    address(host).is_some_and(|ip| ip.is_unspecified())
}

/// Parses an IPv4 address of one to four numbers, each decimal, octal or hexadecimal, like inet_aton(3):
/// `127.1`, `0x7f000001`.
fn old_ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        let lower = part.to_ascii_lowercase();
        let (digits, radix) = match lower.strip_prefix("0x") {
            Some(digits) => (digits.to_owned(), 16),
            None if lower.len() > 1 && lower.starts_with('0') => (lower[1..].to_owned(), 8),
            None => (lower, 10),
        };
        let is_plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
        is_plain.then(|| u32::from_str_radix(&digits, radix).ok())?
    };
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    // The last number fills the bytes that the others leave.
    let bits_left = 32 - 8 * u32::try_from(first.len()).ok()?;
    if u64::from(*last) >= 1 << bits_left {
        return None;
    }
    let high = first.iter().enumerate();
    let bits = high.fold(*last, |bits, (place, part)| bits | part << (24 - 8 * place));
    Some(Ipv4Addr::from(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stands_alone() {
        for (authority, host) in [
            ("relay.example:9001", "relay.example"),
            ("relay.example.:9001", "relay.example"),
            ("relay.example", "relay.example"),
            ("[::1]:9001", "::1"),
            ("[::1%lo]:9001", "::1"),
            ("::1", "::1"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority), host, "{authority}");
        }
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.255.3.2",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "0:0:0:0:0:0:0:1",
            "localhost",
            "LocalHost",
            "a.b.LOCALHOST",
            "localhost.localdomain",
            "ip6-localhost",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7F.1",
            "0177.0.0.1",
            "0.0.0.0",
            "0",
            "::",
            "::ffff:0.0.0.0",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "relay.example",
            "localhost.example",
            "notlocalhost",
            "128.1",
            "192.0.2.1",
            "fe80::1",
            "1.2.3.4.5",
            "127.0.0.256",
            "0x",
            "127.+1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
