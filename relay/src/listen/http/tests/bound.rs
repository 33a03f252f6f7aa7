//! Requests that must reach a certain one of several agents.

use super::*;

const OTHER: AgentTag = AgentTag([9; 8]);

/// A relay whose tunnels may have several agents.
fn shared() -> Relay {
    let relay = Relay::new();
    relay.shard.0.is_shared.set(true);
    relay
}

fn request(method: &str, path: &str, lines: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: r\r\n{lines}Content-Length: 0\r\n\r\n")
}

fn with_session(id: &str) -> String {
    format!("Mcp-Session-Id: {id}\r\n")
}

/// The session id that a caller of `path` receives for the target's `id`.
async fn begin(relay: &mut Relay, path: &str, id: &str) -> String {
    let mut caller = relay.caller();
    caller.send(request("POST", path, "")).await;
    let mut target = relay.target().await;
    target.head().await;
    let answer = format!("HTTP/1.1 200 OK\r\nmcp-session-id: {id}\r\ncontent-length: 0\r\n\r\n");
    target.send(answer).await;
    let head = caller.head().await;
    let line = head
        .lines()
        .find_map(|it| it.strip_prefix("mcp-session-id: "));
    line.unwrap().to_owned()
}

/// The request's head at the target, or the status of the relay's own answer.
async fn goes_on(relay: &mut Relay, request: &str) -> Result<String, String> {
    let mut caller = relay.caller();
    caller.send(request).await;
    tokio::select! {
        biased;
        mut target = relay.target() => {
            let head = target.head().await;
            target.send(OK).await;
            caller.expect(OK).await;
            Ok(head)
        }
        head = caller.head() => {
            let body = caller.until("}").await;
            assert!(body.contains("unknown_session"), "{body}");
            Err(head.split(' ').nth(1).unwrap().to_owned())
        }
    }
}

#[test]
fn a_session_is_known_by_a_name_that_leads_to_its_agent() {
    run(async {
        let mut relay = shared();
        for path in ["/w/maya/mcp", "/dcc/maya/mcp"] {
            let marked = begin(&mut relay, path, "abc.1").await;
            assert_ne!(marked, "abc.1");
            for method in ["GET", "POST", "DELETE"] {
                let next = request(method, path, &with_session(&marked));
                let head = goes_on(&mut relay, &next).await.unwrap();
                assert!(head.contains("\r\nmcp-session-id: abc.1\r\n"), "{head}");
            }
            // The target repeats the id, and the caller gets the same marked id again.
            assert_eq!(begin(&mut relay, path, "abc.1").await, marked);
            relay.shard.0.agent.set(OTHER);
            let next = request("POST", path, &with_session(&marked));
            assert_eq!(goes_on(&mut relay, &next).await, Err("404".to_owned()));
            relay.shard.0.agent.set(AgentTag::default());
        }
    });
}

#[test]
fn a_session_that_the_relay_did_not_name_is_unknown() {
    run(async {
        let mut relay = shared();
        let marked = begin(&mut relay, "/w/maya/mcp", "abc").await;
        for id in ["abc", "", "a.b.c", &marked[1..], &marked.to_uppercase()] {
            for path in ["/w/maya/mcp", "/dcc/maya/mcp"] {
                let next = request("POST", path, &with_session(id));
                let answer = goes_on(&mut relay, &next).await;
                assert_eq!(answer, Err("404".to_owned()), "{id} at {path}");
            }
        }
        // Another run of the relay has another key for its marks.
        let mut other = shared();
        let next = request("POST", "/w/maya/mcp", &with_session(&marked));
        assert_eq!(goes_on(&mut other, &next).await, Err("404".to_owned()));
    });
}

#[test]
fn a_session_of_the_only_agent_keeps_its_own_name() {
    run(async {
        let mut relay = Relay::new();
        assert_eq!(begin(&mut relay, "/w/maya/mcp", "abc").await, "abc");
        for id in ["abc", "a.b.c"] {
            let next = request("POST", "/w/maya/mcp", &with_session(id));
            let head = goes_on(&mut relay, &next).await.unwrap();
            assert!(
                head.contains(&format!("\r\nmcp-session-id: {id}\r\n")),
                "{head}"
            );
        }
        // A request to a kind may reach another tunnel next time, even if there is only one tunnel now.
        assert_ne!(begin(&mut relay, "/dcc/maya/mcp", "abc").await, "abc");
    });
}

