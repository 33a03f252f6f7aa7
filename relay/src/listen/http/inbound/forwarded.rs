//! Data about the caller for the target: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Values in a request are trusted only if the request comes from a trusted proxy. The header of such a proxy that
//! names no address (PROXY protocol) says nothing of who wrote the request, so its values are not trusted.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::listen::proxied::Source;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Most addresses that are read from a chain of proxies.
const CHAIN_MAX: usize = 32;

/// The caller of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// The nearest address that does not belong to a trusted proxy.
    pub(crate) address: IpAddr,
    /// Whether the caller uses TLS, to the relay or to a trusted proxy in front of the relay.
    pub(crate) https: bool,
    /// Whether the connection's source is a trusted proxy, whose values are believed.
    pub(crate) is_trusted: bool,
    /// Whether the request came through a trusted proxy, believed or not.
    pub(crate) is_proxied: bool,
}

impl Client {
    /// Reads the caller from a request over a connection from `source`.
    pub(crate) fn of(
        headers: &HeaderMap,
        source: Source,
        https: bool,
        trusted_proxies: &[IpNet],
    ) -> Self {
        let is_trusted = |address: &IpAddr| trusted_proxies.iter().any(|net| net.contains(address));
        let mut address = source.address().ip().to_canonical();
        if matches!(source, Source::Hidden(_)) || !is_trusted(&address) {
            return Self {
                address,
                https,
                is_trusted: false,
                is_proxied: source.is_proxied(),
            };
        }
        let chain = headers.get_all(FOR).iter().rev().flat_map(|value| {
            let texts = value.to_str().unwrap_or_default().rsplit(',');
            texts.map(|text| address_in(text.trim()))
        });
        for hop in chain.take(CHAIN_MAX) {
            let Some(hop) = hop else { break };
            address = hop;
            if !is_trusted(&address) {
                break;
            }
        }
        let proto = headers.get(PROTO).map(HeaderValue::as_bytes);
        Self {
            address,
            https: proto.map_or(https, |proto| proto.eq_ignore_ascii_case(b"https")),
            is_trusted: true,
            is_proxied: true,
        }
    }

    /// True if the caller runs on this machine and did not come through a trusted proxy.
    pub(crate) fn is_this_machine(&self) -> bool {
        !self.is_proxied && self.address.is_loopback()
    }

    /// The authority that the caller requested, if a trusted proxy reports it.
    pub(crate) fn host<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let value = headers.get(HOST).filter(|_| self.is_trusted)?.as_bytes();
        // Each of several proxies appends its own value; the first value is the caller's.
        let first = value.split(|b| *b == b',').next()?.trim_ascii();
        (!first.is_empty()).then_some(first)
    }

    /// Adds the caller, `host` and the public `prefix` of the target's paths to a request for the target. The
    /// caller's own fields of this kind were dropped before.
    pub(crate) fn add_to(
        &self,
        headers: &mut HeaderMap,
        peer: &PeerName,
        host: Option<Bytes>,
        prefix: String,
    ) {
        let proto = if self.https { "https" } else { "http" };
        let host = host.and_then(|it| HeaderValue::from_maybe_shared(it).ok());
        let quotable = host.as_ref().and_then(|it| it.to_str().ok());
        let quotable = quotable.filter(|it| !it.contains(['"', '\\']));
        let element = peer.element(proto, quotable);
        extend(headers, FOR, peer.address.clone());
        headers
            .entry(PROTO)
            .or_insert(HeaderValue::from_static(proto));
        if let Some(host) = host {
            headers.entry(HOST).or_insert(host);
        }
        headers.remove(PREFIX);
        if !prefix.is_empty()
            && let Ok(prefix) = HeaderValue::from_maybe_shared(Bytes::from(prefix))
        {
            headers.insert(PREFIX, prefix);
        }
        if let Ok(element) = HeaderValue::from_maybe_shared(Bytes::from(element)) {
            extend(headers, FORWARDED, element);
        }
    }
}

/// The peer's address as targets receive it, formatted once per connection.
pub(crate) struct PeerName {
    address: HeaderValue,
    /// The address in the syntax of `Forwarded` (RFC 7239, section 6).
    node: String,
}

impl PeerName {
    /// Formats the address of a connection's peer.
    pub(crate) fn of(peer: SocketAddr) -> Self {
        let ip = peer.ip().to_canonical();
        let text = ip.to_string();
        let node = match ip {
            IpAddr::V4(_) => text.clone(),
            IpAddr::V6(_) => format!("\"[{text}]\""),
        };
        let address = HeaderValue::from_maybe_shared(Bytes::from(text));
        Self {
            address: address.expect("the text of an address is a field's value"),
            node,
        }
    }

    /// An element of `Forwarded`.
    fn element(&self, proto: &str, host: Option<&str>) -> String {
        let host_len = host.map_or(0, |host| ";host=\"\"".len() + host.len());
        let len = "for=;proto=".len() + self.node.len() + proto.len() + host_len;
        let mut element = String::with_capacity(len);
        for part in ["for=", &self.node, ";proto=", proto] {
            element.push_str(part);
        }
        if let Some(host) = host {
            for part in [";host=\"", host, "\""] {
                element.push_str(part);
            }
        }
        element
    }
}

