//! Why an agent stopped, in words for people and as an exit code for programs.
//! Long because every error of the agent has its words and its exit code here.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tieline_wire::{FieldError, NameError, Reason, Refusal, Side};

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The agent's identity cannot be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token file cannot be read any more.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No connection to the relay.
    #[error("cannot reach the relay at {relay}: {source}")]
    Dial {
        /// The relay that was dialled.
        relay: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The link ended.
    #[error("the link ended: {reason} ({detail})")]
    Link {
        /// Why, as the side that ended it says.
        reason: Reason,
        /// Who ended it.
        side: Side,
        /// What exactly happened.
        detail: String,
    },
    /// The relay refused the registration.
    #[error("the relay refused: {}", Words(*reason, message))]
    Refused {
        /// Why.
        reason: Reason,
        /// What the relay adds.
        message: String,
    },
    /// The tunnel's name is bound to another agent, and may become free.
    #[error("the relay refused: {}; it is asked for again about once a minute", Words(*reason, message))]
    NameHeld {
        /// Why.
        reason: Reason,
        /// What the relay adds.
        message: String,
    },
    /// A newer run of this agent holds the tunnel now.
    #[error("another run of this agent took over the tunnel, so this one stops")]
    Superseded {
        /// What the relay adds.
        message: String,
    },
}

/// A reason and what the relay adds to it, without saying the same twice.
struct Words<'a>(Reason, &'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(reason, message) = self;
        match *message {
            "" => write!(f, "{reason}"),
            message if message.contains(&reason.to_string()) => f.write_str(message),
            message => write!(f, "{reason} ({message})"),
        }
    }
}

/// Why a relay refuses a tunnel, without the name that stands beside it anyway.
pub(crate) fn refusal_words(reason: Reason, message: &str, tunnel: &str) -> String {
    let about = message.strip_prefix(tunnel);
    let about = about.and_then(|rest| rest.strip_prefix(": "));
    Words(reason, about.unwrap_or(message)).to_string()
}

impl Error {
    /// A link's end or a refusal, sorted by what the agent must do about it.
    pub(crate) fn refused(reason: Reason, message: String) -> Self {
        match reason {
            Reason::Superseded => Self::Superseded { message },
            Reason::NameBound => Self::NameHeld { reason, message },
            reason => Self::Refused { reason, message },
        }
    }

    /// A refusal of a tunnel that this run `had` before. One that had its name lost it to an agent that
    /// came while the relay knew of no binding, and may get it back.
    pub(crate) fn refused_tunnel(refusal: &Refusal, had: bool) -> Self {
        let Refusal { reason, message } = refusal.clone();
        match reason {
            Reason::NameTaken if had => Self::NameHeld { reason, message },
            reason => Self::refused(reason, message),
        }
    }

    /// A link that this side or the network ended.
    pub(crate) fn link_lost(detail: impl Into<String>) -> Self {
        Self::Link {
            reason: Reason::LinkLost,
            side: Side::Peer,
            detail: detail.into(),
        }
    }

