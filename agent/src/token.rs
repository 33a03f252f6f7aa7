//! Reads the token file, refuses a file that other users can read or replace, and watches the file for changes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tieline_wire::limits::TOKEN_BYTES_MAX;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::error::TokenError;
#[cfg(unix)]
use crate::identity::store::foreign_owner;
use crate::plain::is_token_like;

/// The token in `path`, without white space around it. Waits for the writer of a named pipe, so it is for the start.
///
/// # Errors
/// [`TokenError`] says what is wrong with the file, or who else can read or replace it.
pub fn read(path: &Path) -> Result<String, TokenError> {
    read_opened(path, File::open(path))
}

/// The token in `path`, without white space around it, for a program that serves meanwhile: only a regular file is read,
/// since a pipe or a device could keep it waiting.
///
/// # Errors
/// As [`read`].
pub fn read_again(path: &Path) -> Result<String, TokenError> {
    let file = open_at_once(path);
    let metadata = file.as_ref().ok().and_then(|file| file.metadata().ok());
    match metadata {
        Some(it) if !it.is_file() && !it.is_dir() => Err(TokenError::Content {
            path: path.to_owned(),
            problem: "it is not a regular file",
        }),
        _ => read_opened(path, file),
    }
}

/// Opens a file for reading, without waiting for the writer of a named pipe.
fn open_at_once(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    options.open(path)
}

/// The token in the opened file at `path`.
fn read_opened(path: &Path, file: io::Result<File>) -> Result<String, TokenError> {
    // Checks the last component alone: a relative path may start with the folder of the settings file.
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    let failed = |source| match is_token_like(&last) {
        true => TokenError::Pasted,
        false => TokenError::Read {
            path: path.to_owned(),
            source,
        },
    };
    let content = |problem| TokenError::Content {
        path: path.to_owned(),
        problem,
    };
    let file = file.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(content(
            "it is a folder: give the path of the file in it that holds the token",
        ));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        check_place(path, &metadata)?;
    }
    let mut text = String::new();
    // Two bytes more for a line end, and one more to detect a longer file.
    file.take(TOKEN_BYTES_MAX as u64 + 3)
        .read_to_string(&mut text)
        .map_err(failed)?;
    checked(&text).map(str::to_owned).map_err(content)
}

/// Checks that only this user and root can change or replace the opened file at `path`. A folder with the sticky bit is
/// allowed: there, only the owner of a file can replace it.
#[cfg(unix)]
fn check_place(path: &Path, metadata: &fs::Metadata) -> Result<(), TokenError> {
    use std::os::unix::fs::MetadataExt;
    const STICKY: u32 = 0o1000;
    let exposed = |place: &Path, why, remedy| TokenError::Place {
        path: path.to_owned(),
        place: place.to_owned(),
        why,
        remedy,
    };
    let check_owner = |place: &Path, metadata: &fs::Metadata| match foreign_owner(metadata) {
        None => Ok(()),
        Some(owner) => {
            let why = format!("belongs to another user (uid {owner})");
            Err(exposed(place, why, "chown"))
        }
    };
    check_owner(path, metadata)?;
    // A symbolic link can be replaced in its own folder, and its file in the folder that the link leads to.
    let real = fs::canonicalize(path).ok();
    for file in [Some(path), real.as_deref()].into_iter().flatten() {
        let folder = file.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // A folder that cannot be examined does not exist, such as the folder of a pipe.
        let Ok(metadata) = fs::metadata(folder) else {
            continue;
        };
        check_owner(folder, &metadata)?;
        if metadata.mode() & 0o022 != 0 && metadata.mode() & STICKY == 0 {
            let why = format!(
                "may be written by others (mode {:o})",
                metadata.mode() & 0o777
            );
            return Err(exposed(folder, why, "chmod go-w"));
        }
    }
    Ok(())
}

/// The token in `text`, without white space around it, or what is wrong with the text.
///
/// # Errors
/// What is wrong with it, for a message that names the place.
pub fn checked(text: &str) -> Result<&str, &'static str> {
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

/// Interval between looks at the token file, once the end of a permission makes its changes matter.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Detects changes of the token file.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenWatch {
    wanted: Arc<Notify>,
    versions: watch::Sender<u64>,
}

impl TokenWatch {
    /// Receiver of a number that grows with each change of the file.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Starts to look for changes of the file.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits for [`TokenWatch::want`], then looks at the file at each interval. `first` is the stamp that [`look`]
    /// returned before the token was read.
    pub(crate) async fn run(self, path: PathBuf, first: Option<Stamp>) {
        let mut settled = Settled {
            told: first,
            last: first,
        };
        self.wanted.notified().await;
        loop {
            if settled.is_new(look(&path).await) {
                self.versions.send_modify(|version| *version += 1);
            }
            sleep(WATCH_INTERVAL).await;
        }
    }
}

