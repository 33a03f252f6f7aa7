//! Finds the file of a program without starting it, as a start of its command would.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::stdio::Command;

/// Folders of programs where the child has no PATH (execvp(3) of glibc and of macOS).
#[cfg(unix)]
const PATH: &str = "/bin:/usr/bin";

/// The file that a start of `command` runs; `None` if there is none that this user may run.
#[cfg(unix)]
pub(crate) fn program_file(command: &Command) -> Option<PathBuf> {
    // The child is in its folder before the system looks for the program.
    let folder = command.directory().unwrap_or(Path::new(""));
    let program = command.program();
    if is_path(program) {
        let file = folder.join(program);
        return is_executable(&file).then_some(file);
    }
    let path = variable(command, "PATH").unwrap_or_else(|| PATH.into());
    let mut files = std::env::split_paths(&path).map(|entry| folder.join(entry).join(program));
    files.find(|file| is_executable(file))
}

/// The file that a start of `command` runs; `None` if there is none.
#[cfg(windows)]
pub(crate) fn program_file(command: &Command) -> Option<PathBuf> {
    let folder = command.directory().unwrap_or(Path::new(""));
    let program = match is_path(command.program()) {
        true => folder
            .join(command.program())
            .to_string_lossy()
            .into_owned(),
        false => command.program().to_owned(),
    };
    let (path, extensions) = (variable(command, "PATH"), variable(command, "PATHEXT"));
    let is_file = |file: &Path| file.is_file();
    super::path::find(&program, path.as_deref(), extensions.as_deref(), is_file)
}

/// True if the program is given as the path of a file.
pub(super) fn is_path(program: &str) -> bool {
    program.contains(std::path::is_separator)
}

/// The value that the child's environment variable `wanted` has.
fn variable(command: &Command, wanted: &str) -> Option<OsString> {
    let is_wanted = |name: &OsString| match cfg!(windows) {
        true => name.eq_ignore_ascii_case(wanted),
        false => name == wanted,
    };
    let environment = command.environment(std::env::vars_os());
    // Of two variables with the same name, the later one counts.
    let mut variables = environment.into_iter().rev();
    let found = variables.find(|(name, _)| is_wanted(name));
    found.map(|(_, value)| value)
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use rustix::fs::{Access, access};

    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let file = folder.join(name);
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        file
    }

    fn in_path(program: &str, path: &str) -> Option<PathBuf> {
        let command = Command::of_words(&[program.to_owned()]).unwrap();
        program_file(&command.with_variable("PATH", path).unwrap())
    }

    #[test]
    fn a_name_is_found_in_the_path_of_the_child() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        file(one.path(), "server", 0o644);
        fs::create_dir(one.path().join("folder")).unwrap();
        let found = file(two.path(), "server", 0o755);
        let path = format!("{}:{}", one.path().display(), two.path().display());
        assert_eq!(in_path("server", &path), Some(found));
        assert_eq!(in_path("folder", &path), None);
        assert_eq!(in_path("absent", &path), None);
        let sh = Command::parse("sh").unwrap();
        assert!(program_file(&sh).is_some_and(|file| file.ends_with("sh")));
    }

    #[test]
    fn a_path_starts_at_the_folder_of_the_child() {
        let folder = tempfile::tempdir().unwrap();
        let found = file(folder.path(), "server", 0o755);
        let command = || Command::parse("./server").unwrap();
        assert_eq!(program_file(&command()), None);
        let here = command().with_directory(folder.path());
        let here = program_file(&here).and_then(|file| file.canonicalize().ok());
        assert_eq!(here, found.canonicalize().ok());
        let whole = Command::of_words(&[found.display().to_string()]).unwrap();
        assert_eq!(program_file(&whole), Some(found));
    }
}
