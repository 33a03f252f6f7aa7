//! The only way to print lines to a terminal. Hidden characters of any line are shown as escapes, and tokens are
//! masked ([`crate::plain`]). Colours come from this module alone, and only where the terminal shows them and neither
//! NO_COLOR nor TERM=dumb is set (`anstream` decides, by the same rules as clap's help).

use std::fmt::{Display, Write as _};
use std::io::Write;

use anstream::{AutoStream, ColorChoice};
use anstyle::AnsiColor;
use serde::Serialize;
use tieline_wire::is_hidden;

use tieline_agent::plain::{Plain, escape_json, masked};

/// Marks a colour in a line until the line is printed: a code point that is not a character (Unicode
/// noncharacter), so that no text contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tone(char);

/// Colour of what works.
pub(crate) const GOOD: Tone = Tone('\u{fdd0}');
/// Colour of a warning.
pub(crate) const WARN: Tone = Tone('\u{fdd1}');
/// Colour of a failure.
pub(crate) const BAD: Tone = Tone('\u{fdd2}');
/// Mark for the end of a colour.
const END: char = '\u{fdd3}';

/// `text` in `tone`.
pub(crate) fn paint(tone: Tone, text: impl Display) -> String {
    format!("{}{}{END}", tone.0, Plain(text))
}

/// Prints a line for a person to standard output; ignores write errors, such as a closed pipe.
pub(crate) fn say(line: &impl Display) {
    let line = rendered(&line.to_string());
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Prints text of several lines, whose line ends this program wrote itself.
pub(crate) fn say_lines(text: &impl Display) {
    let _ = writeln!(anstream::stdout().lock(), "{}", rendered_lines(text));
}

/// Prints text of several lines to standard error; see [`say_lines`].
pub(crate) fn say_lines_to_stderr(text: &impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{}", rendered_lines(text));
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(object: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(object) {
        let text = escape_json(&masked(&text));
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

/// Prints an error to standard error.
pub(crate) fn complain(problem: &impl Display) {
    tell(BAD, problem);
}

/// Prints a warning to standard error.
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

fn rendered_lines(text: &impl Display) -> String {
    let lines: Vec<_> = text.to_string().split('\n').map(rendered).collect();
    lines.join("\n")
}

/// The printed form of `line`: marks become colours, hidden characters become escapes, tokens are masked.
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
