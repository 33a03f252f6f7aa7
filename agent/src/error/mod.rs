//! Errors of the agent: a message for people, an exit code and a stable word for programs.

mod config;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tieline_wire::{LinkEnd, Refusal, RefusalReason, Side};

pub use self::config::ConfigError;

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The agent's identity cannot be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token file can no longer be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The relay cannot be reached.
    #[error("cannot reach the relay at {relay}: {source}")]
    Dial {
        /// The relay that was dialled.
        relay: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake with the relay failed.
    #[error("the TLS handshake with the relay at {relay} failed: {problem}")]
    Tls {
        /// The relay that was dialled.
        relay: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// There is no WebSocket to the relay.
    #[error("the relay at {relay} opens no WebSocket: {problem}")]
    Upgrade {
        /// The relay that was dialled.
        relay: String,
        /// What is wrong, and what to do.
        problem: String,
        /// True if the relay itself says that it is busy.
        is_busy: bool,
    },
    /// The link ended.
    #[error("the link ended: {reason} ({detail})")]
    Link {
        /// Reason given by the side that ended the link.
        reason: LinkEnd,
        /// Side that caused the end.
        side: Side,
        /// What exactly happened, in words.
        detail: String,
    },
    /// The relay refused the agent's links for good.
    #[error("the relay refused: {}", words(reason, message))]
    LinkRefused {
        /// Reason of the refusal.
        reason: LinkEnd,
        /// Explanation from the relay; may be empty.
        message: String,
    },
    /// The relay refused the registration.
    #[error("the relay refused: {}", words(reason, message))]
    Refused {
        /// Reason of the refusal.
        reason: RefusalReason,
        /// Explanation from the relay; may be empty.
        message: String,
    },
    /// The tunnel's name is bound to another agent, and may become free later.
    #[error(
        "the relay refused: {}; the name is asked for again about once a minute",
        words(reason, message)
    )]
    NameHeld {
        /// Reason of the refusal.
        reason: RefusalReason,
        /// Explanation from the relay; may be empty.
        message: String,
    },
    /// A newer run of this agent holds the tunnel now.
    #[error("another run of this agent took over the tunnel, so this one stops")]
    Superseded {
        /// Explanation from the relay; may be empty.
        message: String,
    },
}

/// A reason and the relay's explanation; the reason is left out where the explanation repeats it.
#[must_use]
pub fn words(reason: &impl fmt::Display, message: &str) -> String {
    let reason = reason.to_string();
    match message {
        "" => reason,
        message if message.contains(&reason) => message.to_owned(),
        message => format!("{reason} ({message})"),
    }
}

/// Text of a refused tunnel, without the tunnel's name in front: the caller prints the name itself.
pub(crate) fn refusal_words(reason: RefusalReason, message: &str, tunnel: &str) -> String {
    let about = message.strip_prefix(tunnel);
    let about = about.and_then(|rest| rest.strip_prefix(": "));
    words(&reason, about.unwrap_or(message))
}

impl Error {
    /// Sorts the reason of a refusal by what the agent must do.
    pub(crate) fn refused(reason: RefusalReason, message: String) -> Self {
        match reason {
            RefusalReason::Superseded => Self::Superseded { message },
            RefusalReason::NameBound => Self::NameHeld { reason, message },
            reason => Self::Refused { reason, message },
        }
    }

    /// Error for a link that the relay ended with `reason`.
    pub(crate) fn of_farewell(reason: LinkEnd, message: String) -> Self {
        match reason {
            LinkEnd::Superseded => Self::Superseded { message },
            reason if reason.is_final() => Self::LinkRefused { reason, message },
            reason => Self::Link {
                reason,
                side: Side::Peer,
                detail: message,
            },
        }
    }

    /// Error for a refused tunnel; `had` is true if this run held the tunnel before. A taken name is then not final:
    /// the other agent came while the relay knew of no binding, so this run may get the name back.
    pub(crate) fn refused_tunnel(refusal: &Refusal, had: bool) -> Self {
        let Refusal { reason, message } = refusal.clone();
        match reason {
            RefusalReason::NameTaken if had => Self::NameHeld { reason, message },
            reason => Self::refused(reason, message),
        }
    }

