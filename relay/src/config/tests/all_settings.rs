//! Settings files that together have every setting; each value differs from the default and arrives in [`Config`].

use std::collections::BTreeSet;

use super::auth::write_files;
use super::*;

/// Every setting that has an effect with `auth = "jwt"`, except `caller_auth`.
const JWT: &str = r#"
    agent_listen = ["tls://127.0.0.1:1", "tls://[::1]:1"]
    tcp_listen = "127.0.0.1:2"
    http_listen = ["127.0.0.1:5", "tls://127.0.0.1:3"]
    quic_listen = ["127.0.0.1:1", "[::1]:3"]
    admin_listen = "127.0.0.1:4"
    admin_token_file = "admin-token"
    tls_cert = "cert.pem"
    tls_key = "tls-key.pem"
    require_binding = true
    agent_ca = "agents.pem"
    acme_domains = ["Relay.Example.com", "*.relay.example.com"]
    acme_email = "ada@studio.example"
    acme_directory_url = "https://ca.example/directory"
    acme_cache_dir = "acme"
    acme_profile = "shortlived"
    acme_eab_kid = "kid-1"
    acme_eab_key_file = "eab-key"
    acme_dns_hook = "dns-hook"
    domain = "Relay.Example.com"
    public_url = "https://Relay.example/"
    shards = 77
    driver = "epoll"
    spin_us = 50
    auth = "jwt"
    auth_denylist = "denied.toml"
    jwt_secret_file = "secret"
    jwt_public_key_file = "key.pem"
    jwt_jwks = "keys.json"
    jwt_issuer = "studio"
    jwt_audience = ["tieline", "relay"]
    allow_origin = ["https://App.example", "null"]
    trusted_proxies = "10.1.2.3/8"
    proxy_protocol = true
    redirect_http = true
    target_authorization_header = "X-Target-Authorization"
    offline_grace = "1s"
    start_grace = "2s"
    sse_keepalive = "0s"
    quic_streams_max = 22
    stale_timeout = "1m30s"
    preamble_timeout = "250ms"
    drain_timeout = "0s"
    max_tunnels = 7
    sessions_max = 8
    bulk_run_bytes = 9
    shard_budget_bytes = 10000000
    state_dir = "state"
    take_over = true
    audit_file = "audit.log"
    audit_max_bytes = 100000
    limits_sub_registrations_per_minute = 11
    limits_sub_sessions = 12
    limits_sub_requests_per_second = 13
    limits_sub_bytes_per_second = 14
    limits_sub_tunnels = 15
    limits_address_tunnels = 16
    limits_address_registrations_per_minute = 17
    limits_address_sessions = 18
    limits_address_requests_per_second = 19
    limits_address_bytes_per_second = 20
    limits_address_new_links = 21
    log = "debug"
    json = true

    [[tls]]
    cert = "other.pem"
    key = "other-key.pem"
"#;

/// The settings of `auth = "tokens"`, and listeners that are off.
const TOKENS: &str = r#"
    tcp_listen = "off"
    http_listen = []
    admin_listen = "off"
    auth = "tokens"
    auth_tokens_file = "tokens.toml"
    caller_auth = "none"
"#;

/// The settings of `auth = "provider"`.
const PROVIDER: &str = r#"
    http_listen = "tls://127.0.0.1:3"
    acme_domains = "*.relay.example.com"
    acme_cache_dir = "acme"
    acme_dns_persist_issuer = "CA.example"
    auth = "provider"
    auth_provider_url = "http://127.0.0.1:1/base"
    auth_provider_secret_file = "provider-secret"
    auth_provider_interval = "7s"
    auth_provider_grace = "8s"
    caller_auth = "none"
"#;

/// The settings of `auth = "open"`.
const OPEN: &str = r#"
    agent_listen = "0.0.0.0:1"
    auth = "open"
    open_anywhere = true
"#;

/// Settings that no value fits.
const WITHOUT_VALUE: [&str; 1] = ["audit_keep"];

#[test]
fn every_setting_is_in_one_of_these_files() {
    let mut listed: BTreeSet<String> = WITHOUT_VALUE.map(str::to_owned).into();
    for text in [JWT, TOKENS, PROVIDER, OPEN] {
        let table: toml::Table = toml::from_str(text).unwrap();
        listed.extend(table.into_iter().map(|(key, _)| key));
    }
    let settings = every_setting();
    let known = settings.iter().map(|it| it.get_id().as_str().to_owned());
    let missing: Vec<_> = known.filter(|key| !listed.contains(key)).collect();
    assert!(
        missing.is_empty(),
        "add to a file of this test, and assert that the value arrives: {missing:?}"
    );
}

