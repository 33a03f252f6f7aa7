//! Dials through an HTTP proxy and a SOCKS5 proxy, which hold the other end of the connection themselves, and the
//! second try of a handshake that was cut.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::address::{HostPort, deadline_in};
use crate::error::{RefusedLogin, UnansweredLogin};

/// First bytes of the server behind a proxy, sent in one piece with the proxy's answer.
const GREETING: &[u8] = b"TLINE";

/// Dials `relay` through the proxy at `scheme` and the address of `listener`.
fn through(listener: &TcpListener, scheme: &str, relay: &str) -> Dialler {
    let proxy = format!("{scheme}{}", listener.local_addr().unwrap());
    let relay = RelayUrl::parse(relay).unwrap();
    Dialler::new(relay, None, &Proxies::parse(&proxy).unwrap()).unwrap()
}

/// Reads the head of a request to a proxy.
async fn request(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Dials `tcp://relay.test:9001` through an HTTP proxy that answers with `answer`; returns the proxy's request, and
/// what became of the dial.
async fn connected(user: &str, answer: &[u8]) -> (String, Result<Stream, Error>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = through(
        &listener,
        &format!("http://{user}"),
        "tcp://relay.test:9001",
    );
    let proxy = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let asked = request(&mut socket).await;
        socket.write_all(answer).await.unwrap();
        asked
    };
    tokio::join!(proxy, dialler.dial_stream())
}

/// Reads as many bytes as [`GREETING`] has, or to the end.
async fn greeting(stream: Stream) -> BytesMut {
    let (mut reads, _writes) = stream.split();
    let mut heard = BytesMut::new();
    while heard.len() < GREETING.len() && reads.read(&mut heard).await.unwrap() > 0 {}
    heard
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_relay_and_the_bytes_behind_its_answer_are_the_relays() {
    let answer = [
        &b"HTTP/1.1 200 Connection established\r\nVia: p\r\n\r\n"[..],
        GREETING,
    ]
    .concat();
    for (user, field) in [
        ("", None),
        (
            "ada:pass%20word@",
            Some("Proxy-Authorization: Basic YWRhOnBhc3Mgd29yZA==\r\n"),
        ),
    ] {
        let (asked, dialled) = connected(user, &answer).await;
        let start = "CONNECT relay.test:9001 HTTP/1.1\r\nHost: relay.test:9001\r\n";
        assert!(asked.starts_with(start), "{asked}");
        match field {
            Some(field) => assert!(asked.contains(field), "{asked}"),
            None => assert!(!asked.contains("Authorization"), "{asked}"),
        }
        let stream = dialled.unwrap();
        // A bulk lane is a connection of its own, which would bypass the proxy.
        assert_eq!(stream.lane_address().unwrap(), None);
        assert_eq!(greeting(stream).await, GREETING);
    }
}

/// An interim answer, the answer and the server's first bytes, in two pieces that are cut anywhere.
#[tokio::test]
async fn the_head_of_a_proxys_answer_may_be_cut_anywhere() {
    let answer = [
        &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nProxy-Agent : p\r\n\r\n"[..],
        GREETING,
    ]
    .concat();
    for cut in 1..answer.len() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialler = through(&listener, "http://", "tcp://relay.test:9001");
        let proxy = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            request(&mut socket).await;
            socket.write_all(&answer[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            socket.write_all(&answer[cut..]).await.unwrap();
            socket
        };
        let (dialled, _socket) = tokio::join!(dialler.dial_stream(), proxy);
        assert_eq!(greeting(dialled.unwrap()).await, GREETING, "{cut}");
    }
}

#[tokio::test]
async fn what_a_proxy_refuses_is_told_in_its_name() {
    let endless = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(9);
    for (answer, words) in [
        (
            &b"HTTP/1.1 407 Login\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n"[..],
            "wants a login with NTLM, Negotiate",
        ),
        (
            b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"p\"\r\n\r\n",
            "wants a user name and password",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "ask its operator"),
        (b"SSH-2.0-x\r\n", "does not speak HTTP"),
        (&endless, "without end"),
        (b"", "closed the connection"),
    ] {
        let (_, dialled) = connected("", answer).await;
        let error = dialled.err().unwrap();
        assert!(matches!(error, Error::Dial { .. }) && !error.is_final());
        let is_login = answer.starts_with(b"HTTP/1.1 407");
        assert_eq!(error.is_refused_login(), is_login, "{error}");
        let message = error.to_string();
        assert!(message.contains(words), "{message}");
        assert!(message.contains("the proxy http://127.0.0.1:"), "{message}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_by_all_the_links_of_an_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = through(&listener, "http://ada:wrong@", "tcp://relay.test:9001");
    let refuses = async {
        let mut open = Vec::new();
        let mut logins = 0;
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            // A dial that waits for the answer of another closes its connection without a byte.
            let mut first = [0; 1];
            open.push(tokio::spawn(async move {
                if socket.read(&mut first).await.is_ok_and(|count| count > 0) {
                    request(&mut socket).await;
                    let answer =
                        b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"p\"\r\n\r\n";
                    socket.write_all(answer).await.unwrap();
                    return 1;
                }
                0
            }));
            if open.len() == 4 {
                for ended in open.drain(..) {
                    logins += ended.await.unwrap();
                }
                return logins;
            }
        }
    };
    let dial = || async { dialler.clone().dial_stream().await.err().unwrap() };
    let links = async { tokio::join!(dial(), dial(), dial(), dial()) };
    let (logins, told) = tokio::join!(refuses, links);
    assert_eq!(logins, 1);
    for error in [told.0, told.1, told.2, told.3, dial().await] {
        assert!(error.is_refused_login(), "{error}");
        let message = error.to_string();
        let words =
            "does not accept the user name and password in its URL; the proxy is asked again";
        assert!(message.contains(words), "{message}");
    }
    // The dial after the others got the remembered refusal, without a connection to the proxy.
    let is_alone = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_pending())).await;
    assert!(is_alone, "a connection came though the login was refused");
}

