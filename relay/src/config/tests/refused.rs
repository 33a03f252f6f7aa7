//! Tests of refused settings and of their error messages.

use super::*;

#[test]
fn what_is_wrong_in_a_file_is_named_with_the_file() {
    let folder = folder();
    let path = folder.path().join("relay.toml").display().to_string();
    for (text, wanted) in [
        (
            "stale_timout = \"1s\"",
            format!("`stale_timout` in {path}: unknown setting; did you mean `stale_timeout`?"),
        ),
        (
            "[relay]\nshards = 1",
            format!("`relay` in {path}: unknown setting; the settings are agent_listen, "),
        ),
        (
            "shards = \"two\"",
            format!("`shards` in {path}: \"two\" is not a whole number"),
        ),
        (
            "shards = 1.5",
            format!(
                "`shards` in {path}: the number 1.5 stands where a text or a whole number belongs"
            ),
        ),
        (
            "shards = [1]",
            format!("`shards` in {path}: a list with the number 1 in it stands where"),
        ),
        (
            "domain = true",
            format!("`domain` in {path}: true stands where a text"),
        ),
        (
            "allow_origin = [1]",
            format!(
                "`allow_origin` in {path}: a list with the number 1 in it stands where a list of texts"
            ),
        ),
        (
            "tcp_listen = 9002",
            format!("`tcp_listen` in {path}: the number 9002 stands where a list of texts belongs"),
        ),
        (
            "json = \"yes\"",
            format!("`json` in {path}: the text \"yes\" stands where true or false"),
        ),
        ("\nshards = ", format!("{path}, line 2: ")),
        (
            "shards = 1\nshards = 2",
            format!("{path}, line 2: duplicate key"),
        ),
    ] {
        let error = Case::file(folder.path(), text).error();
        assert!(error.starts_with(&wanted), "{text}: {error}");
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let file = Some(PathBuf::from("/nonexistent/relay.toml"));
    let error = Case {
        file,
        ..Case::default()
    }
    .error();
    assert!(
        error.starts_with("cannot read /nonexistent/relay.toml: No such file"),
        "{error}"
    );
    let file = Some(folder().path().to_owned());
    assert!(
        Case {
            file,
            ..Case::default()
        }
        .error()
        .starts_with("cannot read ")
    );
}

#[test]
fn a_wrong_value_is_named_with_its_flag_or_variable() {
    for (flags, wanted) in [
        (
            "--agent-listen localhost:9001",
            "--agent-listen: \"localhost:9001\" is not an address",
        ),
        ("--http-listen 127.0.0.1", "--http-listen: "),
        (
            "--http-listen https://0.0.0.0:443",
            "--http-listen: \"https://0.0.0.0:443\" begins with another scheme than tls://",
        ),
        (
            "--admin-listen tls://127.0.0.1:9003",
            "--admin-listen: \"tls://127.0.0.1:9003\" asks for TLS",
        ),
        ("--shards 0", "shards is 0, and must be 1 to "),
        ("--shards -1", "--shards: "),
        ("--max-tunnels 0", "max_tunnels is 0"),
        (
            "--spin-us 10001",
            "spin_us is 10001, and must be 0 to 10000",
        ),
        (
            "--shard-budget-bytes 1000",
            "shard_budget_bytes is 1000, and must be 1048576 to ",
        ),
        ("--sessions-max 65537", "sessions_max is 65537"),
        (
            "--stale-timeout 45",
            "--stale-timeout: \"45\" is not a time such as",
        ),
        (
            "--stale-timeout 1ms",
            "stale_timeout is 1ms, and must be 100ms to ",
        ),
        ("--preamble-timeout 1h", "preamble_timeout is "),
        ("--drain-timeout 2h", "drain_timeout is "),
        (
            "--driver kqueue",
            "--driver: \"kqueue\" is not auto, uring or epoll",
        ),
        (
            "--domain http://x",
            "--domain: \"http://x\" is a URL: the DNS name alone",
        ),
        (
            "--public-url http://0.0.0.0:9080",
            "--public-url: \"http://0.0.0.0:9080\" names all addresses",
        ),
        (
            "--public-url https://r --http-listen off",
            "public_url does nothing here",
        ),
        (
            "--auth basic",
            "--auth: \"basic\" is not open, tokens, jwt or provider",
        ),
        (
            "--caller-auth basic",
            "--caller-auth: \"basic\" is not none",
        ),
        (
            "--auth jwt --jwt-audience=",
            "--jwt-audience: \"\" is not a name",
        ),
        (
            "--agent-listen off --http-listen off",
            "`agent_listen` and `http_listen` are empty",
        ),
    ] {
        let words = flags.replace(" -1", "=-1");
        let error = Case::flags(&words).error();
        assert!(error.starts_with(wanted), "{flags}: {error}");
    }
    let error = Case::default()
        .and_variable("TIELINE_RELAY_SHARDS", "x")
        .error();
    assert!(
        error.starts_with("TIELINE_RELAY_SHARDS: \"x\" is not"),
        "{error}"
    );
}

#[test]
fn times_of_the_http_front_have_ranges() {
    for (flag, longest, longer) in [
        ("offline-grace", "60s", "61s"),
        ("start-grace", "3600s", "3601s"),
        ("sse-keepalive", "3600s", "3601s"),
    ] {
        let key = flag.replace('-', "_");
        let error = Case::flags(&format!("--{flag} {longer}")).error();
        let wanted = format!("{key} is {longer}, and must be 0ns to {longest}");
        assert_eq!(error, wanted);
        let error = Case::flags(&format!("--{flag}=-1s")).error();
        let wanted = format!("--{flag}: \"-1s\" is not a time such as");
        assert!(error.starts_with(&wanted), "{error}");
        for good in ["0s", longest] {
            Case::flags(&format!("--{flag} {good}")).config();
        }
    }
}

#[test]
fn quic_needs_a_certificate_and_tokens_and_a_udp_port_of_its_own() {
    let error = Case::flags("--quic-listen 127.0.0.1:443").error();
    let wanted = "quic_listen 127.0.0.1:443 needs a certificate: name its files in tls_cert";
    assert!(error.starts_with(wanted), "{error}");
    let error = Case::flags("--quic-listen tls://127.0.0.1:443").error();
    assert!(error.contains("QUIC always has TLS"), "{error}");
    let error = Case::flags("--quic-listen 127.0.0.1:1 --quic-listen 127.0.0.1:1").error();
    assert_eq!(error, "quic_listen and quic_listen both name 127.0.0.1:1");
    let files = "--tls-cert relay.pem --tls-key relay.key";
    for (all, one) in [
        ("0.0.0.0:443", "127.0.0.1:443"),
        ("[::]:443", "0.0.0.0:443"),
        ("[::]:443", "[::1]:443"),
    ] {
        let flags = format!("--quic-listen {one} --quic-listen {all} {files}");
        let error = Case::flags(&flags).error();
        let wanted =
            format!("quic_listen {all} takes the packets for {one} as well: leave {one} out");
        assert_eq!(error, wanted);
    }
    let error = Case::flags(&format!("--quic-listen 0.0.0.0:443 {files}")).error();
    let wanted = "quic_listen 0.0.0.0:443 can be reached from other machines and auth is open";
    assert!(error.starts_with(wanted), "{error}");
    // The port of a TCP listener, and a certificate that nothing else uses.
    let flags = format!("--quic-listen 127.0.0.1:9080 {files}");
    let config = Case::flags(&flags).config();
    assert_eq!(config.quic_listen, ["127.0.0.1:9080".parse().unwrap()]);
    assert!(
        Case::flags("--quic-listen off")
            .config()
            .quic_listen
            .is_empty()
    );
}

#[test]
fn callers_tokens_want_somebody_who_can_check_them() {
    let error = Case::flags("--caller-auth token").error();
    assert!(error.contains("--auth tokens or jwt"), "{error}");
    let error = Case::flags("--target-authorization-header X-Auth").error();
    assert!(error.contains("does nothing here"), "{error}");
    let error = Case::flags("--target-authorization-header Host").error();
    assert!(error.contains("that is free"), "{error}");
    let error = Case::flags("--caller-auth jwt").error();
    assert!(error.contains("none or token"), "{error}");
}

#[test]
fn one_port_with_two_uses_is_refused() {
    let error = Case::flags("--http-listen 127.0.0.1:9002").error();
    assert_eq!(error, "tcp_listen and http_listen both name 127.0.0.1:9002");
    let error = Case::flags("--tcp-listen [::1]:1 --tcp-listen [::1]:1").error();
    assert_eq!(error, "tcp_listen and tcp_listen both name [::1]:1");
    let error = Case::flags("--http-listen tls://[::1]:1 --http-listen [::1]:1").error();
    assert_eq!(error, "http_listen and http_listen both name [::1]:1");
    let error = Case::flags("--tcp-listen tls://127.0.0.1:9003").error();
    assert_eq!(
        error,
        "tcp_listen and admin_listen both name 127.0.0.1:9003"
    );
    Case::flags("--tcp-listen 127.0.0.1:0 --http-listen 127.0.0.1:0").config();
}

#[test]
fn open_to_other_machines_must_be_said_twice() {
    for address in ["0.0.0.0:9001", "[::]:9001", "192.0.2.1:9001"] {
        let flags = format!("--agent-listen {address}");
        let error = Case::flags(&flags).error();
        assert!(
            error.contains(address) && error.contains("--open-anywhere"),
            "{error}"
        );
        let config = Case::flags(&flags).and_flags("--open-anywhere").config();
        assert!(matches!(config.auth, Auth::Open { anywhere: true }));
    }
    Case::flags("--agent-listen [::1]:9001 --agent-listen [::ffff:127.0.0.1]:9001").config();
    Case::flags("--http-listen 0.0.0.0:9080").config();
}

#[test]
fn a_setting_that_would_do_nothing_is_refused() {
    let error = Case::flags("--jwt-secret-file x").error();
    assert_eq!(error, "--jwt-secret-file does nothing here; add --auth jwt");
    assert!(
        Case::flags("--auth open --jwt-issuer x")
            .error()
            .starts_with("--jwt-issuer does")
    );
    assert!(
        Case::flags("--auth jwt --open-anywhere")
            .error()
            .starts_with("--open-anywhere does")
    );
    assert!(
        Case::flags("--auth jwt")
            .error()
            .contains("--jwt-secret-file, --jwt-public-key-file or --jwt-jwks")
    );
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let folder = folder();
    for mode in [0o600, 0o400, 0o640, 0o440] {
        let path = secret_file(folder.path(), &[b'x'; 32], mode);
        assert!(read_secret(&path).is_ok(), "{mode:o}");
        fs::remove_file(path).unwrap();
    }
    for mode in [0o604, 0o644, 0o660, 0o602, 0o601] {
        let path = secret_file(folder.path(), &[b'x'; 32], mode);
        let error = read_secret(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: others can", path.display())),
            "{error}"
        );
        assert!(error.contains(&format!("mode {mode:o}")), "{error}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_line_break_is_no_part_of_a_secret() {
    let folder = folder();
    for (secret, good) in [
        ("x".repeat(32), true),
        ("x".repeat(31), false),
        ("x".repeat(31) + "\n", false),
        ("x".repeat(31) + "\r\n", false),
        ("x".repeat(31) + " ", true),
        (String::new(), false),
    ] {
        let path = secret_file(folder.path(), secret.as_bytes(), 0o600);
        assert_eq!(read_secret(&path).is_ok(), good, "{secret:?}");
    }
}

#[test]
fn a_secret_in_place_of_its_files_name_is_shown_nowhere() {
    let secrets = [
        "0123456789abcdef0123456789abcdef0123456789abcdef",
        "tieline_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "MTIz/NDU2Nzg5+MDEy/MzQ1Njc4OTAxMjM0NTY3ODkw==",
        "/TIz/NDU2Nzg5+MDEyMzQ1Njc4OTAxMjM0NTY3ODkw",
        "correct-horse-battery-staple",
    ];
    let settings = [
        ("jwt_secret_file", "--auth jwt"),
        ("jwt_public_key_file", "--auth jwt"),
        ("jwt_jwks", "--auth jwt"),
        ("auth_tokens_file", "--auth tokens"),
        (
            "auth_provider_secret_file",
            "--auth provider --auth-provider-url http://p/",
        ),
        ("auth_denylist", ""),
        ("admin_token_file", ""),
    ];
    let folder = folder();
    for (key, more) in settings {
        let flag = format!("--{}", key.replace('_', "-"));
        let variable = format!("TIELINE_RELAY_{}", key.to_uppercase());
        for secret in secrets {
            let text = format!("{key} = \"{secret}\"");
            let errors = [
                Case::flags(&format!("{more} {flag} {secret}")).error(),
                Case::flags(more).and_variable(&variable, secret).error(),
                Case::file(folder.path(), &text).and_flags(more).error(),
            ];
            for (error, named) in errors.iter().zip([&flag, &variable, &format!("`{key}`")]) {
                assert!(
                    error.starts_with(named) && error.contains("0600"),
                    "{error}"
                );
                assert!(!error.contains(&secret[5..12]), "{error}");
            }
        }
        // A path of a missing file is named in the error.
        for path in [
            "absent",
            &folder
                .path()
                .join("a-file-that-is-absent")
                .display()
                .to_string(),
        ] {
            let error = Case::flags(&format!("{more} {flag} {path}")).error();
            assert!(
                error.contains("cannot read") && error.contains(path),
                "{error}"
            );
        }
    }
    let error = read_named_secret("--jwt-secret-file", Path::new(secrets[0])).unwrap_err();
    assert!(!error.to_string().contains(secrets[0]), "{error}");
    assert!(!format!("{error:?}").contains(secrets[0]), "{error:?}");
}
