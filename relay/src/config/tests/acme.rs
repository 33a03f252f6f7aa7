//! Tests of the settings of ACME.

use super::auth::{examples, write_files};
use super::*;

const LISTEN: &str = "--http-listen tls://127.0.0.1:443";

/// Flags with which a relay orders a certificate for `domains`.
fn ordering(folder: &Path, domains: &str) -> Case {
    let cache = folder.join("cache");
    Case::flags(LISTEN)
        .and_flags(domains)
        .and_flags(&format!("--acme-cache-dir {}", cache.display()))
}

#[test]
fn two_lines_of_a_file_are_enough() {
    let folder = folder();
    let text = format!(
        "http_listen = \"tls://0.0.0.0:443\"\nstate_dir = \"state\"\n[acme]\n{}",
        "domains = [\"relay.example\"]"
    );
    let config = Case::file(folder.path(), &text).config();
    let acme = config.acme.unwrap();
    assert_eq!(acme.domains, ["relay.example"]);
    assert_eq!(acme.cache_dir, folder.path().join("state/acme"));
    assert!(acme.directory_url.to_string().contains("letsencrypt"));
    assert_eq!(acme.email, None);
    assert!(Case::default().config().acme.is_none());
    assert!(
        Case::file(folder.path(), "acme_domains = []")
            .config()
            .acme
            .is_none()
    );
}

#[test]
fn the_example_of_the_manual_is_good() {
    let folder = folder();
    write_files(folder.path());
    let config = Case::file(folder.path(), examples("[acme]")[0]).config();
    let acme = config.acme.unwrap();
    assert_eq!(acme.domains.len(), 2);
    assert!(acme.dns_hook.is_some() && acme.eab.is_some());
}

#[test]
fn a_list_comes_from_the_environment_and_from_flags_too() {
    let folder = folder();
    let config = ordering(
        folder.path(),
        "--acme-domains a.example --acme-domains b.example",
    );
    assert_eq!(
        config.config().acme.unwrap().domains,
        ["a.example", "b.example"]
    );
    let config = ordering(folder.path(), "")
        .and_variable("TIELINE_RELAY_ACME_DOMAINS", "a.example, b.example")
        .config();
    assert_eq!(config.acme.unwrap().domains, ["a.example", "b.example"]);
}

#[test]
fn what_is_wrong_is_told_in_one_line_with_its_setting() {
    let folder = folder();
    write_files(folder.path());
    let hook = folder.path().join("dns-hook");
    let key = folder.path().join("admin-token");
    for (flags, wanted) in [
        (
            "--acme-domains *.relay.example".to_owned(),
            "acme_domains has *.relay.example, and CAs grant names with * by DNS alone",
        ),
        (
            "--acme-domains 192.0.2.7".to_owned(),
            "--acme-domains: \"192.0.2.7\" is not a name that a CA grants",
        ),
        (
            "--acme-domains a.*.example".to_owned(),
            "--acme-domains: \"a.*.example\" is not a name that a CA grants",
        ),
        (
            "--acme-domains a.example --acme-domains A.example".to_owned(),
            "acme_domains names a.example twice",
        ),
        (
            "--acme-domains a.example --acme-email ada".to_owned(),
            "--acme-email: \"ada\" is not a mail address",
        ),
        (
            "--acme-domains a.example --acme-directory-url ca.example".to_owned(),
            "--acme-directory-url: \"ca.example\" is not an http or https URL",
        ),
        (
            "--acme-domains a.example --acme-directory-url http://ca.example/".to_owned(),
            "acme_directory_url http://ca.example/ is not encrypted",
        ),
        (
            "--acme-domains a.example --acme-eab-kid 1".to_owned(),
            "acme_eab_kid does nothing alone",
        ),
        (
            format!(
                "--acme-domains a.example --acme-eab-key-file {}",
                key.display()
            ),
            "acme_eab_key_file does nothing alone",
        ),
        (
            "--acme-domains a.example --acme-dns-hook /dev/null".to_owned(),
            "/dev/null: is not a program that can be run",
        ),
        (
            "--acme-domains a.example --acme-dns-persist-issuer https://ca.example".to_owned(),
            "--acme-dns-persist-issuer: \"https://ca.example\" is not the domain name of a CA",
        ),
        (
            "--acme-domains a.example --acme-dns-persist-issuer 192.0.2.7".to_owned(),
            "--acme-dns-persist-issuer: \"192.0.2.7\" is not the domain name of a CA",
        ),
        (
            format!(
                "--acme-domains a.example --acme-dns-persist-issuer ca.example --acme-dns-hook {}",
                hook.display()
            ),
            "acme_dns_hook and acme_dns_persist_issuer exclude each other",
        ),
    ] {
        let error = ordering(folder.path(), &flags).error();
        assert!(error.starts_with(wanted), "{flags}: {error}");
    }
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).unwrap();
    let flags = format!(
        "--acme-domains a.example --acme-dns-hook {}",
        hook.display()
    );
    let error = ordering(folder.path(), &flags).error();
    assert!(error.contains("others can change this program"), "{error}");
}

#[test]
fn a_name_with_a_star_needs_one_of_the_two_ways_by_dns() {
    let folder = folder();
    let flags = "--acme-domains *.relay.example";
    let error = ordering(folder.path(), flags).error();
    let is_told = |setting: &str| error.contains(setting);
    assert!(
        is_told("acme_dns_hook") && is_told("acme_dns_persist_issuer"),
        "{error}"
    );
    let flags = format!("{flags} --acme-dns-persist-issuer CA.example");
    let config = ordering(folder.path(), &flags).config();
    let issuer = config.acme.unwrap().dns_persist_issuer;
    assert_eq!(issuer.as_deref(), Some("ca.example"));
}

#[test]
fn settings_that_do_nothing_are_told() {
    let folder = folder();
    let error = Case::flags(LISTEN)
        .and_flags("--acme-domains a.example")
        .error();
    assert!(
        error.starts_with("acme_domains needs acme_cache_dir or state_dir"),
        "{error}"
    );
    let error = ordering(folder.path(), "").error();
    assert!(
        error.starts_with("--acme-cache-dir does nothing alone"),
        "{error}"
    );
    let error = Case::flags("--acme-domains a.example --acme-cache-dir x").error();
    assert!(
        error.starts_with("acme_domains does nothing here: no address"),
        "{error}"
    );
}

#[test]
fn an_operator_is_told_if_the_ca_cannot_come_in() {
    let folder = folder();
    let told = |listen: &str, more: &str| {
        let case = Case::flags(&format!("{listen} --acme-domains a.example"))
            .and_flags(&format!("--acme-cache-dir {}", folder.path().display()))
            .and_flags(more);
        let lines = case.config().warnings(&["127.0.0.1:9080".parse().unwrap()]);
        lines.iter().filter(|it| it.contains("TLS-ALPN-01")).count()
    };
    write_files(folder.path());
    let hook = format!(
        "--acme-dns-hook {}",
        folder.path().join("dns-hook").display()
    );
    assert_eq!(told("--http-listen tls://127.0.0.1:8443", ""), 1);
    assert_eq!(told("--http-listen tls://127.0.0.1:8443", &hook), 0);
    let issuer = "--acme-dns-persist-issuer ca.example";
    assert_eq!(told("--http-listen tls://127.0.0.1:8443", issuer), 0);
    assert_eq!(told("--agent-listen tls://127.0.0.1:443", ""), 0);
    let both = "--http-listen tls://127.0.0.1:8443 --http-listen 127.0.0.1:80";
    assert_eq!(told(both, ""), 0);
}
