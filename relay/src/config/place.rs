//! Checks where a file of settings or secrets lies: other users must not be able to replace it. Also checks that
//! a setting holds the name of a file and not the secret itself.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::error::ConfigError;

/// Permission bits that let the group or others write.
const WRITE_BY_OTHERS: u32 = 0o022;

/// In a folder with this bit, such as `/tmp`, only a file's owner can replace it.
const STICKY: u32 = 0o1000;

/// Length of the shortest secret that a setting accepts.
const SECRET_CHARS_MIN: usize = 16;

/// Checks that only the running user and root could have written or replaced an opened file.
///
/// # Errors
/// [`ConfigError::Content`] says which other user could, and how to prevent it.
pub(super) fn check(path: &Path, it: &Metadata) -> Result<(), ConfigError> {
    let user = geteuid().as_raw();
    if !is_trusted(it.uid(), user) {
        let problem = format!(
            "belongs to user {}, and the relay runs as user {user}: its owner can change it; run `chown` on \
             it",
            it.uid()
        );
        return Err(ConfigError::content(path, problem));
    }
    // A symbolic link can be replaced in its own folder, and the file in the folder the link leads to.
    let real = fs::canonicalize(path).ok();
    for folder in [Some(path), real.as_deref()]
        .into_iter()
        .flatten()
        .map(folder_of)
    {
        // A folder that cannot be looked at does not exist, such as that of a pipe.
        let Ok(it) = fs::metadata(&folder) else {
            continue;
        };
        if let Some(problem) = problem_of_folder(it.uid(), it.mode(), user) {
            return Err(ConfigError::content(&folder, problem));
        }
    }
    Ok(())
}

/// The problem and its remedy, if another user can replace files in a folder.
fn problem_of_folder(owner: u32, mode: u32, user: u32) -> Option<String> {
    if !is_trusted(owner, user) {
        return Some(format!(
            "belongs to user {owner}, who can replace the relay's files in it, and the relay runs as user \
             {user}: run `chown` on the folder, or keep the files in another one"
        ));
    }
    if mode & WRITE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Some(format!(
            "others can replace the relay's files in this folder (mode {:03o}); run `chmod go-w` on it, or \
             keep the files in another one",
            mode & 0o777
        ));
    }
    None
}

const fn is_trusted(owner: u32, user: u32) -> bool {
    owner == 0 || owner == user
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Refuses a setting's value that may be the secret itself instead of the name of its file. `origin` is the
/// setting, `text` its value, and `path` the file that the value would name.
///
/// # Errors
/// [`ConfigError::Pasted`], which does not show the value: the value is as long as a secret, and neither
/// `path` nor a folder named in the value exists.
pub(super) fn check_name(origin: String, text: &str, path: &Path) -> Result<(), ConfigError> {
    let names_folder = || text.contains('/') && folder_of(path).is_dir();
    if text.len() < SECRET_CHARS_MIN || fs::symlink_metadata(path).is_ok() || names_folder() {
        return Ok(());
    }
    Err(ConfigError::Pasted { origin })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn looked_at(path: &Path) -> Result<(), String> {
        let it = fs::metadata(path).unwrap();
        check(path, &it).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_in_a_folder_that_others_can_write_is_refused_unless_that_is_sticky() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        // A link in another folder that leads to the same file.
        let link = home.path().join("link");
        symlink(&file, &link).unwrap();
        for (mode, fits) in [
            (0o700, true),
            (0o755, true),
            (0o1777, true),
            (0o775, false),
            (0o757, false),
            (0o777, false),
        ] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            for path in [&file, &link] {
                let outcome = looked_at(path);
                assert_eq!(outcome.is_ok(), fits, "{mode:o}: {outcome:?}");
                if let Err(text) = outcome {
                    assert!(
                        text.contains("chmod go-w") && text.contains("folder"),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        assert!(is_trusted(0, 1000) && is_trusted(1000, 1000) && !is_trusted(1001, 1000));
        assert!(
            problem_of_folder(1001, 0o755, 1000)
                .unwrap()
                .contains("user 1001")
        );
        assert_eq!(problem_of_folder(0, 0o755, 1000), None);
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        // Only root can change a file's owner, so the check runs only there.
        if chown(&file, Some(54_321), None).is_ok() {
            let text = looked_at(&file).unwrap_err();
            assert!(
                text.contains("user 54321") && text.contains("chown"),
                "{text}"
            );
        }
    }
}
