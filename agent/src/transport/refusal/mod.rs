//! What it means that a proxy opens no connection, in words that say what to do.

#[cfg(test)]
mod tests;

use std::io;

use super::head::{Head, shown};
use super::logins::Failure;
use crate::address::HostPort;

/// Status of a proxy that wants a login (RFC 9110, section 15.5.8).
const LOGIN_REQUIRED: u16 = 407;

/// Status with which some proxies refuse a login in place of 407 (RFC 9110, section 15.5.2).
const UNAUTHORIZED: u16 = 401;

/// Status with which some proxies refuse a login in place of 407, and others the address (RFC 9110, section 15.5.4).
const FORBIDDEN: u16 = 403;

/// First answer of a SOCKS proxy that wants a user name and password (RFC 1928, section 3).
const SOCKS_WANTS_LOGIN: [u8; 2] = [5, 2];

/// What is told of a proxy that refuses the login.
const NOT_ACCEPTED: &str = "it does not accept the user name and password in its URL";

/// What is told of a proxy that ends the connection in place of its answer to the login.
const CLOSES_AT_LOGIN: &str = "it closed the connection when it was sent the user name and password in its URL: it \
                               does not accept them";

/// What is told of a proxy that ends the connection before the head of its answer is complete.
const CLOSES_IN_ANSWER: &str = "it closed the connection in the middle of its answer";

/// What is told of a proxy whose answer does not come in time.
pub(super) const LATE: &str = "no answer in time";

/// What is told of a proxy that was not asked in time, because the logins of other dials had no answer yet.
pub(super) const LATE_IN_LINE: &str = "another login at the proxy was still waiting for its answer";

/// What is told of a proxy whose answer to the login does not come in time.
const LATE_AT_LOGIN: &str =
    "it gave no answer in time when it was sent the user name and password in its URL";

/// Beginning of the answer of an HTTP proxy, up to the minor version.
const ANSWER_START: &[u8] = b"HTTP/1.";

/// Digits of a status.
const STATUS_DIGITS: usize = 3;

/// Why a proxy opened no connection.
pub(super) struct Problem {
    /// What is wrong, and what to do about it.
    text: String,
    verdict: Verdict,
}

/// What a problem says about the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing, or that the proxy objects to something else.
    Open,
    /// The proxy accepted the login.
    Accepted,
    /// The proxy did not accept the login, or wants one and was given none.
    Refused,
    /// The proxy was sent a user name and password, and ended the connection in place of an answer: it refuses them, or it
    /// restarts.
    Ended,
    /// The proxy was sent a user name and password, and its answer does not come, is not complete, or does not say
    /// whether it accepts them.
    Unanswered,
}

/// Why an HTTP proxy's answer has no head.
pub(super) struct NoAnswer {
    pub(super) text: String,
    /// True if the proxy ended the connection.
    pub(super) is_end: bool,
}

impl NoAnswer {
    /// From the failure of a read.
    pub(super) fn of(error: &io::Error) -> Self {
        Self {
            text: error.to_string(),
            is_end: is_end(error.kind()),
        }
    }
}

impl From<String> for NoAnswer {
    fn from(text: String) -> Self {
        Self {
            text,
            is_end: false,
        }
    }
}

impl Problem {
    /// From the answer of an HTTP proxy that does not connect to `to`; `has_user` is true if it was given a user name and
    /// password.
    pub(super) fn of_http(head: &Head, to: &HostPort, has_user: bool) -> Self {
        Self {
            text: refusal(head, to, has_user),
            verdict: match head.status {
                LOGIN_REQUIRED => Verdict::Refused,
                UNAUTHORIZED | FORBIDDEN if has_user => Verdict::Refused,
                _ => Verdict::Open,
            },
        }
    }

    /// From an HTTP proxy that has sent `heard` of its answer's head, and not all of it. `has_user` is true if it was
    /// given a user name and password. A status other than 407 says nothing then: what breaks off is no answer.
    pub(super) fn of_no_head(why: NoAnswer, heard: &[u8], has_user: bool) -> Self {
        if status(heard) == Some(LOGIN_REQUIRED) {
            let text = match has_user {
                true => NOT_ACCEPTED,
                false => {
                    "it wants a login, and the head of its answer does not end, or is too long to say of which kind"
                }
            };
            return Self {
                text: text.to_owned(),
                verdict: Verdict::Refused,
            };
        }
        let has_begun = !heard.trim_ascii().is_empty();
        Self {
            text: match why.is_end && has_begun {
                true => CLOSES_IN_ANSWER.to_owned(),
                false => why.text,
            },
            verdict: match has_user {
                false => Verdict::Open,
                true if why.is_end && !has_begun => Verdict::Ended,
                true => Verdict::Unanswered,
            },
        }
    }

