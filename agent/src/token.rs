//! Reads the token from its file, and insists that nobody else can.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tieline_wire::limits::TOKEN_BYTES_MAX;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::error::TokenError;

/// The token in `path`, without white space around it.
pub(crate) fn read(path: &Path) -> Result<String, TokenError> {
    let failed = |source| TokenError::Read {
        path: path.to_owned(),
        source,
    };
    let content = |problem| TokenError::Content {
        path: path.to_owned(),
        problem,
    };
    let file = File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
    }
    let mut text = String::new();
    // Two more for a line end, one more to see that there is too much.
    file.take(TOKEN_BYTES_MAX as u64 + 3)
        .read_to_string(&mut text)
        .map_err(failed)?;
    checked(&text).map(str::to_owned).map_err(content)
}

/// The token in `text`, without white space around it; else what is wrong with it.
pub(crate) fn checked(text: &str) -> Result<&str, &'static str> {
    let token = text.trim();
    match token.len() {
        0 => Err("it is empty"),
        len if len > TOKEN_BYTES_MAX => Err("it is too long for a token"),
        _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("it must hold one token and nothing else")
        }
        _ => Ok(token),
    }
}

/// How often the file is looked at, once the end of a permission makes its changes matter.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Notices that the token's file changed.
#[derive(Clone, Debug)]
pub(crate) struct TokenWatch {
    wanted: Arc<Notify>,
    versions: watch::Sender<u64>,
}

impl Default for TokenWatch {
    fn default() -> Self {
        Self {
            wanted: Arc::default(),
            versions: watch::Sender::new(0),
        }
    }
}

impl TokenWatch {
    /// A number that changes with the file.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// From now on changes of the file matter.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Looks at the file again and again, once that is wanted.
    pub(crate) async fn run(self, path: PathBuf) {
        let look = async || {
            let path = path.clone();
            // A shared file system may take its time.
            let looked = tokio::task::spawn_blocking(move || stamp(&path)).await;
            looked.unwrap_or_default()
        };
        let mut seen = look().await;
        self.wanted.notified().await;
        loop {
            let stamp = look().await;
            // Between two files there may be none; that is no token to try.
            if stamp.is_some() && stamp != seen {
                seen = stamp;
                self.versions.send_modify(|version| *version += 1);
            }
            sleep(WATCH_INTERVAL).await;
        }
    }
}

/// What differs between two versions of a file.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let data = fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, content).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        #[cfg(not(unix))]
        let _ = mode;
        (dir, path)
    }

    #[test]
    fn a_private_file_yields_its_token() {
        let (_dir, path) = write("secret.token\n", 0o600);
        assert_eq!(read(&path).unwrap(), "secret.token");
        let (_dir, path) = write("secret", 0o400);
        assert_eq!(read(&path).unwrap(), "secret");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused_without_its_content() {
        for mode in [0o640, 0o604, 0o620] {
            let (_dir, path) = write("secret", mode);
            let error = read(&path).unwrap_err();
            assert!(matches!(error, TokenError::Mode { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }

    #[test]
    fn a_file_without_one_token_is_refused_without_its_content() {
        for content in [
            "",
            "\n",
            "two secrets",
            "secret\u{e9}",
            &"secret".repeat(4_000),
        ] {
            let (_dir, path) = write(content, 0o600);
            let error = read(&path).unwrap_err();
            assert!(matches!(error, TokenError::Content { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }
}