#[test]
fn a_session_is_its_callers_alone() {
    run(async {
        let mut relay = shared();
        relay.settings().takes_tokens = true;
        let with_token = |name: &str| format!("Authorization: Bearer {name}\r\n");
        let mut caller = relay.caller();
        caller
            .send(request("POST", "/w/maya/mcp", &with_token("maya")))
            .await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\nmcp-session-id: abc\r\ncontent-length: 0\r\n\r\n")
            .await;
        let head = caller.head().await;
        let marked = head
            .lines()
            .find_map(|it| it.strip_prefix("mcp-session-id: "));
        let session = with_session(marked.unwrap());
        let next = request("POST", "/w/maya/mcp", &(with_token("maya") + &session));
        assert!(goes_on(&mut relay, &next).await.is_ok());
        let next = request("POST", "/w/maya/mcp", &session);
        assert_eq!(goes_on(&mut relay, &next).await, Err("404".to_owned()));
    });
}

/// The URL in the first event that a caller of `path` receives for the target's endpoint `url`.
async fn endpoint(relay: &mut Relay, path: &str, url: &str) -> String {
    let mut caller = relay.caller();
    caller.send(request("GET", path, "")).await;
    let mut target = relay.target().await;
    target.head().await;
    let event = format!("event: endpoint\ndata: {url}\n\n");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    target.send([head, &event].concat()).await;
    caller.head().await;
    let text = caller.until("\n\n").await;
    let line = text.lines().find_map(|it| it.strip_prefix("data: "));
    line.unwrap().to_owned()
}

#[test]
fn an_endpoint_that_callers_may_not_use_by_themselves_is_open_to_who_was_invited() {
    run(async {
        let mut relay = Relay::new();
        "/sse".clone_into(&mut relay.shard.0.base_path.borrow_mut());
        let url = "http://127.0.0.1:8765/messages/?session_id=1";
        let invited = endpoint(&mut relay, "/w/maya/sse", url).await;
        assert!(invited.starts_with("/w/maya/~"), "{invited}");
        assert!(invited.ends_with("/messages/?session_id=1"), "{invited}");
        let head = goes_on(&mut relay, &request("POST", &invited, ""))
            .await
            .unwrap();
        assert!(
            head.starts_with("POST /messages/?session_id=1 HTTP/1.1\r\n"),
            "{head}"
        );
        for (method, path) in [
            ("GET", invited.clone()),
            ("POST", invited.replace("id=1", "id=2")),
            ("POST", invited.replace("/w/maya", "/w/comfy")),
            ("POST", "/w/maya/messages/?session_id=1".to_owned()),
        ] {
            let mut caller = relay.caller();
            caller.send(request(method, &path, "")).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 404 "), "{method} {path}: {head}");
            assert!(!relay.has_opened());
        }
        // A path below the exposed path needs no mark.
        let open = endpoint(&mut relay, "/w/maya/sse", "/sse/messages").await;
        assert_eq!(open, "/w/maya/sse/messages");
    });
}

#[test]
fn an_endpoint_of_one_of_several_agents_leads_to_that_one() {
    run(async {
        let mut relay = shared();
        for (path, start) in [
            ("/w/maya/sse", "/w/maya/~"),
            ("/dcc/maya/sse", "/dcc/maya/maya/~"),
        ] {
            let url = endpoint(&mut relay, path, "messages?id=1").await;
            assert!(url.starts_with(start), "{url}");
            let next = request("POST", &url, "");
            let head = goes_on(&mut relay, &next).await.unwrap();
            assert!(
                head.starts_with("POST /messages?id=1 HTTP/1.1\r\n"),
                "{head}"
            );
            relay.shard.0.agent.set(OTHER);
            assert_eq!(goes_on(&mut relay, &next).await, Err("404".to_owned()));
            relay.shard.0.agent.set(AgentTag::default());
        }
    });
}

#[test]
fn a_mark_for_one_agent_opens_no_door_with_that_for_another() {
    run(async {
        let mut relay = shared();
        let url = endpoint(&mut relay, "/w/maya/sse", "/messages?id=1").await;
        relay.shard.0.agent.set(OTHER);
        let session = begin(&mut relay, "/w/maya/mcp", "1").await;
        let next = request("POST", &url, &with_session(&session));
        let both = goes_on(&mut relay, &next).await;
        assert_eq!(both, Err("404".to_owned()));
    });
}

#[test]
fn a_cookie_of_any_of_a_kind_is_for_that_one_alone() {
    run(async {
        let mut relay = shared();
        for (path, cookie) in [
            ("/dcc/maya/mcp", "a=1; Path=/dcc/maya/maya"),
            ("/w/maya/mcp", "a=1; Path=/w/maya"),
        ] {
            let mut caller = relay.caller();
            caller.send(request("GET", path, "")).await;
            let mut target = relay.target().await;
            target.head().await;
            let head = "HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\ncontent-length: 0\r\n\r\n";
            target.send(head).await;
            let head = caller.head().await;
            assert!(
                head.contains(&format!("set-cookie: {cookie}\r\n")),
                "{head}"
            );
        }
    });
}
