//! A relay that gives prepared answers, and what a caller is told of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// A relay that gives these answers, one after the other, and tells what it was asked.
async fn relay(answers: &'static [(&str, &str)]) -> (Relay, JoinHandle<Vec<String>>) {
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
    let args = ListArgs {
        relay: format!("http://{address}"),
        token_file: None,
        ca: None,
        json: false,
    };
    let relay = Relay {
        authorization: Some(HeaderValue::from_static("Bearer t")),
        ..Relay::of(&args).unwrap()
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
    let rows = relay.rows().await.unwrap();
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
    let answers = &[("200 OK", ROWS), ("200 OK", ROWS), ("401 U", "{}")];
    let (relay, _serving) = relay(answers).await;
    let origin = relay.origin.to_string();
    assert_eq!(is_known(&origin, "Maya-1").await, Known::Yes);
    let others = Known::No(vec!["maya-1".to_owned()]);
    assert_eq!(is_known(&origin, "nuke").await, others);
    let Known::Unsure(why) = is_known(&origin, "nuke").await else {
        panic!("it was not told")
    };
    assert!(why.contains("token holders only"), "{why}");
}

#[tokio::test]
async fn the_best_url_of_the_host_that_was_asked_is_shown() {
    let args = |relay: &str| ListArgs {
        relay: relay.to_owned(),
        token_file: None,
        ca: None,
        json: false,
    };
    let told = Told {
        tunnel_id: "maya".to_owned(),
        dcc: String::new(),
        capabilities: Vec::new(),
        online: true,
        path: "/w/maya/mcp".to_owned(),
        urls: vec![
            "https://maya.r.example/mcp".to_owned(),
            "https://r.example/w/maya/mcp".to_owned(),
        ],
        target_scheme: "http".to_owned(),
    };
    let url = |relay: &str| Relay::of(&args(relay)).unwrap().url_of(&told);
    assert_eq!(url("http://R.example:9080"), "https://maya.r.example/mcp");
    let proxy = "http://localhost:51822";
    assert_eq!(url(proxy), format!("{proxy}/w/maya/mcp"));
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    for (status, body, said) in [
        (
            "401 U",
            r#"{"message":"no token"}"#,
            "no token; your token goes",
        ),
        ("404 N", "", "tells nobody"),
        ("200 OK", "<html>", "no relay that lists"),
        ("503 S", "{}", "503 Service Unavailable: it gives no reason"),
    ] {
        let answers: &'static [(&str, &str)] = vec![(status, body)].leak();
        let (relay, _serving) = relay(answers).await;
        let problem = relay.rows().await.unwrap_err().text;
        assert!(problem.contains(said), "{problem}");
    }
}
