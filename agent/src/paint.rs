//! Colours for people: only where a terminal shows them, and never where NO_COLOR, TERM=dumb or a
//! pipe says otherwise (`anstream` decides, by the same rules as clap's own help).

use std::fmt::Display;
use std::io::Write;

use anstyle::{AnsiColor, Style};

/// Something works.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Something needs attention.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// Something failed.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in `style`.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a line for a person; whoever closed the pipe does not want it.
pub(crate) fn say(line: &impl Display) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Prints what went wrong.
pub(crate) fn complain(problem: &impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{BAD}tieline:{BAD:#} {problem}");
}

/// Prints what needs attention.
pub(crate) fn warn(problem: &impl Display) {
    let _ = writeln!(
        anstream::stderr().lock(),
        "{WARN}tieline:{WARN:#} {problem}"
    );
}
