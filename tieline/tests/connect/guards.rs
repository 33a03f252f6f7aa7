//! Tests of which callers may use the proxy, and of its limits.

use std::time::Duration;

use tieline::connect::{CONNECTIONS_MAX, Connect, ConnectError};

use crate::rig::{Proxy, Relay, pass, soon};

fn request(headers: &str) -> String {
    format!("POST /w/x/mcp HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n")
}

#[tokio::test(flavor = "local")]
async fn a_page_that_gave_its_name_this_address_gets_no_further() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    for (headers, status, word) in [
        ("Host: evil.example\r\n", 421, "host_refused"),
        (
            "Host: localhost\r\nOrigin: https://evil.example\r\n",
            403,
            "origin_refused",
        ),
        ("Host: localhost\r\nOrigin: null\r\n", 403, "origin_refused"),
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
            403,
            "origin_refused",
        ),
    ] {
        let mut caller = proxy.caller().await;
        caller.send(&request(headers)).await;
        let (head, body) = relay.is_not_dialled_during(caller.json()).await;
        assert!(
            head.start().contains(&status.to_string()),
            "{}",
            head.start()
        );
        assert_eq!(body["error"], word);
        assert!(head.values("access-control-allow-origin").is_empty());
    }
}

#[tokio::test(flavor = "local")]
async fn a_link_in_a_page_of_this_machine_reaches_the_relay_as_from_no_page() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    let fields = "Host: localhost\r\nSec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate\r\n";
    caller.send(&request(fields)).await;
    let head = relay.accept().await.head().await;
    assert!(head.values("sec-fetch-site").is_empty());
    assert!(head.values("sec-fetch-mode").is_empty());
}

#[tokio::test(flavor = "local")]
async fn a_page_that_was_let_in_may_ask_and_read() {
    let relay = Relay::bind().await;
    let origin = "https://app.example";
    let proxy = Proxy::start_with(&relay.url(), |c| c.with_allowed_origin(origin).unwrap()).await;
    let mut caller = proxy.caller().await;
    caller
        .send(&format!(
            "OPTIONS /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type,mcp-session-id\r\n\r\n"
        ))
        .await;
    let head = relay.is_not_dialled_during(caller.head()).await;
    assert_eq!(head.start(), "HTTP/1.1 204 No Content");
    assert_eq!(head.value("access-control-allow-origin"), origin);
    assert_eq!(head.value("access-control-allow-methods"), "POST");
    assert_eq!(
        head.value("access-control-allow-headers"),
        "content-type,mcp-session-id"
    );
    caller
        .send(&request(&format!(
            "Host: localhost\r\nOrigin: {origin}\r\nSec-Fetch-Site: cross-site\r\n\
             Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-User: ?1\r\n"
        )))
        .await;
    let mut target = relay.accept().await;
    let head = target.head().await;
    for name in [
        "origin",
        "sec-fetch-site",
        "sec-fetch-mode",
        "sec-fetch-dest",
        "sec-fetch-user",
    ] {
        assert!(head.values(name).is_empty(), "{name}");
    }
    target
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    let head = caller.head().await;
    assert_eq!(head.value("access-control-allow-origin"), origin);
    assert!(
        head.value("access-control-expose-headers")
            .contains("Mcp-Session-Id")
    );
}

#[tokio::test(flavor = "local")]
async fn a_request_that_does_not_name_one_host_is_malformed() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        let mut caller = proxy.caller().await;
        caller.send(&request(hosts)).await;
        let (head, body) = relay.is_not_dialled_during(caller.json()).await;
        assert_eq!(head.start(), "HTTP/1.1 400 Bad Request");
        assert_eq!(body["error"], "bad_request");
    }
}

#[tokio::test(flavor = "local")]
async fn a_head_without_end_is_refused() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    let long = format!("Host: localhost\r\nX-Long: {}\r\n", "x".repeat(300_000));
    caller.send(&request(&long)).await;
    assert_eq!(
        caller.head().await.start(),
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
}

