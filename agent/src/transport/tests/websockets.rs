//! Links over WebSockets: the handshake with a scripted front of a relay, and the stream above it.

use tieline_transport::websocket::handshake::accept_value;
use tieline_transport::websocket::{Role, WebSocket, code};

use super::super::head::HEAD_BYTES_MAX;
use super::*;

/// Reads the request for a WebSocket; returns its head.
async fn request(wire: &Wire) -> String {
    let mut head = BytesMut::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(wire.read(&mut head, 4096).await.unwrap(), 0);
    }
    String::from_utf8(head.to_vec()).unwrap()
}

/// The answer of a relay to `request`.
fn answer(request: &str) -> String {
    let mut lines = request.lines();
    let key = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: tieline.v1\r\n\r\n",
        accept_value(key.unwrap().as_bytes())
    )
}

/// Takes the WebSocket that is asked for over `wire`, as a relay.
async fn taken(wire: Wire) -> Stream {
    let asked = request(&wire).await;
    assert!(asked.starts_with("GET /agent HTTP/1.1\r\n"), "{asked}");
    wire.write_all(answer(&asked).as_bytes()).await.unwrap();
    Stream::over_websocket(wire, Role::Server, BytesMut::new())
}

/// A dialler over `ws` to the server behind `listener`.
fn plain(listener: &TcpListener) -> Dialler {
    let relay = format!("ws://{}", listener.local_addr().unwrap());
    Dialler::new(RelayUrl::parse(&relay).unwrap(), None, &Proxies::Never).unwrap()
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn accepted(listener: &TcpListener) -> Wire {
    let (socket, _) = listener.accept().await.unwrap();
    Wire::Plain(TcpSocket::new(socket))
}

/// Both ends of a link over `ws`.
async fn connected() -> (Stream, Stream) {
    let listener = bind().await;
    let dialler = plain(&listener);
    let accepting = async { taken(accepted(&listener).await).await };
    let (near, far) = tokio::join!(dialler.dial_stream(), accepting);
    (near.unwrap(), far)
}

/// Both ends of a link over `https`.
async fn connected_over_tls() -> (Stream, Stream) {
    let server = Server::bind("localhost", b"http/1.1").await;
    let port = server.listener.local_addr().unwrap().port();
    let relay = RelayUrl::parse(&format!("https://localhost:{port}")).unwrap();
    let dialler = Dialler::new(relay, Some(&server.ca), &Proxies::Never).unwrap();
    let accepting = async {
        let (socket, _) = server.listener.accept().await.unwrap();
        taken(server.shake(socket).await.unwrap()).await
    };
    let (near, far) = tokio::join!(dialler.dial_stream(), accepting);
    (near.unwrap(), far)
}

/// Sends `bytes` in one direction, and checks that they arrive.
async fn pass(writes: &Writes, reads: &mut Reads, bytes: &[u8]) {
    let sending = async {
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = rest.len().min(100_000);
            let (one, other) = rest[..size].split_at(size / 3);
            let slices = [IoSlice::new(one), IoSlice::new(other)];
            rest = &rest[writes.send_vectored(&slices).await.unwrap()..];
        }
    };
    let receiving = async {
        let mut heard = BytesMut::new();
        while heard.len() < bytes.len() {
            heard.reserve(20_000);
            assert_ne!(reads.read(&mut heard).await.unwrap(), 0);
        }
        assert!(heard == bytes[..], "other bytes arrived");
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn bytes_pass_both_ways_over_a_websocket_with_tls_and_without() {
    for is_secure in [false, true] {
        let (near, far) = match is_secure {
            true => connected_over_tls().await,
            false => connected().await,
        };
        assert_eq!(near.tls_details().is_some(), is_secure);
        assert_eq!(near.lane_address().unwrap(), None);
        assert!(near.is_websocket());
        let ((mut near_reads, near_writes), (mut far_reads, far_writes)) =
            (near.split(), far.split());
        pass(&near_writes, &mut far_reads, &noise(300_000, 1)).await;
        pass(&far_writes, &mut near_reads, &noise(300_000, 2)).await;
        pass(&near_writes, &mut far_reads, b"x").await;
    }
}

#[tokio::test]
async fn a_websocket_ends_with_its_own_end_or_was_cut() {
    for connecting in [false, true] {
        let (near, far) = match connecting {
            true => connected_over_tls().await,
            false => connected().await,
        };
        let ((mut reads, writes), (mut far_reads, far_writes)) = (near.split(), far.split());
        let mut buffer = BytesMut::new();
        reads.end_sending().await;
        assert_eq!(far_reads.read(&mut buffer).await.unwrap(), 0);
        // The answer to the Close frame is the relay's own.
        assert_eq!(reads.read(&mut buffer).await.unwrap(), 0);
        drop((reads, writes, far_reads, far_writes));
    }
    let (near, far) = connected().await;
    let (mut reads, _writes) = near.split();
    drop(far);
    let mut buffer = BytesMut::new();
    let cut = reads.read(&mut buffer).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    assert!(cut.to_string().contains("a WebSocket's own end"), "{cut}");
}

#[tokio::test]
async fn a_close_code_that_is_no_end_in_order_is_told_with_its_reason() {
    let listener = bind().await;
    let dialler = plain(&listener);
    let closing = async {
        let wire = accepted(&listener).await;
        let asked = request(&wire).await;
        wire.write_all(answer(&asked).as_bytes()).await.unwrap();
        let mut websocket = WebSocket::new(Role::Server);
        let reason = "too many links";
        std::future::poll_fn(|cx| websocket.poll_close(&wire, cx, code::TRY_AGAIN, reason)).await;
        wire
    };
    let (dialled, _wire) = tokio::join!(dialler.dial_stream(), closing);
    let (mut reads, _writes) = dialled.unwrap().split();
    let error = reads.read(&mut BytesMut::new()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("1013") && text.contains("too many links"),
        "{text}"
    );
}

/// The first bytes of the link may come in one piece with the handshake, and the handshake in many.
#[tokio::test]
async fn an_answer_opens_the_websocket_wherever_it_is_cut() {
    // A binary message of three bytes.
    const MESSAGE: &[u8] = b"\x82\x03abc";
    let len = answer("Sec-WebSocket-Key: x").len();
    for cut in (0..=len + MESSAGE.len()).step_by(7).chain([len, len + 1]) {
        let listener = bind().await;
        let dialler = plain(&listener);
        let answering = async {
            let wire = accepted(&listener).await;
            let asked = request(&wire).await;
            let whole = [answer(&asked).as_bytes(), MESSAGE].concat();
            wire.socket().set_nodelay(true).unwrap();
            wire.write_all(&whole[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            wire.write_all(&whole[cut..]).await.unwrap();
            wire
        };
        let (dialled, _wire) = tokio::join!(dialler.dial_stream(), answering);
        let (mut reads, _writes) = dialled.unwrap().split();
        let mut heard = BytesMut::new();
        while heard.len() < 3 {
            assert_ne!(reads.read(&mut heard).await.unwrap(), 0, "{cut}");
        }
        assert_eq!(heard, &b"abc"[..], "{cut}");
    }
}

/// Servers in front of a relay may send hints (103) before its answer.
#[tokio::test]
async fn interim_answers_in_front_of_the_last_one_are_skipped_up_to_a_limit() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for (hints, is_opened) in [(1, true), (8, true), (9, false)] {
        let listener = bind().await;
        let dialler = plain(&listener);
        let answering = async {
            let wire = accepted(&listener).await;
            let asked = request(&wire).await;
            let whole = HINT.repeat(hints) + &answer(&asked);
            wire.write_all(whole.as_bytes()).await.unwrap();
            wire
        };
        let (dialled, _wire) = tokio::join!(dialler.dial_stream(), answering);
        assert_eq!(dialled.is_ok(), is_opened, "{hints}");
    }
}

/// The message of a dial whose request for a WebSocket is answered with `answer`.
async fn refused(answer: &[u8]) -> String {
    let listener = bind().await;
    let dialler = plain(&listener);
    let answering = async {
        let wire = accepted(&listener).await;
        request(&wire).await;
        // An error is ignored: the agent may close before it has read the whole answer.
        let _ = wire.write_all(answer).await;
    };
    let (dialled, ()) = tokio::join!(dialler.dial_stream(), answering);
    let error = dialled.err().unwrap();
    assert!(matches!(error, Error::Upgrade { .. }), "{error}");
    assert!(!error.is_final() && error.word() == "relay_websocket");
    error.to_string()
}

#[tokio::test]
async fn what_answers_in_place_of_a_relay_is_told() {
    let endless = [&b"HTTP/1.1 200 OK\r\nA: "[..], &[b'x'; HEAD_BYTES_MAX]].concat();
    let broken = "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n{\"message\":\"no";
    for (answer, words) in [
        (
            &b"HTTP/1.1 302 Found\r\nLocation: http://portal.hotel/\r\n\r\n"[..],
            "leads to portal.hotel",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            "captive portal",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "not a Tieline relay",
        ),
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\n{\"message\":\"not you\"}",
            "403 Forbidden: not you",
        ),
        (broken.as_bytes(), "403 Forbidden"),
        (b"TLINE\r\n\x01", "dial tcp://127.0.0.1:"),
        (b"SSH-2.0-x\r\n", "an SSH server"),
        (b"", "closed the connection; dial wss://"),
        (b"HTTP/1.1 101 Swi", "in mid-answer"),
        (&endless, "too long"),
    ] {
        let message = refused(answer).await;
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_request_is_given_up() {
    let listener = bind().await;
    let dialler = plain(&listener);
    let connected = dialler.connect().await.unwrap();
    let secured = dialler.secure(connected).await.unwrap();
    // From here on tokio's clock jumps forward whenever all tasks wait.
    tokio::time::pause();
    let error = dialler.finish(secured).await.err().unwrap();
    assert!(error.to_string().contains("no answer in time"), "{error}");
}