    /// Error for a link whose connection failed.
    pub(crate) fn lost_by(error: io::Error) -> Self {
        Self::link_lost(error.to_string())
    }

    /// Error for a link that a protocol error ended.
    pub(crate) fn of_link(error: tieline_wire::Error) -> Self {
        Self::Link {
            reason: error.reason,
            side: error.side,
            detail: error.detail,
        }
    }

    /// Error for a link that this side or the network ended.
    pub(crate) fn link_lost(detail: impl Into<String>) -> Self {
        Self::Link {
            reason: LinkEnd::LinkLost,
            side: Side::Peer,
            detail: detail.into(),
        }
    }

    /// The refusal of the login by a proxy on the way to the relay, if that is the error. An error of the system is
    /// none, not even [`io::ErrorKind::PermissionDenied`], with which a firewall of this machine may stop dials for a
    /// moment.
    pub(crate) fn refused_login(&self) -> Option<&RefusedLogin> {
        match self {
            Self::Dial { source, .. } => RefusedLogin::of(source),
            _ => None,
        }
    }

    /// True if a proxy on the way to the relay refused the login.
    pub(crate) fn is_refused_login(&self) -> bool {
        self.refused_login().is_some()
    }

    /// True if another attempt cannot succeed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Config(_) | Self::Identity(_) | Self::Superseded { .. } => true,
            Self::Token(_)
            | Self::Dial { .. }
            | Self::Tls { .. }
            | Self::Upgrade { .. }
            | Self::NameHeld { .. } => false,
            Self::Link { reason, .. } | Self::LinkRefused { reason, .. } => reason.is_final(),
            Self::Refused { reason, .. } => reason.is_final(),
        }
    }

    /// The reason as one stable word, for JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Identity(_) => "identity",
            Self::Token(_) => "token_file",
            Self::Dial { .. } => "relay_unreachable",
            Self::Tls { .. } => "relay_tls",
            Self::Upgrade { .. } => "relay_websocket",
            Self::Link { reason, .. } | Self::LinkRefused { reason, .. } => reason.word(),
            Self::Refused { reason, .. } | Self::NameHeld { reason, .. } => reason.word(),
            Self::Superseded { .. } => RefusalReason::Superseded.word(),
        }
    }

    /// Exit code of `tieline serve`: 1 failed, 2 usage, 3 refused for good.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Identity(_) => 1,
            Self::Token(_)
            | Self::Dial { .. }
            | Self::Tls { .. }
            | Self::Upgrade { .. }
            | Self::Link { .. }
            | Self::LinkRefused { .. }
            | Self::Refused { .. }
            | Self::NameHeld { .. }
            | Self::Superseded { .. } => match self.is_final() {
                true => 3,
                false => 1,
            },
        }
    }
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token file cannot be read.
    #[error("token file {path}: {source}")]
    Read {
        /// The token file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A token was given in place of its file's path; the error does not hold the token, so that it is never shown.
    #[error(
        "the path given for the token file looks like a token itself: write the token into a file of mode \
         0600 and give that file's path (--token-file, TIELINE_TOKEN_FILE or `token_file`)"
    )]
    Pasted,
    /// Other users may read the token file.
    #[error("token file {path} may be read by others (mode {mode:o}): run chmod 600 on it")]
    Mode {
        /// The token file.
        path: PathBuf,
        /// Permission bits of the file.
        mode: u32,
    },
    /// Another user could change or replace the token file.
    #[error(
        "token file {path} can be replaced by others, because {place} {why}: run {remedy} on that, or keep the \
         token in another folder"
    )]
    Place {
        /// The token file.
        path: PathBuf,
        /// The file or folder that other users can change.
        place: PathBuf,
        /// Why other users can change `place`, in words.
        why: String,
        /// Command that corrects the permissions or the owner.
        remedy: &'static str,
    },
    /// The token file's content is not a token.
    #[error("token file {path}: {problem}")]
    Content {
        /// The token file.
        path: PathBuf,
        /// What is wrong with the content.
        problem: &'static str,
    },
}

