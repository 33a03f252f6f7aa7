//! What answers of proxies, whole and cut, say about the login, and the words for them.

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
        let problem = Problem::of_socks(&error, &[], &to("relay:1"), has_user);
        assert!(problem.text.contains(words), "{}", problem.text);
        assert_eq!(problem.verdict, Verdict::Refused, "{}", problem.text);
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
        let problem = Problem::of_socks(&error, &[], &to("relay:1"), has_user);
        assert!(problem.text.contains(words), "{}", problem.text);
        assert_eq!(problem.verdict, Verdict::Open, "{}", problem.text);
    }
}

#[test]
fn a_socks_proxy_that_closes_the_connection_after_the_login_did_not_accept_it() {
    for (kind, heard, is_login) in [
        (io::ErrorKind::UnexpectedEof, &[5, 2][..], true),
        (io::ErrorKind::ConnectionReset, &[5, 2, 1], true),
        (io::ErrorKind::UnexpectedEof, &[], false),
        (io::ErrorKind::UnexpectedEof, &[5, 0], false),
        (io::ErrorKind::UnexpectedEof, &[5, 2, 1, 0], false),
    ] {
        let error = tokio_socks::Error::Io(kind.into());
        let problem = Problem::of_socks(&error, heard, &to("relay:1"), true);
        let expected = is_login.then_some((Failure::Unanswered, CLOSES_AT_LOGIN));
        assert_eq!(problem.login_failure(), expected, "{kind} {heard:?}");
    }
}

#[test]
fn a_socks_proxy_that_does_not_answer_the_login_counts_as_refusing_it() {
    let broken = || tokio_socks::Error::InvalidResponseVersion;
    for (heard, has_user, verdict) in [
        (&[5, 0][..], true, Verdict::Open),
        (&[], true, Verdict::Open),
        (&[5, 2], true, Verdict::Unanswered),
        (&[5, 2, 1], true, Verdict::Unanswered),
        (&[5, 2, 7, 0], true, Verdict::Unanswered),
        (&[5, 2, 1, 0], true, Verdict::Accepted),
        (&[5, 2, 1, 0, 5, 4, 0, 1], true, Verdict::Accepted),
        (&[5, 2], false, Verdict::Open),
    ] {
        let late = Problem::of_late_socks(heard, has_user);
        let other = Problem::of_socks(&broken(), heard, &to("relay:1"), has_user);
        assert_eq!(late.verdict, verdict, "{heard:?}");
        assert_eq!(other.verdict, verdict, "{heard:?}");
        let is_unanswered = verdict == Verdict::Unanswered;
        let words = if is_unanswered { LATE_AT_LOGIN } else { LATE };
        assert_eq!(late.text(), words, "{heard:?}");
        assert_eq!(late.accepts_login(), verdict == Verdict::Accepted);
        assert_eq!(late.login_failure().is_some(), is_unanswered, "{heard:?}");
    }
}

#[test]
fn an_http_proxy_that_does_not_answer_the_login_counts_as_refusing_it() {
    let ended = || NoAnswer::of(&io::ErrorKind::UnexpectedEof.into());
    let reset = || NoAnswer::of(&io::ErrorKind::ConnectionReset.into());
    let wrong = || NoAnswer::from("it does not speak HTTP".to_owned());
    let cut = "HTTP/1.1 200 Connection";
    for (why, heard, verdict) in [
        (ended(), "", Verdict::Ended),
        (reset(), "", Verdict::Ended),
        (ended(), "\r\n", Verdict::Ended),
        (wrong(), "", Verdict::Unanswered),
        (ended(), "HTTP/1.1 2", Verdict::Unanswered),
        (reset(), "HTTP/1.1 +20 ", Verdict::Unanswered),
        (ended(), "HTTP/1.1 102 Wait\r\n", Verdict::Unanswered),
        (ended(), cut, Verdict::Unanswered),
        (ended(), "HTTP/1.1 503 Away\r\nVia: p", Verdict::Unanswered),
        (wrong(), cut, Verdict::Unanswered),
        (wrong(), "SSH-2.0-x\r\n", Verdict::Unanswered),
        (wrong(), "HTTP/1.1 102 Wait\r\n\r\n", Verdict::Unanswered),
    ] {
        let is_end = why.is_end;
        let text = match is_end && verdict == Verdict::Unanswered {
            true => CLOSES_IN_ANSWER.to_owned(),
            false => why.text.clone(),
        };
        let problem = Problem::of_no_head(why, heard.as_bytes(), true);
        assert_eq!((problem.text(), problem.verdict), (&*text, verdict));
        let expected = match verdict {
            Verdict::Ended => Some((Failure::Unanswered, CLOSES_AT_LOGIN)),
            Verdict::Unanswered => Some((Failure::Unanswered, &*text)),
            _ => None,
        };
        assert_eq!(problem.login_failure(), expected, "{heard}");
        let why = NoAnswer { text, is_end };
        let without = Problem::of_no_head(why, heard.as_bytes(), false);
        assert_eq!(without.login_failure(), None, "{heard}");
    }
    for (heard, has_user, words) in [
        ("", true, LATE_AT_LOGIN),
        ("\r\n", true, LATE_AT_LOGIN),
        ("HTTP/1.1 4", true, LATE_AT_LOGIN),
        ("HTTP/1.1 502 Bad\r\n", true, LATE_AT_LOGIN),
        (cut, true, LATE_AT_LOGIN),
        (cut, false, LATE),
        ("", false, LATE),
    ] {
        let late = Problem::of_late_http(heard.as_bytes(), has_user);
        assert_eq!(late.text(), words, "{heard}");
        let is_failure = late.login_failure().is_some();
        assert_eq!(is_failure, words == LATE_AT_LOGIN, "{heard}");
    }
}

