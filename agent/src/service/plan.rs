//! What is to be written, run and looked at for one service, as plain data.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::ConfigError;

/// Stands in every file that is ours; others are left alone.
pub(super) const MARK: &str = "Made by tieline service install";

/// Longest name of a service.
const NAME_BYTES_MAX: usize = 64;

/// What the service is to be.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) name: String,
    /// For the machine, not for one user.
    pub(super) system: bool,
    /// Who it runs as, if it is for the machine.
    pub(super) user: Option<String>,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Where relative paths among the arguments lead from.
    pub(super) dir: String,
    /// The user's own folder.
    pub(super) home: PathBuf,
    /// Where programs keep a user's settings.
    pub(super) config: PathBuf,
    /// Where programs lie that only administrators may change.
    pub(super) programs: PathBuf,
    /// How long it takes to stop at most.
    pub(super) stop_seconds: u64,
}

/// What a stop takes beyond the time for calls in flight, in seconds.
const STOP_MARGIN_SECONDS: u64 = 10;

/// Longest name of a user (useradd(8) allows 32; directory services have longer ones).
const USER_BYTES_MAX: usize = 256;

impl Order {
    pub(super) fn new(
        name: &str,
        system: bool,
        user: Option<&str>,
        serve: &[String],
        drain_timeout: Duration,
    ) -> Result<Self, ServiceError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            return Err(ServiceError::Name(name.to_owned()));
        }
        let text = |path: PathBuf| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or(ServiceError::Text(path.display().to_string()))
        };
        let here = |source| ServiceError::Here { source };
        let program = text(std::env::current_exe().map_err(here)?)?;
        let dir = text(std::env::current_dir().map_err(here)?)?;
        let mut command = vec![program, "serve".to_owned()];
        // A run by hand takes over; the service comes back when that one has ended.
        let says = |flag: &str| serve.iter().any(|word| word == flag);
        if !says("--once") && !says("--stand-by") {
            command.push("--stand-by".to_owned());
        }
        command.extend_from_slice(serve);
        let folder = |name| {
            std::env::var_os(name)
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from)
        };
        let home = folder("HOME").or_else(|| folder("USERPROFILE"));
        let home = home.ok_or(ServiceError::NoHome)?;
        let caller = std::env::var("SUDO_USER").ok();
        let programs = folder("ProgramFiles").unwrap_or_else(|| r"C:\Program Files".into());
        let order = Self {
            name: name.to_owned(),
            system,
            user: user.map(str::to_owned).or(caller).filter(|_| system),
            command,
            dir,
            config: folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
            home,
            programs,
            stop_seconds: drain_timeout.as_secs() + STOP_MARGIN_SECONDS,
        };
        order.checked()
    }

    /// Refuses what could stand for something else in a service's file.
    pub(super) fn checked(self) -> Result<Self, ServiceError> {
        let folders = [&self.home, &self.config].map(|path| path.display().to_string());
        let words = self.command.iter().chain([&self.dir]).chain(&folders);
        for word in words {
            if word.contains(is_unwritable) {
                return Err(ServiceError::Text(word.clone()));
            }
        }
        // It stands at the end of a line, unquoted: systemd joins that with the next one, or cuts it.
        if self.dir.ends_with('\\') || self.dir.trim() != self.dir {
            return Err(ServiceError::Text(self.dir));
        }
        if let Some(user) = &self.user
            && !is_user(user)
        {
            return Err(ServiceError::User(user.clone()));
        }
        Ok(self)
    }
}

/// Whether no format of a service's file has a place for a character: control characters end a line,
/// and the last two are none in XML (XML 1.0, 2.2).
fn is_unwritable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Whether a text can be a user's name: also one of a directory service, such as `STUDIO\ada` or
/// `ada@studio.example`.
fn is_user(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '\\' | '$');
    !text.is_empty()
        && text.len() <= USER_BYTES_MAX
        && text.chars().all(fits)
        && !text.starts_with(['-', '\\'])
        && !text.ends_with('\\')
}

/// A program to run, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) words: Vec<String>,
    /// Whether the next step makes sense although this one failed.
    pub(super) may_fail: bool,
}

impl Step {
    pub(super) fn new(words: &[&str]) -> Self {
        Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            may_fail: false,
        }
    }

    pub(super) fn may_fail(self) -> Self {
        Self {
            may_fail: true,
            ..self
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// What makes, starts, stops and shows a service.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) path: PathBuf,
    pub(super) content: String,
    /// After the file is there.
    pub(super) start: Vec<Step>,
    /// Before the file is removed.
    pub(super) stop: Vec<Step>,
    /// After that.
    pub(super) forget: Vec<Step>,
    /// Prints the state, as one word in the first line.
    pub(super) ask: Vec<String>,
    /// The words that mean that it runs.
    pub(super) active: &'static [&'static str],
    pub(super) hint: Option<String>,
}

/// Whether there is a file, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    No,
    Ours,
}

