//! Reads the token from its file, and insists that nobody else can.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tieline_wire::limits::TOKEN_BYTES_MAX;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(content: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
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