#[test]
fn a_status_line_of_407_is_a_refused_login_whatever_follows() {
    for (heard, is_login) in [
        ("HTTP/1.1 407", true),
        ("HTTP/1.0 407 aaaaaaaa", true),
        ("\r\nHTTP/1.1 407 Login\r\nVia", true),
        ("HTTP/1.1 4070", false),
        ("HTTP/1.1 40", false),
        ("HTTP/1.1 403 407", false),
        ("HTTP/1.x 407", false),
        ("407", false),
    ] {
        let problem = Problem::of_late_http(heard.as_bytes(), true);
        let refused = problem.login_failure() == Some((Failure::Refused, NOT_ACCEPTED));
        assert_eq!(refused, is_login, "{heard}");
        let problem = Problem::of_late_http(heard.as_bytes(), false);
        assert_eq!(problem.login_failure().is_some(), is_login, "{heard}");
    }
}

#[test]
fn an_unknown_code_of_a_socks_proxy_is_shown() {
    for (heard, words) in [
        (&[5, 1][..], "method 1 of SOCKS5"),
        (&[5, 0, 5, 99, 0, 1], "relay:1: reply code 99, unknown"),
        (
            &[5, 2, 1, 0, 5, 99, 0, 1],
            "relay:1: reply code 99, unknown",
        ),
    ] {
        let error = tokio_socks::Error::UnknownAuthMethod;
        let problem = Problem::of_socks(&error, heard, &to("relay:1"), true);
        assert!(problem.text.contains(words), "{}", problem.text);
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
            head("403 ada:secret"),
            443,
            true,
            "relay:443 (403 Forbidden): it may refuse the user name",
        ),
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
        assert!(!text.contains("secret"), "{text}");
    }
    // A proxy may name any number of schemes.
    let schemes: Vec<_> = (0..1000).map(|number| format!("Scheme-{number}")).collect();
    let many = login(&format!("Proxy-Authenticate: {}", schemes.join(", ")));
    let text = refusal(&many, &to("relay:443"), false);
    assert!(text.contains("Scheme-0, ") && text.len() < 1000, "{text}");
}

#[test]
fn an_answer_with_401_or_403_refuses_a_login_that_was_sent() {
    for (status, has_user, verdict) in [
        (401, true, Verdict::Refused),
        (403, true, Verdict::Refused),
        (407, true, Verdict::Refused),
        (401, false, Verdict::Open),
        (403, false, Verdict::Open),
        (407, false, Verdict::Refused),
        (302, true, Verdict::Open),
        (404, true, Verdict::Open),
        (502, true, Verdict::Open),
    ] {
        let text = format!("HTTP/1.1 {status} x\r\n\r\n");
        let (head, _) = Head::parse(text.as_bytes()).unwrap().unwrap();
        let problem = Problem::of_http(&head, &to("relay:443"), has_user);
        assert_eq!(problem.verdict, verdict, "{status} {has_user}");
    }
}
