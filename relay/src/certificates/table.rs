//! The relay's certificates, and which of them a client gets.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authorities::Authorities;
use super::certificate::Certificate;
use super::provider;
use crate::config::{CertificateFiles, TlsConfig};
use crate::error::ConfigError;
use crate::metrics::ShownCertificate;

/// The relay's certificates, and the authorities of its agents. Two tables are equal if they have the same certificates
/// and authorities in the same order.
pub(crate) struct CertificateTable {
    certificates: Vec<Certificate>,
    /// Index of the first certificate with each name; the name of a wildcard begins with `*.`.
    places: HashMap<String, usize>,
    /// Authorities that must have signed agents' own certificates, if agents need one.
    agents: Option<Authorities>,
}

impl CertificateTable {
    /// Reads the files that `config` names. The certificates' times are not checked: see
    /// [`CertificateTable::check_times`].
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it.
    pub(crate) fn of(config: &TlsConfig) -> Result<Self, ConfigError> {
        let agents = config.agent_ca.as_deref().map(Authorities::read);
        Ok(Self {
            agents: agents.transpose()?,
            ..Self::read(&config.certificates)?
        })
    }

    /// Reads the certificates. Their times are not checked: see [`CertificateTable::check_times`].
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it.
    pub(crate) fn read(files: &[CertificateFiles]) -> Result<Self, ConfigError> {
        let provider = provider();
        let certificates = files
            .iter()
            .map(|files| Certificate::read(files, &provider))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::with(certificates))
    }

    /// The table of these certificates, without authorities of agents.
    fn with(certificates: Vec<Certificate>) -> Self {
        let mut places = HashMap::new();
        for (place, certificate) in certificates.iter().enumerate() {
            for name in certificate.names() {
                places.entry(name.clone()).or_insert(place);
            }
        }
        Self {
            certificates,
            places,
            agents: None,
        }
    }

    /// The table without the certificate that the relay has ordered by itself.
    pub(super) fn named(&self) -> Self {
        let named = self.certificates.iter().filter(|it| !it.is_ordered());
        Self {
            agents: self.agents.clone(),
            ..Self::with(named.cloned().collect())
        }
    }

    /// The certificate that the relay has ordered by itself.
    pub(super) fn ordered(&self) -> Option<&Certificate> {
        self.certificates.iter().find(|it| it.is_ordered())
    }

    /// Checks that clients accept at `now_seconds` since 1970 each certificate that is not in `known`. The certificates
    /// were read from `files`; one that the relay has ordered by itself is not checked.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it.
    pub(super) fn check_times(
        &self,
        known: &Self,
        files: &[CertificateFiles],
        now_seconds: u64,
    ) -> Result<(), ConfigError> {
        // `files` has no entry for the ordered certificate, which is the last in the table.
        for (certificate, files) in self.certificates.iter().zip(files) {
            if !known.certificates.contains(certificate) {
                let checked = certificate.check_time(now_seconds);
                checked.map_err(|problem| ConfigError::content(&files.cert, problem))?;
            }
        }
        Ok(())
    }

    /// The verifier of agents' own certificates; `None` if agents need none.
    pub(super) fn agents(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.agents.as_ref().map(Authorities::verifier)
    }

    /// The table with one more certificate at its end: the certificates before it have precedence for their names.
    pub(super) fn and(mut self, certificate: Certificate) -> Self {
        let place = self.certificates.len();
        for name in certificate.names() {
            self.places.entry(name.clone()).or_insert(place);
        }
        self.certificates.push(certificate);
        self
    }

    /// Whether there is no certificate, so that every client is refused.
    pub(crate) const fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// The certificates as operators see them.
    pub(crate) fn shown(&self) -> Vec<ShownCertificate> {
        let shown = self.certificates.iter().map(|it| ShownCertificate {
            names: it.names().to_vec(),
            end_epoch_seconds: *it.validity().end(),
        });
        shown.collect()
    }

    /// The certificate for a client that asks for `name`: one with that name, else one with a wildcard for it, else the
    /// first.
    fn find(&self, name: Option<&str>) -> Option<&Certificate> {
        // A client may end the server's name with the dot of the DNS root.
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let place = name.and_then(|name| self.place(&name.to_ascii_lowercase()));
        self.certificates.get(place.unwrap_or(0))
    }

    /// Index of the certificate for `name`, which is in lower case.
    fn place(&self, name: &str) -> Option<usize> {
        let wildcard = || {
            let (_, rest) = name.split_once('.')?;
            self.places.get(&format!("*.{rest}"))
        };
        self.places.get(name).or_else(wildcard).copied()
    }

    /// Warns the operator, in a line for each, of certificates that clients refuse at `now_seconds` since 1970, or will
    /// refuse within `notice`. `do_orders_fail` tells whether the last order of a new one failed.
    pub(crate) fn endings(
        &self,
        now_seconds: u64,
        notice: Duration,
        do_orders_fail: bool,
    ) -> Vec<String> {
        let line = |it: &Certificate| {
            let notice = match it.is_ordered() {
                true => notice.min(notice_of_ordered(it)),
                false => notice,
            };
            let soon = now_seconds.saturating_add(notice.as_secs());
            let line = match (it.check_time(now_seconds), it.check_time(soon)) {
                (Err(problem), _) => {
                    format!("clients refuse the certificate for {it}: it {problem}")
                }
                (Ok(()), Err(_)) => format!("the certificate for {it} expires soon"),
                (Ok(()), Ok(())) => return None,
            };
            let hint = match (it.is_ordered() && it.is_over(soon), do_orders_fail) {
                (true, true) => {
                    "orders of a new one fail, see acme in /healthz?verbose for the reason"
                }
                (true, false) => {
                    "the relay renews it by itself, see acme in /healthz?verbose for the time"
                }
                (false, _) => "a renewed file is read by itself",
            };
            Some(format!("{line}; {hint}"))
        };
        self.certificates.iter().filter_map(line).collect()
    }

    /// Warns the operator, in a line for each, of certificates of authorities.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = String> {
        let authorities = self.certificates.iter().filter(|it| it.is_authority());
        authorities.map(|it| {
            format!(
                "the certificate for {it} is an authority's (CA:TRUE), which agents and other strict clients refuse \
                 as a server's: make one with CA:FALSE, see \"TLS\" in docs/OPERATIONS.md"
            )
        })
    }

    /// Warns the operator, in one line, if public URLs name `address`, and the certificate that clients get there is
    /// for other names.
    pub(crate) fn address_warning(&self, address: IpAddr) -> Option<String> {
        let name = address.to_canonical().to_string();
        // A client names no server in its hello if the URL has an address.
        let certificate = self.find(None)?;
        let is_for_it = certificate.names().contains(&name);
        (!is_for_it).then(|| {
            format!(
                "public URLs name {name}, and clients refuse the certificate there, which is for {}: set domain or \
                 public_url, or put a certificate for {name} first",
                certificate.names().join(", ")
            )
        })
    }

    /// Warns the operator, in one line, if callers of the relay at `domain` or of a tunnel below it would get a
    /// certificate for other names. `is_ordered` tells for which names the relay orders a certificate.
    pub(crate) fn warning(
        &self,
        domain: &str,
        is_ordered: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let below = format!("*.{domain}");
        let has_own = self.place(domain).is_some() || is_ordered(domain);
        let has_below = self.places.contains_key(&below) || is_ordered(&below);
        let lacking = match (has_own, has_below) {
            (true, true) => return None,
            (false, true) => domain.to_owned(),
            (true, false) => below,
            (false, false) => format!("{domain} and {below}"),
        };
        Some(format!(
            "no certificate is for {lacking}, so clients refuse public URLs with such a host: domain needs \
             certificates for {domain} and for *.{domain}"
        ))
    }
}