/// Takes a connection for a proxy of either kind, reads the login `ada:wrong` and lets it in if `accepts`; else ends
/// the connection.
async fn takes_login(listener: &TcpListener, is_socks: bool, accepts: bool) -> Option<TcpStream> {
    let (mut socket, _) = listener.accept().await.unwrap();
    if !is_socks {
        let asked = request(&mut socket).await;
        assert!(asked.contains("Proxy-Authorization: Basic "), "{asked}");
        if accepts {
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        }
        return accepts.then_some(socket);
    }
    socket.read_exact(&mut [0; 4]).await.unwrap();
    socket.write_all(&[5, 2]).await.unwrap();
    socket.read_exact(&mut [0; 11]).await.unwrap();
    if accepts {
        socket.write_all(&[1, 0]).await.unwrap();
        socket.read_exact(&mut [0; 17]).await.unwrap();
        let answer = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        socket.write_all(&answer).await.unwrap();
    }
    accepts.then_some(socket)
}

#[tokio::test]
async fn a_proxy_that_closes_the_connection_after_the_login_is_asked_once() {
    for (scheme, is_socks) in [("http://ada:wrong@", false), ("socks5h://ada:wrong@", true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialler = through(&listener, scheme, "tcp://relay.test:9001");
        let proxy = takes_login(&listener, is_socks, false);
        let (_, dialled) = tokio::join!(proxy, dialler.dial_stream());
        for error in [dialled.err(), dialler.dial_stream().await.err()] {
            let error = error.unwrap();
            assert!(error.is_refused_login(), "{error}");
            let words = "it closed the connection when it was sent the user name and password";
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_accepted_the_login_and_then_closes_the_connection_is_asked_once_more_at_once()
{
    for (scheme, is_socks) in [("http://ada:wrong@", false), ("socks5h://ada:wrong@", true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialler = through(&listener, scheme, "tcp://relay.test:9001");
        for (accepts, is_refused) in [
            (true, false),
            (false, false),
            (true, false),
            (false, false),
            (false, true),
        ] {
            let proxy = takes_login(&listener, is_socks, accepts);
            let (_socket, dialled) = tokio::join!(proxy, dialler.dial_stream());
            assert_eq!(dialled.is_ok(), accepts);
            if let Err(error) = dialled {
                assert_eq!(error.is_refused_login(), is_refused, "{error}");
                let words = match is_refused {
                    true => "closed the connection when it was sent the user name and password",
                    false => "closed the connection in place of an answer",
                };
                assert!(error.to_string().contains(words), "{error}");
            }
        }
        assert!(dialler.way().unwrap().is_barred());
    }
}

/// Takes a connection for an HTTP proxy once `dialler` dials in a task of its own, and reads the request.
async fn asked(
    listener: &TcpListener,
    dialler: &Dialler,
) -> (TcpStream, JoinHandle<Result<Stream, Error>>) {
    let dialler = dialler.clone();
    let dialling = tokio::spawn(async move { dialler.dial_stream().await });
    let (mut socket, _) = listener.accept().await.unwrap();
    request(&mut socket).await;
    (socket, dialling)
}

/// Ready once the proxy on `way` may be asked, or may not.
async fn barred(way: &Way, is_barred: bool) {
    let waiting = async {
        while way.is_barred() != is_barred {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap();
}

#[tokio::test]
async fn a_login_without_an_answer_counts_as_refused_until_a_late_answer_is_another_one() {
    for (answer, is_barred) in [
        ("HTTP/1.1 503 Unreachable\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 407 Login\r\n\r\n", true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialler = through(&listener, "http://ada:wrong@", "tcp://relay.test:9001");
        let (mut socket, dialling) = asked(&listener, &dialler).await;
        tokio::time::pause();
        tokio::time::advance(DIAL_TIMEOUT).await;
        let error = dialling.await.unwrap().err().unwrap();
        tokio::time::resume();
        assert!(error.is_refused_login(), "{error}");
        let words = "no answer in time when it was sent the user name and password";
        assert!(error.to_string().contains(words), "{error}");
        socket.write_all(answer.as_bytes()).await.unwrap();
        if is_barred {
            // The request ends with the answer.
            assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
        }
        barred(&dialler.way().unwrap(), is_barred).await;
    }
}

#[tokio::test]
async fn a_dial_that_ends_before_the_answer_to_its_login_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = HostPort::parse("relay.test:9001", None).unwrap();
    let proxy = format!("http://ada:wrong@{}", listener.local_addr().unwrap());
    let way = Proxies::parse(&proxy).unwrap().way(&to).unwrap();
    // As of a dial that has waited for others: the proxy has more time for its answer.
    let rest = Duration::from_secs(4);
    let dial = way.clone();
    let dialling = tokio::spawn(async move { dial.connect(deadline_in(rest)).await });
    let (mut socket, _) = listener.accept().await.unwrap();
    request(&mut socket).await;
    tokio::time::pause();
    tokio::time::advance(rest).await;
    let error = dialling.await.unwrap().unwrap_err();
    tokio::time::resume();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(UnansweredLogin::of(&error).is_some(), "{error}");
    let words = "no answer in time when it was sent the user name and password";
    assert!(error.to_string().contains(words), "{error}");
    assert!(!way.is_barred(), "the answer may still come");
    // However early its dial has ended, the login has its own time.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(!way.is_barred(), "8 s after the login");
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    barred(&way, true).await;
}

#[tokio::test]
async fn a_dial_that_only_waited_for_the_login_of_another_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = HostPort::parse("relay.test:9001", None).unwrap();
    for (user, words) in [
        (
            "ada:secret@",
            "another login at the proxy was still waiting",
        ),
        ("", "no answer in time"),
    ] {
        let proxy = format!("http://{user}{}", listener.local_addr().unwrap());
        let way = Proxies::parse(&proxy).unwrap().way(&to).unwrap();
        let first = way.clone();
        let dialling = tokio::spawn(async move { first.connect(deadline_in(DIAL_TIMEOUT)).await });
        let (mut socket, _) = listener.accept().await.unwrap();
        request(&mut socket).await;
        let waiting = way.connect(deadline_in(Duration::from_secs(1)));
        let error = waiting.await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains(words), "{error}");
        // The connection of the second dial, which has sent nothing.
        let (mut second, _) = listener.accept().await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0);
        dialling.abort();
    }
}

#[tokio::test]
async fn a_refused_login_is_remembered_though_its_dial_has_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = through(&listener, "http://ada:wrong@", "tcp://relay.test:9001");
    let (mut socket, dialling) = asked(&listener, &dialler).await;
    dialling.abort();
    assert!(dialling.await.is_err_and(|error| error.is_cancelled()));
    let answer = b"HTTP/1.1 407 Login\r\n\r\n";
    socket.write_all(answer).await.unwrap();
    barred(&dialler.way().unwrap(), true).await;
}

#[tokio::test]
async fn an_answer_that_begins_with_407_is_a_refused_login_though_its_head_does_not_end() {
    let long = format!("HTTP/1.1 407 {}", "a".repeat(20_000));
    for answer in ["HTTP/1.1 407", "HTTP/1.0 407 Login\r\nVia: ", &long] {
        for user in ["ada:wrong@", ""] {
            let (_, dialled) = connected(user, answer.as_bytes()).await;
            let error = dialled.err().unwrap();
            assert!(error.is_refused_login(), "{error}");
        }
    }
    // Without an end of the connection either.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = HostPort::parse("relay.test:9001", None).unwrap();
    let proxy = format!("http://ada:wrong@{}", listener.local_addr().unwrap());
    let way = Proxies::parse(&proxy).unwrap().way(&to).unwrap();
    let proxy = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        request(&mut socket).await;
        socket.write_all(b"HTTP/1.1 407 Login\r\n").await.unwrap();
        socket
    };
    let dial = way.connect(deadline_in(Duration::from_secs(1)));
    let (_socket, dialled) = tokio::join!(proxy, dial);
    let error = dialled.unwrap_err();
    assert!(RefusedLogin::of(&error).is_some(), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_cut_or_has_401_or_403_counts_as_a_refused_login() {
    for (answer, is_refused) in [
        ("HTTP/1.1 404 Not Found\r\n\r\n", false),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", false),
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", true),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", true),
        ("HTTP/1.1 502 Bad Gateway\r\nVia", true),
        ("HTTP/1.1 200 Conn", true),
        ("HTTP/1.1 2", true),
        ("\r\n", true),
        ("\x05\x02 407", true),
    ] {
        let (_, dialled) = connected("ada:secret@", answer.as_bytes()).await;
        let error = dialled.err().unwrap();
        assert_eq!(error.is_refused_login(), is_refused, "{answer}: {error}");
    }
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_of_a_proxy_to_the_relay() {
    let server = Server::relay().await;
    let proxy = Proxies::parse(&format!("http://{}", server.listener.local_addr().unwrap()));
    // The certificate is for this name, which no name server is asked for.
    let relay = RelayUrl::parse("tls://relay.test").unwrap();
    let dialler = Dialler::new(relay, Some(&server.ca), &proxy.unwrap()).unwrap();
    let answering = async {
        let (mut socket, _) = server.listener.accept().await.unwrap();
        let asked = request(&mut socket).await;
        assert!(asked.starts_with("CONNECT relay.test:443 "), "{asked}");
        socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        server.shake(socket).await
    };
    let (dialled, _) = tokio::join!(dialler.dial_stream(), answering);
    // The client has seen the certificate, so the handshake went through the proxy.
    let message = tls_problem(dialled);
    assert!(message.contains("another name (localhost)"), "{message}");
}

#[tokio::test]
async fn a_socks_proxy_looks_up_the_relays_name_and_is_given_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = through(&listener, "socks5h://ada:secret@", "tcp://relay.test:9001");
    let proxy = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut methods = [0; 4];
        socket.read_exact(&mut methods).await.unwrap();
        assert_eq!(methods, [5, 2, 0, 2]);
        socket.write_all(&[5, 2]).await.unwrap();
        let mut login = [0; 12];
        socket.read_exact(&mut login).await.unwrap();
        assert_eq!(&login, b"\x01\x03ada\x06secret");
        socket.write_all(&[1, 0]).await.unwrap();
        let mut asked = [0; 17];
        socket.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"\x05\x01\x00\x03\x0arelay.test\x23\x29");
        let answer = [&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], GREETING].concat();
        socket.write_all(&answer).await.unwrap();
        socket
    };
    let (_socket, dialled) = tokio::join!(proxy, dialler.dial_stream());
    assert_eq!(greeting(dialled.unwrap()).await, GREETING);
}

