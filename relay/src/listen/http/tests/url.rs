use proptest::prelude::*;

use super::*;

fn hinted(head: &str) -> Option<String> {
    hint(head.as_bytes(), None).map(|tunnel| tunnel.as_str().to_owned())
}

fn tunnel<'a>(prefix: &'a str, tunnel: &'a str, rest: &'a str) -> UrlParts<'a> {
    UrlParts {
        prefix,
        tunnel,
        well_known: "",
        rest,
    }
}

#[test]
fn a_token_is_hinted_at_once_its_line_is_whole() {
    let head = b"GET /w/maya/ HTTP/1.1\r\nHost: r\r\nauthorization:  bearer  a.b.c \r\n\r\n";
    assert_eq!(hinted_token(head), Some("a.b.c"));
    assert_eq!(hinted_token(&head[..head.len() - 4]), None);
    for other in [
        &b"GET / HTTP/1.1\r\nAuthorization: Basic dTpw\r\n"[..],
        b"GET / HTTP/1.1\r\nX-Authorization: Bearer t\r\n",
        b"authorization: Bearer t\r\n",
        b"",
    ] {
        assert_eq!(hinted_token(other), None);
    }
}

#[test]
fn a_path_splits_at_its_tunnel() {
    let split = |path| split(HostMeaning::Relay, path);
    for (path, url) in [
        (
            "/w/maya-1/mcp?x=/w/other/",
            tunnel("/w/maya-1", "maya-1", "/mcp?x=/w/other/"),
        ),
        ("/w/maya?x", tunnel("/w/maya", "maya", "?x")),
        ("/w/maya", tunnel("/w/maya", "maya", "")),
        ("/tunnel/Maya/", tunnel("/tunnel/Maya", "Maya", "/")),
    ] {
        assert_eq!(split(path), Some(UrlMeaning::Tunnel(url)), "{path}");
    }
    for path in [
        "/", "/w", "/w/", "/w//mcp", "/W/maya/", "w/maya", "*", "", "/tunnel/", "/dcc", "/dcc/",
        "/mcp",
    ] {
        assert_eq!(split(path), None, "{path}");
    }
    assert_eq!(split("/health"), Some(UrlMeaning::Health));
    assert_eq!(split("/health?x"), Some(UrlMeaning::Health));
    assert_eq!(split("/health/x"), None);
    assert_eq!(split("/agent?x"), Some(UrlMeaning::Agent));
    assert_eq!(split("/agent/x"), None);
}

#[test]
fn a_question_to_the_server_as_a_whole_stays_one() {
    let Some(UrlMeaning::Tunnel(url)) = split(HostMeaning::Tunnel("maya"), "*") else {
        panic!("a tunnel")
    };
    assert_eq!(url.path(), "*");
}

#[test]
fn a_kind_is_followed_by_a_tunnel_or_by_the_targets_path() {
    let split = |path| split(HostMeaning::Relay, path);
    let Some(UrlMeaning::Kind {
        dcc,
        any,
        tunnel: one,
    }) = split("/dcc/maya/seat-1/mcp")
    else {
        panic!("a kind")
    };
    assert_eq!(dcc, "maya");
    assert_eq!(any, tunnel("/dcc/maya", "", "/seat-1/mcp"));
    assert_eq!(one, Some(tunnel("/dcc/maya/seat-1", "seat-1", "/mcp")));
    let Some(UrlMeaning::Kind {
        any, tunnel: one, ..
    }) = split("/dcc/maya/?x")
    else {
        panic!("a kind")
    };
    assert_eq!((any, one), (tunnel("/dcc/maya", "", "/?x"), None));
}

#[test]
fn metadata_at_the_hosts_root_is_the_tunnels_own() {
    let path = "/.well-known/oauth-protected-resource/w/maya/mcp?x";
    let Some(UrlMeaning::Tunnel(url)) = split(HostMeaning::Relay, path) else {
        panic!("a tunnel")
    };
    assert_eq!((url.prefix, url.tunnel), ("/w/maya", "maya"));
    assert_eq!(url.path(), "/.well-known/oauth-protected-resource/mcp?x");
    let bare = split(
        HostMeaning::Relay,
        "/.well-known/openid-configuration/w/maya",
    );
    let Some(UrlMeaning::Tunnel(url)) = bare else {
        panic!("a tunnel")
    };
    assert_eq!(url.path(), "/.well-known/openid-configuration");
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/",
        "/.well-known/oauth-protected-resourcex/w/maya/",
        "/.well-known/security.txt/w/maya",
    ] {
        assert_eq!(split(HostMeaning::Relay, path), None, "{path}");
    }
}

#[test]
fn the_target_gets_a_path_in_any_case() {
    let path = |rest| tunnel("/w/maya", "maya", rest).path();
    assert_eq!(path(""), "/");
    assert_eq!(path("?x"), "/?x");
    assert_eq!(path("/mcp"), "/mcp");
}

