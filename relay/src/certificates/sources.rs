//! Files that the relay's certificates are in: those that the settings name, and that of the certificate which the
//! relay orders by itself. The file of the authorities of agents is read together with them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::certificate::Certificate;
use super::ordered::is_there;
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
    /// Whether the ordered certificate has been read since the start; from then on a missing file is an error.
    was_read: Arc<AtomicBool>,
}

impl Sources {
    /// The files that the two configurations name.
    pub(super) fn new(config: &TlsConfig, acme: Option<&AcmeConfig>) -> Self {
        Self {
            named: config.clone(),
            ordered: acme.map(|it| it.cache_dir.join(it.certificate_file())),
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
    /// certificate is read all the same. If the file of the ordered certificate is bad, that certificate stays as in
    /// `known`. An ordered certificate that has expired is left out.
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
        let ordered = self.read_ordered().unwrap_or_else(|error| {
            problems.push(FileProblem::of_ordered(error, known.ordered().is_some()));
            known.ordered().cloned()
        });
        let table = match ordered {
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

    /// Reads the ordered certificate; `None` before the first order.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it; also if it was read once and is gone.
    fn read_ordered(&self) -> Result<Option<Certificate>, ConfigError> {
        match &self.ordered {
            Some(path) if self.was_read.load(Ordering::Relaxed) || is_there(path)? => {
                Certificate::read_ordered(path, &provider()).map(Some)
            }
            _ => Ok(None),
        }
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
