//! Mapping of URLs, cookies and other header fields.
//! Long because every form of a URL has a test case, and all cases share one target.

use bytes::Bytes;
use tieline_wire::{Generation, Scheme, TunnelId};

use http::{HeaderName, HeaderValue};

use super::*;
use crate::directory::Served;
use crate::registry::{AgentTag, TunnelInfo};

fn info(scheme: Scheme, authority: &str) -> TunnelInfo {
    TunnelInfo {
        scheme,
        authority: authority.to_owned(),
        base_path: "/mcp".to_owned(),
        ..TunnelInfo::default()
    }
}

fn target_of(scheme: Scheme, authority: &str) -> Option<Target> {
    let (maya, info) = (TunnelId::parse("maya").unwrap(), info(scheme, authority));
    Target::new(&Served {
        tunnel: &maya,
        agent: AgentTag::default(),
        generation: Generation(1),
        revision: 1,
        info: &info,
    })
}

fn target() -> Target {
    target_of(Scheme::Http, "127.0.0.1:8765").unwrap()
}

fn relay_names(public: &'static str) -> RelayNames {
    RelayNames {
        public: Some(Bytes::from_static(public.as_bytes())),
        ..RelayNames::default()
    }
}

fn mapping_to(target: Target, path: &str) -> Mapping {
    Mapping {
        target: Rc::new(target),
        prefix: "/w/maya".to_owned(),
        path: path.to_owned(),
        bare: false,
        ours: relay_names("relay.example:9080"),
        https: true,
        is_any: false,
        referer: None,
        login_origin: None,
    }
}

fn mapping(path: &str) -> Mapping {
    mapping_to(target(), path)
}

/// A mapping for a request whose host names the tunnel.
fn of_a_host() -> Mapping {
    Mapping {
        prefix: String::new(),
        ours: RelayNames {
            domain: Some("relay.example".to_owned()),
            ..relay_names("maya.relay.example")
        },
        ..mapping("/mcp")
    }
}

fn mapped_by(mapping: &Mapping, name: HeaderName, value: &str) -> String {
    let mut headers = HeaderMap::from_iter([(name.clone(), value.parse().unwrap())]);
    mapping.apply(&mut headers);
    headers[&name].to_str().unwrap().to_owned()
}

fn mapped(name: HeaderName, value: &str) -> String {
    mapped_by(&mapping("/mcp/a?q=/b/"), name, value)
}

fn location(value: &str) -> String {
    mapped(LOCATION, value)
}

#[test]
fn an_absolute_path_moves_behind_the_prefix() {
    assert_eq!(location("/mcp/"), "/w/maya/mcp/");
    assert_eq!(location("/"), "/w/maya/");
    assert_eq!(
        location("/a?u=http://127.0.0.1:8765/"),
        "/w/maya/a?u=http://127.0.0.1:8765/"
    );
    assert_eq!(mapped(CONTENT_LOCATION, "/mcp/1"), "/w/maya/mcp/1");
}

#[test]
fn an_absolute_url_of_the_target_becomes_the_public_one() {
    let public = "https://relay.example:9080/w/maya";
    for authority in [
        "127.0.0.1:8765",
        "user:secret@127.0.0.1:8765",
        "localhost:8765",
        "LocalHost:8765",
        "[::1]:8765",
        "0.0.0.0:8765",
    ] {
        assert_eq!(
            location(&format!("http://{authority}/mcp/?x")),
            format!("{public}/mcp/?x")
        );
    }
    assert_eq!(location("HTTPS://127.0.0.1:8765"), format!("{public}/"));
    assert_eq!(location("http://127.0.0.1:8765?x"), format!("{public}/?x"));
    assert_eq!(
        location("http://127.0.0.1:8765\\x"),
        format!("{public}/\\x")
    );
    assert_eq!(
        location("//127.0.0.1:8765/x"),
        "//relay.example:9080/w/maya/x"
    );
}

#[test]
fn without_a_public_authority_only_the_path_is_told() {
    let mapping = Mapping {
        ours: RelayNames::default(),
        ..mapping("/")
    };
    assert_eq!(
        mapping.location(b"http://127.0.0.1:8765/x"),
        Some(b"/w/maya/x".to_vec())
    );
}

