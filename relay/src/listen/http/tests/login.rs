//! Login at a target that is its own authorization server.

use serde_json::{Value, json};

use super::*;

const METADATA: &str = "/.well-known/oauth-authorization-server";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: relay.example\r\n\r\n")
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nETag: \"1\"\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// The document that a caller of `path` receives, if the target has `document` only at `place`.
async fn document(relay: &mut Relay, path: &str, place: &str, document: &Value) -> Value {
    let mut caller = relay.caller();
    caller.send(get(path)).await;
    loop {
        let mut target = relay.target().await;
        let head = target.head().await;
        let requested = head.split(' ').nth(1).unwrap().to_owned();
        if requested != place {
            target.send(answer("404 Not Found", "{}")).await;
            continue;
        }
        target.send(answer("200 OK", &document.to_string())).await;
        break;
    }
    let head = caller.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split('\r').next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    caller.io().read_exact(&mut body).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn relay() -> Relay {
    let relay = Relay::new();
    "/mcp".clone_into(&mut relay.shard.0.base_path.borrow_mut());
    relay
}

#[test]
fn metadata_is_found_where_a_target_has_it() {
    run(async {
        let known = "/.well-known/oauth-protected-resource";
        let theirs = json!({"resource": "http://127.0.0.1:8765/mcp", "scopes": ["a"],
            "authorization_servers": ["http://localhost:8765", "https://login.example/"]});
        let public = json!({"resource": "http://relay.example/w/maya/mcp", "scopes": ["a"],
            "authorization_servers": ["http://relay.example/w/maya", "https://login.example/"]});
        for place in ["/mcp", "/w/maya/mcp", ""] {
            let mut relay = relay();
            let place = format!("{known}{place}");
            let path = format!("{known}/w/maya/mcp");
            assert_eq!(document(&mut relay, &path, &place, &theirs).await, public);
        }
        let mut relay = relay();
        let path = format!("{METADATA}/w/maya/");
        let public = json!({"issuer": "http://relay.example/w/maya/"});
        assert_eq!(document(&mut relay, &path, METADATA, &public).await, public);
    });
}

#[test]
fn metadata_that_is_nowhere_is_answered_by_the_first_place() {
    run(async {
        let mut relay = relay();
        let mut caller = relay.caller();
        caller.send(get(&format!("{METADATA}/w/maya"))).await;
        for (status, place) in [("401 Unauthorized", ""), ("404 Not Found", "/w/maya")] {
            let mut target = relay.target().await;
            let head = target.head().await;
            assert!(
                head.starts_with(&format!("GET {METADATA}{place} HTTP")),
                "{head}"
            );
            target.send(answer(status, "{}")).await;
            std::mem::forget(target);
        }
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    });
}

/// Path of the token endpoint in the metadata of a target with the issuer `issuer`.
async fn endpoint(relay: &mut Relay, issuer: &str) -> String {
    let theirs = json!({"issuer": issuer, "token_endpoint": format!("{issuer}/token")});
    let public = document(relay, &format!("{METADATA}/w/maya"), METADATA, &theirs).await;
    assert_eq!(public["issuer"], "http://relay.example/w/maya");
    let endpoint = public["token_endpoint"].as_str().unwrap();
    let path = endpoint.strip_prefix("http://relay.example").unwrap();
    assert!(
        path.starts_with("/w/maya/~") && path.ends_with("/token"),
        "{path}"
    );
    path.to_owned()
}

const RESOURCE: &str = "resource=http%3A%2F%2Frelay.example%2Fw%2Fmaya%2Fmcp";

#[test]
fn what_a_client_says_of_the_resource_is_told_in_the_targets_words() {
    run(async {
        for (issuer, resource) in [
            (
                "http://localhost:8765",
                "resource=http%3A%2F%2Flocalhost%3A8765%2Fmcp",
            ),
            (
                "http://relay.example",
                "resource=http%3A%2F%2Frelay.example%2Fmcp",
            ),
            ("http://relay.example/w/maya", RESOURCE),
        ] {
            let mut relay = relay();
            let path = endpoint(&mut relay, issuer).await;
            let mut caller = relay.caller();
            caller
                .send(get(&format!("{path}?a=%20b&{RESOURCE}&c")))
                .await;
            let mut target = relay.target().await;
            let head = target.head().await;
            let expected = format!("GET /token?a=%20b&{resource}&c HTTP/1.1\r\n");
            assert!(head.starts_with(&expected), "{head}");
            let iss = "iss=http%3A%2F%2Frelay.example%2Fw%2Fmaya";
            let issuer = issuer.replace(':', "%3A").replace('/', "%2F");
            target
                .send(format!(
                    "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/callback?code=1&iss={issuer}#x\r\n\
                     Content-Length: 0\r\n\r\n"
                ))
                .await;
            let head = caller.head().await;
            let location = format!("location: http://127.0.0.1:1/callback?code=1&{iss}#x\r\n");
            assert!(head.contains(&location), "{head}");

            let form = format!("grant_type=authorization_code&{RESOURCE}");
            let length = form.len();
            let mut caller = relay.caller();
            caller
                .send(format!(
                    "POST {path} HTTP/1.1\r\nHost: relay.example\r\nContent-Length: {length}\r\n\
                     Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
                ))
                .await;
            let mut target = relay.target().await;
            let head = target.head().await;
            let expected = format!("grant_type=authorization_code&{resource}");
            let line = format!("content-length: {}\r\n", expected.len());
            assert!(head.contains(&line), "{head}");
            target.expect(expected).await;
            target.send(OK).await;
            caller.expect(OK).await;
        }
    });
}

#[test]
fn a_marked_endpoint_opens_that_path_and_no_other() {
    run(async {
        let mut relay = relay();
        let path = endpoint(&mut relay, "http://127.0.0.1:8765").await;
        let origin = path.rsplit('/').nth(1).unwrap();
        for path in [
            path.replace("/token", "/admin"),
            path.replace("/token", "/token/../admin"),
            path.replace("/w/maya/", "/w/comfy/"),
            path.replace(origin, "=aHR0cDovL2V2aWw"),
            "/w/maya/token".to_owned(),
        ] {
            let mut caller = relay.caller();
            caller.send(get(&path)).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 404 "), "{path} {head}");
            assert!(!relay.has_opened());
        }
    });
}

#[test]
fn metadata_without_an_end_is_refused() {
    run(async {
        let mut relay = relay();
        let mut caller = relay.caller();
        caller.send(get(&format!("{METADATA}/w/maya"))).await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
        tokio::task::spawn_local(async move {
            for _ in 0..9 {
                let _ = target.io().write_all(chunk.as_bytes()).await;
            }
            std::future::pending::<()>().await;
        });
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    });
}
