use super::*;
use crate::config::Secret;

fn fake() -> (Fake, Arc<Mutex<Vec<Arc<Snapshot>>>>) {
    let fake = that_answer(0, 0);
    let admitted = Arc::clone(&fake.admitted);
    (fake, admitted)
}

/// Posts `body` as JSON; returns status and answer.
fn post(control: &Control, extra: &str, body: &str) -> (u16, String) {
    let host = control.addresses()[0];
    let length = body.len();
    let head = format!(
        "POST /revoke HTTP/1.0\r\nHost: {host}\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
    );
    let (status, _, body) = exchange(control, &head);
    (status, body)
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn what_is_revoked_reaches_every_shard_and_the_answer_counts_the_links() {
    let (fake, admitted) = fake();
    let (control, _) = start(fake);
    for (body, jti, sub) in [
        (r#"{"jti":"7"}"#, Some("7"), None),
        (r#"{"sub":"ada"}"#, None, Some("ada")),
    ] {
        let (status, answer) = post(&control, JSON, body);
        assert_eq!(
            (status, answer.as_str()),
            (200, r#"{"kept_for_seconds":86400,"links_ended":3}"#)
        );
        let latest = admitted.lock().unwrap().last().unwrap().clone();
        assert!(latest.denied.names(jti, sub, None), "{body}");
    }
    let key = tieline_wire::AgentKey::new([0xab; 32]);
    let shown = format!("{key:?}");
    let (status, _) = post(&control, JSON, &format!(r#"{{"key":"{shown}"}}"#));
    assert_eq!(status, 200);
    let all = admitted.lock().unwrap().clone();
    assert!(all.last().unwrap().denied.names(None, None, Some(&key)));
    // Earlier revocations are kept, and every snapshot has a new generation.
    assert_eq!(all.last().unwrap().denied.len(), 3);
    let generations: Vec<_> = all.iter().map(|it| it.generation).collect();
    assert_eq!(generations, [1, 2, 3]);
}

#[test]
fn a_revocation_of_another_form_is_refused_in_one_line() {
    let (fake, admitted) = fake();
    let (control, _) = start(fake);
    for (extra, body, wanted) in [
        (JSON, "", 400),
        (JSON, "{}", 400),
        (JSON, r#"{"jti":""}"#, 400),
        (JSON, r#"{"jti":"1","sub":"ada"}"#, 400),
        (JSON, r#"{"jti":1}"#, 400),
        (JSON, r#"{"key":"ab"}"#, 400),
        (JSON, r#"{"name":"x"}"#, 400),
        (JSON, &format!(r#"{{"sub":"{}"}}"#, "x".repeat(300)), 400),
        (JSON, &format!(r#"{{"sub":"{}"}}"#, "x".repeat(5000)), 400),
        // Content types that a form on another site's page could send.
        ("", r#"{"sub":"ada"}"#, 415),
        ("Content-Type: text/plain\r\n", r#"{"sub":"ada"}"#, 415),
    ] {
        let (status, answer) = post(&control, extra, body);
        assert_eq!(status, wanted, "{body:.40}: {answer}");
    }
    let (status, head, _) = get(&control, "/revoke");
    assert_eq!(status, 405);
    assert!(head.contains("allow: post"), "{head}");
    assert!(admitted.lock().unwrap().is_empty());
}

#[test]
fn with_a_token_every_page_wants_it() {
    let (fake, _) = fake();
    let config = Config {
        admin_token: Some(Secret::new("a-token-for-operators".to_owned())),
        ..Config::default()
    };
    let (control, _) = start_with(fake, &config);
    for path in ["/healthz", "/metrics", "/tunnels", "/revoke", "/other"] {
        for header in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Bearer a-token-for-operator\r\n",
            "Authorization: Basic a-token-for-operators\r\n",
            "Authorization: a-token-for-operators\r\n",
        ] {
            let host = control.addresses()[0];
            let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{header}\r\n");
            let (status, head, _) = exchange(&control, &request);
            assert_eq!(status, 401, "{path} {header}");
            assert!(head.contains("www-authenticate: bearer"), "{head}");
        }
    }
    let good = "Authorization: bearer a-token-for-operators\r\n";
    let host = control.addresses()[0];
    let request = format!("GET /healthz HTTP/1.0\r\nHost: {host}\r\n{good}\r\n");
    assert_eq!(exchange(&control, &request).0, 200);
    let (status, _) = post(&control, &format!("{JSON}{good}"), r#"{"sub":"ada"}"#);
    assert_eq!(status, 200);
}

#[test]
fn where_others_can_reach_it_nothing_is_revoked_without_a_token() {
    let (fake, admitted) = fake();
    let config = Config {
        admin_listen: vec!["0.0.0.0:0".parse().unwrap()],
        ..Config::default()
    };
    let (control, _) = start_with(fake, &config);
    let (status, answer) = post(&control, JSON, r#"{"sub":"ada"}"#);
    assert_eq!(status, 403);
    assert!(answer.contains("admin_token_file"), "{answer}");
    assert!(admitted.lock().unwrap().is_empty());
}
