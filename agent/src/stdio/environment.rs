//! Which of the agent's environment variables a child inherits without being named: those that programs need to find
//! files, other programs and the user's language. The rest may hold secrets, such as the agent's own token.

/// Inherited on every system.
const NAMES: [&str; 8] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "LANG",
];

/// Beginnings of further inherited names: the parts of the locale, and the user's folders (XDG base directories).
const PREFIXES: [&str; 2] = ["LC_", "XDG_"];

/// Inherited on Windows besides: without `SystemRoot`, for example, a program cannot open a socket.
const WINDOWS_NAMES: [&str; 12] = [
    "SystemRoot",
    "PATHEXT",
    "TEMP",
    "TMP",
    "APPDATA",
    "LOCALAPPDATA",
    "USERPROFILE",
    "HOMEDRIVE",
    "HOMEPATH",
    "PROGRAMFILES",
    "ProgramData",
    "ComSpec",
];

/// True if a child inherits the variable `name` on this kind of system.
pub(super) fn is_inherited(name: &str, is_windows: bool) -> bool {
    let is_in = |names: &[&str]| {
        let mut names = names.iter();
        names.any(|known| is_same_name(known, name, is_windows))
    };
    is_in(&NAMES)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (is_windows && is_in(&WINDOWS_NAMES))
}

/// True if two names mean the same variable: Windows does not distinguish upper case from lower case.
pub(super) fn is_same_name(one: &str, other: &str, is_windows: bool) -> bool {
    match is_windows {
        true => one.eq_ignore_ascii_case(other),
        false => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_inherits_what_finds_files_and_no_secret() {
        for name in ["PATH", "HOME", "LC_ALL", "XDG_CONFIG_HOME", "LANG"] {
            assert!(is_inherited(name, false), "{name}");
            assert!(is_inherited(name, true), "{name}");
        }
        for name in [
            "TIELINE_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "LD_PRELOAD",
            "path",
            "",
        ] {
            assert!(!is_inherited(name, false), "{name}");
        }
    }

    #[test]
    fn windows_has_names_of_its_own_and_knows_no_case() {
        for name in ["SystemRoot", "SYSTEMROOT", "ComSpec", "Path", "pathext"] {
            assert!(is_inherited(name, true), "{name}");
        }
        assert!(!is_inherited("SystemRoot", false));
        assert!(is_same_name("Path", "PATH", true) && !is_same_name("Path", "PATH", false));
    }
}
