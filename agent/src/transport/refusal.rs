//! What it means that a proxy opens no connection, in words that say what to do.

use std::io;

use super::head::{Head, shown};
use crate::address::HostPort;

/// Status of a proxy that wants a login (RFC 9110, section 15.5.8).
const LOGIN_REQUIRED: u16 = 407;

/// Why a proxy opened no connection.
pub(super) struct Problem {
    /// What is wrong, and what to do about it.
    pub(super) text: String,
    /// Whether the proxy did not accept the login, or wants one and was given none.
    pub(super) wants_login: bool,
}

impl Problem {
    /// From the answer of an HTTP proxy that does not connect to `to`; `has_user` is true if it was given a user name and
    /// password.
    pub(super) fn of_http(head: &Head, to: &HostPort, has_user: bool) -> Self {
        Self {
            text: refusal(head, to, has_user),
            wants_login: head.status == LOGIN_REQUIRED,
        }
    }

    /// From the failure of a SOCKS proxy to connect to `to`; `has_user` is true if it was given a user name and password.
    pub(super) fn of_socks(error: &tokio_socks::Error, to: &HostPort, has_user: bool) -> Self {
        use tokio_socks::Error;

        Self {
            text: socks_problem(error, to, has_user),
            wants_login: matches!(
                error,
                Error::PasswordAuthFailure(_)
                    | Error::NoAcceptableAuthMethods
                    | Error::AuthorizationRequired
            ),
        }
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self {
            text,
            wants_login: false,
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
        true => "it does not accept the user name and password in its URL".to_owned(),
        false => "it wants a user name and password: write them into its URL, http://USER:PASSWORD@HOST:PORT (--proxy, \
                  TIELINE_PROXY or HTTPS_PROXY)"
            .to_owned(),
    }
}

/// What the failure of a SOCKS proxy to connect to `to` means; `has_user` is true if it was given a user name and password.
fn socks_problem(error: &tokio_socks::Error, to: &HostPort, has_user: bool) -> String {
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
        Error::PasswordAuthFailure(_) => {
            "it does not accept the user name and password in its URL".to_owned()
        }
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
        other => format!("it does not connect to {to}: {other}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> HostPort {
        HostPort::parse(text, None).unwrap()
    }

    #[test]
    fn what_a_socks_proxy_refuses_is_told_with_what_to_do() {
        use tokio_socks::Error;

        for (error, has_user, words) in [
            (Error::NoAcceptableAuthMethods, false, "USER:PASSWORD@"),
            (Error::NoAcceptableAuthMethods, true, "takes no login"),
            (Error::AuthorizationRequired, false, "USER:PASSWORD@"),
            (Error::PasswordAuthFailure(1), true, "does not accept the"),
        ] {
            let problem = Problem::of_socks(&error, &to("relay:1"), has_user);
            assert!(problem.text.contains(words), "{}", problem.text);
            assert!(problem.wants_login, "{}", problem.text);
        }
        for (error, has_user, words) in [
            (Error::InvalidAuthValues("password"), true, "1 to 255"),
            (Error::InvalidResponseVersion, false, "(http://)?"),
            (Error::AddressTypeNotSupported, false, "socks5h://"),
            (Error::HostUnreachable, false, "connect to relay:1: Host"),
            (
                Error::Io(io::ErrorKind::UnexpectedEof.into()),
                false,
                "closed the connection",
            ),
        ] {
            let problem = Problem::of_socks(&error, &to("relay:1"), has_user);
            assert!(problem.text.contains(words), "{}", problem.text);
            assert!(!problem.wants_login, "{}", problem.text);
        }
    }

    #[test]
    fn a_refusal_is_told_with_what_to_do() {
        let head = |text: &str| {
            let whole = format!("HTTP/1.1 {text}\r\n\r\n");
            Head::parse(whole.as_bytes()).unwrap().unwrap().0
        };
        let login = |challenges: &str| head(&format!("407 Login\r\n{challenges}"));
        for (head, port, has_user, words) in [
            (
                login("Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate"),
                443,
                false,
                "with NTLM, Negotiate, which",
            ),
            (
                login("Proxy-Authenticate: Negotiate abc=, NTLM"),
                443,
                true,
                "with Negotiate, NTLM, which",
            ),
            (
                login("Proxy-Authenticate: Digest realm=\"a, b\", nonce=\"c\""),
                443,
                false,
                "with Digest, which",
            ),
            (login("Via: x"), 443, false, "does not name"),
            (
                login("Proxy-Authenticate: NTLM, basic realm=\"p\""),
                443,
                false,
                "USER:PASSWORD@",
            ),
            (
                login("Proxy-Authenticate: Basic realm=\"p\""),
                443,
                true,
                "does not accept the user name",
            ),
            (
                head("403 Forbidden"),
                9001,
                false,
                "relay:9001 (403 Forbidden): ask its operator to allow that, and many",
            ),
            (head("403 Forbidden"), 443, false, "allow that"),
            (
                head("500 Internal Server Error"),
                443,
                false,
                "relay:443 (500 Internal Server Error): it may not know the name",
            ),
            (
                head("504 Gateway Timeout"),
                443,
                false,
                "cannot reach relay:443 (504",
            ),
        ] {
            let text = refusal(&head, &to(&format!("relay:{port}")), has_user);
            assert!(text.contains(words), "{text}");
        }
        // A proxy may name any number of schemes.
        let schemes: Vec<_> = (0..1000).map(|number| format!("Scheme-{number}")).collect();
        let many = login(&format!("Proxy-Authenticate: {}", schemes.join(", ")));
        let text = refusal(&many, &to("relay:443"), false);
        assert!(text.contains("Scheme-0, ") && text.len() < 1000, "{text}");
    }
}
