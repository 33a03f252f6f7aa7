//! What a caller learns from a relay that gives prepared answers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// A relay that gives `answers` in order; its task returns the requests that it received.
async fn relay(answers: &'static [(&str, &str)]) -> (RelayHttp, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            asked.push(String::from_utf8(request).unwrap());
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + body).as_bytes()).await.unwrap();
        }
        asked
    });
    let relay = RelayHttp {
        authorization: Some(HeaderValue::from_static("Bearer t")),
        ..RelayHttp::at(&format!("http://{address}"), None, &Proxies::Never).unwrap()
    };
    (relay, serving)
}

#[tokio::test]
async fn every_page_is_asked_for_with_the_token() {
    const FIRST: &str = r#"{"tunnels":[{"tunnel_id":"comfy","dcc":"","capabilities":[],
        "online":false,"path":"/w/comfy","target_scheme":"tcp"}],"next":"comfy"}"#;
    const SECOND: &str = r#"{"tunnels":[{"tunnel_id":"maya-1","dcc":"maya","capabilities":["x"],
        "online":true,"path":"/w/maya-1/mcp","target_scheme":"http","more":1}],"next":null}"#;
    let (relay, serving) = relay(&[("200 OK", FIRST), ("200 OK", SECOND)]).await;
    let rows = relay.tunnels().await.unwrap();
    assert_eq!(
        (rows.len(), &rows[0].url, rows[0].online),
        (2, &None, false)
    );
    let url = format!("{}/w/maya-1/mcp", relay.origin);
    assert_eq!((&rows[1].url, rows[1].online), (&Some(url), true));
    let asked = serving.await.unwrap();
    assert!(
        asked[0].starts_with("GET /tunnels?limit=1000 HTTP/1.1\r\n"),
        "{asked:?}"
    );
    assert!(
        asked[1].starts_with("GET /tunnels?limit=1000&after=comfy HTTP/1.1\r\n"),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .all(|it| it.contains("authorization: Bearer t\r\n"))
    );
}

#[tokio::test]
async fn a_tunnel_is_known_unknown_or_not_to_be_told() {
    const ROWS: &str = r#"[{"tunnel_id":"maya-1","dcc":"maya","capabilities":[],
        "online":true,"path":"/w/maya-1/mcp","target_scheme":"http"}]"#;
    const DENIED: &str = r#"{"error":"unauthorized","message":"no token"}"#;
    let answers = &[("200 OK", ROWS), ("200 OK", ROWS), ("401 U", DENIED)];
    let (relay, _serving) = relay(answers).await;
    let relay = RelayHttp {
        authorization: None,
        ..relay
    };
    let Listed::Yes(row) = relay.knows("Maya-1").await else {
        panic!("the relay lists maya-1")
    };
    assert_eq!(row.url, Some(format!("{}/w/maya-1/mcp", relay.origin)));
    let others = Listed::No(vec!["maya-1".to_owned()]);
    assert_eq!(relay.knows("nuke").await, others);
    let Listed::Unsure(why) = relay.knows("nuke").await else {
        panic!("a relay that refuses the list does not say whether nuke exists")
    };
    assert!(why.contains("token holders only"), "{why}");
}

#[tokio::test]
async fn the_best_url_of_the_host_that_was_asked_is_shown() {
    let mut told = ListedTunnel {
        tunnel_id: "maya".to_owned(),
        dcc: String::new(),
        capabilities: Vec::new(),
        online: true,
        path: "/w/maya/mcp".to_owned(),
        urls: vec![
            "https://maya.r.example/mcp".to_owned(),
            "https://r.example/w/maya/mcp".to_owned(),
            "http://localhost:9080/w/maya/mcp".to_owned(),
        ],
        target_scheme: "http".to_owned(),
        url: None,
    };
    let url = |relay: &str| {
        RelayHttp::at(relay, None, &Proxies::Never)
            .unwrap()
            .url_of(&told)
            .unwrap()
    };
    assert_eq!(url("https://R.example"), "https://maya.r.example/mcp");
    assert_eq!(
        url("http://localhost:9080"),
        "http://localhost:9080/w/maya/mcp"
    );
    // A proxy on the relay's own host has another port, and adds the token, so callers use its URL.
    for elsewhere in ["http://localhost:51822", "http://r.example:9080"] {
        assert_eq!(url(elsewhere), format!("{elsewhere}/w/maya/mcp"));
    }
    told.target_scheme = "tcp".to_owned();
    let relay = RelayHttp::at("https://r.example", None, &Proxies::Never).unwrap();
    assert_eq!(relay.url_of(&told), None);
}

#[tokio::test]
async fn a_refusal_names_the_thing_and_the_remedy() {
    for (status, body, why, words) in [
        (
            "401 U",
            r#"{"error":"invalid_token","message":"the token has expired"}"#,
            ListErrorKind::BadToken,
            "the token has expired: tieline token show FILE",
        ),
        (
            "403 F",
            r#"{"error":"insufficient_scope","message":"x"}"#,
            ListErrorKind::NoScope,
            "not for callers: ask the relay's operator for one with the scope caller",
        ),
        (
            "404 N",
            r#"{"error":"not_found","message":"x"}"#,
            ListErrorKind::Hidden,
            "does not list its tunnels",
        ),
        ("404 N", "<html>", ListErrorKind::NoRelay, "9080"),
        ("401 U", "", ListErrorKind::NoRelay, "9080"),
        ("405 M", "<html>", ListErrorKind::NoRelay, "9080"),
        ("302 F", "", ListErrorKind::NoRelay, "9080"),
        (
            "200 OK",
            "<html>",
            ListErrorKind::NoRelay,
            "not a relay that lists tunnels",
        ),
        (
            "200 OK",
            r#"{"tunnels":[],"total":0,"next":null}"#,
            ListErrorKind::AdminPort,
            "the relay's admin port",
        ),
        (
            "401 U",
            r#"{"error":"unauthorized","message":"the token of admin_token_file"}"#,
            ListErrorKind::AdminPort,
            "the relay's admin port",
        ),
        (
            "503 S",
            "{}",
            ListErrorKind::Other,
            "503 Service Unavailable and gives no reason",
        ),
    ] {
        let answers: &'static [(&str, &str)] = vec![(status, body)].leak();
        let (relay, _serving) = relay(answers).await;
        let problem = relay.tunnels().await.unwrap_err();
        assert_eq!(problem.why, why, "{}", problem.text);
        assert!(problem.text.contains(words), "{}", problem.text);
        assert!(
            problem.text.starts_with(&relay.origin.to_string()),
            "{}",
            problem.text
        );
    }
}

#[tokio::test]
async fn a_port_that_is_not_the_relays_http_port_is_named() {
    for (answer, why, words) in [
        ("", ListErrorKind::NoRelay, "ports for agents (9001)"),
        (
            "SSH-2.0-x\r\n",
            ListErrorKind::NoRelay,
            "does not speak HTTP",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let relay = RelayHttp::at(&format!("http://{address}"), None, &Proxies::Never).unwrap();
        let problem = relay.look().await.unwrap_err();
        assert_eq!(problem.why, why, "{}", problem.text);
        assert!(
            problem.text.contains(words) && problem.text.contains("9080"),
            "{}",
            problem.text
        );
    }
}