/// Appends a member to a list field, and joins the field's lines into one.
fn extend(headers: &mut HeaderMap, name: HeaderName, member: HeaderValue) {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    let value = if list.is_empty() {
        Ok(member)
    } else {
        list.extend_from_slice(member.as_bytes());
        HeaderValue::from_maybe_shared(Bytes::from(list))
    };
    // Always valid: the list consists of field values and a formatted address or host.
    if let Ok(value) = value {
        headers.insert(name, value);
    }
}

/// An address with or without a port, as proxies write it.
fn address_in(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map(|(address, _)| address);
    bare.unwrap_or(text)
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|it: SocketAddr| it.ip()))
        .map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::http::inbound::proxy_fields::drop_from_request;

    const PEER: &str = "192.0.2.7:40000";

    fn forwarded(lines: &[(&'static str, &str)], trusted: &[&str]) -> (Client, HeaderMap) {
        forwarded_from(Source::Peer(PEER.parse().unwrap()), lines, trusted)
    }

    fn forwarded_from(
        source: Source,
        lines: &[(&'static str, &str)],
        trusted: &[&str],
    ) -> (Client, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<_> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let client = Client::of(&headers, source, false, &trusted);
        drop_from_request(&mut headers, client.is_trusted, None);
        let host = Bytes::from_static(b"relay.example:9080");
        client.add_to(
            &mut headers,
            &PeerName::of(source.address()),
            Some(host),
            "/w/maya".to_owned(),
        );
        (client, headers)
    }

    #[test]
    fn a_target_hears_who_asked_for_which_host() {
        let (client, headers) = forwarded(&[], &[]);
        assert_eq!(client.address, "192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "relay.example:9080");
        assert_eq!(headers["x-forwarded-prefix"], "/w/maya");
        let forwarded = "for=192.0.2.7;proto=http;host=\"relay.example:9080\"";
        assert_eq!(headers["forwarded"], forwarded);
    }

    #[test]
    fn what_a_caller_says_of_itself_is_not_believed() {
        let spoofed = &[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-port", "1"),
        ];
        let (client, headers) = forwarded(spoofed, &["10.0.0.0/8"]);
        assert_eq!(client.address, "192.0.2.7".parse::<IpAddr>().unwrap());
        assert!(!client.https);
        assert_eq!(client.host(&headers), None);
        let text = format!("{headers:?}");
        assert!(
            !text.contains("10.0.0.1") && !text.contains("evil"),
            "{text}"
        );
        assert_eq!(headers.len(), 5, "{text}");
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_added_to() {
        let lines = &[
            ("x-forwarded-for", "203.0.113.9, 198.51.100.1"),
            ("x-forwarded-for", "10.1.2.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
        ];
        let (client, headers) = forwarded(lines, &["192.0.2.0/24", "10.0.0.0/8"]);
        // The first address in the chain was claimed by an untrusted client.
        assert_eq!(client.address, "198.51.100.1".parse::<IpAddr>().unwrap());
        assert!(client.https);
        let chain = "203.0.113.9, 198.51.100.1, 10.1.2.3, 192.0.2.7";
        assert_eq!(headers["x-forwarded-for"], chain);
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-forwarded-host"], "public.example");
        assert_eq!(client.host(&headers), Some(&b"public.example"[..]));
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn behind_a_header_without_an_address_the_callers_own_word_is_not_believed() {
        let lines = &[
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
        ];
        let peer: SocketAddr = PEER.parse().unwrap();
        let trusted = &["192.0.2.0/24"];
        let (client, headers) = forwarded_from(Source::Hidden(peer), lines, trusted);
        assert_eq!(client.address, peer.ip());
        assert!(!client.https && !client.is_trusted && client.is_proxied);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-host"], "relay.example:9080");
        // A proxy behind the balancer, which `trusted_proxies` names, too.
        let (client, _) = forwarded_from(Source::Announced(peer), lines, trusted);
        assert_eq!(client.address, "203.0.113.9".parse::<IpAddr>().unwrap());
        // A caller behind the balancer.
        let (client, headers) = forwarded_from(Source::Announced(peer), lines, &["10.0.0.1/32"]);
        assert_eq!(client.address, peer.ip());
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
    }

    #[test]
    fn a_caller_behind_a_proxy_is_not_on_this_machine() {
        let here = "127.0.0.1:40000".parse().unwrap();
        for (source, trusted, expected) in [
            (Source::Peer(here), "10.0.0.1/32", true),
            (Source::Peer(here), "127.0.0.1/32", false),
            (Source::Announced(here), "10.0.0.1/32", false),
            (Source::Announced(here), "127.0.0.1/32", false),
            (Source::Hidden(here), "127.0.0.1/32", false),
        ] {
            let (client, _) = forwarded_from(source, &[], &[trusted]);
            assert_eq!(client.is_this_machine(), expected, "{source:?} {trusted:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, address) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("unknown", None),
            ("", None),
        ] {
            let expected = address.map(|it| it.parse::<IpAddr>().unwrap());
            assert_eq!(address_in(text), expected, "{text}");
        }
    }

    #[test]
    fn an_unreadable_chain_ends_at_what_was_read() {
        let (client, _) = forwarded(
            &[("x-forwarded-for", "203.0.113.9, garbage, 10.1.1.1")],
            &["192.0.2.0/24", "10.0.0.0/8"],
        );
        assert_eq!(client.address, "10.1.1.1".parse::<IpAddr>().unwrap());
    }
}
