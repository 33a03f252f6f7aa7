//! Help and errors of the command line, as they are printed.

use std::borrow::Cow;

use tieline_agent::plain::masked;

use super::environment;
use crate::paint::{say_lines, say_lines_to_stderr};

/// Shows help, or what is wrong with a command line.
pub(crate) fn show(error: &clap::Error) {
    let text = environment::explained(error);
    match masked(&text) {
        // A misplaced token must not stay in the terminal's scroll-back.
        Cow::Owned(text) if error.use_stderr() => say_lines_to_stderr(&text.trim_end()),
        // Help prints the values of environment variables.
        Cow::Owned(text) => say_lines(&text.trim_end()),
        Cow::Borrowed(text) if text != error.render().to_string() => {
            say_lines_to_stderr(&text.trim_end());
        }
        Cow::Borrowed(_) => drop(error.print()),
    }
}
