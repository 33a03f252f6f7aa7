//! Redirects and cookies.

use super::*;

fn target() -> Target {
    Target::new(false, "127.0.0.1:8765", Generation(1)).unwrap()
}

fn mapping<'a>(target: &'a Target, path: &'a str) -> Mapping<'a> {
    let public = Some(&b"relay.example:9080"[..]);
    Mapping {
        target,
        prefix: "/w/maya",
        path,
        bare: false,
        public,
        https: true,
    }
}

fn mapped(name: HeaderName, value: &str) -> String {
    let target = target();
    let mut headers = HeaderMap::from_iter([(name.clone(), value.parse().unwrap())]);
    mapping(&target, "/mcp/a?q=/b/").apply(&mut headers);
    headers[&name].to_str().unwrap().to_owned()
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
    let target = target();
    let mapping = Mapping {
        public: None,
        ..mapping(&target, "/")
    };
    assert_eq!(
        mapping.location(b"http://127.0.0.1:8765/x"),
        Some(b"/w/maya/x".to_vec())
    );
}

#[test]
fn a_default_port_may_be_left_out() {
    let target = Target::new(true, "mcp.local", Generation(1)).unwrap();
    let mapping = mapping(&target, "/");
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
    let target = target();
    let mapping = Mapping {
        bare: true,
        ..mapping(&target, "/")
    };
    assert_eq!(mapping.location(b"mcp"), Some(b"/w/maya/mcp".to_vec()));
    assert_eq!(mapping.location(b"?x"), None);
}

#[test]
fn bytes_that_are_no_utf8_do_not_hide_an_address() {
    let target = target();
    let mapped = mapping(&target, "/")
        .location(b"http://127.0.0.1:8765/\xff")
        .unwrap();
    assert_eq!(mapped, b"https://relay.example:9080/w/maya/\xff");
}

#[test]
fn a_cookie_is_confined_to_the_tunnel() {
    let cookie = |value| mapped(SET_COOKIE, value);
    assert_eq!(
        cookie("a=1; Path=/; HttpOnly"),
        "a=1; Path=/w/maya; HttpOnly"
    );
    assert_eq!(
        cookie("a=/; path = /mcp ;Secure"),
        "a=/; Path=/w/maya/mcp;Secure"
    );
    assert_eq!(cookie("a=1; Domain=127.0.0.1; Max-Age=5"), "a=1; Max-Age=5");
    for value in [
        "a=1",
        "a=1; Secure",
        "a=1; Path=x",
        "a=1; Domain=example.com",
        "path=/x",
    ] {
        assert_eq!(cookie(value), value);
    }
}

#[test]
fn every_cookie_of_an_answer_is_mapped() {
    let target = target();
    let mut headers = HeaderMap::new();
    headers.append(SET_COOKIE, HeaderValue::from_static("a=1; Path=/a"));
    headers.append(SET_COOKIE, HeaderValue::from_static("b=1; Path=/b"));
    mapping(&target, "/").apply(&mut headers);
    let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
    assert_eq!(cookies, ["a=1; Path=/w/maya/a", "b=1; Path=/w/maya/b"]);
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
            Target::new(false, authority, Generation(1)).is_none(),
            "{authority:?}"
        );
    }
    assert!(Target::new(false, "[::1]:8765", Generation(1)).is_some());
}
