//! Names by which the agent of a program tells callers apart.

use super::*;

const FROM: &str = "192.0.2.7:40000";

/// A relay whose targets are programs.
fn relay() -> Relay {
    let relay = Relay::new();
    relay.shard.0.is_stdio.set(true);
    relay
}

fn request(tunnel: &str, lines: &str) -> String {
    format!("GET /w/{tunnel}/mcp HTTP/1.1\r\nHost: relay.example\r\n{lines}\r\n")
}

/// The callers' names in a request's head at its target.
fn names_in(head: &str) -> Vec<String> {
    let lines = head.lines();
    let names = lines.filter_map(|line| line.strip_prefix("tieline-caller: "));
    names.map(str::to_owned).collect()
}

/// The names of the caller that sends `request` from `address`.
async fn names(relay: &mut Relay, address: &str, request: &str) -> Vec<String> {
    relay.peer.source = Source::Peer(address.parse().unwrap());
    let mut caller = relay.caller();
    caller.send(request).await;
    let mut target = relay.target().await;
    let head = target.head().await;
    target.send(OK).await;
    caller.expect(OK).await;
    assert!(!head.contains("forged"), "{head}");
    names_in(&head)
}

/// The only name of the caller that sends `request` from `address`.
async fn name(relay: &mut Relay, address: &str, request: &str) -> String {
    let names = names(relay, address, request).await;
    assert_eq!(names.len(), 1, "{names:?}");
    let name = &names[0];
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    assert!(name.len() == 32 && name.bytes().all(is_digit), "{name}");
    name.clone()
}

#[test]
fn a_token_holder_has_one_name_from_everywhere_and_two_have_two() {
    run(async {
        let mut relay = relay();
        relay.settings().takes_tokens = true;
        relay.shard.0.wants_tokens.set(true);
        let of = |subject: &str| request("maya", &format!("Authorization: Bearer {subject}\r\n"));
        let ada = name(&mut relay, FROM, &of("maya/ada")).await;
        assert_eq!(
            ada,
            name(&mut relay, "198.51.100.9:1", &of("maya/ada")).await
        );
        assert_ne!(ada, name(&mut relay, FROM, &of("maya/bob")).await);
    });
}

#[test]
fn without_tokens_each_address_is_a_caller() {
    run(async {
        let mut relay = relay();
        let plain = request("maya", "");
        let first = name(&mut relay, FROM, &plain).await;
        for (address, is_same) in [
            ("192.0.2.7:1", true),
            ("[::ffff:192.0.2.7]:1", true),
            ("192.0.2.8:40000", false),
            ("[2001:db8::7]:40000", false),
        ] {
            let other = name(&mut relay, address, &plain).await;
            assert_eq!(other == first, is_same, "{address}");
        }
        // One machine may have any address of its /64.
        let near = name(&mut relay, "[2001:db8::7]:1", &plain).await;
        assert_eq!(near, name(&mut relay, "[2001:db8::8:9]:1", &plain).await);
        assert_ne!(near, name(&mut relay, "[2001:db8:0:1::7]:1", &plain).await);
    });
}

#[test]
fn a_caller_has_another_name_at_each_tunnel() {
    run(async {
        let mut relay = relay();
        let maya = name(&mut relay, FROM, &request("maya", "")).await;
        let comfy = name(&mut relay, FROM, &request("comfy", "")).await;
        assert_ne!(maya, comfy);
    });
}

#[test]
fn no_caller_names_itself() {
    run(async {
        let mut relay = relay();
        let own = name(&mut relay, FROM, &request("maya", "")).await;
        let forged =
            "Tieline-Caller: forged\r\ntieline-caller: forged\r\nTieline_Caller: forged\r\n";
        let forged = request("maya", forged);
        assert_eq!(name(&mut relay, FROM, &forged).await, own);
        // A trusted proxy names no callers either.
        relay.settings().trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
        assert_eq!(name(&mut relay, FROM, &forged).await, own);
        relay.shard.0.is_stdio.set(false);
        for request in [request("maya", ""), forged] {
            assert!(
                names(&mut relay, FROM, &request).await.is_empty(),
                "{request}"
            );
        }
    });
}

#[test]
fn callers_behind_one_proxy_have_their_own_names_on_one_connection() {
    run(async {
        let mut relay = relay();
        relay.settings().trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
        let of = |address: &str| request("maya", &format!("X-Forwarded-For: {address}\r\n"));
        let mut caller = relay.caller();
        caller.send(of("198.51.100.1")).await;
        let mut target = relay.target().await;
        let mut found = Vec::new();
        for next in ["198.51.100.2", "198.51.100.1", "198.51.100.1"] {
            found.push(names_in(&target.head().await));
            target.send(OK).await;
            caller.expect(OK).await;
            caller.send(of(next)).await;
        }
        assert_eq!(found[0].len(), 1);
        assert_eq!(found[1].len(), 1);
        assert_ne!(found[0], found[1]);
        assert_eq!(found[0], found[2]);
    });
}

#[test]
fn a_request_that_is_sent_again_has_the_name_where_it_arrives() {
    run(async {
        let mut named = relay();
        let own = name(&mut named, FROM, &request("maya", "")).await;
        for (was_stdio, is_stdio, expected) in [
            (false, true, vec![own.clone()]),
            (true, false, vec![]),
            (true, true, vec![own]),
        ] {
            let mut relay = relay();
            relay.shard.0.is_stdio.set(was_stdio);
            relay.shard.0.becomes_stdio.set(Some(is_stdio));
            relay.set("maya", Opens::Once(SessionEnd::LinkLost, Generation(2)));
            let found = names(&mut relay, FROM, &request("maya", "")).await;
            assert_eq!(found, expected, "{was_stdio} {is_stdio}");
        }
    });
}
