//! Tests of the settings of TLS: files of certificates, and addresses with TLS.

use super::auth::examples;
use super::*;

const LISTEN: &str = "--http-listen tls://127.0.0.1:443";

/// Two files that a setting may name however long their names are.
fn write_pair(folder: &Path) -> CertificateFiles {
    let files = CertificateFiles {
        cert: folder.join("relay.studio.example.pem"),
        key: folder.join("relay.studio.example.key"),
    };
    fs::write(&files.cert, "").unwrap();
    fs::write(&files.key, "").unwrap();
    files
}

#[test]
fn a_certificate_is_set_in_any_of_the_three_places() {
    let folder = folder();
    assert_eq!(Case::default().config().tls, TlsConfig::default());
    let files = write_pair(folder.path());
    let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
    let flags = format!("{LISTEN} --tls-cert {cert} --tls-key {key}");
    let settings =
        "tls_cert = \"relay.studio.example.pem\"\ntls_key = \"relay.studio.example.key\"";
    let table = "[tls]\ncert = \"relay.studio.example.pem\"\nkey = \"relay.studio.example.key\"";
    let list = "[[tls]]\ncert = \"relay.studio.example.pem\"\nkey = \"relay.studio.example.key\"";
    for case in [
        Case::flags(&flags),
        Case::flags(LISTEN)
            .and_variable("TIELINE_RELAY_TLS_CERT", cert)
            .and_variable("TIELINE_RELAY_TLS_KEY", key),
        // Each from another place.
        Case::flags(&format!("{LISTEN} --tls-cert {cert}"))
            .and_variable("TIELINE_RELAY_TLS_KEY", key),
        Case::file(folder.path(), settings).and_flags(LISTEN),
    ] {
        assert_eq!(case.config().tls.certificates, std::slice::from_ref(&files));
    }
    for text in [table, list] {
        let config = Case::file(folder.path(), text).and_flags(LISTEN).config();
        assert_eq!(
            config.tls.certificates,
            std::slice::from_ref(&files),
            "{text}"
        );
    }
}

#[test]
fn the_certificate_of_the_settings_comes_before_those_of_the_list() {
    let folder = folder();
    let text = "[[tls]]\ncert = \"a\"\nkey = \"b\"\n[[tls]]\ncert = \"/c\"\nkey = \"/d\"";
    let config = Case::file(folder.path(), text)
        .and_flags(&format!("{LISTEN} --tls-cert e --tls-key f"))
        .config();
    let shown = config.tls.certificates.iter();
    let shown: Vec<_> = shown.map(|it| (it.cert.clone(), it.key.clone())).collect();
    let wanted = [
        ("e".into(), "f".into()),
        (folder.path().join("a"), folder.path().join("b")),
        ("/c".into(), "/d".into()),
    ];
    assert_eq!(shown, wanted);
    // An empty list is no certificate.
    let config = Case::file(folder.path(), "tls = []").config();
    assert_eq!(config.tls, TlsConfig::default());
}

#[test]
fn what_is_wrong_in_the_list_is_named_with_its_number() {
    let folder = folder();
    let path = folder.path().join("relay.toml").display().to_string();
    let good = "[[tls]]\ncert = \"a\"\nkey = \"b\"\n";
    for (entry, wanted) in [
        (
            "certificate = \"c\"",
            format!(
                "`certificate` of [[tls]] 2 in {path}: unknown setting; the keys are cert and key"
            ),
        ),
        (
            "cert = \"c\"",
            format!("`key` of [[tls]] 2 in {path} is missing"),
        ),
        (
            "key = \"c\"",
            format!("`cert` of [[tls]] 2 in {path} is missing"),
        ),
        (
            "cert = 5\nkey = \"b\"",
            format!(
                "`cert` of [[tls]] 2 in {path}: the number 5 stands where the name of a file belongs"
            ),
        ),
        (
            "cert = \"c\"\nkey = \"\"",
            format!("`key` of [[tls]] 2 in {path}: \"\" is not a file or folder"),
        ),
    ] {
        let text = format!("{good}[[tls]]\n{entry}\n");
        let error = Case::file(folder.path(), &text).and_flags(LISTEN).error();
        assert_eq!(error, wanted, "{entry}");
    }
    for (text, wanted) in [
        (
            "tls = [\"a\"]",
            format!("[[tls]] 1 in {path}: the text \"a\" stands where a table with cert and key"),
        ),
        ("tls = \"a\"", format!("`tls` in {path}: unknown setting")),
        (
            "[tls]\nfile = \"a\"",
            format!("`tls.file` in {path}: unknown setting"),
        ),
    ] {
        let error = Case::file(folder.path(), text).error();
        assert!(error.starts_with(&wanted), "{text}: {error}");
    }
}

