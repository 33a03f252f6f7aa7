//! Files that the relay's certificates are in: those that the settings name, and that of the certificate which the
//! relay orders by itself. The file of the authorities of agents is read together with them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::certificate::Certificate;
use super::ordered::{OrderedCertificate, is_there};
use super::provider;
use super::table::CertificateTable;
use crate::config::{AcmeConfig, TlsConfig};
use crate::error::{ConfigError, FileProblem};

/// Files of the relay's certificates, and of the authorities of its agents.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// Files that the settings name.
    named: TlsConfig,
    /// File of the certificate that the relay orders by itself, and of its key.
    ordered: Option<PathBuf>,
    /// Names that the relay orders a certificate for.
    domains: Vec<String>,
    /// Whether the ordered certificate has been read since the start; from then on a missing file is an error.
    was_read: Arc<AtomicBool>,
}

impl Sources {
    /// The files that the two configurations name.
    pub(super) fn new(config: &TlsConfig, acme: Option<&AcmeConfig>) -> Self {
        Self {
            named: config.clone(),
            ordered: acme.map(|it| it.cache_dir.join(it.certificate_file())),
            domains: acme.map_or_else(Vec::new, |it| it.domains.clone()),
            was_read: Arc::default(),
        }
    }

    /// Paths of all files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let named = self.named.certificates.iter();
        let named = named.flat_map(|it| [&it.cert, &it.key]);
        // Listed twice, because it is read twice, for certificate and key, and may be exchanged in between: the control
        // thread repeats a failed read of several paths once.
        let ordered = self.ordered.iter().flat_map(|it| [it, it]);
        let all = named.chain(&self.named.agent_ca).chain(ordered);
        all.cloned().collect()
    }

    /// Reads all files when the relay starts. A named certificate may have expired; an ordered one that has expired or
    /// is damaged is left out: the relay orders another. Returns what is wrong with a damaged one, too.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it; also if others can read an ordered one's key.
    pub(super) fn read_at_start(
        &self,
        now_seconds: u64,
    ) -> Result<(CertificateTable, Option<FileProblem>), ConfigError> {
        let table = CertificateTable::of(&self.named)?;
        let Some(path) = &self.ordered else {
            return Ok((table, None));
        };
        if !is_there(path)? {
            return Ok((table, None));
        }
        match Certificate::read_ordered(path, &provider()) {
            Ok(certificate) => Ok((self.joined(table, certificate, now_seconds), None)),
            Err(error) => Ok((table, Some(FileProblem::of_ordered(error, false)))),
        }
    }

    /// Reads all files again; returns the table that is in force then, and what is wrong with files.
    ///
    /// If a file that the settings name is bad, all that the settings name stays as in `known`, and the ordered
    /// certificate is read all the same. If the file of the ordered certificate is bad, or has one that must not take the
    /// place of that in `known`, that certificate stays. If `known` has none, one that has expired is left out.
    pub(crate) fn read_again(
        &self,
        known: &CertificateTable,
        now_seconds: u64,
    ) -> (CertificateTable, Vec<FileProblem>) {
        let mut problems = Vec::new();
        let named = self.read_named(known, now_seconds);
        let named = named.unwrap_or_else(|error| {
            problems.push(FileProblem::of_changed(error));
            known.named()
        });
        let used = known.ordered();
        let ordered = self.read_ordered(used, now_seconds);
        let ordered = ordered.unwrap_or_else(|error| {
            problems.push(FileProblem::of_ordered(error, used.is_some()));
            used.cloned()
        });
        let table = match ordered {
            Some(certificate) if used.is_some() => named.and(certificate),
            Some(certificate) => self.joined(named, certificate, now_seconds),
            None => named,
        };
        (table, problems)
    }

    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it; also if a certificate that is not in `known` has
    /// expired or is not valid yet.
    fn read_named(
        &self,
        known: &CertificateTable,
        now_seconds: u64,
    ) -> Result<CertificateTable, ConfigError> {
        let table = CertificateTable::of(&self.named)?;
        table.check_times(known, &self.named.certificates, now_seconds)?;
        Ok(table)
    }

    /// Reads the ordered certificate; `None` before the first order. The certificate `used` is in use until then.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it; also if it was read once and is gone, or must not take
    /// the place of `used`.
    fn read_ordered(
        &self,
        used: Option<&Certificate>,
        now_seconds: u64,
    ) -> Result<Option<Certificate>, ConfigError> {
        let Some(path) = &self.ordered else {
            return Ok(None);
        };
        if !self.was_read.load(Ordering::Relaxed) && !is_there(path)? {
            return Ok(None);
        }
        let certificate = Certificate::read_ordered(path, &provider())?;
        if used.is_some_and(|used| *used != certificate) {
            let now = i64::try_from(now_seconds).unwrap_or(i64::MAX);
            let checked = OrderedCertificate::of(&certificate).check(&self.domains, now);
            checked.map_err(|problem| ConfigError::content(path, problem))?;
        }
        Ok(Some(certificate))
    }

    /// The table with an ordered certificate, unless that has expired.
    fn joined(
        &self,
        table: CertificateTable,
        certificate: Certificate,
        now_seconds: u64,
    ) -> CertificateTable {
        self.was_read.store(true, Ordering::Relaxed);
        match certificate.is_over(now_seconds) {
            true => table,
            false => table.and(certificate),
        }
    }
}
