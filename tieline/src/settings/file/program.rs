//! The keys of a `[[target]]` that is a program: its command, its environment, its folder and its processes.

use toml::Spanned;

use super::Source;
use super::table::Table;
use crate::settings::time::parse_time;
use tieline_agent::targets::CHILDREN_MAX;
use tieline_agent::{ConfigError, StdioOptions, StdioShare};

/// The keys that a program alone has.
pub(super) const PROGRAM_KEYS: [&str; 7] = [
    "command",
    "env",
    "inherit",
    "cwd",
    "stdio_share",
    "stdio_max",
    "stdio_idle",
];

/// What these keys say.
pub(super) struct ProgramKeys {
    /// The program and its arguments, in place of `to`.
    pub(super) command: Option<Spanned<Vec<String>>>,
    pub(super) options: StdioOptions,
}

impl ProgramKeys {
    /// Takes the keys of a program from the table of a target.
    pub(super) fn read(source: &Source<'_>, keys: &mut Table<'_, '_>) -> Result<Self, ConfigError> {
        let command = keys.spanned_texts("command")?;
        let mut options = environment(source, keys)?;
        if let Some(cwd) = keys.text("cwd")? {
            options = options.with_directory(source.folder().join(cwd.get_ref()));
        }
        if let Some(share) = keys.text("stdio_share")? {
            let parsed = share.get_ref().parse::<StdioShare>();
            options = options.with_share(source.checked(&share, parsed)?);
        }
        if let Some(max) = keys.number("stdio_max")? {
            options = options.with_children_max(children_max(source, &max)?);
        }
        if let Some(idle) = keys.text("stdio_idle")? {
            let parsed = parse_time(idle.get_ref());
            let parsed = parsed.map_err(|error| source.wrong(&idle.span(), error))?;
            options = options.with_idle(parsed);
        }
        Ok(Self { command, options })
    }
}

/// The variables of `env` and `inherit`.
fn environment(source: &Source<'_>, keys: &mut Table<'_, '_>) -> Result<StdioOptions, ConfigError> {
    let mut options = StdioOptions::default();
    if let Some(variables) = keys.texts_by_name("env")? {
        for (name, value) in variables.get_ref() {
            options = source.checked(&variables, options.with_variable(name, value))?;
        }
    }
    if let Some(names) = keys.spanned_texts("inherit")? {
        for name in names.get_ref() {
            options = source.checked(&names, options.with_inherited(name))?;
        }
    }
    Ok(options)
}

fn children_max(source: &Source<'_>, written: &Spanned<i64>) -> Result<u16, ConfigError> {
    let given = *written.get_ref();
    let max = u16::try_from(given).ok();
    max.filter(|max| (1..=CHILDREN_MAX).contains(max))
        .ok_or_else(|| {
            let problem = format!("`stdio_max` must be 1 to {CHILDREN_MAX}, and it is {given}");
            source.wrong(&written.span(), problem)
        })
}
