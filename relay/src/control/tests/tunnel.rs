use super::*;

const JSON: &str = "Content-Type: application/json\r\n";

fn fake() -> (Fake, Arc<Mutex<Vec<Arc<Paused>>>>) {
    let fake = Fake {
        tunnels: [vec!["maya".to_owned()], vec!["maya".to_owned()]],
        ..Fake::default()
    };
    let paused = Arc::clone(&fake.paused);
    (fake, paused)
}

fn post(control: &Control, path: &str, extra: &str, body: &str) -> (u16, Value) {
    let host = control.addresses()[0];
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {host}\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
    );
    let (status, _, body) = exchange(control, &head);
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn one_tunnel_is_shown_with_its_callers_and_how_many_there_are() {
    let (control, _) = start(fake().0);
    let (status, shown) = get_json(&control, "/tunnels/MAYA");
    assert_eq!(status, 200);
    assert_eq!(shown["tunnel_id"], "maya");
    assert_eq!(
        (&shown["links"], &shown["bytes_to_frontend"]),
        (&Value::from(2), &Value::from(16))
    );
    assert_eq!(shown["callers_total"], 2);
    let ada = serde_json::json!([{
        "sub": "ada", "address": "192.0.2.7", "kind": "http", "since_ms_ago": 9,
        "bytes_to_target": 10, "bytes_to_frontend": 11, "shard": 0,
    }]);
    assert_eq!(shown["callers"], ada);
    for path in ["/tunnels/nuke", "/tunnels/no_name"] {
        let (status, error) = get_json(&control, path);
        assert_eq!(
            (status, &error["error"]),
            (404, &Value::from("unknown_tunnel"))
        );
    }
}

#[test]
fn a_kick_says_what_it_ended() {
    let (control, _) = start(fake().0);
    let (status, answer) = post(&control, "/tunnels/maya/kick", JSON, "{}");
    let wanted = serde_json::json!({"links_ended": 2, "sessions_ended": 4});
    assert_eq!((status, answer), (200, wanted));
    let (status, _) = post(&control, "/tunnels/nuke/kick", JSON, "{}");
    assert_eq!(status, 404);
}

#[test]
fn a_name_without_an_agent_is_shown_and_can_be_unbound() {
    let (fake, _) = fake();
    fake.absent.lock().unwrap().push("seat".to_owned());
    let (control, _) = start(fake);
    let (status, shown) = get_json(&control, "/tunnels/seat");
    assert_eq!((status, &shown["links"]), (200, &Value::from(0)));
    let bound = serde_json::json!({
        "sub": "ada", "agent": "0102030405ab", "shared": false, "kept_for_seconds": 60,
    });
    assert_eq!(shown["bound"], bound);
    let (status, error) = post(&control, "/tunnels/seat/kick", JSON, "{}");
    assert_eq!(
        (status, &error["error"]),
        (409, &Value::from("tunnel_absent"))
    );
    let text = error["message"].as_str().unwrap();
    assert!(text.contains("POST /tunnels/seat/forget"), "{text}");
    let forget = |name: &str| {
        let (status, answer) = post(&control, &format!("/tunnels/{name}/forget"), JSON, "{}");
        let word = answer["error"].as_str().unwrap_or_default().to_owned();
        (status, word)
    };
    assert_eq!(forget("Seat"), (200, String::new()));
    assert_eq!(forget("seat"), (404, "unknown_tunnel".to_owned()));
    assert_eq!(get_json(&control, "/tunnels/seat").0, 404);
    assert_eq!(forget("maya"), (409, "tunnel_live".to_owned()));
}

#[test]
fn every_shard_hears_of_all_that_is_paused() {
    let (fake, paused) = fake();
    let (control, _) = start(fake);
    let (status, answer) = post(&control, "/tunnels/maya/pause", JSON, "{}");
    let wanted = serde_json::json!({"paused": true, "sessions_ended": 5});
    assert_eq!((status, answer), (200, wanted));
    // A name can be paused whether or not an agent serves it.
    assert_eq!(post(&control, "/tunnels/nuke/pause", JSON, "{}").0, 200);
    assert_eq!(get_json(&control, "/tunnels/nuke").1["paused"], true);
    assert_eq!(post(&control, "/tunnels/maya/resume", JSON, "{}").0, 200);
    // Resuming again changes nothing, and the shards are not told.
    assert_eq!(post(&control, "/tunnels/maya/resume", JSON, "{}").0, 200);
    let told: Vec<Vec<_>> = paused
        .lock()
        .unwrap()
        .iter()
        .map(|it| {
            let mut names: Vec<_> = it.iter().map(TunnelId::to_string).collect();
            names.sort();
            names
        })
        .collect();
    assert_eq!(told, [vec!["maya"], vec!["maya", "nuke"], vec!["nuke"]]);
}

#[test]
fn so_many_are_paused_and_no_more() {
    let (control, _) = start(fake().0);
    let pause = |number: usize| {
        let path = format!("/tunnels/seat-{number}/pause");
        post(&control, &path, JSON, "{}").0
    };
    assert!((0..1000).all(|number| pause(number) == 200));
    assert_eq!((pause(1000), pause(7)), (507, 200));
}

#[test]
fn what_a_page_of_another_site_could_send_changes_nothing() {
    let (fake, paused) = fake();
    let (control, _) = start(fake);
    for (extra, body, wanted) in [
        ("", "", 415),
        ("Content-Type: text/plain\r\n", "{}", 415),
        (JSON, "", 400),
        (JSON, r#"{"for":"1h"}"#, 400),
    ] {
        for order in ["kick", "pause", "resume", "forget"] {
            let path = format!("/tunnels/maya/{order}");
            let (status, answer) = post(&control, &path, extra, body);
            assert_eq!(status, wanted, "{order}: {answer}");
        }
    }
    let (status, head, _) = get(&control, "/tunnels/maya/kick");
    assert!(status == 405 && head.contains("allow: post"), "{head}");
    assert!(paused.lock().unwrap().is_empty());
}

#[test]
fn where_others_can_reach_it_nothing_is_ended_without_a_token() {
    let config = Config {
        admin_listen: vec!["0.0.0.0:0".parse().unwrap()],
        ..Config::default()
    };
    let (control, _) = start_with(fake().0, &config);
    for order in ["kick", "pause", "resume", "forget"] {
        let path = format!("/tunnels/maya/{order}");
        assert_eq!(post(&control, &path, JSON, "{}").0, 403);
    }
    assert_eq!(get(&control, "/tunnels/maya").0, 200);
}