    /// True if trying again cannot help.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Config(_) | Self::Identity(_) | Self::Superseded { .. } => true,
            Self::Token(_) | Self::Dial { .. } | Self::NameHeld { .. } => false,
            Self::Link { reason, .. } | Self::Refused { reason, .. } => reason.is_final(),
        }
    }

    /// The reason in one stable word, as in JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Identity(_) => "identity",
            Self::Token(error) => error.word(),
            Self::Dial { .. } => "relay_unreachable",
            Self::Link { reason, .. }
            | Self::Refused { reason, .. }
            | Self::NameHeld { reason, .. } => reason.word(),
            Self::Superseded { .. } => Reason::Superseded.word(),
        }
    }

    /// The exit code that `tieline serve` ends with: 1 failed, 2 usage, 3 refused for good.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Identity(_) | Self::Token(_) | Self::Dial { .. } | Self::NameHeld { .. } => 1,
            Self::Link { .. } | Self::Refused { .. } | Self::Superseded { .. } => {
                if self.is_final() { 3 } else { 1 }
            }
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The relay's address has no meaning.
    #[error("relay {text:?}: {problem} (expected tcp://host:port)")]
    Relay {
        /// What was given, without a user name and password.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The target has no meaning.
    #[error("target {text:?}: {problem} (expected PORT, host:port or http://host:port/path)")]
    Target {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A target that is an HTTP server's, but for how it is written.
    #[error("target {text:?}: a path belongs to an HTTP server: write {instead}")]
    TargetForm {
        /// What was given.
        text: String,
        /// The URL that was meant.
        instead: String,
    },
    /// A transport or target of the design that this build lacks.
    #[error("{what} is not built yet; this version has {instead}")]
    NotBuilt {
        /// What was asked for.
        what: String,
        /// What there is.
        instead: &'static str,
    },
    /// The tunnel's name is none.
    #[error("name {text:?}: {source}")]
    Name {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// A text or list beyond what the protocol carries.
    #[error("{field} is too long: at most {limit} {unit}")]
    TooLong {
        /// Which setting.
        field: &'static str,
        /// How much is allowed.
        limit: usize,
        /// Of what.
        unit: &'static str,
    },
    /// A text that the relay could not pass on.
    #[error("{0}")]
    Text(#[from] FieldError),
    /// No target, or too many.
    #[error("{given} targets: an agent publishes 1 to {max}")]
    Targets {
        /// The largest allowed.
        max: usize,
        /// What was given.
        given: usize,
    },
    /// Two targets would have one tunnel.
    #[error("two targets have {what}: give each a name of its own (--to NAME=TARGET)")]
    Twice {
        /// What they share.
        what: String,
    },
    /// A file with settings cannot be used.
    #[error("{place}: {problem}")]
    File {
        /// Which one, and the line if that is known.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A setting that there must be.
    #[error("no {what}: give {flag}, set {variable} or write `{key}` into tieline.toml")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The flag that sets it.
        flag: &'static str,
        /// The variable that sets it.
        variable: &'static str,
        /// The file's key that sets it.
        key: &'static str,
    },
    /// Something that is said of one target, beside several.
    #[error("{flag} is for one target, and there are several: name each with {instead}")]
    OneTarget {
        /// What was given.
        flag: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
    /// A target has two names.
    #[error("the target has a name in --to NAME=TARGET and another in --name: leave one out")]
    NamedTwice,
    /// Every path was to be exposed of a target that has none.
    #[error("target {target:?} has no paths to expose: write it as http://host:port/path")]
    NoPaths {
        /// The target.
        target: String,
    },
    /// A number outside its range.
    #[error("links must be 1 to {max}, not {given}")]
    Links {
        /// The largest allowed.
        max: u16,
        /// What was given.
        given: u16,
    },
    /// A time beyond its range.
    #[error("the drain timeout is at most {max_s} s")]
    DrainTimeout {
        /// The longest allowed, in seconds.
        max_s: u64,
    },
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nowhere to keep the key.
    #[error("no place for the agent's key: set --state-dir, or the variable HOME")]
    NoStateDir,
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("token file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A token stands where its file's path belongs; it is not kept here, so that nothing shows it.
    #[error(
        "what is given as the token's file looks like a token: write the token into a file of mode \
         0600 and give that file's path (--token-file, TIELINE_TOKEN_FILE or `token_file`)"
    )]
    Pasted,
    /// Others may read it.
    #[error("token file {path} may be read by others (mode {mode:o}): run chmod 600 on it")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user could change or replace it.
    #[error(
        "token file {path} can be replaced by others, because {place} {why}: run {remedy} on that, or keep the \
         token in another folder"
    )]
    Place {
        /// Which file.
        path: PathBuf,
        /// The file itself or a folder.
        place: PathBuf,
        /// Who can.
        why: String,
        /// The command that ends it.
        remedy: &'static str,
    },
    /// It holds no token.
    #[error("token file {path}: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl TokenError {
    /// The reason in one stable word, as in JSON.
    pub(crate) const fn word(&self) -> &'static str {
        "token_file"
    }
}

/// What to do about a place of another user.
const OWN_IT: &str = "run chown on it, or set a directory of your own with --state-dir";

/// Why the agent's identity cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory cannot be read or made.
    #[error("{path}: {source}; another directory can be set with --state-dir")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder or file belongs to another user.
    #[error("{path} belongs to another user (uid {owner}), who could replace the key: {OWN_IT}")]
    Owner {
        /// Which one.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may write into the folder.
    #[error(
        "others may write into {path} (mode {mode:o}) and could replace the key: run chmod go-w on \
         it, or set another directory with --state-dir"
    )]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A link, a folder, a pipe or a device stands in a file's place.
    #[error(
        "{path} is not a regular file: move it away, or set another directory with --state-dir"
    )]
    Kind {
        /// Which one.
        path: PathBuf,
    },
    /// The key may be read by others.
    #[error("the key {path} may be read by others (mode {mode:o}): run chmod 600 on it")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{path} is damaged; remove it to start over (the tunnel's derived name will change)")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The system has no random numbers for us.
    #[error("the system's random number generator failed")]
    Random,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_usage_failure_and_refusal_apart() {
        let refused = |reason| Error::refused(reason, String::new());
        assert_eq!(Error::Config(ConfigError::NoStateDir).exit_code(), 2);
        assert_eq!(Error::link_lost("cut").exit_code(), 1);
        assert_eq!(refused(Reason::Overload).exit_code(), 1);
        assert_eq!(refused(Reason::NameTaken).exit_code(), 3);
        assert_eq!(refused(Reason::Superseded).exit_code(), 3);
    }

    #[test]
    fn a_refusal_names_the_reason_and_the_relays_words() {
        let error = Error::refused(Reason::BadToken, "no such key".to_owned());
        assert_eq!(
            error.to_string(),
            "the relay refused: the token is not valid here (no such key)"
        );
        let twice = format!("seat: {}", Reason::NameTaken);
        let error = Error::refused(Reason::NameTaken, twice.clone());
        assert_eq!(error.to_string(), format!("the relay refused: {twice}"));
        let words = |message| refusal_words(Reason::NameTaken, message, "seat");
        assert_eq!(words(&twice), Reason::NameTaken.to_string());
        assert_eq!(words("seat: no"), format!("{} (no)", Reason::NameTaken));
        assert!(matches!(
            Error::refused(Reason::Superseded, String::new()),
            Error::Superseded { .. }
        ));
    }
}
