//! The name by which the agent of a `stdio` target tells callers apart.
//!
//! A program has one standard input for all of its callers, so its agent keeps their requests and answers apart by this
//! name. Requests to other targets have no name.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue};
use tieline_wire::TunnelId;

use crate::limits::counted_part;
use crate::listen::http::target::Target;

/// Header field with the caller's name; `proxy_fields` drops it from callers' requests.
const CALLER: HeaderName = HeaderName::from_static("tieline-caller");

/// First input of the digest, which separates these digests from all others.
const LABEL: &[u8] = b"tieline caller name 1";

/// Bytes of the digest that a name shows: with 128 bits no caller finds a subject that has another caller's name.
const NAME_BYTES: usize = 16;

/// Names the caller in a request to a `stdio` target. A request to another target has no name, even if it was addressed
/// to a `stdio` target before. The caller is the token's `subject`, or without a token the `address`.
pub(crate) fn name_to(
    target: &Target,
    subject: Option<&str>,
    address: IpAddr,
    headers: &mut HeaderMap,
) {
    match target.is_stdio {
        true => {
            let name = name_of(&target.tunnel, subject, address);
            let value = HeaderValue::from_maybe_shared(Bytes::from(name));
            let value = value.expect("hexadecimal digits are a field's value");
            headers.insert(CALLER, value);
        }
        false => {
            headers.remove(CALLER);
        }
    }
}

/// The caller's name at a tunnel. An IPv6 address counts by its first 64 bits, as for the limits.
fn name_of(tunnel: &TunnelId, subject: Option<&str>, address: IpAddr) -> String {
    let (kind, id) = match (subject, counted_part(address)) {
        (Some(subject), _) => ("subject", subject.as_bytes().to_vec()),
        (None, IpAddr::V4(ip)) => ("ipv4", ip.octets().to_vec()),
        (None, IpAddr::V6(ip)) => ("ipv6", ip.octets().to_vec()),
    };
    // Unambiguous: only the last part may hold a zero byte.
    let parts: [&[u8]; 4] = [LABEL, tunnel.as_str().as_bytes(), kind.as_bytes(), &id];
    let hash = digest(&SHA256, &parts.join(&0_u8));
    HEXLOWER.encode(&hash.as_ref()[..NAME_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tunnel: &str, subject: Option<&str>, address: &str) -> String {
        let tunnel = TunnelId::parse(tunnel).unwrap();
        name_of(&tunnel, subject, address.parse().unwrap())
    }

    #[test]
    fn a_caller_keeps_its_name_at_every_relay() {
        let ada = "9a29fc16f0f89cd6179bc20776a66eae";
        let v4 = "2bb646bf07b714164c264b4e0736c28a";
        let v6 = "46ad803020fd937f617895b037073515";
        for (subject, address, expected) in [
            (Some("ada"), "192.0.2.7", ada),
            (Some("ada"), "2001:db8::1", ada),
            (None, "192.0.2.7", v4),
            (None, "::ffff:192.0.2.7", v4),
            (None, "2001:db8:0:1::1", v6),
            (None, "2001:db8:0:1:ffff::9", v6),
        ] {
            assert_eq!(
                name("maya", subject, address),
                expected,
                "{subject:?} {address}"
            );
        }
    }

    #[test]
    fn different_callers_and_tunnels_give_different_names() {
        let mut names: Vec<_> = [
            ("maya", Some("ada"), "192.0.2.7"),
            ("maya", Some("Ada"), "192.0.2.7"),
            ("maya", Some(""), "192.0.2.7"),
            ("comfy", Some("ada"), "192.0.2.7"),
            ("maya", None, "192.0.2.7"),
            ("comfy", None, "192.0.2.7"),
            ("maya", None, "192.0.2.8"),
            ("maya", None, "2001:db8::1"),
            ("maya", None, "2001:db8:0:1::1"),
            // A subject that reads like an address is another caller than this address.
            ("maya", Some("192.0.2.7"), "192.0.2.7"),
            ("maya", Some("aaaa"), "192.0.2.7"),
            ("maya", None, "97.97.97.97"),
        ]
        .map(|(tunnel, subject, address)| name(tunnel, subject, address))
        .into();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