impl Plan {
    /// # Errors
    /// [`ServiceError::Foreign`] if the file is somebody else's.
    pub(super) fn installed(&self) -> Result<Installed, ServiceError> {
        match fs::read_to_string(&self.path) {
            Ok(text) if text.contains(MARK) => Ok(Installed::Ours),
            Ok(_) => Err(ServiceError::Foreign {
                path: self.path.clone(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Installed::No),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Writes the file; returns what that was, in a word.
    pub(super) fn write(&self) -> Result<&'static str, ServiceError> {
        let installed = self.installed()?;
        let failed = |source| self.failed(source);
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        fs::write(&self.path, &self.content).map_err(failed)?;
        Ok(match installed {
            Installed::No => "written",
            Installed::Ours => "replaced",
        })
    }

    pub(super) fn remove(&self) -> Result<(), ServiceError> {
        fs::remove_file(&self.path).map_err(|source| self.failed(source))
    }

    pub(super) fn is_active(&self, state: &str) -> bool {
        self.active.contains(&state)
    }

    fn failed(&self, source: io::Error) -> ServiceError {
        ServiceError::File {
            path: self.path.clone(),
            source,
        }
    }
}

/// Why a service cannot be made, removed or shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("name {0:?}: letters, digits, - and _, at most 64")]
    Name(String),
    #[error("{0:?} cannot stand in a service's file")]
    Text(String),
    #[error("user {0:?}: that is not a user's name")]
    User(String),
    #[error(
        "user {0}: this machine has no such user, so nothing was written: create the user first, or \
         name another one with --user"
    )]
    NoUser(String),
    #[error(
        "{} lies in a user's own folder, and the service would run it with more rights than that \
         user has: move it to where only administrators write, such as {}",
        program.display(),
        instead.display()
    )]
    Writable { program: PathBuf, instead: PathBuf },
    #[error("no place for the service's file: the variable HOME is not set")]
    NoHome,
    #[error("this program or folder cannot be found: {source}")]
    Here {
        #[source]
        source: io::Error,
    },
    #[error("this system has no services that tieline knows; tieline serve works by itself")]
    NoSystem,
    #[error("{path} was not made by tieline; choose another --name, or move it away")]
    Foreign { path: PathBuf },
    #[error("not installed: there is no {path}")]
    NotInstalled { path: PathBuf },
    #[error("{path}: {source}{}", root_needed(source))]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{command}: {source}")]
    Run {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("{command} failed: {said}")]
    Failed { command: String, said: String },
}

impl ServiceError {
    /// 1 failed, 2 usage.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Name(_)
            | Self::Text(_)
            | Self::User(_)
            | Self::NoUser(_)
            | Self::Writable { .. }
            | Self::NoSystem => 2,
            _ => 1,
        }
    }
}

fn root_needed(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; --system needs an administrator's rights",
        _ => "",
    }
}

#[cfg(test)]
pub(super) fn order(system: bool, words: &[&str]) -> Order {
    let mut command = vec!["/opt/tie line/tieline".to_owned(), "serve".to_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    Order {
        name: "tieline".to_owned(),
        system,
        user: system.then(|| "ada".to_owned()),
        command,
        dir: "/home/ada".to_owned(),
        home: "/home/ada".into(),
        config: "/home/ada/.config".into(),
        programs: "/programs".into(),
        stop_seconds: 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_end_a_line_or_join_two_is_refused_wherever_it_comes_from() {
        assert!(order(true, &["--to", "h:1"]).checked().is_ok());
        let bad = "/srv/x\nExecStartPre=+/bin/sh";
        for change in [
            (|order, bad| order.dir = bad) as fn(&mut Order, String),
            |order, bad| order.command.push(bad),
            |order, bad| order.user = Some(bad),
            |order, bad| order.home = bad.into(),
            |order, bad| order.config = bad.into(),
        ] {
            for bad in [bad, "/a\rb", "/a\0b", "/a\u{85}b", "/a\u{ffff}b"] {
                let mut order = order(true, &[]);
                change(&mut order, bad.to_owned());
                let error = order.checked().unwrap_err();
                assert_eq!(error.exit_code(), 2);
                let text = error.to_string();
                assert!(!text.contains(char::is_control), "{text:?}");
            }
        }
        for dir in ["/srv/x\\", "/srv/x ", "/srv/x\u{a0}"] {
            let mut order = order(false, &[]);
            order.dir = dir.to_owned();
            assert!(order.checked().is_err(), "{dir:?}");
        }
    }

    #[test]
    fn a_user_is_named_and_nothing_else() {
        for user in [
            "ada",
            "ada.l-1_x",
            "STUDIO\\ada",
            "ada@studio.example",
            "seat$",
            "zoé",
        ] {
            assert!(is_user(user), "{user}");
        }
        for user in [
            "", "-x", "ada ", "a b", "ada\\", "\\ada", "a:b", "a/b", "a%h\n", "a\"b", "a;b",
        ] {
            assert!(!is_user(user), "{user:?}");
        }
    }
}