    /// From an HTTP proxy that has sent `heard` of its answer's head in time, and not all of it. `has_user` is true if it
    /// was given a user name and password.
    pub(super) fn of_late_http(heard: &[u8], has_user: bool) -> Self {
        let problem = Self::of_no_head(LATE.to_owned().into(), heard, has_user);
        match problem.verdict {
            Verdict::Unanswered => Self::late_at_login(),
            _ => problem,
        }
    }

    /// From a SOCKS proxy that has sent `heard` of its answers in time, and not all of them. `has_user` is true if it was
    /// given a user name and password.
    pub(super) fn of_late_socks(heard: &[u8], has_user: bool) -> Self {
        match socks_login(heard, has_user) {
            Verdict::Unanswered => Self::late_at_login(),
            verdict => Self {
                text: LATE.to_owned(),
                verdict,
            },
        }
    }

    /// From the failure of a SOCKS proxy to connect to `to`, after it has sent `heard`; `has_user` is true if it was given
    /// a user name and password.
    pub(super) fn of_socks(
        error: &tokio_socks::Error,
        heard: &[u8],
        to: &HostPort,
        has_user: bool,
    ) -> Self {
        use tokio_socks::Error;

        Self {
            text: socks_problem(error, heard, to, has_user),
            verdict: match error {
                Error::PasswordAuthFailure(_)
                | Error::NoAcceptableAuthMethods
                | Error::AuthorizationRequired => Verdict::Refused,
                error if ends_at_login(error, heard) => Verdict::Ended,
                _ => socks_login(heard, has_user),
            },
        }
    }

    /// What is wrong, and what to do about it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How the login failed, and the text for that, if it did: a login that the proxy does not answer counts as failed,
    /// since it may have been checked, and counted, all the same.
    pub(super) fn login_failure(&self) -> Option<(Failure, &str)> {
        match self.verdict {
            Verdict::Refused => Some((Failure::Refused, &self.text)),
            Verdict::Ended => Some((Failure::Unanswered, CLOSES_AT_LOGIN)),
            Verdict::Unanswered => Some((Failure::Unanswered, &self.text)),
            Verdict::Open | Verdict::Accepted => None,
        }
    }

    /// True if the proxy accepted the login, and opened no connection all the same.
    pub(super) fn accepts_login(&self) -> bool {
        self.verdict == Verdict::Accepted
    }

    fn late_at_login() -> Self {
        Self {
            text: LATE_AT_LOGIN.to_owned(),
            verdict: Verdict::Unanswered,
        }
    }
}

/// Status of the answer whose head begins with `heard`, however the head goes on; `None` if `heard` does not have it.
fn status(heard: &[u8]) -> Option<u16> {
    // As for whole heads, empty lines may come first.
    let rest = heard.trim_ascii_start().strip_prefix(ANSWER_START)?;
    let [b'0'..=b'9', b' ', rest @ ..] = rest else {
        return None;
    };
    let (digits, behind) = rest.split_at_checked(STATUS_DIGITS)?;
    let is_status =
        digits.iter().all(u8::is_ascii_digit) && !behind.first().is_some_and(u8::is_ascii_digit);
    let value = |sum: u16, digit: &u8| sum * 10 + u16::from(digit - b'0');
    is_status.then(|| digits.iter().fold(0, value))
}

/// What a SOCKS proxy that has sent `heard`, and no code of a refused login in it, says about the login (RFC 1929, section
/// 2). `has_user` is true if it was given a user name and password.
fn socks_login(heard: &[u8], has_user: bool) -> Verdict {
    match heard {
        [5, 2, 1, 0, ..] if has_user => Verdict::Accepted,
        [5, 2, ..] if has_user => Verdict::Unanswered,
        _ => Verdict::Open,
    }
}

/// True for the error of a connection that the peer has ended.
fn is_end(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

/// True if the connection ended where the proxy's answer to the user name and password was due (RFC 1929, section 2):
/// `heard`, all that the proxy has sent, asks for them.
fn ends_at_login(error: &tokio_socks::Error, heard: &[u8]) -> bool {
    let is_asked =
        heard.starts_with(&SOCKS_WANTS_LOGIN) && heard.len() < SOCKS_WANTS_LOGIN.len() + 2;
    is_asked && matches!(error, tokio_socks::Error::Io(error) if is_end(error.kind()))
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self {
            text,
            verdict: Verdict::Open,
        }
    }
}