#[tokio::test(flavor = "local")]
async fn a_head_with_two_readings_is_refused_before_its_end() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    for lines in [
        "Host: localhost\n",
        "Host: localhost\r\nContent-Length: 0\r\nContent-Length:",
        "Host: localhost\r\nContent-Length: 0\r\nTransfer-Encoding:",
        "Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length:",
    ] {
        let mut caller = proxy.caller().await;
        caller
            .send(&format!("POST /w/x/mcp HTTP/1.1\r\n{lines}"))
            .await;
        let head = relay.is_not_dialled_during(caller.head()).await;
        assert_eq!(head.start(), "HTTP/1.1 400 Bad Request", "{lines:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn connections_beyond_the_limit_are_told_so() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        callers.push(proxy.caller().await);
    }
    let mut further = proxy.caller().await;
    let (head, body) = further.json().await;
    assert_eq!(head.start(), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body["error"], "too_many_connections");
    drop(callers);
    // A place becomes free once the proxy has seen the caller leave.
    soon(async {
        loop {
            let mut caller = proxy.caller().await;
            caller.send(&request("Host: evil.example\r\n")).await;
            if caller.head().await.start().contains("421") {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_port_that_is_taken_is_told_as_such() {
    let relay = Relay::bind().await;
    let taken = relay.address().to_string();
    let connect = Connect::new(&relay.url()).unwrap();
    let connect = connect.with_listen(&taken, false).unwrap();
    let error = soon(connect.run(std::future::pending())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Taken { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test(flavor = "local")]
async fn a_connection_on_which_nothing_is_asked_ends() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller.send(&request("Host: evil.example\r\n")).await;
    let (_, body) = caller.json().await;
    assert_eq!(body["error"], "host_refused");
    // A head that begins and never ends does not keep the connection either.
    caller.send("GET / HTTP/1.1\r\nX-Slow: ").await;
    pass(Duration::from_secs(61)).await;
    caller.gone().await;
}

#[tokio::test(flavor = "local")]
async fn localhost_is_an_address_in_each_family() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start_with(&relay.url(), |c| {
        c.with_listen("localhost:0", false).unwrap()
    })
    .await;
    let port = proxy.address.port();
    let has_both = tokio::net::TcpListener::bind("[::1]:0").await.is_ok();
    for address in ["127.0.0.1", "[::1]"] {
        if address == "[::1]" && !has_both {
            continue;
        }
        let stream = tokio::net::TcpStream::connect(format!("{address}:{port}")).await;
        let mut caller = crate::rig::Peer::new(stream.unwrap());
        caller.send(&request("Host: evil.example\r\n")).await;
        let head = caller.head().await;
        assert!(head.start().contains("421"), "{address} {}", head.start());
    }
    // A second proxy must not take one family alone: the other would lead to another program.
    let listen = format!("localhost:{port}");
    let second = Connect::new(&relay.url())
        .unwrap()
        .with_listen(&listen, false)
        .unwrap();
    let taken = second.run(std::future::pending()).await.unwrap_err();
    assert!(matches!(taken, ConnectError::Taken { .. }), "{taken}");
}

#[tokio::test(flavor = "local")]
async fn a_host_that_was_allowed_is_answered() {
    let relay = Relay::bind().await;
    let name = "host.docker.internal";
    let proxy = Proxy::start_with(&relay.url(), |c| c.with_allowed_host(name).unwrap()).await;
    let mut caller = proxy.caller().await;
    caller
        .send(&request(&format!("Host: {name}:51822\r\n")))
        .await;
    let mut target = relay.accept().await;
    assert_eq!(
        target.head().await.value("host"),
        relay.address().to_string()
    );
    target
        .send("HTTP/1.1 307 T\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(caller.head().await.start().contains("307"));
}