#[test]
fn every_setting_of_a_file_arrives() {
    let folder = folder();
    write_files(folder.path());
    let at = |name: &str| folder.path().join(name);
    let address = |text: &str| text.parse::<ListenAddress>().unwrap();
    let Options { config, log, json } = Case::file(folder.path(), JWT).load().unwrap();
    assert_eq!((log.as_deref(), json), (Some("debug"), true));
    shows_no_secret(&config);
    // Without `..`, so that a new field is asserted here too.
    let Config {
        agent_listen,
        tcp_listen,
        http_listen,
        quic_listen,
        admin_listen,
        tls:
            TlsConfig {
                certificates,
                require_binding,
                agent_ca,
            },
        acme,
        domain,
        public_url,
        shards,
        driver,
        spin_us,
        auth,
        caller_auth,
        denylist,
        denylist_file,
        admin_token,
        stale_timeout,
        preamble_timeout,
        drain_timeout,
        max_tunnels,
        sessions_max,
        bulk_run_bytes,
        shard_budget_bytes,
        memory_limit_bytes: _,
        callers,
        audit,
        limits,
        state_dir,
        take_over,
    } = config;
    let wanted = [address("tls://127.0.0.1:1"), address("tls://[::1]:1")];
    assert_eq!(agent_listen, wanted);
    assert_eq!(tcp_listen, [address("127.0.0.1:2")]);
    let wanted = [address("127.0.0.1:5"), address("tls://127.0.0.1:3")];
    assert_eq!(http_listen, wanted);
    // UDP and TCP have ports of their own.
    let wanted = ["127.0.0.1:1", "[::1]:3"].map(|it| it.parse::<SocketAddr>().unwrap());
    assert_eq!(quic_listen, wanted);
    assert_eq!(admin_listen, ["127.0.0.1:4".parse().unwrap()]);
    let files = |cert, key| CertificateFiles {
        cert: at(cert),
        key: at(key),
    };
    let wanted = [
        files("cert.pem", "tls-key.pem"),
        files("other.pem", "other-key.pem"),
    ];
    assert_eq!(certificates, wanted);
    assert!(require_binding);
    assert_eq!(agent_ca, Some(at("agents.pem")));
    has_acme_settings(&acme.unwrap(), folder.path());
    assert_eq!(domain.as_deref(), Some("relay.example.com"));
    assert_eq!(public_url.unwrap().to_string(), "https://relay.example");
    assert_eq!((shards, driver), (77, DriverChoice::Epoll));
    assert_eq!(spin_us, 50);
    has_jwt_settings(&auth, &at("keys.json"));
    assert_eq!(caller_auth, CallerAuth::Token);
    assert_eq!(denylist.len(), 3);
    assert_eq!(denylist_file, Some(at("denied.toml")));
    let admin_token = admin_token.as_ref().map(Secret::reveal);
    assert_eq!(admin_token, Some("0123456789abcdef"));
    assert_eq!(stale_timeout, Duration::from_secs(90));
    assert_eq!(preamble_timeout, Duration::from_millis(250));
    assert_eq!(drain_timeout, Duration::ZERO);
    assert_eq!((max_tunnels, sessions_max), (7, 8));
    assert_eq!((bulk_run_bytes, shard_budget_bytes), (9, 10_000_000));
    assert_eq!(callers, wanted_callers());
    let wanted = AuditConfig {
        file: at("audit.log"),
        max_bytes: 100_000,
    };
    assert_eq!(audit, Some(wanted));
    assert_eq!(limits, wanted_limits());
    assert_eq!((state_dir, take_over), (Some(at("state")), true));
}

fn shows_no_secret(config: &Config) {
    let shown = format!("{config:?}");
    // The bytes and the text of `jwt_secret_file`, and the text of `admin_token_file`.
    for part in ["120, 120", "xxxxxxxx", "0123456789abcdef"] {
        assert!(!shown.contains(part), "{part}");
    }
}

