//! The command behind `stdio:`: a program, its arguments, its folder and its environment variables. No shell runs it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::{is_inherited, is_same_name};

/// Most bytes of a command: Windows starts no longer one (CreateProcessW takes 32,767 characters).
const COMMAND_BYTES_MAX: usize = 32_767;

/// Most bytes of a variable's name and value: the limit of Windows (SetEnvironmentVariable, 32,767 characters).
const VARIABLE_BYTES_MAX: usize = 32_767;

/// Most variables that the settings of one command may set and, as many again, may name.
const VARIABLES_MAX: usize = 256;

/// Stands for `#` while a command is split, because `shlex` takes a word that begins with `#` for a comment. A command
/// has no such character.
const HASH: &str = "\0";

/// A program to start, with what it gets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command {
    program: String,
    arguments: Vec<String>,
    /// Variables with their values; of two with the same name, the later one counts.
    variables: Vec<(String, String)>,
    /// Names of the agent's own variables that the child inherits besides the usual ones.
    inherited: Vec<String>,
    directory: Option<PathBuf>,
}

impl Command {
    /// Splits `text`, what follows `stdio:`, into words as a POSIX shell does, with quotes and backslashes. Nothing is
    /// expanded, and characters such as `|`, `$`, `*`, `~` and `#` have no meaning.
    ///
    /// A path with backslashes, as on Windows, needs single quotes.
    ///
    /// # Errors
    /// [`CommandError`] says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        if text.len() > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLong(text.len()));
        }
        Self::of(split(text)?)
    }

    /// A command of these words: the program and its arguments.
    ///
    /// # Errors
    /// [`CommandError`] says what is wrong with the words.
    pub(crate) fn of_words(words: &[String]) -> Result<Self, CommandError> {
        // With the blanks between them.
        let len = words.iter().map(|word| word.len() + 1).sum::<usize>();
        if len > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLong(len));
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err(CommandError::Nul);
        }
        Self::of(words.to_vec())
    }

    fn of(words: Vec<String>) -> Result<Self, CommandError> {
        let mut words = words.into_iter();
        let Some(program) = words.next() else {
            return Err(CommandError::Empty);
        };
        if program.is_empty() {
            return Err(CommandError::NoProgram);
        }
        Ok(Self {
            program,
            arguments: words.collect(),
            variables: Vec::new(),
            inherited: Vec::new(),
            directory: None,
        })
    }

    /// Sets the environment variable `name` of the child to `value`.
    ///
    /// # Errors
    /// [`CommandError`] if no variable can have this name or value, or if there are too many.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Result<Self, CommandError> {
        check_variable(name, value)?;
        if self.variables.len() >= VARIABLES_MAX {
            return Err(CommandError::TooManyVariables);
        }
        self.variables.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// Has the child inherit the agent's environment variable `name`, if the agent has it.
    ///
    /// # Errors
    /// [`CommandError`] if no variable can have this name, or if there are too many.
    pub(crate) fn with_inherited(mut self, name: &str) -> Result<Self, CommandError> {
        check_name(name)?;
        if self.inherited.len() >= VARIABLES_MAX {
            return Err(CommandError::TooManyVariables);
        }
        self.inherited.push(name.to_owned());
        Ok(self)
    }

    /// Starts the child in this folder instead of the agent's own.
    #[must_use]
    pub(crate) fn with_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Name or path of the program.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// The program's arguments.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The folder that the child starts in, if it is not the agent's own.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// All environment variables of the child; `own` are the agent's.
    pub(crate) fn environment(
        &self,
        own: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let is_windows = cfg!(windows);
        let is_named = |name: &str| {
            let mut named = self.inherited.iter();
            named.any(|other| is_same_name(other, name, is_windows))
        };
        let inherits = |name: &str| is_inherited(name, is_windows) || is_named(name);
        let inherited = own
            .into_iter()
            .filter(|(name, _)| name.to_str().is_some_and(inherits));
        let set = self.variables.iter();
        let set = set.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        inherited.chain(set).collect()
    }
}

/// The command as it can be pasted into a shell, or behind `stdio:`. It shows no environment variables.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program))?;
        let mut arguments = self.arguments.iter();
        arguments.try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

