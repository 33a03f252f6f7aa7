//! Tests of parsing public URLs, and of the warning about URLs that callers cannot use.

use super::*;

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
        ("https://relay.example:+443", None),
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
        config.callers.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    };
    assert_eq!(told(set, "0.0.0.0:9080"), None);
    let proxied: fn(&mut Config) = |config| {
        config.callers.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    };
    assert!(told(proxied, "127.0.0.1:9080").is_some());
    assert!(
        told(|_| {}, "tls://0.0.0.0:443")
            .unwrap()
            .starts_with("tls://0.0.0.0:443 is an address that no URL can name")
    );
    assert_eq!(told(named, "tls://0.0.0.0:443"), None);
    assert!(told(remote, "tls://127.0.0.1:443").is_some());
}

#[test]
fn urls_lead_to_a_listener_with_tls_and_a_name() {
    for (http, wanted) in [
        (&[] as &[&str], None),
        (&["0.0.0.0:1", "[::]:2"], Some("0.0.0.0:1")),
        (&["0.0.0.0:1", "192.0.2.1:2"], Some("192.0.2.1:2")),
        (&["192.0.2.1:1", "tls://0.0.0.0:2"], Some("tls://0.0.0.0:2")),
        (
            &["tls://[::]:1", "192.0.2.1:2", "tls://192.0.2.1:3"],
            Some("tls://192.0.2.1:3"),
        ),
    ] {
        let http: Vec<ListenAddress> = http.iter().map(|it: &&str| it.parse().unwrap()).collect();
        let listener = listener_of_urls(&http).map(|it| it.to_string());
        assert_eq!(listener.as_deref(), wanted, "{http:?}");
    }
}
