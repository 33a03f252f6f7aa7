//! A service's plan as plain data: the file to write and the commands to run.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tieline_agent::error::ConfigError;

/// Text in every file that tieline made; other files are left alone.
pub(super) const MARK: &str = "Made by tieline service install";

/// Longest name of a service, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Description of the service to make.
#[derive(Clone, Debug)]
pub(super) struct ServiceSpec {
    pub(super) name: String,
    /// True for a service of the machine, false for one of the user.
    pub(super) system: bool,
    /// User to run as, for a service of the machine.
    pub(super) user: Option<String>,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Folder from which relative paths among the arguments start.
    pub(super) dir: String,
    /// The user's home folder.
    pub(super) home: PathBuf,
    /// The user's folder for settings of programs.
    pub(super) config: PathBuf,
    /// Folder for programs that only administrators may change.
    pub(super) programs: PathBuf,
    /// Longest time that a stop takes, in seconds.
    pub(super) stop_seconds: u64,
}

/// Time for a stop beyond the drain timeout, in seconds: processes of stdio: targets have 12 s to end.
const STOP_MARGIN_SECONDS: u64 = 20;

/// Longest name of a user, in bytes (useradd(8) allows 32; directory services allow more).
const USER_BYTES_MAX: usize = 256;

impl ServiceSpec {
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
        // With --stand-by the service gives way to an agent that is run by hand, and returns after it.
        // Behind `--` stands a program's command, whose words are its own.
        let flags = serve.split(|word| word == "--").next();
        let flags = flags.unwrap_or_default();
        let says = |flag: &str| flags.iter().any(|word| word == flag);
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

    /// Refuses texts that could mean something else in a service's file.
    pub(super) fn checked(self) -> Result<Self, ServiceError> {
        let folders = [&self.home, &self.config].map(|path| path.display().to_string());
        let words = self.command.iter().chain([&self.dir]).chain(&folders);
        for word in words {
            if word.contains(is_unwritable) {
                return Err(ServiceError::Text(word.clone()));
            }
        }
        // The folder ends a line without quotes: systemd joins a final `\` with the next line and cuts blanks.
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

/// True for characters that no format of a service's file can hold: control characters end a line, and
/// XML does not allow the last two (XML 1.0, 2.2).
fn is_unwritable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// True if a text can be a user's name, also that of a directory service, such as `STUDIO\ada` or
/// `ada@studio.example`.
fn is_user(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '\\' | '$');
    !text.is_empty()
        && text.len() <= USER_BYTES_MAX
        && text.chars().all(fits)
        && !text.starts_with(['-', '\\'])
        && !text.ends_with('\\')
}

/// One command: a program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) words: Vec<String>,
    /// Whether the next step is run although this one failed.
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

/// The file of a service, and the commands that start, stop and show the service.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) path: PathBuf,
    pub(super) content: String,
    /// Commands to run after the file is written.
    pub(super) start: Vec<Step>,
    /// Commands to run before the file is removed.
    pub(super) stop: Vec<Step>,
    /// Commands to run after the file is removed.
    pub(super) forget: Vec<Step>,
    /// Command that prints the state as one word, in the first line.
    pub(super) ask: Vec<String>,
    /// The states that mean that the service is running.
    pub(super) active: &'static [&'static str],
    pub(super) hint: Option<String>,
}

impl Plan {
    /// True if the service's file exists.
    ///
    /// # Errors
    /// [`ServiceError::Foreign`] if tieline did not make the file.
    pub(super) fn is_installed(&self) -> Result<bool, ServiceError> {
        match fs::read_to_string(&self.path) {
            Ok(text) if text.contains(MARK) => Ok(true),
            Ok(_) => Err(ServiceError::Foreign {
                path: self.path.clone(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Writes the file; returns the event's name for the output.
    pub(super) fn write(&self) -> Result<&'static str, ServiceError> {
        let is_there = self.is_installed()?;
        let failed = |source| self.failed(source);
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        fs::write(&self.path, &self.content).map_err(failed)?;
        Ok(if is_there { "replaced" } else { "written" })
    }

    pub(super) fn remove(&self) -> Result<(), ServiceError> {
        fs::remove_file(&self.path).map_err(|source| self.failed(source))
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
    #[error("name {0:?}: a name has letters, digits, - and _ only, at most 64")]
    Name(String),
    #[error("{0:?} cannot be written into a service's file")]
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
    #[error("{command} failed: {message}")]
    Failed { command: String, message: String },
}

impl ServiceError {
    /// Exit code: 1 for a failure, 2 for wrong usage.
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
pub(super) fn order(system: bool, words: &[&str]) -> ServiceSpec {
    let mut command = vec!["/opt/tie line/tieline".to_owned(), "serve".to_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    ServiceSpec {
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
            (|order, bad| order.dir = bad) as fn(&mut ServiceSpec, String),
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
