use std::time::Instant;

use super::*;

fn question(dcc: &str) -> Question {
    Question {
        place: None,
        shard: 0,
        link: 1,
        tunnel: TunnelId::parse("maya-1").unwrap(),
        register: Arc::new(register(Some("maya-1"), dcc, "s3cret")),
        is_renewal: false,
        asked_at: Instant::now(),
    }
}

fn ruling(status: u16, body: &str) -> Ruling {
    question("maya").ruling(status, body.as_bytes(), NOW)
}

#[test]
fn a_question_names_token_and_tunnel_and_shows_no_token_to_a_log() {
    let body: serde_json::Value = serde_json::from_slice(&question("").body()).unwrap();
    let wanted = serde_json::json!({ "token": "s3cret", "subdomain": "maya-1" });
    assert_eq!(body, wanted);
    assert!(!format!("{:?}", question("")).contains("s3cret"));
}

#[test]
fn a_yes_covers_what_it_names() {
    let plain = ruling(200, r#"{"subdomains":["nuke","maya-*"]}"#);
    let nobodys = Ruling::Allowed {
        identity: None,
        expires_at_seconds: None,
    };
    assert_eq!(plain, nobodys);
    let more = r#"{"subdomains":["*"],"owner":"ada","dcc":["maya"],"expires_in":60,
        "groups":["fx"],"shared":true,"more":1}"#;
    let Ruling::Allowed {
        identity,
        expires_at_seconds,
    } = ruling(200, more)
    else {
        panic!("{more}")
    };
    let identity = identity.unwrap();
    assert_eq!((identity.sub(), identity.shared), ("ada", true));
    assert_eq!(identity.owner.groups, ["fx"]);
    assert_eq!(expires_at_seconds, Some(NOW + 60));
    // Groups without an owner are ignored.
    let groups = ruling(200, r#"{"subdomains":["*"],"groups":["fx"],"shared":true}"#);
    assert_eq!(groups, nobodys);
    let for_ever = format!(r#"{{"subdomains":["*"],"expires_in":{}}}"#, u64::MAX);
    assert!(matches!(
        ruling(200, &for_ever),
        Ruling::Allowed {
            expires_at_seconds: Some(u64::MAX),
            ..
        }
    ));
}

#[test]
fn a_no_is_final_and_anything_else_is_worth_another_try() {
    let denied = |status, body: &str| match ruling(status, body) {
        Ruling::Denied(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    for (status, body, reason) in [
        (401, r#"{"error":"unknown"}"#, RefusalReason::BadToken),
        (403, r#"{"error":"gone","more":1}"#, RefusalReason::BadToken),
        (200, r#"{"subdomains":[]}"#, RefusalReason::NameNotAllowed),
        (
            200,
            r#"{"subdomains":["maya"]}"#,
            RefusalReason::NameNotAllowed,
        ),
        (
            200,
            r#"{"subdomains":["*"],"dcc":["nuke"]}"#,
            RefusalReason::DccNotAllowed,
        ),
    ] {
        let refusal = denied(status, body);
        assert_eq!(refusal.reason, reason, "{body}");
        assert!(refusal.reason.is_final());
    }
    let refusal = denied(
        403,
        &format!(r#"{{"error":"gone\nhome{}"}}"#, "x".repeat(900)),
    );
    assert!(refusal.message.starts_with("gonehomexx") && refusal.message.len() == 200);
    let many = format!(r#"{{"subdomains":["*"],"owner":"{}"}}"#, "x".repeat(300));
    for (status, body) in [
        // Answers of a proxy in front of the provider.
        (401, ""),
        (403, "<html>"),
        (200, ""),
        (200, "[]"),
        (200, "{}"),
        (200, r#"{"subdomains":"*"}"#),
        (200, r#"{"subdomains":["*"],"expires_in":-1}"#),
        (200, &many),
        (204, ""),
        (302, ""),
        (404, ""),
        (429, ""),
        (500, r#"{"subdomains":["*"]}"#),
    ] {
        let ruling = ruling(status, body);
        assert!(
            matches!(ruling, Ruling::Unavailable(_)),
            "{status} {body:.60}"
        );
    }
}