/// Why a proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The text is not the URL of a proxy.
    #[error(
        "proxy {text:?}: expected http://HOST:PORT or socks5h://HOST:PORT, with USER:PASSWORD@ in front of the host if \
         the proxy asks for them (/ ? # @ : % and characters outside ASCII in them percent-encoded, @ as %40), or none"
    )]
    Url {
        /// The given text, without a user name and password.
        text: String,
    },
    /// The value of a variable is not the URL of a proxy.
    #[error(
        "the value of {name} is not the URL of a proxy: expected http://HOST:PORT or socks5h://HOST:PORT, with \
         USER:PASSWORD@ in front of the host if the proxy asks for them (/ ? # @ : % and characters outside ASCII in \
         them percent-encoded, @ as %40, é as %C3%A9), or none"
    )]
    Variable {
        /// Name of the variable. Its value may have a password, and is not shown.
        name: &'static str,
    },
    /// QUIC cannot go through a proxy.
    #[error(
        "quic:// cannot go through the proxy {proxy}: write https:// in place of quic://, which can, or --proxy none \
         if this network lets UDP out"
    )]
    Quic {
        /// URL of the proxy, without a user name and password.
        proxy: String,
    },
    /// The kind of proxy is not supported.
    #[error(
        "a proxy that is reached over {scheme}:// is not supported: name one with http://, socks5:// or socks5h:// \
         (--proxy or TIELINE_PROXY, else HTTPS_PROXY or ALL_PROXY), or write --proxy none to go without"
    )]
    Kind {
        /// Scheme of the proxy's URL.
        scheme: String,
    },
    /// The kind of proxy that a variable names is not supported.
    #[error(
        "{name}: a proxy that is reached over {scheme}:// is not supported: name one with http://, socks5:// or \
         socks5h:// there, or write none there to go without"
    )]
    KindOfVariable {
        /// Name of the variable, as it is spelt.
        name: &'static str,
        /// Scheme of the proxy's URL.
        scheme: String,
    },
}

/// A proxy's refusal of the login, or of a connection without one. It is the inner error of an [`io::Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}{}", next_in_words(.next, .again))]
pub struct RefusedLogin {
    /// What the proxy refuses, and what to do about it, in words that name it.
    pub(crate) text: String,
    /// Time until the proxy may be asked again: many attempts may lock an account.
    pub(crate) again: Duration,
    pub(crate) next: NextTry,
}

/// What asks a proxy again that has refused the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextTry {
    /// This process, after the wait.
    Process,
    /// Another run of a command that ends now.
    Run {
        /// True if the proxy is sent a user name and password.
        has_user: bool,
    },
}

impl RefusedLogin {
    /// The refusal that `error` has as its inner error, if any.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Time until the proxy may be asked again, as it stood when the dial failed.
    #[must_use]
    pub const fn again(&self) -> Duration {
        self.again
    }
}

/// The clause that says when the proxy is asked again, `again` from now at the earliest.
fn next_in_words(next: &NextTry, again: &Duration) -> String {
    match next {
        NextTry::Process => {
            let again = in_words(again);
            format!("; the proxy is asked again in {again}, or after a restart")
        }
        NextTry::Run { has_user: true } => {
            "; each further run sends the password again, and a few wrong ones may lock the account"
                .to_owned()
        }
        NextTry::Run { has_user: false } => String::new(),
    }
}

/// A wait in seconds up to two minutes, and else in minutes, rounded up.
fn in_words(wait: &Duration) -> String {
    let seconds = wait.as_millis().div_ceil(1000);
    match seconds {
        0..=120 => format!("{seconds} s"),
        _ => format!("{} min", seconds.div_ceil(60)),
    }
}