#[test]
fn a_label_in_front_of_the_domain_names_a_tunnel() {
    let domain = Some("relay.example");
    for (authority, expected) in [
        ("relay.example", HostMeaning::Relay),
        ("Relay.Example:9080", HostMeaning::Relay),
        ("relay.example.", HostMeaning::Relay),
        ("127.0.0.1:9080", HostMeaning::Relay),
        ("[::1]:9080", HostMeaning::Relay),
        ("localhost", HostMeaning::Relay),
        ("maya-1.relay.example:443", HostMeaning::Tunnel("maya-1")),
        ("Maya.relay.example", HostMeaning::Tunnel("Maya")),
        ("a.maya.relay.example", HostMeaning::Other),
        (".relay.example", HostMeaning::Other),
        ("evil.example", HostMeaning::Other),
        ("xrelay.example", HostMeaning::Other),
        ("relay.example.evil.example", HostMeaning::Other),
        ("user@relay.example", HostMeaning::Other),
        ("maya.relay.example:x", HostMeaning::Other),
        ("", HostMeaning::Other),
        ("ä.relay.example", HostMeaning::Other),
    ] {
        assert_eq!(
            host_meaning(authority, domain, true),
            expected,
            "{authority}"
        );
    }
    assert_eq!(
        host_meaning("evil.example", None, false),
        HostMeaning::Relay
    );
    for unreadable in ["u@localhost", "u@evil.example", "localhost:x", "a b"] {
        assert_eq!(
            host_meaning(unreadable, None, false),
            HostMeaning::Other,
            "{unreadable}"
        );
    }
    // A web page could use a name with a dot that resolves to this machine.
    assert_eq!(
        host_meaning("evil.example:9080", None, true),
        HostMeaning::Other
    );
    for ours in ["localhost:9080", "127.0.0.1:9080", "[::1]", "render-01", ""] {
        assert_eq!(host_meaning(ours, None, true), HostMeaning::Relay, "{ours}");
    }
    let meaning = split(HostMeaning::Tunnel("maya"), "/w/other/mcp");
    let expected = tunnel("", "maya", "/w/other/mcp");
    assert_eq!(meaning, Some(UrlMeaning::Tunnel(expected)));
}

#[test]
fn the_hint_reads_the_tunnel_from_a_request_line() {
    for head in [
        "GET /w/Maya-1/mcp HTTP/1.1\r\nHost: x\r\n\r\n",
        "\r\n\r\nPOST /w/maya-1/mcp HT",
        "GET /w/maya-1?q HTTP/1.1",
        "GET /w/maya-1 ",
        "GET http://relay.example/w/maya-1/x HTTP/1.1",
        "GET /w/maya-1/\r\n",
        "GET /tunnel/maya-1/\r\n",
        "GET /dcc/maya/maya-1/mcp HTTP/1.1\r\n",
    ] {
        assert_eq!(hinted(head).as_deref(), Some("maya-1"), "{head}");
    }
}

#[test]
fn the_hint_reads_the_tunnel_from_the_host() {
    let hinted =
        |head: &str| hint(head.as_bytes(), Some("relay.example")).map(|it| it.as_str().to_owned());
    for head in [
        "GET /mcp HTTP/1.1\r\nhost: Maya.relay.example:80\r\n",
        "GET /mcp HTTP/1.1\r\nAccept: */*\r\nHost:maya.relay.example\r\n\r\n",
        "GET http://maya.relay.example/w/x HTTP/1.1\r\n",
        "GET /w/maya/ HTTP/1.1\r\nHost: relay.example\r\n",
    ] {
        assert_eq!(hinted(head).as_deref(), Some("maya"), "{head}");
    }
    for head in [
        "GET /mcp HTTP/1.1\r\n",
        "GET /mcp HTTP/1.1\r\nHost: maya.relay.exam",
        "GET /w/maya/ HTTP/1.1\r\nHost: evil.example\r\n",
    ] {
        assert_eq!(hinted(head), None, "{head}");
    }
}

#[test]
fn the_hint_stays_silent_where_it_cannot_know() {
    for head in [
        "",
        "\r\n",
        "GET",
        "GET /w/maya-1",
        "GET /w/",
        "GET / HTTP/1.1",
        "GET http://relay.example",
        "GET /w/ma%79a/ HTTP/1.1",
        "GET /w/-maya/ HTTP/1.1",
        "GET /dcc/maya HTTP/1.1",
        "GET /health HTTP/1.1",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0",
    ] {
        assert_eq!(hinted(head), None, "{head}");
    }
    assert_eq!(hint(b"GET /w/\xff\xfe/ HTTP/1.1\r\n", None), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_hint_panic(head in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = hint(&head, None);
        let _ = hint(&head, Some("relay.example"));
    }

    #[test]
    fn no_host_makes_the_reader_panic(host in "\\PC{0,40}", domain in "[a-z]{1,9}(\\.[a-z]{1,9})?") {
        let _ = host_meaning(&host, Some(&domain), true);
        let tunnels = format!("x.{domain}");
        prop_assert_eq!(host_meaning(&tunnels, Some(&domain), false), HostMeaning::Tunnel("x"));
    }

    #[test]
    fn no_cut_changes_what_the_hint_says(
        name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", cut in 0_usize..80
    ) {
        let head = format!("GET /w/{name}/mcp HTTP/1.1\r\nHost: x\r\n\r\n");
        let cut = cut.min(head.len());
        if let Some(tunnel) = hint(&head.as_bytes()[..cut], None) {
            prop_assert_eq!(tunnel.as_str(), name);
        }
    }

    #[test]
    fn no_path_makes_the_split_panic(path in "[/a-z?.%]{0,40}") {
        let _ = split(HostMeaning::Relay, &path);
    }
}