#[tokio::test]
async fn a_socks_proxy_that_refuses_is_told_in_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = through(&listener, "socks5h://", "tcp://relay.test:9001");
    let proxy = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut methods = [0; 3];
        socket.read_exact(&mut methods).await.unwrap();
        socket.write_all(&[5, 0]).await.unwrap();
        let mut asked = [0; 17];
        socket.read_exact(&mut asked).await.unwrap();
        socket
            .write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        socket
    };
    let (_socket, dialled) = tokio::join!(proxy, dialler.dial_stream());
    let message = dialled.err().unwrap().to_string();
    assert!(
        message.contains("the proxy socks5h://127.0.0.1:"),
        "{message}"
    );
    assert!(message.contains("not allowed by ruleset"), "{message}");
}

/// A middlebox that drops long hellos: it cuts the first connection, and lets the second pass.
#[tokio::test]
async fn a_handshake_that_is_cut_is_tried_once_more_with_a_shorter_hello() {
    let server = Server::relay().await;
    let trust = Trust::read(Some(&server.ca)).unwrap();
    if trust.short_client_config(AGENTS).unwrap().is_none() {
        return; // The library for cryptography in this build has no ML-KEM.
    }
    let dialler = dialler(&server.listener, Some(&server.ca));
    let accepting = async {
        let (mut first, _) = server.listener.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        let long = first.read(&mut hello).await.unwrap();
        drop(first);
        let (second, _) = server.listener.accept().await.unwrap();
        let short = second.peek(&mut hello).await.unwrap();
        assert!(short < 1_000 && short < long, "{short} bytes after {long}");
        server.shake(second).await.unwrap()
    };
    let (dialled, _wire) = tokio::join!(dialler.dial_stream(), accepting);
    let details = dialled.unwrap().tls_details().unwrap();
    assert!(!details.group.unwrap().contains("MLKEM"));

    // The next dial, of a clone too, begins with the hello that got through, until that is cut as well.
    let dialler = dialler.clone();
    let cutting = async {
        let (mut only, _) = server.listener.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        only.read(&mut hello).await.unwrap()
    };
    let (dialled, short) = tokio::join!(dialler.dial_stream(), cutting);
    tls_problem(dialled);
    assert!(short < 1_000, "{short} bytes");
    let accepting = async {
        let (usual, _) = server.listener.accept().await.unwrap();
        server.shake(usual).await.unwrap()
    };
    let (dialled, _wire) = tokio::join!(dialler.dial_stream(), accepting);
    let details = dialled.unwrap().tls_details().unwrap();
    assert!(details.group.unwrap().contains("MLKEM"));
}

/// A handshake that fails after the server's first byte is not tried again: the long hello has reached the server.
#[tokio::test]
async fn a_handshake_that_is_cut_in_mid_answer_is_not_tried_again() {
    let server = Server::relay().await;
    let dialler = dialler(&server.listener, Some(&server.ca));
    let answering = async {
        let (mut socket, _) = server.listener.accept().await.unwrap();
        // Reads the hello first: closing with unread bytes would reset the connection.
        let mut hello = [0; 4096];
        assert_ne!(socket.read(&mut hello).await.unwrap(), 0);
        // The header of a record with a handshake message.
        socket.write_all(b"\x16\x03\x03\x00\x7a").await.unwrap();
    };
    let (dialled, ()) = tokio::join!(dialler.dial_stream(), answering);
    tls_problem(dialled);
    let is_alone = poll_fn(|cx| Poll::Ready(server.listener.poll_accept(cx).is_pending())).await;
    assert!(is_alone, "a second connection came");
}