/// Identifies a version of a file: modification time, length, inode number.
pub(crate) type Stamp = (SystemTime, u64, u64);

/// Stamp of the file's current version; `None` if it cannot be read.
pub(crate) async fn look(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    // Off the runtime's thread: a network file system may be slow.
    let looked = tokio::task::spawn_blocking(move || stamp(&path)).await;
    looked.unwrap_or_default()
}

/// Decides which version of the file to report: a token read while it is being written is refused for good.
#[derive(Debug)]
struct Settled {
    told: Option<Stamp>,
    last: Option<Stamp>,
}

impl Settled {
    /// True once for each new version that was seen twice in a row, and so is complete.
    fn is_new(&mut self, stamp: Option<Stamp>) -> bool {
        let rests = std::mem::replace(&mut self.last, stamp) == stamp;
        // A file that is being replaced may be missing for a moment: not a change to report.
        let is_new = rests && stamp.is_some() && stamp != self.told;
        if is_new {
            self.told = stamp;
        }
        is_new
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = fs::metadata(path).ok()?;
    // File systems have coarse clocks: two tokens of equal length may have the same time, but not the same inode.
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&data);
    #[cfg(not(unix))]
    let number = 0;
    Some((data.modified().ok()?, data.len(), number))
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

    #[cfg(unix)]
    #[test]
    fn a_token_that_others_can_replace_is_refused_with_the_remedy() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let (dir, path) = write("token", 0o600);
        for (mode, fits) in [
            (0o700, true),
            (0o755, true),
            (0o1777, true),
            (0o775, false),
            (0o777, false),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let outcome = read(&path);
            assert_eq!(outcome.is_ok(), fits, "{mode:o}: {outcome:?}");
            if let Err(error) = outcome {
                let text = error.to_string();
                assert!(
                    text.contains("chmod go-w") && !text.contains("key"),
                    "{text}"
                );
            }
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        // Only root can change a file's owner; without root this check is skipped.
        if chown(&path, Some(54_321), None).is_ok() {
            let text = read(&path).unwrap_err().to_string();
            assert!(
                text.contains("uid 54321") && text.contains("chown"),
                "{text}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_the_place_of_the_file_is_not_waited_for() {
        let (_dir, path) = write("token", 0o600);
        assert_eq!(read_again(&path).unwrap(), "token");
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let text = read_again(&path).unwrap_err().to_string();
        assert!(text.contains("it is not a regular file"), "{text}");
    }

    #[test]
    fn a_file_is_news_once_it_is_no_longer_written() {
        let at = |len| Some((SystemTime::UNIX_EPOCH, len, 0));
        let mut settled = Settled {
            told: at(1),
            last: at(1),
        };
        let seen = [
            at(1),
            None,
            at(0),
            at(5),
            at(9),
            at(9),
            at(9),
            None,
            at(9),
            at(2),
            at(2),
        ];
        let news = seen.map(|stamp| settled.is_new(stamp));
        let told: Vec<_> = seen.iter().zip(news).filter(|(_, news)| *news).collect();
        assert_eq!(told, [(&at(9), true), (&at(2), true)]);
        assert!(news[5] && news[10], "reported once seen twice");
    }

    #[tokio::test]
    async fn a_change_is_noticed_also_before_anybody_looks_for_it() {
        let (dir, path) = write("old", 0o600);
        let watch = TokenWatch::default();
        let mut versions = watch.versions();
        let first = look(&path).await;
        fs::write(dir.path().join("new"), "new").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let running = tokio::spawn(watch.clone().run(path, first));
        watch.want();
        versions.changed().await.unwrap();
        running.abort();
    }

    #[test]
    fn a_private_file_yields_its_token() {
        let (_dir, path) = write("secret.token\n", 0o600);
        assert_eq!(read(&path).unwrap(), "secret.token");
        let (_dir, path) = write("secret", 0o400);
        assert_eq!(read(&path).unwrap(), "secret");
    }

    #[test]
    fn a_folder_is_called_one_whatever_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("open");
        fs::create_dir(&inner).unwrap();
        for path in [dir.path(), &inner] {
            let message = read(path).unwrap_err().to_string();
            assert!(message.contains("it is a folder"), "{message}");
            assert!(!message.contains("chmod"), "{message}");
        }
    }

    #[test]
    fn a_token_in_the_place_of_its_file_is_not_shown() {
        let pasted = format!("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", "x".repeat(300));
        let error = read(Path::new(&pasted)).unwrap_err();
        assert!(matches!(error, TokenError::Pasted), "{error}");
        assert!(!format!("{error} {error:?}").contains("eyJ"), "{error:?}");
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
