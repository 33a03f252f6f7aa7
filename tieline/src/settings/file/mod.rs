//! `tieline.toml`: finds the file, checks who may write it, and parses it.

mod program;
mod table;
#[cfg(test)]
mod tests;

use std::fs::{self, Metadata};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use self::program::{PROGRAM_KEYS, ProgramKeys};
use self::table::Table;
use tieline_agent::{ConfigError, LINKS_MAX, Proxies, RelayUrl, Target, TargetConfig};

use super::time::parse_time;

/// Name of the settings file.
pub(super) const FILE_NAME: &str = "tieline.toml";

/// Largest settings file, in bytes: 256 targets with all their settings need far less.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Keys that are allowed for a single target only.
const TARGET_KEYS: &[&str] = &["expose_all", "label"];

/// A settings file, parsed and checked as far as possible without the flags.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    /// Path of the file.
    pub(crate) path: PathBuf,
    pub(super) relay: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) proxies: Option<Proxies>,
    pub(super) links: Option<u16>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) machine: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) dcc: Option<String>,
    pub(super) capabilities: Option<Vec<String>>,
    pub(super) targets: Vec<FileTarget>,
}

/// A target of the file, and the target's own settings that replace those of the whole file.
#[derive(Debug)]
pub(super) struct FileTarget {
    pub(super) target: TargetConfig,
    pub(super) dcc: Option<String>,
    pub(super) capabilities: Option<Vec<String>>,
}

impl ConfigFile {
    /// The file nearest to `from`: in that folder or one above it, up to `home` or the root,
    /// whichever comes first.
    pub(crate) fn find(from: &Path, home: Option<&Path>) -> Option<PathBuf> {
        for folder in from.ancestors() {
            let path = folder.join(FILE_NAME);
            if path.is_file() {
                return Some(path);
            }
            if Some(folder) == home {
                return None;
            }
        }
        None
    }

    /// Reads a file that the user named.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::read_if(path, |_| Ok(()))
    }

    /// Reads a file that [`ConfigFile::find`] found. The file decides what is published, and the user did not name it,
    /// so no other user but root may be able to write it.
    pub(crate) fn read_found(path: &Path) -> Result<Self, ConfigError> {
        Self::read_if(path, |data| trusted(path, data))
    }

    fn read_if(
        path: &Path,
        trusted: impl FnOnce(&Metadata) -> Result<(), ConfigError>,
    ) -> Result<Self, ConfigError> {
        let failed = |error: std::io::Error| wrong(path, format!("cannot read it: {error}"));
        let file = fs::File::open(path).map_err(failed)?;
        trusted(&file.metadata().map_err(failed)?)?;
        let mut text = String::new();
        let mut limited = file.take(FILE_BYTES_MAX + 1);
        limited.read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            let problem = format!("it has more than {FILE_BYTES_MAX} bytes");
            return Err(wrong(path, problem));
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let table = DeTable::parse(text).map_err(|error| {
            let message = error.message().replace('\n', "; ");
            match error.span() {
                Some(span) => {
                    let hint = source.quotes_missing(&span).unwrap_or(message);
                    source.wrong(&span, format!("this is not TOML: {hint}"))
                }
                None => wrong(path, format!("this is not TOML: {message}")),
            }
        })?;
        let mut keys = Table::new(&source, table);
        let relay = keys.text("relay")?;
        if let Some(relay) = &relay {
            source.checked(relay, RelayUrl::parse(relay.get_ref()))?;
        }
        let token_file = keys.text("token_file")?;
        let ca = keys.text("ca")?;
        let client_cert = keys.text("client_cert")?;
        let client_key = keys.text("client_key")?;
        let proxies = keys.text("proxy")?.map(|written| {
            let parsed = Proxies::parse(written.get_ref()).map_err(ConfigError::from);
            source.checked(&written, parsed)
        });
        let proxies = proxies.transpose()?;
        let links = keys.number("links")?.map(|it| source.links(&it));
        let links = links.transpose()?;
        let drain_timeout = keys.text("drain_timeout")?.map(|written| {
            parse_time(written.get_ref()).map_err(|error| source.wrong(&written.span(), error))
        });
        let drain_timeout = drain_timeout.transpose()?;
        let machine = keys.text("machine")?;
        let state_dir = keys.text("state_dir")?;
        let dcc = keys.text("dcc")?;
        let capabilities = keys.texts("capabilities")?;
        let targets = source.targets(&mut keys)?;
        keys.end_above(&[TARGET_KEYS, &PROGRAM_KEYS].concat(), "target")?;
        // Paths start at the file's folder, so that a file means the same from every working directory.
        let folder = source.folder();
        Ok(Self {
            path: path.to_owned(),
            relay: relay.map(Spanned::into_inner),
            token_file: token_file.map(|path| folder.join(path.get_ref())),
            ca: ca.map(|path| folder.join(path.get_ref())),
            client_cert: client_cert.map(|path| folder.join(path.get_ref())),
            client_key: client_key.map(|path| folder.join(path.get_ref())),
            proxies,
            links,
            drain_timeout,
            machine: machine.map(Spanned::into_inner),
            state_dir: state_dir.map(|path| folder.join(path.get_ref())),
            dcc: dcc.map(Spanned::into_inner),
            capabilities,
            targets,
        })
    }
}