#[test]
fn a_default_port_may_be_left_out() {
    let target = target_of(Scheme::Https, "mcp.local").unwrap();
    let mapping = mapping_to(target, "/");
    let public = Some(b"https://relay.example:9080/w/maya/x".to_vec());
    assert_eq!(mapping.location(b"https://mcp.local:443/x"), public);
    assert_eq!(mapping.location(b"https://MCP.local/x"), public);
    assert_eq!(mapping.location(b"http://mcp.local/x"), None);
}

#[test]
fn what_leads_elsewhere_stays() {
    for value in [
        "https://login.example/authorize?redirect=http://127.0.0.1:8765/",
        "http://127.0.0.1:9999/",
        "http://127.0.0.1.example:8765/",
        "//cdn.example/x",
        "mailto:a@127.0.0.1:8765",
        "com.example.app:/callback",
        "http:///x",
        "b",
        "?page=2",
        "#top",
        "",
    ] {
        assert_eq!(location(value), value);
    }
}

#[test]
fn a_relative_path_that_climbs_stays_within_the_tunnel() {
    assert_eq!(location("../login?x=1"), "/w/maya/login?x=1");
    assert_eq!(location("../../../../etc"), "/w/maya/etc");
    assert_eq!(location("b/../c#f"), "/w/maya/mcp/c#f");
    assert_eq!(location(".."), "/w/maya/");
}

#[test]
fn a_relative_path_is_resolved_where_the_caller_sees_no_slash() {
    let mapping = Mapping {
        bare: true,
        ..mapping("/")
    };
    assert_eq!(mapping.location(b"mcp"), Some(b"/w/maya/mcp".to_vec()));
    assert_eq!(mapping.location(b"?x"), None);
}

#[test]
fn bytes_that_are_no_utf8_do_not_hide_an_address() {
    let mapped = mapping("/")
        .location(b"http://127.0.0.1:8765/\xff")
        .unwrap();
    assert_eq!(mapped, b"https://relay.example:9080/w/maya/\xff");
}

#[test]
fn every_cookie_of_an_answer_is_mapped() {
    let mut headers = HeaderMap::new();
    headers.append(SET_COOKIE, HeaderValue::from_static("a=1; Path=/a"));
    headers.append(SET_COOKIE, HeaderValue::from_static("b=1; Path=/b"));
    mapping("/").apply(&mut headers);
    let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
    assert_eq!(cookies, ["a=1; Path=/w/maya/a", "b=1; Path=/w/maya/b"]);
}

#[test]
fn where_the_host_names_the_tunnel_paths_stay() {
    let host = of_a_host();
    let location = |value| mapped_by(&host, LOCATION, value);
    assert_eq!(location("/mcp/"), "/mcp/");
    let public = "https://maya.relay.example/mcp/";
    assert_eq!(location("http://127.0.0.1:8765/mcp/"), public);
    let cookie = |value| mapped_by(&host, SET_COOKIE, value);
    assert_eq!(cookie("a=1; Path=/x; Domain=localhost"), "a=1; Path=/x");
}

#[test]
fn a_challenge_names_the_metadata_where_clients_look_for_it() {
    let challenge =
        |url: &str| format!("Bearer error=\"x\", resource_metadata=\"{url}\", scope=\"a\"");
    let path = "/.well-known/oauth-protected-resource";
    let theirs = challenge(&format!("http://127.0.0.1:8765{path}/mcp"));
    let public = format!("https://relay.example:9080{path}/w/maya/mcp");
    assert_eq!(mapped(WWW_AUTHENTICATE, &theirs), challenge(&public));
    let public = format!("https://maya.relay.example{path}/mcp");
    let mapped_for_host = mapped_by(&of_a_host(), WWW_AUTHENTICATE, &theirs);
    assert_eq!(mapped_for_host, challenge(&public));
    let bare = challenge(&format!("http://localhost:8765{path}"));
    let public = format!("https://relay.example:9080{path}/w/maya");
    assert_eq!(mapped(WWW_AUTHENTICATE, &bare), challenge(&public));
    let other = challenge("http://127.0.0.1:8765/mcp/metadata");
    let public = challenge("https://relay.example:9080/w/maya/mcp/metadata");
    assert_eq!(mapped(WWW_AUTHENTICATE, &other), public);
    for value in [
        "Basic realm=\"x\"",
        "Bearer error=\"resource_metadata=\\\"http://127.0.0.1:8765/mcp\\\"\"",
        "Bearer resource_metadata=\"https://login.example/.well-known/oauth-protected-resource\"",
        "Bearer resource_metadata=\"http://127.0.0.1:8765/unclosed",
    ] {
        assert_eq!(mapped(WWW_AUTHENTICATE, value), value);
    }
}