/// How long before the end of a certificate that the relay renews by itself the operator is warned: half of the time
/// that is left when renewal is due.
fn notice_of_ordered(certificate: &Certificate) -> Duration {
    let (start, end) = certificate.validity().clone().into_inner();
    let seconds = u64::try_from(end.saturating_sub(start)).unwrap_or(0);
    Duration::from_secs(seconds / 6)
}

impl ResolvesServerCert for CertificateTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = self.find(hello.server_name())?;
        Some(Arc::clone(certificate.key()))
    }
}

impl PartialEq for CertificateTable {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates && self.agents == other.agents
    }
}

impl fmt::Display for CertificateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self.certificates.iter().map(ToString::to_string);
        let agents = self.agents.as_ref();
        let agents = agents.map(|it| format!("{} of authorities of agents", it.len()));
        let all: Vec<_> = certificates.chain(agents).collect();
        f.write_str(&all.join("; "))
    }
}

impl fmt::Debug for CertificateTable {
    /// Shows names and times alone: keys are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateTable({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::super::tests::Files;
    use super::*;

    fn shown(table: &CertificateTable, name: Option<&str>) -> String {
        table.find(name).unwrap().names().join(" ")
    }

    #[test]
    fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
        let files = Files::new();
        let all = [
            files.certificate("first", &["relay.example"]),
            files.certificate("wild", &["*.relay.example", "Other.example"]),
            files.certificate("one", &["maya.relay.example", "other.example", "192.0.2.7"]),
        ];
        let table = CertificateTable::read(&all).unwrap();
        let (first, wild) = ("relay.example", "*.relay.example other.example");
        let one = "maya.relay.example other.example 192.0.2.7";
        for (name, wanted) in [
            (Some("relay.example"), first),
            (Some("RELAY.example"), first),
            // An exact name comes before a wildcard, whichever certificate stands first.
            (Some("maya.relay.example"), one),
            (Some("nuke.relay.example"), wild),
            (Some("nuke.relay.example."), wild),
            // Two have the name, and the first of them counts.
            (Some("other.example"), wild),
            // A wildcard stands for one label.
            (Some("a.b.relay.example"), first),
            (Some("elsewhere.example"), first),
            (Some("example"), first),
            (None, first),
        ] {
            assert_eq!(shown(&table, name), wanted, "{name:?}");
        }
    }

    #[test]
    fn tables_are_equal_if_their_certificates_are() {
        let files = Files::new();
        let (one, other) = (
            files.certificate("a", &["a"]),
            files.certificate("b", &["b"]),
        );
        let read = |files: &[CertificateFiles]| CertificateTable::read(files).unwrap();
        assert!(read(&[one.clone(), other.clone()]) == read(&[one.clone(), other.clone()]));
        assert!(read(&[one.clone(), other.clone()]) != read(&[other.clone(), one.clone()]));
        let before = read(from_ref(&one));
        assert!(before != read(&[other]));
        // A new certificate for the same names.
        files.certificate("a", &["a"]);
        assert!(before != read(&[one]));
    }

    #[test]
    fn an_operator_is_told_of_an_address_without_a_certificate() {
        let files = Files::new();
        let all = [
            files.certificate("first", &["relay.example", "192.0.2.7", "2001:db8::1"]),
            files.certificate("second", &["192.0.2.8"]),
        ];
        let table = CertificateTable::read(&all).unwrap();
        let warning = |address: &str| table.address_warning(address.parse().unwrap());
        for good in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"] {
            assert_eq!(warning(good), None, "{good}");
        }
        // Without a name, clients get the first certificate.
        for bad in ["192.0.2.8", "2001:db8::2"] {
            let line = warning(bad).unwrap();
            assert!(
                line.starts_with(&format!("public URLs name {bad}, ")),
                "{line}"
            );
            assert_eq!(line.lines().count(), 1);
        }
    }

    #[test]
    fn an_operator_is_told_of_a_domain_without_a_certificate() {
        let files = Files::new();
        let warning = |names: &[&str]| {
            let certificate = files.certificate("x", names);
            let table = CertificateTable::read(&[certificate]).unwrap();
            table.warning("relay.example", |_| false)
        };
        assert_eq!(warning(&["relay.example", "*.relay.example"]), None);
        for (names, lacking) in [
            (&["relay.example"][..], "*.relay.example,"),
            (&["*.relay.example"], "relay.example,"),
            (&["*.example", "maya.relay.example"], "*.relay.example,"),
            (&["x.example"], "relay.example and *.relay.example,"),
        ] {
            let line = warning(names).unwrap();
            let beginning = format!("no certificate is for {lacking}");
            assert!(line.starts_with(&beginning), "{names:?}: {line}");
            assert_eq!(line.lines().count(), 1);
        }
    }

    #[test]
    fn certificates_that_end_are_told_with_their_names() {
        let files = Files::new();
        let certificate = files.certificate("a", &["relay.example"]);
        let table = CertificateTable::read(&[certificate]).unwrap();
        let day = 24 * 60 * 60;
        // 2030-01-01T00:00:00Z, at which the tests' certificates end.
        let end = 1_893_456_000;
        let lines = |now| table.endings(now, Duration::from_secs(14 * day), false);
        assert!(lines(end - 15 * day).is_empty());
        for (now, words) in [
            (0, "is not valid before 2020-01-01T00:00:00Z"),
            (end - 13 * day, "expires soon"),
            (end + 1, "expired at 2030-01-01T00:00:00Z"),
        ] {
            let lines = lines(now);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].contains(words) && lines[0].contains("relay.example"));
        }
    }

    #[test]
    fn an_authoritys_certificate_is_told() {
        let files = Files::new();
        let server = files.certificate("server", &["relay.example"]);
        let authority = files.authority("authority", "studio.example");
        let table = CertificateTable::read(&[server, authority]).unwrap();
        let lines: Vec<_> = table.authorities().collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("studio.example") && lines[0].contains("CA:FALSE"));
    }

    #[test]
    fn a_table_shows_names_and_times_and_no_key() {
        let files = Files::new();
        let all = [
            files.certificate("a", &["relay.example", "192.0.2.7"]),
            files.certificate("b", &["2001:db8::1"]),
        ];
        let table = CertificateTable::read(&all).unwrap();
        let until = "until 2030-01-01T00:00:00Z";
        let text = format!("relay.example, 192.0.2.7 {until}; 2001:db8::1 {until}");
        assert_eq!(table.to_string(), text);
        assert_eq!(format!("{table:?}"), format!("CertificateTable({text})"));
    }
}
