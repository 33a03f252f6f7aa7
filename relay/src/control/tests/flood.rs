//! Tests with more silent or idle admin connections than there are places.

use super::*;
use crate::config::Secret;

/// Connections opened: several times the number of places.
const FLOOD: usize = 500;

const PATIENCE: Duration = Duration::from_secs(2);

fn connections(control: &Control, bytes: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(control.addresses()[0]).unwrap();
        // The relay may have closed the connection already.
        let _ = stream.write_all(bytes);
        stream
    };
    (0..FLOOD).map(connect).collect()
}

fn with_token(token: Option<&str>) -> Control {
    let config = Config {
        admin_token: token.map(|token| Secret::new(token.into())),
        ..Config::default()
    };
    start_with(that_answer(usize::MAX, 1), &config).0
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out() {
    for token in [None, Some("sixteen-letters-and-more")] {
        let control = with_token(token);
        let shown = token.map_or(String::new(), |it| {
            format!("Authorization: Bearer {it}\r\n")
        });
        // Silent, with half a head, or kept alive after a request without a token.
        for bytes in [
            &b""[..],
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ] {
            let _flood = connections(&control, bytes);
            let began = Instant::now();
            let ask = format!(
                "GET /healthz HTTP/1.1\r\n{shown}Host: localhost\r\nConnection: close\r\n\r\n"
            );
            assert_eq!(exchange(&control, &ask).0, 200);
            let body = r#"{"sub":"eve"}"#;
            let revoke = format!(
                "POST /revoke HTTP/1.1\r\n{shown}Host: localhost\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            assert_eq!(exchange(&control, &revoke).0, 200);
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        }
    }
}

#[test]
fn heads_and_bodies_that_do_not_come_end_their_connection() {
    let control = with_token(None);
    let began = Instant::now();
    let mut head = TcpStream::connect(control.addresses()[0]).unwrap();
    head.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    let body = "POST /revoke HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{";
    let (status, _, text) = exchange(&control, body);
    assert_eq!(status, 408, "{text}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    head.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // The connection was closed before, with or without an answer.
    head.read_to_end(&mut Vec::new()).unwrap();
}