#[test]
fn a_worker_is_allowed_no_more_than_its_own_tunnel() {
    let scope = |mapping: &Mapping, named: &str| {
        let scope = mapping.worker_scope(named.as_bytes());
        scope.map(|scope| String::from_utf8(scope).unwrap())
    };
    let one = mapping("/mcp/sw.js");
    for (named, expected) in [
        ("/", "/w/maya/"),
        ("/app/?x", "/w/maya/app/"),
        ("./", "/w/maya/mcp/"),
        ("../../..", "/w/maya/"),
        ("/%2e%2e/%2E./x", "/w/maya/x"),
        ("/w/maya/app", "/w/maya/app"),
        ("http://127.0.0.1:8765/", "/w/maya/"),
    ] {
        assert_eq!(scope(&one, named).as_deref(), Some(expected), "{named}");
    }
    for named in [
        "https://evil.example/",
        "/..\\..\\",
        "/..%5c..%5c",
        "https://relay.example:9080/w/other/",
        "data:x",
    ] {
        assert_eq!(scope(&one, named), None, "{named}");
    }
    let any = Mapping {
        is_any: true,
        ..mapping("/sw.js")
    };
    assert_eq!(scope(&any, "/"), None);
    assert_eq!(scope(&of_a_host(), "/").as_deref(), Some("/"));
}

#[test]
fn a_target_needs_an_authority_that_fits_a_host_header() {
    for authority in [
        "",
        "a b",
        "a\r\nx: y",
        "user@host:1",
        "host:99999",
        "host/path",
    ] {
        assert!(
            target_of(Scheme::Http, authority).is_none(),
            "{authority:?}"
        );
    }
    assert!(target_of(Scheme::Http, "[::1]:8765").is_some());
}

#[test]
fn what_a_reference_means_on_the_target_is_known_in_every_form() {
    let own = |at: &str, value: &str| {
        let path = mapping(at).own_path(value.as_bytes());
        path.map(|path| String::from_utf8(path).unwrap())
    };
    for (value, path) in [
        ("/messages/?id=1#x", "/messages/?id=1"),
        ("http://localhost:8765/m?id=1", "/m?id=1"),
        ("http://localhost:8765", "/"),
        ("//127.0.0.1:8765/m", "/m"),
        ("messages?id=1", "/a/messages?id=1"),
        ("../m", "/m"),
        ("?id=1", "/a/sse?id=1"),
        ("/../m", "/m"),
        ("/w/maya/m?id=1", "/m?id=1"),
        ("/w/comfy/m", "/w/comfy/m"),
        ("http://relay.example:9080/m?id=1", "/m?id=1"),
        ("https://relay.example:9080/w/maya/m", "/m"),
    ] {
        assert_eq!(own("/a/sse", value).as_deref(), Some(path), "{value}");
    }
    for value in [
        "http://elsewhere.example/m",
        "//elsewhere/m",
        "mailto:a",
        "http://relay.example:9080/w/comfy/m",
    ] {
        assert_eq!(own("/a/sse", value), None, "{value}");
    }
}

