//! Finds programs on Windows, which itself looks for `NAME.exe` only: `npx`, for example, is the file `npx.cmd` there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Endings of programs where `PATHEXT` is not set.
const EXTENSIONS: &str = ".COM;.EXE;.BAT;.CMD";

/// The file of a program that is named as in a shell: by a path, or by a name that is looked for in the folders of
/// `path`, in either case with or without one of the endings in `extensions`. `None` if no file fits.
pub(super) fn find(
    program: &str,
    path: Option<&OsStr>,
    extensions: Option<&OsStr>,
    is_file: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let extensions = extensions.and_then(OsStr::to_str).unwrap_or(EXTENSIONS);
    let names = names(program, extensions);
    let in_folder = |folder: &Path| {
        let mut files = names.iter().map(|name| folder.join(name));
        files.find(|file| is_file(file))
    };
    if program.contains(['/', '\\', ':']) {
        return in_folder(Path::new(""));
    }
    let folders = path?.to_str()?.split(';');
    let mut folders = folders.map(|folder| folder.trim_matches('"'));
    folders.find_map(|folder| match folder {
        "" => None,
        folder => in_folder(Path::new(folder)),
    })
}

/// The names of files that `program` may stand for, in the order of preference.
fn names(program: &str, extensions: &str) -> Vec<String> {
    let extensions = || extensions.split(';').filter(|ending| !ending.is_empty());
    let has = |ending: &str| {
        let start = program.len().checked_sub(ending.len());
        let end = start.and_then(|start| program.get(start..));
        end.is_some_and(|end| end.eq_ignore_ascii_case(ending))
    };
    match extensions().any(has) {
        true => vec![program.to_owned()],
        false => extensions()
            .map(|ending| [program, ending].concat())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str, files: &[&str]) -> Option<PathBuf> {
        let path = OsStr::new("one;;\"two\"");
        let is_file = |file: &Path| files.iter().any(|known| file == Path::new(known));
        find(program, Some(path), None, is_file)
    }

    #[test]
    fn a_name_is_found_in_the_first_folder_with_any_ending() {
        let file = |name: &str| Some(PathBuf::from(name));
        assert_eq!(found("npx", &["two/npx.CMD"]), file("two/npx.CMD"));
        let both = ["two/npx.EXE", "one/npx.CMD", "one/npx.BAT"];
        assert_eq!(found("npx", &both), file("one/npx.BAT"));
        assert_eq!(found("uv.exe", &["one/uv.exe"]), file("one/uv.exe"));
        assert_eq!(found("uv.exe", &["one/uv.exe.CMD"]), None);
        assert_eq!(found("a1.2", &["one/a1.2.EXE"]), file("one/a1.2.EXE"));
        // A shell script of the same name, as npm installs it, cannot be started.
        let both = ["one/npx", "two/npx.CMD"];
        assert_eq!(found("npx", &both), file("two/npx.CMD"));
    }

    #[test]
    fn a_path_is_not_looked_for() {
        let file = |name: &str| Some(PathBuf::from(name));
        let both = ["bin/a.EXE", "one/bin/a.EXE"];
        assert_eq!(found("bin/a", &both), file("bin/a.EXE"));
        assert_eq!(found("bin/a", &["one/bin/a.EXE"]), None);
        assert_eq!(found("absent", &[]), None);
    }

    #[test]
    fn endings_come_from_the_environment() {
        let found = |extensions: &str| {
            let is_file = |file: &Path| file == Path::new("one/a.PY");
            let extensions = Some(OsStr::new(extensions));
            find("a", Some(OsStr::new("one")), extensions, is_file)
        };
        assert_eq!(found(".EXE;.PY;"), Some(PathBuf::from("one/a.PY")));
        assert_eq!(found(".EXE"), None);
    }
}