/// Leaves out the values of environment variables, which may be secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("variables", &names)
            .field("inherited", &self.inherited)
            .field("directory", &self.directory)
            .finish()
    }
}

/// What is wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// There are no words.
    #[error("the command is missing, as in stdio:npx -y @scope/server")]
    Empty,
    /// The first word is an empty one.
    #[error("the first word of the command is empty, so it names no program")]
    NoProgram,
    /// A quote has no counterpart.
    #[error("the command opens a quote and does not close it")]
    OpenQuote,
    /// The last character is a backslash that quotes nothing.
    #[error("the command ends in a backslash, behind which a character is missing")]
    Backslash,
    /// No argument can have a character with the code 0.
    #[error("the command contains a NUL character")]
    Nul,
    /// The command has this many bytes.
    #[error("the command has {0} bytes; {COMMAND_BYTES_MAX} is the most")]
    TooLong(usize),
    /// No environment variable can have this name.
    #[error("{0:?} is not a name of an environment variable")]
    Name(String),
    /// The environment variable of this name has a value with a NUL character, or a long one.
    #[error(
        "the value of the environment variable {0} contains a NUL character, or is longer than \
         {VARIABLE_BYTES_MAX} bytes"
    )]
    Value(String),
    /// There are too many variables.
    #[error("the command has more than {VARIABLES_MAX} environment variables")]
    TooManyVariables,
}

