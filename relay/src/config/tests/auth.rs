use tieline_wire::AgentKey;

use super::*;

const ED_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAPQqW0JgBq+sXC1fs/8FHqUq1X5XwEvpA3Gls7qHdoUg=
-----END PUBLIC KEY-----
";
const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"EC","crv":"P-384"}]}"#;
const HASH: &str = "sha256:9237b94c86ee59b8e51197999c04d4570522a9bfb16047aa5b59613faefa515d";

fn write(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// The TOML blocks of the manual that contain `what`.
pub(super) fn examples(what: &str) -> Vec<&'static str> {
    let blocks = OPERATIONS.split("```toml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split_once("```").unwrap().0);
    let found: Vec<_> = blocks.filter(|block| block.contains(what)).collect();
    assert!(!found.is_empty(), "{what}");
    found
}

/// Writes every file that an example of the manual names.
pub(super) fn write_files(folder: &Path) {
    secret_file(folder, &[b'x'; 32], 0o600);
    write(folder, "key.pem", ED_PEM, 0o644);
    write(folder, "keys.json", KEYS, 0o644);
    let token = examples("[[token]]")[0];
    let filled = token.replace("<64 hexadecimal digits>", &HASH["sha256:".len()..]);
    // The example's hash is a placeholder: the relay refuses a copy of the example as it is.
    assert_ne!(token, filled);
    write(folder, "tokens.toml", &filled, 0o644);
    write(folder, "denied.toml", examples("jti = [")[0], 0o644);
    write(folder, "provider-secret", "0123456789abcdef", 0o600);
    write(folder, "admin-token", "0123456789abcdef\n", 0o600);
    // base64url of 0123456789abcdef.
    write(folder, "eab-key", "MDEyMzQ1Njc4OWFiY2RlZg==\n", 0o600);
    write(folder, "dns-hook", "#!/bin/sh\n", 0o755);
}

#[test]
fn every_example_of_a_mode_in_the_manual_is_good() {
    let folder = folder();
    write_files(folder.path());
    for example in examples("[auth]\nmode") {
        let config = Case::file(folder.path(), example).config();
        match config.auth {
            Auth::Tokens(tokens) => {
                assert_eq!(tokens.table.len(), 1);
                assert_eq!(tokens.file, Some(folder.path().join("tokens.toml")));
            }
            Auth::Jwt(jwt) => {
                assert_eq!(jwt.keys.len(), 2);
                assert_eq!(jwt.audience, ["tieline"]);
                assert!(jwt.jwks.is_some() && jwt.issuer.is_some());
            }
            Auth::Provider(provider) => {
                assert!(!provider.url.is_exposed());
                assert_eq!(provider.interval, Duration::from_secs(60));
                assert_eq!(provider.grace, Duration::from_secs(600));
                assert_eq!(provider.secret.reveal(), "0123456789abcdef");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn tables_are_prefixes() {
    let folder = folder();
    write_files(folder.path());
    let flat = "auth = \"jwt\"\njwt_secret_file = \"secret\"\nauth_denylist = \"denied.toml\"";
    let tables = "[auth]\nmode = \"jwt\"\ndenylist = \"denied.toml\"\n[jwt]\nsecret_file = \"secret\"\n\
                  [agent]\nlisten = \"127.0.0.1:1\"\n[spin]\nus = 7";
    for text in [flat, tables] {
        let config = Case::file(folder.path(), text).config();
        assert!(matches!(config.auth, Auth::Jwt(_)), "{text}");
        assert_eq!(config.denylist.len(), 3, "{text}");
    }
    for (text, wanted) in [
        ("[jwt]\nsecret_fil = \"x\"", "`jwt.secret_fil` in "),
        ("[auth]\nmodes = \"x\"", "`auth.modes` in "),
        ("[auth.jwt]\nissuer = \"x\"", "`auth.jwt` in "),
        ("[relay]\nshards = 1", "`relay` in "),
        ("[shards]\nmode = 1", "`shards` in "),
        ("jwt = 1", "`jwt` in "),
        (
            "jwt_issuer = \"a\"\n[jwt]\nissuer = \"b\"",
            "`jwt_issuer` in ",
        ),
    ] {
        let error = Case::file(folder.path(), text).error();
        assert!(error.starts_with(wanted), "{text}: {error}");
    }
}

#[test]
fn a_wrong_token_entry_is_named() {
    let folder = folder();
    let good = format!("[[token]]\nsub = \"ada\"\nhash = \"{HASH}\"\n");
    let with = |more: &str| format!("{good}{more}\n");
    for (text, wanted) in [
        (
            String::new() + "[[token]]\nsub = \"ada\"",
            "`hash` is missing",
        ),
        (
            with("tunnel = []"),
            "`tunnel` is not known here; the keys are `sub`, `hash`, `tunnels`",
        ),
        (
            good.replace("9237", "923"),
            "token 1 (\"ada\"): `hash` is `sha256:`",
        ),
        (good.replace("sha256:", ""), "token 1 (\"ada\"): `hash` is"),
        (
            good.replace(HASH, &TokenHash::of("password").to_string()),
            "token 1 (\"ada\"): this is the hash of the word \"password\"",
        ),
        (
            with("scope = [\"agents\"]"),
            "scope \"agents\" is not agent",
        ),
        (with("tunnels = [\"a.b\"]"), "\"a.b\" is not a name pattern"),
        (with("reach = [\"\"]"), "\"\" is not a name pattern"),
        (with("groups = [\"\"]"), "a name in `groups` is empty"),
        (
            with("expires = 2027-01-31"),
            "`expires` is a date, a time and its zone",
        ),
        (with("expires = \"soon\""), "`expires` is a date"),
        (with("expires = 7"), "`expires` is a date"),
        (good.replace("ada", ""), "`sub` is empty"),
        (
            good.repeat(2),
            "token 2 (\"ada\"): its hash is that of another token",
        ),
    ] {
        let path = write(folder.path(), "tokens.toml", &text, 0o644);
        let error = read_tokens(&path).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!error.contains("5e88489"), "{error}");
    }
    for mode in [0o666, 0o664, 0o646] {
        let path = write(folder.path(), "tokens.toml", &good, mode);
        let error = read_tokens(&path).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
    }
}

#[test]
fn the_end_of_a_static_token_is_a_point_in_time() {
    let folder = folder();
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("2000-02-29T00:00:00Z", 951_782_400),
        ("2027-01-15T08:00:00Z", 1_800_000_000),
        ("2027-01-15T09:30:00+01:30", 1_800_000_000),
        ("2026-12-31T23:00:00-01:00", 1_798_761_600),
        ("2100-03-01T00:00:00Z", 4_107_542_400),
    ] {
        for value in [text.to_owned(), format!("{text:?}")] {
            let entry = format!("[[token]]\nsub = \"ada\"\nhash = \"{HASH}\"\nexpires = {value}");
            let path = write(folder.path(), "tokens.toml", &entry, 0o600);
            let table = read_tokens(&path).unwrap();
            let entry = table.find(&TokenHash::of("a-token-for-tests")).unwrap();
            assert_eq!(entry.expires_at_seconds, Some(seconds), "{value}");
        }
        if text.ends_with('Z') && seconds > 0 {
            assert_eq!(rfc3339(seconds), text);
        }
    }
    assert_eq!(rfc3339(u64::MAX), "9999-12-30T22:00:00Z");
}

#[test]
fn a_denylist_names_tokens_holders_and_agents() {
    let folder = folder();
    let key = AgentKey::new([0xa7; 32]);
    let whole = "a7".repeat(32);
    for text in [
        "AgentKey(a7a7a7a7a7a7..)",
        "A7A7A7A7A7A7",
        "a7a7a7a7a7a7a7",
        &whole,
    ] {
        let path = write(folder.path(), "d.toml", &format!("key = [{text:?}]"), 0o644);
        let list = read_denylist(&path).unwrap();
        assert!(list.names(None, None, Some(&key)), "{text}");
        let other = AgentKey::new([0xa6; 32]);
        assert!(!list.names(Some(text), Some(text), Some(&other)));
    }
    for (text, wanted) in [
        ("key = [\"a7a7\"]", "is not 12 to 64 hexadecimal digits"),
        ("sub = [\"\"]", "is empty"),
        ("name = [\"x\"]", "`name` is not known here"),
        ("sub = \"eve\"", "stands where a list in brackets belongs"),
    ] {
        let path = write(folder.path(), "d.toml", text, 0o644);
        let error = read_denylist(&path).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_file_that_is_read_again_is_a_regular_one_and_no_pipe_is_waited_for() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let errors = |path: &Path| {
        [
            read_tokens(path).err(),
            read_denylist(path).err(),
            read_jwks(path).err(),
            read_certificates(path).err(),
            read_authorities(path).err(),
            read_secret_file(path).err(),
        ]
    };
    let others = [
        (pipe.as_path(), "it is not a regular file"),
        (Path::new("/dev/zero"), "it is not a regular file"),
        (folder.path(), "it is a folder, and a file belongs there"),
    ];
    for (path, wanted) in others {
        for error in errors(path) {
            let text = error.unwrap().to_string();
            let wanted = format!("cannot read {}: {wanted}", path.display());
            assert_eq!(text, wanted);
        }
    }
    // A link to a regular file leads there.
    let file = write(folder.path(), "file", "", 0o600);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(file, &link).unwrap();
    assert_eq!(read_secret_file(&link).unwrap(), b"");
}

#[test]
fn a_key_file_that_cannot_be_used_is_named() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    write(folder.path(), "key.pem", "nothing", 0o644);
    write(folder.path(), "open.pem", ED_PEM, 0o666);
    write(
        folder.path(),
        "none.json",
        r#"{"keys":[{"kty":"EC"}]}"#,
        0o644,
    );
    write(folder.path(), "short", "0123", 0o600);
    for (flags, wanted) in [
        (
            format!("--jwt-public-key-file {}", at("key.pem")),
            "no whole block of `-----BEGIN PUBLIC KEY-----`",
        ),
        (
            format!("--jwt-public-key-file {}", at("open.pem")),
            "chmod go-w",
        ),
        (
            format!("--jwt-jwks {}", at("none.json")),
            "key 1: it has no crv",
        ),
        (format!("--jwt-jwks {}", at("absent.json")), "No such file"),
    ] {
        let error = Case::flags(&format!("--auth jwt {flags}")).error();
        assert!(error.contains(wanted), "{error}");
    }
    let error = Case::flags(&format!("--admin-token-file {}", at("short"))).error();
    assert!(error.contains("16 or more characters"), "{error}");
    for flags in [
        "--jwt-audience x",
        "--auth-tokens-file x",
        "--auth tokens --jwt-jwks x",
    ] {
        assert!(Case::flags(flags).error().contains("does nothing here"));
    }
    let error = Case::flags("--auth tokens").error();
    assert!(error.contains("--auth-tokens-file FILE"), "{error}");
}

#[test]
fn a_set_of_keys_with_a_secret_is_a_secret() {
    let folder = folder();
    let oct = r#"{"kty":"oct","k":"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4"}"#;
    let mixed = KEYS.replace("]}", &format!(",{oct}]}}"));
    // A secret too short to be used still makes the file a secret: its readers would know it.
    let short = KEYS.replace("]}", r#",{"kty":"oct","k":"eHg"}]}"#);
    for text in [&mixed, &short] {
        for (mode, wanted) in [
            (0o600, None),
            (0o640, None),
            (0o644, Some("chmod 600")),
            (0o604, Some("chmod 600")),
            (0o660, Some("chmod go-w")),
        ] {
            let path = write(folder.path(), "keys.json", text, mode);
            let error = read_jwks(&path).err().map(|error| error.to_string());
            let fits = match (&error, wanted) {
                (Some(error), Some(wanted)) => error.contains(wanted) && !error.contains("eHh"),
                (error, wanted) => error.is_none() && wanted.is_none(),
            };
            assert!(fits, "{mode:o}: {error:?}");
        }
    }
    let path = write(folder.path(), "keys.json", KEYS, 0o644);
    assert!(read_jwks(&path).is_ok());
}

#[test]
fn a_file_of_settings_that_others_can_change_is_refused() {
    let folder = folder();
    for mode in [0o664, 0o646, 0o666] {
        let mut case = Case::file(folder.path(), "shards = 1");
        case.file = Some(write(folder.path(), "relay.toml", "shards = 1", mode));
        assert!(case.error().contains("chmod go-w"), "{mode:o}");
    }
}

#[test]
fn a_secret_is_compared_whole_and_never_shown() {
    let secret = Secret::new("0123456789abcdef".to_owned());
    assert!(secret.is("0123456789abcdef"));
    for other in [
        "",
        "0123456789abcde",
        "0123456789abcdefg",
        "0123456789abcdeF",
    ] {
        assert!(!secret.is(other), "{other}");
    }
    assert!(!format!("{secret:?} {:?}", TokenHash::of("x")).contains("0123"));
}

#[test]
fn a_set_of_keys_may_be_a_url() {
    for text in ["https://login.example/keys?v=1", "http://127.0.0.1:1/x"] {
        let config = Case::flags(&format!("--auth jwt --jwt-jwks {text}")).config();
        let Auth::Jwt(jwt) = &config.auth else {
            panic!("{:?}", config.auth)
        };
        let Some(JwksSource::Url(url)) = &jwt.jwks else {
            panic!("{jwt:?}")
        };
        assert_eq!(url.to_string(), text);
        assert!(!url.is_exposed());
    }
    assert!(
        HttpUrl::parse("http://login.example/")
            .unwrap()
            .is_exposed()
    );
    assert!(!HttpUrl::parse("http://[::1]/").unwrap().is_exposed());
    for text in ["ftp://x/", "https://", "https://a:b@c/", "://x"] {
        let error = Case::flags(&format!("--auth jwt --jwt-jwks {text}")).error();
        assert!(
            error.contains("is not a file, or an http or https URL"),
            "{error}"
        );
    }
}

#[test]
fn a_provider_wants_a_url_and_a_secret_and_has_bounds() {
    let folder = folder();
    let secret = write(folder.path(), "s", "0123456789abcdef", 0o600);
    let flags = format!(
        "--auth provider --auth-provider-secret-file {}",
        secret.display()
    );
    let with = |more: &str| Case::flags(&format!("{flags} {more}"));
    let config = with("--auth-provider-url http://localhost:1/base --caller-auth none").config();
    assert_eq!(config.caller_auth, CallerAuth::None);
    let Auth::Provider(provider) = config.auth else {
        panic!("another mode")
    };
    let at = provider.url.join("/api/verify").unwrap();
    assert_eq!(at.to_string(), "http://localhost:1/base/api/verify");
    for (more, wanted) in [
        ("", "--auth-provider-url URL"),
        ("--auth-provider-url x", "is not an http or https URL"),
        (
            "--auth-provider-url http://x --caller-auth none --auth-provider-interval 1ms",
            "auth_provider_interval is 1ms",
        ),
        (
            "--auth-provider-url http://x --caller-auth none --auth-provider-grace 8d",
            "auth_provider_grace is ",
        ),
        // A provider cannot tell callers apart, so `none` must be set explicitly.
        ("--auth-provider-url http://x", "say --caller-auth none"),
        (
            "--auth-provider-url http://x --caller-auth token",
            "wants tokens that the relay can check",
        ),
    ] {
        let error = with(more).error();
        assert!(error.contains(wanted), "{error}");
    }
    let error = Case::flags("--auth-provider-url http://x").error();
    assert!(
        error.ends_with("does nothing here; add --auth provider"),
        "{error}"
    );
}
