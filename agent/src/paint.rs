//! The one way of lines to a terminal. Whatever a line is made of, what could command the terminal is
//! shown as an escape, and a token is not shown ([`crate::plain`]); colours are ours alone, and only
//! where a terminal shows them and neither NO_COLOR nor TERM=dumb says otherwise (`anstream` decides,
//! by the same rules as clap's own help).

use std::fmt::{Display, Write as _};
use std::io::Write;

use anstream::{AutoStream, ColorChoice};
use anstyle::AnsiColor;
use serde::Serialize;
use tieline_wire::is_hidden;

use crate::plain::{Plain, escape_json, masked};

/// A colour as it stands in a line until it is printed: a code point that is no character, so that
/// no text has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tone(char);

/// Something works.
pub(crate) const GOOD: Tone = Tone('\u{fdd0}');
/// Something needs attention.
pub(crate) const WARN: Tone = Tone('\u{fdd1}');
/// Something failed.
pub(crate) const BAD: Tone = Tone('\u{fdd2}');
/// Ends a colour.
const END: char = '\u{fdd3}';

/// `text` in `tone`.
pub(crate) fn paint(tone: Tone, text: impl Display) -> String {
    format!("{}{}{END}", tone.0, Plain(text))
}

/// Prints a line for a person; a reader that closed the pipe does not want it.
pub(crate) fn say(line: &impl Display) {
    let line = rendered(&line.to_string());
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Prints text of several lines whose line ends are ours.
pub(crate) fn say_lines(text: &impl Display) {
    let text = text.to_string();
    let lines: Vec<_> = text.split('\n').map(rendered).collect();
    let _ = writeln!(anstream::stdout().lock(), "{}", lines.join("\n"));
}

/// Prints such text to standard error.
pub(crate) fn say_lines_to_stderr(text: &impl Display) {
    let text = text.to_string();
    let lines: Vec<_> = text.split('\n').map(rendered).collect();
    let _ = writeln!(anstream::stderr().lock(), "{}", lines.join("\n"));
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(object: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(object) {
        let text = escape_json(&masked(&text));
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

/// Prints what went wrong.
pub(crate) fn complain(problem: &impl Display) {
    tell(BAD, problem);
}

/// Prints what needs attention.
pub(crate) fn warn(problem: &impl Display) {
    tell(WARN, problem);
}

fn tell(tone: Tone, problem: &impl Display) {
    let line = rendered(&format!("{} {problem}", paint(tone, "tieline:")));
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Whether standard error shows colours.
pub(crate) fn stderr_has_colours() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}

/// What is printed for `line`.
fn rendered(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in masked(line).chars() {
        let colour = match Tone(c) {
            GOOD => Some(AnsiColor::Green),
            WARN => Some(AnsiColor::Yellow),
            BAD => Some(AnsiColor::Red),
            _ => None,
        };
        let _ = match colour {
            Some(colour) => write!(out, "{}", colour.on_default().bold()),
            None if c == END => write!(out, "{}", anstyle::Reset),
            None if is_hidden(c) => write!(out, "{}", c.escape_default()),
            None => out.write_char(c),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_ours_and_escapes_of_others_are_shown() {
        let name = "maya\u{1b}]0;owned\u{7}\u{202e}\n2nd";
        let line = rendered(&format!("{}  {name}", paint(GOOD, name)));
        let shown = "maya\\u{1b}]0;owned\\u{7}\\u{202e}\\n2nd";
        assert_eq!(
            line,
            format!("\u{1b}[1m\u{1b}[32m{shown}\u{1b}[0m  {shown}")
        );
    }
}