/// The words of a command.
fn split(text: &str) -> Result<Vec<String>, CommandError> {
    if text.contains(HASH) {
        return Err(CommandError::Nul);
    }
    let text = text.replace('#', HASH);
    if let Some(words) = shlex::split(&text) {
        let words = words.into_iter().map(|word| word.replace(HASH, "#"));
        return Ok(words.collect());
    }
    // If the text is complete without its last character, a backslash, no quote is open.
    let shorter = text.strip_suffix('\\').and_then(shlex::split);
    Err(match shorter {
        Some(_) => CommandError::Backslash,
        None => CommandError::OpenQuote,
    })
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> Cow<'_, str> {
    // Only a word with a NUL character cannot be quoted.
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

/// Refuses an environment variable that no process can have.
///
/// # Errors
/// [`CommandError`] says what is wrong with it.
pub(crate) fn check_variable(name: &str, value: &str) -> Result<(), CommandError> {
    check_name(name)?;
    match value.contains('\0') || name.len() + value.len() > VARIABLE_BYTES_MAX {
        true => Err(CommandError::Value(name.to_owned())),
        false => Ok(()),
    }
}

/// Refuses a name that no environment variable can have.
///
/// # Errors
/// [`CommandError::Name`].
pub(crate) fn check_name(name: &str) -> Result<(), CommandError> {
    match name.is_empty() || name.len() > VARIABLE_BYTES_MAX || name.contains(['=', '\0']) {
        true => Err(CommandError::Name(name.to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let command = Command::parse(text).unwrap();
        let mut words = vec![command.program().to_owned()];
        words.extend_from_slice(command.arguments());
        words
    }

    fn own_variables() -> Vec<(OsString, OsString)> {
        let own = [("PATH", "/bin"), ("SECRET", "s"), ("EXTRA", "e")];
        let own = own.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        own.into()
    }

    #[test]
    fn a_command_is_split_as_a_shell_does() {
        let cases: [(&str, &[&str]); 6] = [
            ("npx -y @scope/server", &["npx", "-y", "@scope/server"]),
            ("  a\tb\nc ", &["a", "b", "c"]),
            (
                r#"a 'b c' "d \"e\" \f" g\ h"#,
                &["a", "b c", r#"d "e" \f"#, "g h"],
            ),
            (
                r"'C:\Tools\server.exe' --x=''",
                &[r"C:\Tools\server.exe", "--x="],
            ),
            ("a '' b", &["a", "", "b"]),
            ("päth 'ü ö'", &["päth", "ü ö"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn characters_with_a_meaning_in_a_shell_are_ordinary() {
        let cases: [(&str, &[&str]); 5] = [
            (
                "a | b && $HOME `c` > *?",
                &["a", "|", "b", "&&", "$HOME", "`c`", ">", "*?"],
            ),
            ("a #b c#d '#e'", &["a", "#b", "c#d", "#e"]),
            ("#a b", &["#a", "b"]),
            (r##"a \#b "\#c""##, &["a", "#b", r"\#c"]),
            ("~/a ; b", &["~/a", ";", "b"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn a_broken_command_is_refused_with_its_reason() {
        for (text, expected) in [
            ("", CommandError::Empty),
            (" \n", CommandError::Empty),
            ("'' a", CommandError::NoProgram),
            ("a 'b", CommandError::OpenQuote),
            ("a \"b\\", CommandError::OpenQuote),
            ("a 'b\\", CommandError::OpenQuote),
            ("a b\\", CommandError::Backslash),
            ("a\0b", CommandError::Nul),
        ] {
            assert_eq!(Command::parse(text), Err(expected), "{text:?}");
        }
        let long = "a".repeat(COMMAND_BYTES_MAX + 1);
        assert_eq!(
            Command::parse(&long),
            Err(CommandError::TooLong(COMMAND_BYTES_MAX + 1))
        );
    }

    #[test]
    fn words_are_taken_as_they_are() {
        let words = ["npx", "a b", "$HOME", ""].map(str::to_owned);
        let command = Command::of_words(&words).unwrap();
        assert_eq!(command.program(), "npx");
        assert_eq!(command.arguments(), &words[1..]);
        let refused = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            Command::of_words(&words).unwrap_err()
        };
        assert_eq!(refused(&[]), CommandError::Empty);
        assert_eq!(refused(&["", "a"]), CommandError::NoProgram);
        assert_eq!(refused(&["a", "\0"]), CommandError::Nul);
        let long = "a".repeat(COMMAND_BYTES_MAX);
        assert_eq!(
            refused(&[&long]),
            CommandError::TooLong(COMMAND_BYTES_MAX + 1)
        );
    }

    #[test]
    fn a_shown_command_can_be_pasted() {
        for text in [
            "npx -y @scope/server",
            "a 'b c' '' \"it's\" '#d' $e '^!' \\\\",
        ] {
            let command = Command::parse(text).unwrap();
            let shown = command.to_string();
            assert_eq!(Command::parse(&shown), Ok(command), "{shown}");
        }
        let plain = Command::parse("npx  -y\t@scope/server").unwrap();
        assert_eq!(plain.to_string(), "npx -y @scope/server");
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let command = Command::parse("server")
            .and_then(|command| command.with_variable("API_KEY", "hunter2"))
            .and_then(|command| command.with_variable("OTHER", "hunter2"))
            .unwrap();
        assert!(!command.to_string().contains("API_KEY"));
        let debug = format!("{command:?}");
        assert!(debug.contains("API_KEY") && debug.contains("OTHER"));
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn a_child_gets_the_named_variables_and_the_usual_ones() {
        let command = Command::parse("server").unwrap();
        let names = |command: &Command| -> Vec<OsString> {
            let variables = command.environment(own_variables());
            variables.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(&command), ["PATH"]);
        let command = command
            .with_inherited("EXTRA")
            .and_then(|command| command.with_inherited("ABSENT"))
            .and_then(|command| command.with_variable("PATH", "/opt"))
            .unwrap();
        assert_eq!(names(&command), ["PATH", "EXTRA", "PATH"]);
        let last = command.environment(own_variables()).pop().unwrap();
        assert_eq!(last, ("PATH".into(), "/opt".into()));
    }

    #[test]
    fn a_variable_needs_a_name_and_a_value_that_can_be_set() {
        let command = || Command::parse("server").unwrap();
        for name in ["", "A=B", "A\0"] {
            let expected = Err(CommandError::Name(name.to_owned()));
            assert_eq!(command().with_variable(name, "x"), expected);
            assert_eq!(command().with_inherited(name), expected);
        }
        let value = command().with_variable("A", "x\0");
        assert_eq!(value, Err(CommandError::Value("A".to_owned())));
        let mut full = command();
        for _ in 0..VARIABLES_MAX {
            full = full.with_variable("A", "x").unwrap();
        }
        let refused = full.with_variable("A", "x");
        assert_eq!(refused, Err(CommandError::TooManyVariables));
    }
}