fn has_acme_settings(acme: &AcmeConfig, folder: &Path) {
    let AcmeConfig {
        domains,
        email,
        directory_url,
        cache_dir,
        profile,
        eab,
        dns_hook,
        // The other way by DNS: see `PROVIDER`.
        dns_persist_issuer: None,
    } = acme
    else {
        panic!("{acme:?}")
    };
    assert_eq!(*domains, ["relay.example.com", "*.relay.example.com"]);
    assert_eq!(email.as_deref(), Some("ada@studio.example"));
    assert_eq!(directory_url.to_string(), "https://ca.example/directory");
    assert_eq!(*cache_dir, folder.join("acme"));
    assert_eq!(profile.as_deref(), Some("shortlived"));
    let eab = eab.as_ref().unwrap();
    assert_eq!(eab.key_id, "kid-1");
    assert_eq!(eab.key_bytes(), b"0123456789abcdef");
    assert_eq!(*dns_hook, Some(folder.join("dns-hook")));
}

fn has_jwt_settings(auth: &Auth, jwks_path: &Path) {
    let Auth::Jwt(JwtAuth {
        keys,
        jwks,
        issuer,
        audience,
    }) = auth
    else {
        panic!("{auth:?}")
    };
    // One of `jwt_secret_file`, one of `jwt_public_key_file`.
    assert_eq!(keys.len(), 2);
    let Some(JwksSource::File { path, keys }) = jwks else {
        panic!("{jwks:?}")
    };
    assert_eq!(path, jwks_path);
    assert_eq!(keys.len(), 1);
    assert_eq!(issuer.as_deref(), Some("studio"));
    assert_eq!(*audience, ["tieline", "relay"]);
}

fn wanted_callers() -> CallersConfig {
    CallersConfig {
        allow_origins: vec!["https://app.example".to_owned(), "null".to_owned()],
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        proxy_protocol: true,
        redirect_http: true,
        target_authorization: Some("x-target-authorization".parse().unwrap()),
        offline_grace: Duration::from_secs(1),
        start_grace: Duration::from_secs(2),
        sse_keepalive: Duration::ZERO,
        quic_streams_max: 22,
    }
}

fn wanted_limits() -> LimitsConfig {
    LimitsConfig {
        sub: Allowance {
            registrations_per_minute: 11,
            sessions: 12,
            requests_per_second: 13,
            bytes_per_second: 14,
        },
        address: Allowance {
            registrations_per_minute: 17,
            sessions: 18,
            requests_per_second: 19,
            bytes_per_second: 20,
        },
        sub_tunnels: Some(15),
        address_tunnels: Some(16),
        address_new_links: 21,
    }
}

#[test]
fn every_setting_of_the_other_auth_modes_arrives() {
    let folder = folder();
    write_files(folder.path());
    let config = Case::file(folder.path(), TOKENS).config();
    for kind in [ListenKind::Tcp, ListenKind::Http, ListenKind::Admin] {
        assert!(config.listen(kind).is_empty(), "{kind}");
    }
    let Auth::Tokens(TokensAuth { file, table }) = &config.auth else {
        panic!("{:?}", config.auth)
    };
    assert_eq!(*file, Some(folder.path().join("tokens.toml")));
    assert_eq!(table.len(), 1);
    // By default callers need a token if agents do.
    assert_eq!(config.caller_auth, CallerAuth::None);

    let config = Case::file(folder.path(), PROVIDER).config();
    let Auth::Provider(ProviderAuth {
        url,
        secret,
        interval,
        grace,
    }) = &config.auth
    else {
        panic!("{:?}", config.auth)
    };
    assert_eq!(url.to_string(), "http://127.0.0.1:1/base");
    assert_eq!(secret.reveal(), "0123456789abcdef");
    assert_eq!(
        (*interval, *grace),
        (Duration::from_secs(7), Duration::from_secs(8))
    );
    let issuer = config.acme.unwrap().dns_persist_issuer;
    assert_eq!(issuer.as_deref(), Some("ca.example"));

    let config = Case::file(folder.path(), OPEN).config();
    assert_eq!(config.agent_listen, ["0.0.0.0:1".parse().unwrap()]);
    assert!(matches!(config.auth, Auth::Open { anywhere: true }));
}

#[test]
fn a_setting_without_value_is_refused_in_a_file_too() {
    let folder = folder();
    for key in WITHOUT_VALUE {
        let error = Case::file(folder.path(), &format!("{key} = \"1\"")).error();
        assert!(
            error.contains("is gone") && error.starts_with(&format!("`{key}` in ")),
            "{error}"
        );
    }
}
