//! The file of `--ca`. It is left out, with a warning, if only the variable names it and the relay has no TLS, because
//! the variable may be set for other relays; the flag is an error then, because it would have no effect.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::paint::warn;

/// Flag that names the file.
const FLAG: &str = "--ca";

/// Variable that names the file.
const VARIABLE: &str = "TIELINE_CA";

/// The file `ca`, unless it came from the variable and `relay` has no TLS.
pub(crate) fn used(ca: Option<PathBuf>, has_tls: bool, relay: &impl Display) -> Option<PathBuf> {
    let variable = env::var_os(VARIABLE);
    let leaves_out =
        |path: &PathBuf| !has_tls && is_of_variable(path, variable.as_deref(), env::args_os());
    if ca.as_ref().is_some_and(leaves_out) {
        warn(&format!("{VARIABLE} is not used: {relay} has no TLS"));
        return None;
    }
    ca
}

/// True if the variable names `path`, and no flag on the command line `line` does.
fn is_of_variable(
    path: &Path,
    variable: Option<&OsStr>,
    mut line: impl Iterator<Item = OsString>,
) -> bool {
    let is_flag = |word: OsString| word.to_string_lossy().split('=').next() == Some(FLAG);
    variable == Some(path.as_os_str()) && !line.any(is_flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_alone_may_be_left_out() {
        let path = Path::new("/ca.pem");
        for (variable, line, expected) in [
            (Some("/ca.pem"), &["tieline", "serve"][..], true),
            (
                Some("/ca.pem"),
                &["tieline", "serve", "--ca", "/ca.pem"],
                false,
            ),
            (
                Some("/ca.pem"),
                &["tieline", "serve", "--ca=/ca.pem"],
                false,
            ),
            // The settings file names the certificates.
            (Some("/other.pem"), &["tieline", "serve"], false),
            (None, &["tieline", "serve"], false),
        ] {
            let words = line.iter().map(OsString::from);
            let found = is_of_variable(path, variable.map(OsStr::new), words);
            assert_eq!(found, expected, "{variable:?} {line:?}");
        }
    }

    #[test]
    fn a_file_for_a_relay_with_tls_is_kept() {
        let path = Some(PathBuf::from("/ca.pem"));
        assert_eq!(used(path.clone(), true, &"tls://r"), path);
        assert_eq!(used(None, false, &"tcp://r"), None);
    }
}