/// What a proxy's refusal to connect to `to` means; `has_user` is true if it was given a user name and password.
fn refusal(head: &Head, to: &HostPort, has_user: bool) -> String {
    let status = head.status_line();
    if head.status != LOGIN_REQUIRED {
        let port = match to.port() {
            443 => "",
            _ => ", and many proxies allow port 443 alone",
        };
        return match head.status {
            UNAUTHORIZED | FORBIDDEN if has_user => format!(
                "it does not connect to {to} ({status}): it may refuse the user name and password in its URL, or the \
                 address; correct them, or ask its operator to allow that{port}"
            ),
            502..=504 => {
                format!("it cannot reach {to} ({status}), or does not know the name")
            }
            500.. => format!(
                "it does not connect to {to} ({status}): it may not know the name; else ask its operator to allow that{port}"
            ),
            _ => format!(
                "it does not connect to {to} ({status}): ask its operator to allow that{port}"
            ),
        };
    }
    let schemes = schemes(head);
    if !schemes.iter().any(|it| it.eq_ignore_ascii_case("basic")) {
        let kinds = match schemes.is_empty() {
            true => "of a kind that it does not name".to_owned(),
            false => format!("with {}", shown(&schemes.join(", "))),
        };
        return format!(
            "it wants a login {kinds}, which tieline does not speak: run a helper proxy on this machine that does \
             (cntlm, or px on Windows) and name it with --proxy, or ask its operator for an exception for {to}"
        );
    }
    match has_user {
        true => NOT_ACCEPTED.to_owned(),
        false => "it wants a user name and password: write them into its URL, http://USER:PASSWORD@HOST:PORT (--proxy, \
                  TIELINE_PROXY or HTTPS_PROXY)"
            .to_owned(),
    }
}

/// What the failure of a SOCKS proxy to connect to `to` means, after it has sent `heard`; `has_user` is true if it was
/// given a user name and password.
fn socks_problem(
    error: &tokio_socks::Error,
    heard: &[u8],
    to: &HostPort,
    has_user: bool,
) -> String {
    use tokio_socks::Error;

    match error {
        Error::NoAcceptableAuthMethods | Error::AuthorizationRequired if has_user => {
            "it takes no login with a user name and password".to_owned()
        }
        Error::NoAcceptableAuthMethods | Error::AuthorizationRequired => {
            "it wants a user name and password: write them into its URL, socks5h://USER:PASSWORD@HOST:PORT (--proxy, \
             TIELINE_PROXY or ALL_PROXY)"
                .to_owned()
        }
        Error::PasswordAuthFailure(_) => NOT_ACCEPTED.to_owned(),
        Error::InvalidAuthValues(_) => {
            "the user name and the password in its URL must have 1 to 255 bytes each".to_owned()
        }
        Error::InvalidResponseVersion => {
            "it does not speak SOCKS5: is it an HTTP proxy (http://)?".to_owned()
        }
        Error::AddressTypeNotSupported => format!(
            "it does not connect to {to}: {error}; with socks5h:// it looks up the name itself"
        ),
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection in place of an answer".to_owned()
        }
        Error::UnknownAuthMethod => unknown_code(heard, to),
        other => format!("it does not connect to {to}: {other}"),
    }
}

/// What to tell of a code that `tokio-socks` does not know: `heard`, all that the proxy has sent, shows whether the
/// code is that of a login method or of a reply, for which the crate has one error.
fn unknown_code(heard: &[u8], to: &HostPort) -> String {
    let reply = match heard {
        [_, method] => {
            return format!(
                "it wants a kind of login that tieline does not speak (method {method} of SOCKS5)"
            );
        }
        // The answer to the login comes before the reply.
        _ if heard.starts_with(&SOCKS_WANTS_LOGIN) => heard.get(5),
        _ => heard.get(3),
    };
    let code = reply.map_or_else(String::new, |code| format!("reply code {code}, "));
    format!("it does not connect to {to}: {code}unknown")
}

/// Authentication schemes that the proxy offers (RFC 9110, section 11.3), in order.
fn schemes(head: &Head) -> Vec<String> {
    let mut schemes: Vec<String> = Vec::new();
    for piece in head
        .values("proxy-authenticate")
        .flat_map(|it| it.split(','))
    {
        let word = piece.split_whitespace().next().unwrap_or_default();
        // The other pieces are parameters of a challenge.
        let is_scheme =
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if is_scheme && !schemes.iter().any(|it| it == word) {
            schemes.push(word.to_owned());
        }
    }
    schemes
}
