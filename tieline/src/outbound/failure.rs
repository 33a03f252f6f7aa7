//! Why a request of a command got no answer.

use std::io;
use std::time::Duration;

/// Why there was no answer, with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The connection failed.
    #[error("{0}")]
    Away(String),
    /// A proxy on the way refuses the login, or does not answer it; more attempts may lock an account.
    #[error("{why}")]
    Login {
        why: String,
        /// Time until the proxy may be asked again.
        again: Duration,
    },
    /// The server's certificate is not trusted.
    #[error("{0}")]
    Untrusted(String),
    /// The server closed the connection.
    #[error("{0}")]
    Closed(String),
    /// The server's answer is not HTTP.
    #[error("{0}")]
    Strange(String),
    /// The server did not answer in time.
    #[error("{0}")]
    Silent(String),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        use std::error::Error;
        let cause = error.source().and_then(|it| it.downcast_ref::<io::Error>());
        let is_cut = |kind| {
            matches!(
                kind,
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        };
        let text = error.to_string();
        match error.is_incomplete_message() || cause.is_some_and(|it| is_cut(it.kind())) {
            true => Self::Closed(text),
            false => Self::Strange(text),
        }
    }
}
