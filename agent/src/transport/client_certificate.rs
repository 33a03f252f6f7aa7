//! The agent's own certificate, for relays that ask for one (`agent_ca`): reads it, and explains why a relay refused
//! it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, Error};

use super::tls::{provider, unmarked};
use crate::error::TrustError;

/// Flags that name the two files.
const CERT: &str = "--client-cert";
const KEY: &str = "--client-key";

/// Reads the certificate in the file `cert`, and its key in the file `key`, which other users must not be able to read.
///
/// # Errors
/// [`TrustError::OwnFile`] names the file, and what is wrong with it.
pub(super) fn read(cert: &Path, key: &Path) -> Result<Arc<dyn ResolvesClientCert>, TrustError> {
    let text = read_file(CERT, cert, |_| Ok(()))?;
    let chain = CertificateDer::pem_slice_iter(unmarked(&text)).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong(CERT, cert, format!("it is damaged ({error})")))?;
    if chain.is_empty() {
        let problem =
            "it holds no certificate: a block of -----BEGIN CERTIFICATE----- belongs there";
        return Err(wrong(CERT, cert, problem.to_owned()));
    }
    let text = read_file(KEY, key, is_private)?;
    let own = PrivateKeyDer::from_pem_slice(unmarked(&text)).map_err(|_| {
        let problem = "it holds no whole private key: a block of -----BEGIN PRIVATE KEY----- belongs there, without a \
                       passphrase";
        wrong(KEY, key, problem.to_owned())
    })?;
    let certified = CertifiedKey::from_der(chain, own, &provider()).map_err(|error| {
        let problem = match error {
            Error::InconsistentKeys(_) => format!("it is not the key of {}", cert.display()),
            other => format!("its key cannot be used with {} ({other})", cert.display()),
        };
        wrong(KEY, key, problem)
    })?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

fn wrong(flag: &'static str, path: &Path, problem: String) -> TrustError {
    TrustError::OwnFile {
        flag,
        path: path.to_owned(),
        problem,
    }
}

fn read_file(
    flag: &'static str,
    path: &Path,
    check: impl FnOnce(&fs::Metadata) -> Result<(), String>,
) -> Result<Vec<u8>, TrustError> {
    let failed = |error: io::Error| wrong(flag, path, format!("cannot read it: {error}"));
    let mut file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        let problem = "it is a folder: give the path of a file in it";
        return Err(wrong(flag, path, problem.to_owned()));
    }
    check(&metadata).map_err(|problem| wrong(flag, path, problem))?;
    let mut text = Vec::new();
    io::Read::read_to_end(&mut file, &mut text).map_err(failed)?;
    Ok(text)
}

/// Checks that only root and the current user can read the file, and that one of them owns it.
#[cfg(unix)]
fn is_private(metadata: &fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;

    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "it may be read by others (mode {mode:o}): run chmod 600 on it"
        ));
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to another user (uid {owner})"));
    }
    Ok(())
}

// No check: on this system access lists decide who can read a file, and files have no mode.
#[cfg(not(unix))]
fn is_private(_: &fs::Metadata) -> Result<(), String> {
    Ok(())
}

/// Explains the `error` of a connection that the relay ended because of the agent's own certificate, and says what to
/// do; `None` for any other error. In TLS 1.3 the relay's alert comes after the agent's part of the handshake, so the
/// error is that of the first read.
#[must_use]
pub fn client_certificate_problem(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let Error::AlertReceived(alert) = error else {
        return None;
    };
    let why = match alert {
        AlertDescription::CertificateRequired => {
            return Some(
                "the relay asks for a client certificate: name its files with --client-cert and --client-key"
                    .to_owned(),
            );
        }
        AlertDescription::UnknownCA => "no authority that the relay knows for agents has signed it",
        AlertDescription::CertificateExpired => "it has expired, or the relay's clock is wrong",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError => "it may be damaged, or signed by another authority",
        _ => return None,
    };
    Some(format!(
        "the relay does not accept the certificate of --client-cert ({alert:?}): {why}"
    ))
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;

    use super::*;

    /// Writes a file of this mode.
    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let _ = mode;
    }

    #[test]
    fn a_certificate_is_read_with_its_own_key_alone() {
        let made = || generate_simple_self_signed(["agent".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        let refused = |words: &str| {
            let error = read(&cert, &key).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused("the file of --client-cert, ");
        write(&cert, &one.signing_key.serialize_pem(), 0o644);
        refused("holds no certificate");
        write(&cert, &format!("\u{feff}{}", one.cert.pem()), 0o644);
        refused("the file of --client-key, ");
        write(&key, &one.cert.pem(), 0o600);
        refused("holds no whole private key");
        write(&key, &other.signing_key.serialize_pem(), 0o600);
        refused("is not the key of ");
        write(&key, &one.signing_key.serialize_pem(), 0o600);
        assert!(read(&cert, &key).unwrap().has_certs());
        #[cfg(unix)]
        {
            write(&key, &one.signing_key.serialize_pem(), 0o640);
            refused("run chmod 600");
        }
        assert!(read(folder.path(), &key).is_err());
    }

    #[test]
    fn a_refusal_for_the_certificates_sake_is_told_with_the_flag() {
        let alert = |it| io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(it));
        for (error, words) in [
            (
                alert(AlertDescription::CertificateRequired),
                "asks for a client certificate",
            ),
            (alert(AlertDescription::UnknownCA), "no authority"),
            (alert(AlertDescription::CertificateExpired), "has expired"),
            (alert(AlertDescription::BadCertificate), "(BadCertificate)"),
        ] {
            let text = client_certificate_problem(&error).unwrap();
            assert!(
                text.contains(words) && text.contains("--client-cert"),
                "{text}"
            );
        }
        for other in [
            alert(AlertDescription::HandshakeFailure),
            io::ErrorKind::ConnectionReset.into(),
        ] {
            assert_eq!(client_certificate_problem(&other), None);
        }
    }
}