impl From<RefusedLogin> for io::Error {
    fn from(refused: RefusedLogin) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, refused)
    }
}

/// A login that a proxy has left without an answer until the dial's end, and that does not count as refused yet. It is the
/// inner error of an [`io::Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct UnansweredLogin {
    /// What the proxy does, in words that name it.
    pub(crate) text: String,
}

impl UnansweredLogin {
    /// The unanswered login that `error` has as its inner error, if any.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<UnansweredLogin> for io::Error {
    fn from(unanswered: UnansweredLogin) -> Self {
        Self::new(io::ErrorKind::TimedOut, unanswered)
    }
}

/// Why no client of TLS can be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of trusted certificates cannot be used.
    #[error("the file of --ca, {path}: {problem}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        problem: String,
    },
    /// A file of the agent's own certificate cannot be used.
    #[error("the file of {flag}, {path}: {problem}")]
    OwnFile {
        /// Flag that names the file.
        flag: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        problem: String,
    },
    /// The system has no trusted certificates, and no file was given.
    #[error(
        "this system has no certificates to check a relay's certificate with{0}; name a file of certificates with --ca"
    )]
    NoRoots(String),
    /// The TLS library cannot be set up.
    #[error("TLS cannot start: {0}")]
    Tls(String),
}

impl TrustError {
    /// Exit code of a command: 1 if this machine lacks what TLS needs, 2 for wrong usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::OwnFile { .. } => 2,
            Self::NoRoots(_) | Self::Tls(_) => 1,
        }
    }
}

/// Remedy for a file or folder of another user.
const OWN_IT: &str = "run chown on it, or set a directory of your own with --state-dir";

/// Why the agent's identity cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory cannot be read or made.
    #[error("{path}: {source}; another directory can be set with --state-dir")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A folder or file belongs to another user.
    #[error("{path} belongs to another user (uid {owner}), who could replace the key: {OWN_IT}")]
    Owner {
        /// The folder or file.
        path: PathBuf,
        /// User id of the owner.
        owner: u32,
    },
    /// Other users may write into the folder.
    #[error(
        "others may write into {path} (mode {mode:o}) and could replace the key: run chmod go-w on \
         it, or set another directory with --state-dir"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Permission bits of the folder.
        mode: u32,
    },
    /// A symbolic link, folder, pipe or device in the place of a regular file.
    #[error(
        "{path} is not a regular file: move it away, or set another directory with --state-dir"
    )]
    Kind {
        /// The path.
        path: PathBuf,
    },
    /// Other users may read the key file.
    #[error("the key {path} may be read by others (mode {mode:o}): run chmod 600 on it")]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Permission bits of the file.
        mode: u32,
    },
    /// The file's content is damaged.
    #[error("{path} is damaged; remove it to start over (the tunnel's derived name will change)")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system's random number generator failed.
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
        assert_eq!(refused(RefusalReason::Overload).exit_code(), 1);
        assert_eq!(refused(RefusalReason::NameTaken).exit_code(), 3);
        assert_eq!(refused(RefusalReason::Superseded).exit_code(), 3);
    }

    #[test]
    fn a_refusal_names_the_reason_and_the_relays_words() {
        let error = Error::refused(RefusalReason::BadToken, "no such key".to_owned());
        assert_eq!(
            error.to_string(),
            "the relay refused: the token is not valid here (no such key)"
        );
        let twice = format!("seat: {}", RefusalReason::NameTaken);
        let error = Error::refused(RefusalReason::NameTaken, twice.clone());
        assert_eq!(error.to_string(), format!("the relay refused: {twice}"));
        let words = |message| refusal_words(RefusalReason::NameTaken, message, "seat");
        assert_eq!(words(&twice), RefusalReason::NameTaken.to_string());
        assert_eq!(
            words("seat: no"),
            format!("{} (no)", RefusalReason::NameTaken)
        );
        assert!(matches!(
            Error::refused(RefusalReason::Superseded, String::new()),
            Error::Superseded { .. }
        ));
    }
}
