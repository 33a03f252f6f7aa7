//! Long because the tests of all kinds of certificates share the files and handshakes that they make.

mod ordered;
mod protocols;
mod quic;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConnection, SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::*;
use crate::config::CertificateFiles;

/// A time at which the certificates of [`Files`] are valid: 2027-01-15.
const NOW_SECONDS: u64 = 1_800_000_000;

/// A folder of certificates.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a certificate for `names` and its key, valid from 2020 to 2030.
    pub(super) fn certificate(&self, file: &str, names: &[&str]) -> CertificateFiles {
        self.certificate_of_years(file, names, 2020..=2030)
    }

    /// Writes a certificate that is valid whenever a test runs.
    pub(crate) fn lasting(&self, file: &str, names: &[&str]) -> CertificateFiles {
        self.certificate_of_years(file, names, 2020..=2999)
    }

    /// Writes the certificate of an authority, and its key, valid from 2020 to 2030.
    pub(crate) fn authority(&self, file: &str, name: &str) -> CertificateFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.signed(file, params, 2020..=2030)
    }

    pub(crate) fn certificate_of_years(
        &self,
        file: &str,
        names: &[&str],
        years: std::ops::RangeInclusive<i32>,
    ) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.signed(file, CertificateParams::new(names).unwrap(), years)
    }

    fn signed(
        &self,
        file: &str,
        mut params: CertificateParams,
        years: std::ops::RangeInclusive<i32>,
    ) -> CertificateFiles {
        params.not_before = date_time_ymd(*years.start(), 1, 1);
        params.not_after = date_time_ymd(*years.end(), 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        CertificateFiles {
            cert: self.write(&format!("{file}.pem"), &certificate.pem(), 0o644),
            key: self.write(&format!("{file}.key"), &key.serialize_pem(), 0o600),
        }
    }

    pub(crate) fn write(&self, file: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn error(files: CertificateFiles) -> String {
    let error = CertificateTable::read(&[files]).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Asserts that the certificate is refused, and that the file at `path` is named.
fn is_refused(files: CertificateFiles, path: &Path, wanted: &str) {
    let text = error(files);
    let beginning = format!("{}: {wanted}", path.display());
    assert!(text.starts_with(&beginning), "{text}");
}

#[test]
fn a_certificate_that_clients_would_refuse_is_named_with_its_file() {
    let files = Files::new();
    let good = [files.certificate("good", &["relay.example"])];
    let known = CertificateTable::read(&good).unwrap();
    known.check_times(&known, &good, NOW_SECONDS).unwrap();
    for (years, wanted) in [
        (2020..=2026, "expired at 2026-01-01T00:00:00Z"),
        (2028..=2030, "is not valid before 2028-01-01T00:00:00Z"),
    ] {
        let wrong = [files.certificate_of_years("wrong", &["relay.example"], years)];
        let table = CertificateTable::read(&wrong).unwrap();
        let error = table.check_times(&known, &wrong, NOW_SECONDS).unwrap_err();
        let beginning = format!("{}: {wanted}", wrong[0].cert.display());
        assert!(error.to_string().starts_with(&beginning), "{error}");
        // A certificate that is in force already is not checked.
        table.check_times(&table, &wrong, NOW_SECONDS).unwrap();
    }
    let nameless = files.certificate("nameless", &[]);
    let path = nameless.cert.clone();
    is_refused(nameless, &path, "has no name that clients look for");
}

#[test]
fn a_file_that_is_no_certificate_or_no_key_is_named() {
    let files = Files::new();
    let good = files.certificate("good", &["relay.example"]);
    let pem = fs::read_to_string(&good.cert).unwrap();
    let key = fs::read_to_string(&good.key).unwrap();
    let cut = &pem[..pem.len() / 2];
    let other = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    for (text, wanted) in [
        ("", "no certificate in it"),
        ("nonsense", "no certificate in it"),
        (key.as_str(), "no certificate in it"),
        (cut, "a block in it is damaged"),
        (other, "its first certificate is damaged"),
    ] {
        let cert = files.write("wrong.pem", text, 0o644);
        let key = good.key.clone();
        let path = cert.clone();
        is_refused(CertificateFiles { cert, key }, &path, wanted);
    }
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let damaged = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    for (text, wanted) in [
        ("", "no whole private key in it"),
        (pem.as_str(), "no whole private key in it"),
        (&key[..key.len() / 2], "no whole private key in it"),
        (locked.as_str(), "no whole private key in it"),
        (damaged, "its key cannot be used"),
    ] {
        let key = files.write("wrong.key", text, 0o600);
        let cert = good.cert.clone();
        let path = key.clone();
        is_refused(CertificateFiles { cert, key }, &path, wanted);
    }
    let absent = CertificateFiles {
        key: files.path("absent.key"),
        ..good
    };
    let text = error(absent);
    assert!(
        text.contains("cannot read") && text.contains("absent.key"),
        "{text}"
    );
}

#[test]
fn a_byte_order_mark_in_front_of_certificate_and_key_is_skipped() {
    let files = Files::new();
    let good = files.certificate("good", &["relay.example"]);
    let marked = |path: &Path| format!("\u{feff}{}", fs::read_to_string(path).unwrap());
    let marked = CertificateFiles {
        cert: files.write("marked.pem", &marked(&good.cert), 0o644),
        key: files.write("marked.key", &marked(&good.key), 0o600),
    };
    CertificateTable::read(&[marked]).unwrap();
}

#[test]
fn a_key_belongs_to_its_certificate_and_to_the_relay_alone() {
    let files = Files::new();
    let good = files.certificate("good", &["relay.example"]);
    let other = files.certificate("other", &["relay.example"]);
    let mixed = CertificateFiles {
        cert: good.cert.clone(),
        key: other.key.clone(),
    };
    let wanted = format!("is not the key of {}", good.cert.display());
    is_refused(mixed, &other.key, &wanted);
    // One file may hold both.
    let both = |name: &str, key: &Path| {
        let text = fs::read_to_string(key).unwrap() + &fs::read_to_string(&good.cert).unwrap();
        let file = files.write(name, &text, 0o600);
        CertificateFiles {
            cert: file.clone(),
            key: file,
        }
    };
    CertificateTable::read(&[both("both.pem", &good.key)]).unwrap();
    let mixed = both("mixed.pem", &other.key);
    let file = mixed.key.clone();
    is_refused(mixed, &file, "the key in it is not that of its certificate");
    for mode in [0o644, 0o604, 0o660] {
        fs::set_permissions(&good.key, fs::Permissions::from_mode(mode)).unwrap();
        is_refused(
            good.clone(),
            &good.key,
            "others can read or change this secret",
        );
    }
}

fn client(
    cert: &Path,
    version: &'static SupportedProtocolVersion,
    offered: &[&str],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let cert = CertificateDer::from_pem_slice(&fs::read(cert).unwrap()).unwrap();
    roots.add(cert).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

/// Runs a handshake; an error is the client's or the server's.
fn shaken(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from("relay.example").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}

/// What a relay with one certificate has, and the file of that one.
fn certificates(files: &Files) -> (Certificates, PathBuf) {
    let certificate = files.lasting("relay", &["relay.example"]);
    let path = certificate.cert.clone();
    let config = TlsConfig {
        certificates: vec![certificate],
        ..TlsConfig::default()
    };
    (Certificates::read(&config, None).unwrap().unwrap(), path)
}

/// The protocol of a handshake.
type Agreed = Result<Option<Vec<u8>>, rustls::Error>;

#[test]
fn a_protocol_is_agreed_on_in_the_relays_order() {
    let files = Files::new();
    let (certificates, path) = certificates(&files);
    let configs = certificates.configs();
    for version in [&TLS13, &TLS12] {
        let agreed = |offered: &[&str]| -> Agreed {
            let client = client(&path, version, offered);
            let (client, _) = shaken(&Arc::new(client), &configs.callers)?;
            Ok(client.alpn_protocol().map(<[u8]>::to_vec))
        };
        let named = |name: &str| -> Agreed { Ok(Some(name.as_bytes().to_vec())) };
        assert_eq!(agreed(&["http/1.1", "h2"]), named("h2"));
        assert_eq!(agreed(&["http/1.1"]), named("http/1.1"));
        assert_eq!(
            agreed(&["other", "tieline-agent/1"]),
            named("tieline-agent/1")
        );
        assert_eq!(agreed(&["tieline"]), named("tieline"));
        assert_eq!(agreed(&[]), Ok(None));
        assert!(agreed(&["acme-tls/1"]).is_err());
    }
}

#[test]
fn a_session_is_resumed_also_after_a_change_of_certificates() {
    let files = Files::new();
    let (before, path) = certificates(&files);
    for (version, wanted) in [
        (&TLS13, ProtocolVersion::TLSv1_3),
        (&TLS12, ProtocolVersion::TLSv1_2),
    ] {
        let client = Arc::new(client(&path, version, &["h2"]));
        let (_, first) = shaken(&client, &before.configs().callers).unwrap();
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(first.protocol_version(), Some(wanted));
        // What another shard has after a reload.
        let other = files.lasting("other", &["relay.example"]);
        let table = CertificateTable::read(&[other]).unwrap();
        let after = ServerConfigs::new(Arc::new(table), Arc::clone(&before.ticketer), None);
        let (_, second) = shaken(&client, &after.callers).unwrap();
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
        // Another relay knows no ticket of this one, and its certificate is another.
        let (elsewhere, _) = certificates(&Files::new());
        assert!(shaken(&client, &elsewhere.configs().callers).is_err());
    }
}

/// The file of a new authority of agents, and a certificate that it signed, as an agent shows it.
fn agents(files: &Files, file: &str) -> (PathBuf, Arc<SingleCertAndKey>) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["seat-12".to_owned()]).unwrap();
    let certificate = params.signed_by(&own, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let chain = vec![certificate.der().clone()];
    let certified = CertifiedKey::from_der(chain, key, &provider()).unwrap();
    let ca = files.write(file, &ca.pem(), 0o644);
    (ca, Arc::new(SingleCertAndKey::from(certified)))
}

#[test]
fn agents_alone_show_a_certificate_of_their_authority() {
    let files = Files::new();
    let (ca, ours) = agents(&files, "ours.pem");
    let (_, others) = agents(&files, "others.pem");
    let certificate = files.lasting("relay", &["relay.example"]);
    let path = certificate.cert.clone();
    let config = TlsConfig {
        certificates: vec![certificate],
        agent_ca: Some(ca),
        ..TlsConfig::default()
    };
    let configs = Certificates::read(&config, None)
        .unwrap()
        .unwrap()
        .configs();
    let served = |client: &Arc<ClientConfig>, server: &Arc<ServerConfig>| {
        let (_, server) = shaken(client, server).unwrap();
        let has_certificate = server.peer_certificates().is_some();
        configs.served(server.alpn_protocol(), ListenKind::Agent, has_certificate)
    };
    for version in [&TLS13, &TLS12] {
        let with = |own: Option<&Arc<SingleCertAndKey>>, protocol| {
            let mut client = client(&path, version, &[protocol]);
            if let Some(own) = own {
                let own: Arc<SingleCertAndKey> = Arc::clone(own);
                client.client_auth_cert_resolver = own;
            }
            Arc::new(client)
        };
        let agent = with(Some(&ours), "tieline-agent/1");
        for _ in 0..2 {
            let (_, server) = shaken(&agent, &configs.agents).unwrap();
            // A resumed session would show no certificate.
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        }
        let error = |own| {
            let shaken = shaken(&with(own, "tieline-agent/1"), &configs.agents);
            shaken.err().unwrap()
        };
        assert_eq!(error(None), rustls::Error::NoCertificatesPresented);
        let strange = error(Some(&others));
        assert!(
            matches!(strange, rustls::Error::InvalidCertificate(_)),
            "{strange}"
        );
        for protocol in ["h2", "http/1.1", "tieline"] {
            assert!(shaken(&with(None, protocol), &configs.callers).is_ok());
        }
        let around = shaken(&with(None, "tieline-agent/1"), &configs.callers);
        assert!(around.is_err());
        // A client that names the protocol in its first hello only completes this handshake, like one that names none.
        let nothing = Arc::new(client(&path, version, &[]));
        assert_eq!(served(&nothing, &configs.callers), None);
        let as_agent = Some(Served::As(ListenKind::Agent));
        assert_eq!(served(&agent, &configs.agents), as_agent);
    }
}

#[test]
fn a_client_is_an_agent_if_it_offers_that_before_http() {
    for (offered, expected) in [
        (&[AGENT][..], true),
        (&[RAW, AGENT], true),
        (&[&b"imap"[..], AGENT], true),
        (&[AGENT, HTTP1], false),
        (&[HTTP2, AGENT], false),
        (&[RAW], false),
        (&[ACME_TLS], false),
        (&[&b"imap"[..]], false),
    ] {
        assert_eq!(is_agents(offered.iter().copied()), expected, "{offered:?}");
    }
}

#[test]
fn a_file_of_authorities_that_is_none_is_named() {
    let files = Files::new();
    let certificate = files.lasting("relay", &["relay.example"]);
    let read = |ca: PathBuf| {
        let config = TlsConfig {
            certificates: vec![certificate.clone()],
            agent_ca: Some(ca),
            ..TlsConfig::default()
        };
        CertificateTable::of(&config).map_err(|error| error.to_string())
    };
    let (good, _) = agents(&files, "good.pem");
    let shown = read(good.clone()).unwrap().to_string();
    assert!(shown.ends_with("; 1 of authorities of agents"), "{shown}");
    fs::set_permissions(&good, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(
        read(good)
            .unwrap_err()
            .contains("others can change this file")
    );
    for (text, words) in [
        ("", "no certificate in it"),
        (
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            "a certificate in it cannot be used",
        ),
    ] {
        let problem = read(files.write("bad.pem", text, 0o644)).unwrap_err();
        assert!(
            problem.contains("bad.pem: ") && problem.contains(words),
            "{problem}"
        );
    }
    let absent = read(files.path("absent.pem")).unwrap_err();
    assert!(absent.contains("cannot read"), "{absent}");
}

#[test]
fn a_certificate_that_has_expired_stops_no_start() {
    let files = Files::new();
    let expired = files.certificate_of_years("expired", &["relay.example"], 2000..=2001);
    let config = TlsConfig {
        certificates: vec![expired],
        ..TlsConfig::default()
    };
    let certificates = Certificates::read(&config, None).unwrap().unwrap();
    let lines = certificates
        .table
        .endings(NOW_SECONDS, Duration::ZERO, false);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("clients refuse the certificate for relay.example"));
}

#[test]
fn without_certificates_there_is_nothing_to_read() {
    let none = Certificates::read(&TlsConfig::default(), None).unwrap();
    assert!(none.is_none());
}

/// The certificates of a relay that has `named` in files, and orders another into the folder of `files`.
fn with_ordered(files: &Files, named: Vec<CertificateFiles>) -> Result<Certificates, StartError> {
    let config = TlsConfig {
        certificates: named,
        ..TlsConfig::default()
    };
    let acme = AcmeConfig::new(vec!["relay.example".to_owned()], files.path(""));
    Certificates::read(&config, Some(&acme)).map(Option::unwrap)
}

/// Puts a certificate and its key where the relay keeps what it orders.
fn put_ordered(files: &Files, certificate: &CertificateFiles) -> PathBuf {
    let [key, cert] =
        [&certificate.key, &certificate.cert].map(|it| fs::read_to_string(it).unwrap());
    let name = AcmeConfig::new(Vec::new(), PathBuf::new()).certificate_file();
    files.write(&name, &(key + &cert), 0o600)
}

#[test]
fn an_ordered_certificate_comes_behind_those_in_files() {
    let files = Files::new();
    let none = with_ordered(&files, Vec::new()).unwrap();
    assert!(none.table.is_empty());
    put_ordered(
        &files,
        &files.lasting("a", &["relay.example", "ordered.example"]),
    );
    let named = files.lasting("b", &["relay.example", "named.example"]);
    let both = with_ordered(&files, vec![named]).unwrap();
    let shown: Vec<_> = both.table.shown().into_iter().map(|it| it.names).collect();
    assert_eq!(shown[0], ["relay.example", "named.example"]);
    assert_eq!(shown[1], ["relay.example", "ordered.example"]);
    assert_eq!(both.sources.paths().len(), 4);
}

#[test]
fn an_ordered_certificate_that_is_no_use_does_not_stop_the_start() {
    let files = Files::new();
    let expired = files.certificate_of_years("old", &["relay.example"], 2000..=2001);
    let path = put_ordered(&files, &expired);
    assert!(with_ordered(&files, Vec::new()).unwrap().table.is_empty());
    fs::write(&path, "nonsense").unwrap();
    let damaged = with_ordered(&files, Vec::new()).unwrap();
    assert!(damaged.table.is_empty());
    // Nothing was read before that could stay.
    let told = damaged.told.unwrap();
    assert!(told.ends_with("; another certificate is ordered"), "{told}");
    let (_, problems) = damaged.sources.read_again(&damaged.table, NOW_SECONDS);
    assert!(
        problems.len() == 1 && problems[0].to_string() == told,
        "{problems:?}"
    );
    // A key that others can read is refused as in any other file.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = with_ordered(&files, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("others can read"), "{error}");
}

#[test]
fn an_ordered_certificate_whose_file_goes_away_stays() {
    let files = Files::new();
    let path = put_ordered(&files, &files.lasting("a", &["relay.example"]));
    let certificates = with_ordered(&files, Vec::new()).unwrap();
    let (sources, table) = (&certificates.sources, &certificates.table);
    let (again, problems) = sources.read_again(table, NOW_SECONDS);
    assert!(again == **table && problems.is_empty());
    fs::remove_file(path).unwrap();
    let (again, problems) = sources.read_again(table, NOW_SECONDS);
    assert!(again == **table && problems.len() == 1);
    let problem = problems[0].to_string();
    assert!(
        problem.ends_with("stays in use, and another one is ordered"),
        "{problem}"
    );
}

#[test]
fn a_bad_file_holds_back_no_certificate_in_another() {
    let files = Files::new();
    let before = files.lasting("before", &["relay.example", "before.example"]);
    let ordered = put_ordered(&files, &before);
    let named = files.lasting("named", &["named.example"]);
    let certificates = with_ordered(&files, vec![named.clone()]).unwrap();
    let (sources, table) = (&certificates.sources, &certificates.table);
    let names = |table: &CertificateTable| -> Vec<String> {
        let shown = table.shown().into_iter();
        shown.map(|it| it.names.join(" ")).collect()
    };

    fs::write(&named.cert, "nonsense").unwrap();
    let renewed = files.lasting("renewed", &["relay.example", "renewed.example"]);
    put_ordered(&files, &renewed);
    let (again, problems) = sources.read_again(table, NOW_SECONDS);
    let wanted = ["named.example", "relay.example renewed.example"];
    assert_eq!(names(&again), wanted);
    assert_eq!(problems.len(), 1);
    let problem = problems[0].to_string();
    assert!(problem.contains("named.pem"), "{problem}");

    fs::write(&ordered, "nonsense").unwrap();
    files.lasting("named", &["other.example"]);
    let (last, problems) = sources.read_again(&again, NOW_SECONDS);
    let wanted = ["other.example", "relay.example renewed.example"];
    assert_eq!(names(&last), wanted);
    assert_eq!(problems.len(), 1);
    let problem = problems[0].to_string();
    assert!(
        problem.contains(&ordered.display().to_string()),
        "{problem}"
    );
}

#[test]
fn the_end_of_an_ordered_certificate_is_told_after_its_renewal_was_due() {
    let files = Files::new();
    put_ordered(&files, &files.certificate("a", &["relay.example"]));
    let certificates = with_ordered(&files, Vec::new()).unwrap();
    // It is valid for ten years, until 2030.
    let (day, end) = (24 * 60 * 60, 1_893_456_000);
    let notice = Duration::from_secs(5000 * day);
    let lines = |now, do_orders_fail| certificates.table.endings(now, notice, do_orders_fail);
    assert!(lines(end - 650 * day, true).is_empty());
    for (do_orders_fail, words) in [
        (true, "orders of a new one fail"),
        (false, "the relay renews it by itself"),
    ] {
        let told = lines(end - 600 * day, do_orders_fail);
        assert!(told.len() == 1 && told[0].contains(words), "{told:?}");
    }
}

#[test]
fn a_ca_that_checks_a_name_gets_its_answer_and_others_their_certificate() {
    let files = Files::new();
    put_ordered(&files, &files.lasting("a", &["relay.example"]));
    let certificates = with_ordered(&files, Vec::new()).unwrap();
    let server = Arc::clone(&certificates.configs().callers);
    let path = files.path("a.pem");
    let shake = |offered: &[&str]| shaken(&Arc::new(client(&path, &TLS13, offered)), &server);
    assert!(shake(&["h2"]).is_ok());
    assert!(shake(&["acme-tls/1"]).is_err());
    let challenges = certificates.challenges.as_ref().unwrap();
    let open = challenges
        .open_certificate("relay.example", &[7; 32])
        .unwrap();
    // The test's client does not trust the challenge's certificate; a CA only reads it.
    let error = shake(&["acme-tls/1"]).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, rustls::Error::InvalidCertificate(_)),
        "{error}"
    );
    let (client, _) = shake(&["h2", "acme-tls/1"]).unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    drop(open);
    assert!(shake(&["acme-tls/1"]).is_err());
}

#[test]
fn a_ca_needs_no_certificate_where_agents_need_one() {
    let files = Files::new();
    let (ca, _) = agents(&files, "ours.pem");
    put_ordered(&files, &files.lasting("a", &["relay.example"]));
    let config = TlsConfig {
        agent_ca: Some(ca),
        ..TlsConfig::default()
    };
    let acme = AcmeConfig::new(vec!["relay.example".to_owned()], files.path(""));
    let certificates = Certificates::read(&config, Some(&acme)).unwrap().unwrap();
    assert_eq!(certificates.sources.paths().len(), 3);
    let challenges = certificates.challenges.as_ref().unwrap();
    let _open = challenges
        .open_certificate("relay.example", &[7; 32])
        .unwrap();
    let configs = certificates.configs();
    let answer = |config| {
        let client = client(&files.path("a.pem"), &TLS13, &["acme-tls/1"]);
        shaken(&Arc::new(client), config).map(|_| ()).unwrap_err()
    };
    // The test's client does not trust the challenge's certificate; a CA only reads it.
    let error = answer(&configs.callers);
    assert!(
        matches!(error, rustls::Error::InvalidCertificate(_)),
        "{error}"
    );
    // `ServerConfigs::choose` never returns this configuration to a CA that checks a name.
    assert_eq!(
        answer(&configs.agents),
        rustls::Error::NoApplicationProtocol
    );
}