/// Path and text of a file, for errors with a line number.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// The file's folder.
    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn links(&self, written: &Spanned<i64>) -> Result<u16, ConfigError> {
        let given = *written.get_ref();
        let links = u16::try_from(given).ok();
        links
            .filter(|links| (1..=LINKS_MAX).contains(links))
            .ok_or_else(|| {
                let problem = format!("`links` must be 1 to {LINKS_MAX}, and it is {given}");
                self.wrong(&written.span(), problem)
            })
    }

    /// The targets of the file: a single one beside the other keys, or any number as `[[target]]`.
    fn targets(&self, keys: &mut Table<'_, '_>) -> Result<Vec<FileTarget>, ConfigError> {
        let (to, name) = (keys.text("to")?, keys.text("name")?);
        let tables = keys.tables("target")?;
        match (to, name) {
            (Some(it), _) | (None, Some(it)) if !tables.is_empty() => {
                let problem = "this is for a single target: write it into its [[target]]";
                Err(self.wrong(&it.span(), problem.to_owned()))
            }
            (Some(to), name) => {
                let target = self.checked(&to, TargetConfig::new(to.get_ref()))?;
                let target = self.named(target, name.as_ref())?;
                self.checked(&to, target.check())?;
                Ok(vec![FileTarget {
                    target,
                    dcc: None,
                    capabilities: None,
                }])
            }
            (None, Some(name)) => {
                let problem = "`name` is the name of `to`, which is missing";
                Err(self.wrong(&name.span(), problem.to_owned()))
            }
            (None, None) => tables.into_iter().map(|keys| self.target(keys)).collect(),
        }
    }

    fn target(&self, mut keys: Table<'_, '_>) -> Result<FileTarget, ConfigError> {
        let (to, name) = (keys.text("to")?, keys.text("name")?);
        let dcc = keys.text("dcc")?;
        let label = keys.text("label")?;
        let capabilities = keys.texts("capabilities")?;
        let expose_all = keys.switch("expose_all")?;
        let program = ProgramKeys::read(self, &mut keys)?;
        let start = keys.span().clone();
        // Unknown keys first: a misspelled key may be the missing `to`.
        keys.end()?;
        let place = self.place(to, program.command, &start)?;
        let target = TargetConfig::of(place.get_ref().clone()).with_stdio(program.options);
        let mut target = self.named(target, name.as_ref())?;
        target.label = label.map(Spanned::into_inner);
        target.expose_all = expose_all;
        // Checked here, so that the error names the target's line.
        self.checked(&place, target.check())?;
        Ok(FileTarget {
            target,
            dcc: dcc.map(Spanned::into_inner),
            capabilities,
        })
    }

    /// The target that `to` or `command` names; `start` is the beginning of its table.
    fn place(
        &self,
        to: Option<Spanned<String>>,
        command: Option<Spanned<Vec<String>>>,
        start: &Range<usize>,
    ) -> Result<Spanned<Target>, ConfigError> {
        match (to, command) {
            (Some(to), None) => {
                let target = self.checked(&to, Target::parse(to.get_ref()))?;
                Ok(Spanned::new(to.span(), target))
            }
            (None, Some(command)) => {
                let target = self.checked(&command, Target::of_command(command.get_ref()))?;
                Ok(Spanned::new(command.span(), target))
            }
            (Some(_), Some(command)) => {
                let problem = "`to` and `command` are two targets: write a [[target]] for each";
                Err(self.wrong(&command.span(), problem.to_owned()))
            }
            (None, None) => {
                let problem = "this [[target]] has neither `to`, the local server to publish, nor \
                               `command`, the program to start";
                Err(self.wrong(start, problem.to_owned()))
            }
        }
    }

    fn named(
        &self,
        target: TargetConfig,
        name: Option<&Spanned<String>>,
    ) -> Result<TargetConfig, ConfigError> {
        match name {
            Some(name) => self.checked(name, target.with_name(name.get_ref())),
            None => Ok(target),
        }
    }

    fn checked<T, V>(
        &self,
        value: &Spanned<V>,
        result: Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        result.map_err(|error| self.wrong(&value.span(), error.to_string()))
    }

    /// Hint for a line whose text lacks quotes. The hint leaves out the text, which may be a secret.
    fn quotes_missing(&self, span: &Range<usize>) -> Option<String> {
        let before = self.text.get(..span.start)?;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text.get(start..)?.lines().next()?;
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.trim(), value.trim_start());
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let is_bare =
            value.starts_with(|c: char| c.is_alphabetic() || matches!(c, '/' | '.' | '~'));
        let is_switch = |word: &str| value == word || value.starts_with(&format!("{word} "));
        let is_other = ["true", "false"].into_iter().any(is_switch);
        (is_bare && !is_other && !key.is_empty() && key.chars().all(is_key))
            .then(|| format!("text needs quotes, as in {key} = \"…\""))
    }

    fn wrong(&self, span: &Range<usize>, problem: String) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        ConfigError::File {
            place: format!("{}:{line}", self.path.display()),
            problem,
        }
    }
}

fn wrong(path: &Path, problem: String) -> ConfigError {
    ConfigError::File {
        place: path.display().to_string(),
        problem,
    }
}

#[cfg(unix)]
fn trusted(path: &Path, data: &Metadata) -> Result<(), ConfigError> {
    use std::os::unix::fs::MetadataExt;
    let (mode, owner) = (data.mode() & 0o777, data.uid());
    let instead = format!("or name it yourself with --config {}", path.display());
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let problem = format!(
            "it belongs to another user and would decide what is published: run chown on it, {instead}"
        );
        return Err(wrong(path, problem));
    }
    if mode & 0o022 != 0 {
        let problem = format!(
            "others may write it (mode {mode:o}), and it decides what is published: run chmod go-w on it, {instead}"
        );
        return Err(wrong(path, problem));
    }
    Ok(())
}

// Not checked: access lists decide on this system, and by default a user's folders are the user's own.
#[cfg(not(unix))]
fn trusted(_: &Path, _: &Metadata) -> Result<(), ConfigError> {
    Ok(())
}