#[test]
fn a_url_of_ours_without_a_prefix_is_given_it() {
    let at = |path: &str| format!("http://relay.example:9080{path}");
    for (value, expected) in [
        ("/mcp/", "/w/maya/mcp/"),
        ("/?x", "/w/maya/?x"),
        ("", "/w/maya/"),
        ("?x", "/w/maya/?x"),
        ("/health", "/w/maya/health"),
        // A URL that already names this tunnel, or names another tunnel, is unchanged.
        ("/w/maya/mcp/", "/w/maya/mcp/"),
        ("/tunnel/Maya/mcp/", "/tunnel/Maya/mcp/"),
        ("/w/comfy/mcp/", "/w/comfy/mcp/"),
        ("/dcc/any/mcp/", "/dcc/any/mcp/"),
    ] {
        assert_eq!(location(&at(value)), at(expected));
    }
    assert_eq!(
        location("//relay.example:9080/x"),
        "//relay.example:9080/w/maya/x"
    );
    assert_eq!(location("/w/maya/mcp/"), "/w/maya/mcp/");
    let link = mapped(
        LINK,
        "<http://relay.example:9080/2>; rel=next, </3>; rel=\"last\"",
    );
    let expected = "<http://relay.example:9080/w/maya/2>; rel=next, </w/maya/3>; rel=\"last\"";
    assert_eq!(link, expected);
    let metadata = |url: &str| {
        let value = format!("Bearer resource_metadata=\"{}\"", at(url));
        mapped(WWW_AUTHENTICATE, &value)
    };
    let path = "/.well-known/oauth-protected-resource";
    for (theirs, public) in [
        ("/mcp", "/w/maya/mcp"),
        ("", "/w/maya"),
        ("/w/maya/mcp", "/w/maya/mcp"),
    ] {
        let public = format!(
            "Bearer resource_metadata=\"{}\"",
            at(&format!("{path}{public}"))
        );
        assert_eq!(metadata(&format!("{path}{theirs}")), public);
    }
}

#[test]
fn on_a_tunnels_own_host_only_the_relays_name_needs_a_prefix() {
    let host = of_a_host();
    let location = |value| mapped_by(&host, LOCATION, value);
    for value in [
        "https://maya.relay.example/mcp/",
        "https://comfy.relay.example/mcp/",
        "https://relay.example/w/maya/mcp/",
    ] {
        assert_eq!(location(value), value);
    }
    let named = "https://relay.example/w/maya/mcp/";
    assert_eq!(location("https://relay.example/mcp/"), named);
}

#[test]
fn a_targets_own_path_is_its_own_even_if_it_looks_like_a_tunnels() {
    let mut relay = target();
    relay.base_path = "/w/maya".to_owned();
    let mapping = mapping_to(relay, "/w/maya/mcp");
    let location = mapping.location(b"/w/maya/mcp/").unwrap();
    assert_eq!(location, b"/w/maya/w/maya/mcp/");
}

#[test]
fn dots_in_a_path_do_not_lead_out_of_the_tunnel() {
    assert_eq!(location("/../../etc?a=/../"), "/w/maya/etc?a=/../");
    assert_eq!(location("/%2e%2E/x"), "/w/maya/x");
    let public = "https://relay.example:9080/w/maya/x";
    assert_eq!(location("http://127.0.0.1:8765/../../x"), public);
}

#[test]
fn a_page_of_the_tunnel_is_told_as_the_targets_own() {
    let read = |mut mapping: Mapping, page: &str| {
        let mut headers = HeaderMap::from_iter([(REFERER, page.parse().unwrap())]);
        mapping.read(&mut headers);
        mapping.address(&mut headers);
        headers
            .get(REFERER)
            .map(|it| it.to_str().unwrap().to_owned())
    };
    let relay = "http://relay.example:9080";
    for (path, page) in [
        ("/w/maya/tree?x=1", Some("http://127.0.0.1:8765/tree?x=1")),
        ("/w/maya", Some("http://127.0.0.1:8765/")),
        ("/", Some("http://127.0.0.1:8765/")),
        ("/w/comfy/secret", None),
    ] {
        assert_eq!(
            read(mapping("/x"), &format!("{relay}{path}")).as_deref(),
            page
        );
    }
    let host = read(of_a_host(), "https://maya.relay.example/tree");
    assert_eq!(host.as_deref(), Some("http://127.0.0.1:8765/tree"));
    assert_eq!(read(of_a_host(), "https://comfy.relay.example/x"), None);
    for foreign in ["https://app.example/w/maya/x", "about:blank", "/w/maya/x"] {
        assert_eq!(read(mapping("/x"), foreign).as_deref(), Some(foreign));
    }
}
