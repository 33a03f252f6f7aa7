//! Tests of parsing public URLs, and of the URLs that callers and agents are told.

use super::*;

fn urls(change: impl FnOnce(&mut Config), http: &[&str], dialled: &str) -> Vec<String> {
    let mut config = Config::default();
    change(&mut config);
    let http: Vec<SocketAddr> = http.iter().map(|it| it.parse().unwrap()).collect();
    let urls = PublicUrls::new(&config, &http);
    urls.of_tunnel(&TunnelId::parse("maya").unwrap(), "/mcp", Some(dialled))
}

fn asked(url: Option<&str>, domain: Option<&str>, https: bool, host: &str) -> Vec<String> {
    let url = url.map(|url| PublicUrl::parse(url).unwrap());
    let urls = PublicUrls::asked(url.as_ref(), domain, https, Some(host));
    urls.of_tunnel(&TunnelId::parse("maya").unwrap(), "", None)
}

#[test]
fn a_public_url_has_scheme_host_and_port_and_nothing_else() {
    for (text, shown) in [
        ("https://Relay.example", Some("https://relay.example")),
        ("https://relay.example:443/", Some("https://relay.example")),
        (
            "http://relay.example:9080",
            Some("http://relay.example:9080"),
        ),
        ("http://[2001:db8::1]:80", Some("http://[2001:db8::1]")),
        ("HTTP://localhost:9080", Some("http://localhost:9080")),
        ("https://192.0.2.7", Some("https://192.0.2.7")),
        ("https://relay.example/tunnels", None),
        ("https://relay.example/?a", None),
        ("https://relay.example#a", None),
        ("https://ada@relay.example", None),
        ("https://relay.example:99999", None),
        ("relay.example", None),
        ("wss://relay.example", None),
        ("http://0.0.0.0:9080", None),
        ("http://[::]", None),
        ("http://0:80", None),
        ("https://", None),
    ] {
        let parsed = PublicUrl::parse(text).ok().map(|url| url.to_string());
        assert_eq!(parsed.as_deref(), shown, "{text}");
    }
    for (text, wanted) in [
        ("relay.example", "has no scheme"),
        ("relay.example:9080", "has no scheme"),
        ("wss://relay.example", "begins with another scheme"),
        ("https://ada@relay.example", "names a user"),
        ("https://relay.example/w", "has a path"),
        ("https://*.relay.example", "has a *"),
        ("https://relay.example.", "has a dot at the end"),
        ("http://0.0.0.0:9080", "names all addresses"),
        ("https://relay.example:99999", "has no host or port"),
        ("https://relay.example:0", "has no host or port"),
        ("https://my relay", "has no host or port"),
        ("https://", "has no host or port"),
    ] {
        let problem = PublicUrl::parse(text).unwrap_err();
        assert!(problem.starts_with(wanted), "{text}: {problem}");
    }
}

#[test]
fn the_tunnels_own_name_comes_first() {
    let domain = |config: &mut Config| config.domain = Some("relay.example".to_owned());
    let expected = [
        "http://maya.relay.example:9080/mcp",
        "http://relay.example:9080/w/maya/mcp",
    ];
    assert_eq!(urls(domain, &["0.0.0.0:9080"], "10.0.0.1:9001"), expected);
    let both = |config: &mut Config| {
        domain(config);
        config.public_url = PublicUrl::parse("https://relay.example").ok();
    };
    let expected = [
        "https://maya.relay.example/mcp",
        "https://relay.example/w/maya/mcp",
    ];
    assert_eq!(urls(both, &["127.0.0.1:9080"], "10.0.0.1:9001"), expected);
}

#[test]
fn no_url_names_an_unspecified_address() {
    let nothing = |_: &mut Config| {};
    for (http, dialled, expected) in [
        (
            &["0.0.0.0:9080"][..],
            "192.0.2.1:9001",
            "http://192.0.2.1:9080/w/maya/mcp",
        ),
        (
            &["[::]:80"],
            "Relay.example:9001",
            "http://relay.example/w/maya/mcp",
        ),
        (
            &["[::]:9080"],
            "[2001:db8::1]:9001",
            "http://[2001:db8::1]:9080/w/maya/mcp",
        ),
        (
            &["0.0.0.0:9080"],
            "0.0.0.0:9001",
            "http://localhost:9080/w/maya/mcp",
        ),
        (
            &["0.0.0.0:9080"],
            "not a host",
            "http://localhost:9080/w/maya/mcp",
        ),
        (&["0.0.0.0:9080"], "", "http://localhost:9080/w/maya/mcp"),
        (
            &["0.0.0.0:9080", "192.0.2.1:81"],
            "x:1",
            "http://192.0.2.1:81/w/maya/mcp",
        ),
        (
            &["127.0.0.1:9080"],
            "x:1",
            "http://127.0.0.1:9080/w/maya/mcp",
        ),
    ] {
        assert_eq!(
            urls(nothing, http, dialled),
            [expected],
            "{http:?} {dialled}"
        );
    }
    assert!(urls(nothing, &[], "x:1").is_empty());
    let zero = asked(None, None, false, "0.0.0.0:9080");
    assert_eq!(zero, ["http://localhost:9080/w/maya"]);
}

#[test]
fn a_request_is_told_urls_of_the_name_that_it_used() {
    let plain = asked(None, None, true, "relay.example");
    assert_eq!(plain, ["https://relay.example/w/maya"]);
    let domain = asked(None, Some("relay.example"), false, "127.0.0.1:9080");
    let expected = [
        "http://maya.relay.example:9080/",
        "http://127.0.0.1:9080/w/maya",
    ];
    assert_eq!(domain[0], expected[0].trim_end_matches('/'));
    assert_eq!(domain[1], expected[1]);
    let set = asked(Some("https://relay.example"), None, false, "10.0.0.1:9080");
    assert_eq!(set, ["https://relay.example/w/maya"]);
    assert!(asked(None, None, false, "a b").is_empty());
}

#[test]
fn an_operator_hears_of_urls_that_callers_cannot_use() {
    let told = |change: fn(&mut Config), http: &str| {
        let mut config = Config::default();
        change(&mut config);
        unusable(&config, &[http.parse().unwrap()])
    };
    assert_eq!(told(|_| {}, "127.0.0.1:9080"), None);
    assert!(told(|_| {}, "0.0.0.0:9080").unwrap().contains("public_url"));
    let remote: fn(&mut Config) = |config| config.agent_listen = vec!["0.0.0.0:1".parse().unwrap()];
    assert!(told(remote, "127.0.0.1:9080").is_some());
    assert_eq!(told(remote, "192.0.2.1:9080"), None);
    let named: fn(&mut Config) = |config| config.domain = Some("relay.example".to_owned());
    assert_eq!(told(named, "0.0.0.0:9080"), None);
    let set: fn(&mut Config) = |config| {
        config.public_url = PublicUrl::parse("https://relay.example").ok();
        config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    };
    assert_eq!(told(set, "0.0.0.0:9080"), None);
    let proxied: fn(&mut Config) = |config| {
        config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    };
    assert!(told(proxied, "127.0.0.1:9080").is_some());
}