#[test]
fn a_key_in_place_of_its_files_name_is_shown_nowhere() {
    let folder = folder();
    let key = "MC4CAQAwBQYDK2VwBCIEIHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4";
    let listed = format!("[[tls]]\ncert = \"a\"\nkey = \"{key}\"");
    let flags = format!("{LISTEN} --tls-cert a");
    for error in [
        Case::flags(&format!("{flags} --tls-key {key}")).error(),
        Case::flags(&flags)
            .and_variable("TIELINE_RELAY_TLS_KEY", key)
            .error(),
        Case::file(folder.path(), &listed).and_flags(LISTEN).error(),
    ] {
        assert!(
            error.contains("0600") && !error.contains(&key[..12]),
            "{error}"
        );
    }
}

#[test]
fn an_address_with_tls_and_a_certificate_need_each_other() {
    for kind in ["agent", "tcp", "http"] {
        let flags = format!("--{kind}-listen tls://127.0.0.1:443");
        let error = Case::flags(&flags).error();
        assert_eq!(
            error,
            format!(
                "{kind}_listen tls://127.0.0.1:443 needs a certificate: name its files in tls_cert and tls_key, or \
                 let the relay order one for the names in acme_domains"
            )
        );
        let config = Case::flags(&format!("{flags} --tls-cert a --tls-key b")).config();
        assert_eq!(config.tls.certificates.len(), 1);
    }
    for (flags, wanted) in [
        (
            "--tls-cert a --tls-key b",
            "the certificate a does nothing here: no address of agent_listen, tcp_listen and http_listen begins",
        ),
        (
            "--tls-cert a",
            "--tls-cert does nothing alone: set tls_key, the file of its key, too",
        ),
        (
            "--tls-key b",
            "--tls-key does nothing alone: set tls_cert, the key's certificate, too",
        ),
    ] {
        let error = Case::flags(flags).error();
        assert!(error.starts_with(wanted), "{flags}: {error}");
    }
}

#[test]
fn where_agents_must_come_over_tls_no_address_takes_them_without() {
    let tls = format!("{LISTEN} --tls-cert a --tls-key b");
    let error = Case::flags(&format!("{tls} --require-binding")).error();
    assert!(
        error.starts_with("agent_listen 127.0.0.1:9001 has no TLS, so with require_binding"),
        "{error}"
    );
    let error = Case::flags(&format!("{tls} --agent-ca c")).error();
    assert!(
        error.starts_with("agent_listen 127.0.0.1:9001 has no TLS, so agents there would need no"),
        "{error}"
    );
    for agents in ["off", "tls://127.0.0.1:9001"] {
        let both = format!("{tls} --require-binding --agent-ca c --agent-listen {agents}");
        let config = Case::flags(&both).config();
        assert!(config.tls.require_binding);
        assert_eq!(config.tls.agent_ca, Some("c".into()));
    }
    let error = Case::flags("--require-binding").error();
    assert!(error.contains("has no TLS"), "{error}");
    assert!(!Case::flags(&tls).config().tls.require_binding);
}

#[test]
fn a_redirect_to_https_needs_both_kinds_of_addresses_and_a_name() {
    let tls = "--tls-cert a --tls-key b --redirect-http";
    let both = "--http-listen 127.0.0.1:80 --http-listen tls://127.0.0.1:443";
    for (flags, wanted) in [
        (
            "--redirect-http".to_owned(),
            "no address of http_listen has TLS",
        ),
        (
            format!("--agent-listen tls://127.0.0.1:9001 {tls}"),
            "no address of http_listen has TLS",
        ),
        (
            format!("{LISTEN} {tls}"),
            "every address of http_listen has TLS",
        ),
        (format!("{both} {tls}"), "a redirect needs the relay's name"),
        (
            format!("{both} {tls} --public-url http://relay.example"),
            "public_url is http://relay.example",
        ),
    ] {
        let error = Case::flags(&flags).error();
        assert!(
            error.starts_with("redirect_http") && error.contains(wanted),
            "{flags}: {error}"
        );
    }
    for name in [
        "--domain relay.example",
        "--public-url https://relay.example",
    ] {
        let config = Case::flags(&format!("{both} {tls} {name}")).config();
        assert!(config.callers.redirect_http);
    }
}

#[test]
fn the_example_of_the_manual_is_good() {
    let folder = folder();
    let config = Case::file(folder.path(), examples("[[tls]]")[0]).config();
    let shown = config.tls.certificates.iter();
    let shown: Vec<_> = shown.map(|it| (it.cert.clone(), it.key.clone())).collect();
    let at = |name: &str| folder.path().join(name);
    let wanted = [
        (at("relay.pem"), at("relay.key")),
        (at("studio.pem"), at("studio.key")),
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn an_address_with_tls_takes_agents_where_no_other_does() {
    let folder = folder();
    let files = write_pair(folder.path());
    let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
    let config = Case::flags(&format!(
        "--agent-listen off {LISTEN} --tls-cert {cert} --tls-key {key}"
    ));
    assert!(config.config().agent_listen.is_empty());
    let error = Case::flags("--agent-listen off --http-listen off").error();
    assert!(error.contains("no other address has TLS"), "{error}");
}
