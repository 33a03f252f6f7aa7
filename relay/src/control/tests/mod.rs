mod certificates;
mod fake;
mod flood;
mod life;
mod revoke;
mod tunnel;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde_json::Value;
use tieline_wire::Eviction;

use self::fake::Fake;
use super::*;

fn start(fake: Fake) -> (Control, Vec<Arc<ShardMetrics>>) {
    start_with(fake, &Config::default())
}

fn start_with(fake: Fake, config: &Config) -> (Control, Vec<Arc<ShardMetrics>>) {
    let metrics = vec![
        Arc::new(ShardMetrics::default()),
        Arc::new(ShardMetrics::default()),
    ];
    let snapshot = Snapshot::of(config);
    let asked = crate::auth::request_queue().1;
    let fake = Arc::new(fake);
    let audit = Audit::default();
    let listeners = config.admin_listen.iter().map(|address| {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        (listener.local_addr().unwrap(), listener)
    });
    let listeners = listeners.collect();
    let shown = Shown {
        inspect: fake,
        metrics: metrics.clone(),
        audit,
        accepting: Arc::default(),
    };
    let decided = Decided::default();
    let control = Control::start(config, &snapshot, None, asked, shown, decided, listeners);
    let control = control.unwrap();
    control.serve();
    (control, metrics)
}

/// Shards with these tunnels, which answer without limit.
fn with_tunnels(tunnels: [&[&str]; 2]) -> (Control, Vec<Arc<ShardMetrics>>) {
    start(Fake {
        tunnels: tunnels.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect()),
        answers: AtomicUsize::new(usize::MAX),
        ..Fake::default()
    })
}

/// Shards with `tunnels` tunnels each, which answer `answers` requests.
fn that_answer(answers: usize, tunnels: usize) -> Fake {
    let ids = |shard| (0..tunnels).map(move |it| format!("seat-{it:05}-{shard}"));
    Fake {
        tunnels: [ids(0).collect(), ids(1).collect()],
        answers: AtomicUsize::new(answers),
        ..Fake::default()
    }
}

/// Sends `head` and reads until the relay closes: status, head, body.
fn exchange(control: &Control, head: &str) -> (u16, String, String) {
    let stream = TcpStream::connect(control.addresses()[0]).unwrap();
    exchange_over(stream, head)
}

/// Sends `head` over an open connection and reads until the relay closes.
fn exchange_over(mut stream: TcpStream, head: &str) -> (u16, String, String) {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head[9..12].parse().unwrap(),
        head.to_ascii_lowercase(),
        body.to_owned(),
    )
}

fn get(control: &Control, path: &str) -> (u16, String, String) {
    let host = control.addresses()[0];
    exchange(
        control,
        // HTTP/1.0, so that a page of tunnels comes without chunked encoding.
        &format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"),
    )
}

fn get_json(control: &Control, path: &str) -> (u16, Value) {
    let (status, _, body) = get(control, path);
    (
        status,
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")),
    )
}

/// The tunnel names in a page, or in the array of all tunnels.
fn ids(answer: &Value) -> Vec<&str> {
    answer
        .as_array()
        .or_else(|| answer["tunnels"].as_array())
        .unwrap()
        .iter()
        .map(|one| one["tunnel_id"].as_str().unwrap())
        .collect()
}

#[test]
fn tunnels_are_listed_in_order_with_every_field() {
    let (control, metrics) = with_tunnels([&["maya"], &["nuke", "blender"]]);
    metrics[0].tunnels.replace(0, 1);
    metrics[1].tunnels.replace(0, 2);
    let (status, all) = get_json(&control, "/tunnels");
    assert_eq!(status, 200);
    assert_eq!(ids(&all), ["blender", "maya", "nuke"]);
    let expected = serde_json::json!({
        "tunnel_id": "blender", "dcc": "maya", "capabilities": ["tools"],
        "agent_version": "0.1.0", "registered_at_ms_ago": 5, "last_heartbeat_ms_ago": 1,
        "session_count": 3, "generation": "18446744073709551615", "shard": 1,
        "shards": [1], "links": 1, "agents": 1, "target_scheme": "http",
        "transport": "tcp", "channel_bound": false,
        "paths": [{
            "shard": 1, "transport": "tcp", "rtt_ms": null, "loss_percent": null, "mtu": null,
        }],
        "paused": false, "bytes_to_target": 7, "bytes_to_frontend": 8,
    });
    assert_eq!(all[0], expected);
    let (_, page) = get_json(&control, "/tunnels?after=");
    let expected = serde_json::json!({ "tunnels": all, "total": 3, "next": null });
    assert_eq!(page, expected);
    control.stop();
}

#[test]
fn head_is_get_without_a_body_on_each_page() {
    let (control, _) = with_tunnels([&["maya"], &[]]);
    let host = control.addresses()[0];
    for path in [
        "/tunnels",
        "/tunnels?limit=1",
        "/tunnels/maya",
        "/healthz",
        "/healthz?verbose",
        "/metrics",
    ] {
        let (status, _, body) = get(&control, path);
        assert!(!body.is_empty(), "{path}");
        let head = format!("HEAD {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        let (to_head, _, body) = exchange(&control, &head);
        assert_eq!((to_head, body.as_str()), (status, ""), "{path}");
    }
    control.stop();
}

#[test]
fn tunnels_come_in_pages() {
    let (control, metrics) = with_tunnels([&["a", "c", "d", "e"], &["b"]]);
    metrics[0].tunnels.replace(0, 5);
    let (_, first) = get_json(&control, "/tunnels?limit=2");
    assert_eq!(
        (ids(&first), &first["next"]),
        (vec!["a", "b"], &Value::from("b"))
    );
    let (_, second) = get_json(&control, "/tunnels?limit=2&after=b");
    assert_eq!(
        (ids(&second), &second["next"]),
        (vec!["c", "d"], &Value::from("d"))
    );
    let (_, third) = get_json(&control, "/tunnels?limit=2&after=d");
    assert_eq!((ids(&third), &third["next"]), (vec!["e"], &Value::Null));
    assert_eq!(third["total"], 5);
    for wrong in [
        "?limit=0",
        "?limit=1001",
        "?limit=x",
        "?limit=-1",
        "?page=1",
    ] {
        let (status, error) = get_json(&control, &format!("/tunnels{wrong}"));
        assert_eq!(
            (status, &error["error"]),
            (400, &Value::from("bad_query")),
            "{wrong}"
        );
    }
}

#[test]
fn a_tunnel_on_two_shards_is_one_row() {
    let (control, _) = with_tunnels([&["a", "maya", "z"], &["b", "c", "maya"]]);
    let (_, all) = get_json(&control, "/tunnels");
    assert_eq!(ids(&all), ["a", "b", "c", "maya", "z"]);
    let maya = &all[3];
    let expected = serde_json::json!([2, 6, 0, [0, 1], "mixed", false]);
    let shown = [
        "links",
        "session_count",
        "shard",
        "shards",
        "transport",
        "channel_bound",
    ];
    let shown = shown.map(|field| &maya[field]);
    assert_eq!(serde_json::json!(shown), expected);
    let measured = serde_json::json!({
        "shard": 0, "transport": "quic", "rtt_ms": 1.5, "loss_percent": 0.25, "mtu": 1452,
    });
    assert_eq!(maya["paths"][0], measured);
    assert_eq!(maya["paths"][1]["rtt_ms"], Value::Null);
    assert_eq!(all[0]["transport"], "tls");
    assert_eq!(all[0]["channel_bound"], true);
}

#[test]
fn a_page_follows_the_other_to_the_last_of_many() {
    let (control, _) = start(that_answer(usize::MAX, 1_250));
    let (mut path, mut all, mut pages) = ("/tunnels?after=".to_owned(), Vec::new(), 0);
    loop {
        let (status, page) = get_json(&control, &path);
        assert_eq!(status, 200);
        all.extend(ids(&page).into_iter().map(str::to_owned));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = format!("/tunnels?after={next}"),
            None => break,
        }
    }
    assert_eq!((all.len(), pages), (2_500, 3));
    assert!(all.is_sorted_by(|a, b| a < b));
}

#[test]
fn without_a_query_every_tunnel_is_in_one_array_however_many_there_are() {
    let (control, _) = start(that_answer(usize::MAX, 1_250));
    let (status, all) = get_json(&control, "/tunnels");
    assert_eq!((status, all.as_array().map(Vec::len)), (200, Some(2_500)));
    assert!(ids(&all).is_sorted_by(|a, b| a < b));
    let (control, _) = with_tunnels([&[], &[]]);
    assert_eq!(get_json(&control, "/tunnels").1, serde_json::json!([]));
}

#[test]
fn a_page_is_sent_while_it_is_built_and_one_that_breaks_off_is_no_whole_one() {
    // Enough answers for one chunk, but not for the whole page.
    let (control, _) = start(that_answer(200, 500));
    let mut stream = TcpStream::connect(control.addresses()[0]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .write_all(b"GET /tunnels HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains("seat-00001-1") {
        let count = stream.read(&mut buffer).unwrap();
        answer.extend_from_slice(&buffer[..count]);
    }
    // The relay closed the connection without the last chunk.
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("\r\n0\r\n"));
}

#[test]
fn shards_that_do_not_answer_are_not_waited_for() {
    let (control, _) = start(that_answer(0, 0));
    let (status, error) = get_json(&control, "/tunnels");
    assert_eq!(
        (status, &error["error"]),
        (503, &Value::from("shards_busy"))
    );
    assert_eq!(get(&control, "/healthz").0, 200);
}

#[test]
fn health_is_one_word_unless_asked_for_more() {
    let (control, metrics) = with_tunnels([&[], &[]]);
    metrics[1].links.inc();
    let (status, head, body) = get(&control, "/healthz");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert!(head.contains("cache-control: no-store"), "{head}");

    let (_, health) = get_json(&control, "/healthz?verbose");
    assert_eq!(health["status"], "ok");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_ms"].is_u64() && health["open_files_max"].as_u64() > Some(0));
    let standard = Config::default();
    assert_eq!(health["shard_budget_bytes"], standard.shard_budget_bytes);
    assert_eq!(
        health["memory_limit_bytes"].as_u64(),
        standard.memory_limit_bytes
    );
    assert_eq!(health["shards"][0]["driver"], "uring");
    assert_eq!(health["shards"][0]["driver_reason"], Value::Null);
    assert_eq!(
        health["shards"][1]["driver_reason"],
        "io_uring_setup: not permitted"
    );
    assert_eq!(health["shards"][1]["links"], 1);

    // A connection that is open gets `draining`; new ones find the port closed.
    let mut open = TcpStream::connect(control.addresses()[0]).unwrap();
    open.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"ok\n") {
        let count = open.read(&mut buffer).unwrap();
        assert!(count > 0);
        answer.extend_from_slice(&buffer[..count]);
    }
    control.drain();
    let ask = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (status, _, body) = exchange_over(open, ask);
    assert_eq!((status, body.as_str()), (503, "draining\n"));
}

#[test]
fn metrics_are_in_the_text_format() {
    let (control, metrics) = with_tunnels([&[], &[]]);
    metrics[0].link_evicted(Eviction::Stale);
    let (status, head, body) = get(&control, "/metrics");
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        body.contains("\nrelay_link_evictions_total{reason=\"stale\"} 1\n"),
        "{body}"
    );
    assert!(
        body.contains("\nrelay_driver{driver=\"epoll\",shard=\"1\"} 1\n"),
        "{body}"
    );
}

#[test]
fn what_is_not_there_is_refused_in_json() {
    let (control, _) = with_tunnels([&[], &[]]);
    let (status, error) = get_json(&control, "/");
    assert_eq!((status, &error["error"]), (404, &Value::from("not_found")));
    assert!(error["message"].as_str().unwrap().contains("/tunnels"));
    let post = "POST /tunnels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
                Connection: close\r\n\r\n";
    let (status, head, body) = exchange(&control, post);
    assert_eq!(status, 405);
    assert!(
        head.contains("allow: get") && body.contains("method_not_allowed"),
        "{head}{body}"
    );
}

#[test]
fn a_name_that_was_rebound_to_loopback_is_turned_away() {
    let (control, _) = with_tunnels([&[], &[]]);
    let ask = |lines: &str| {
        exchange(
            &control,
            &format!("GET /tunnels HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"),
        )
        .0
    };
    for host in [
        "localhost",
        "LOCALHOST:9003",
        "localhost.",
        "127.0.0.1:1",
        "[::1]:9003",
        "10.0.0.1",
    ] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:9003",
        "localhost.evil.example",
        "",
        "a b",
    ] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 421, "{host}");
    }
    assert_eq!(ask("Host: localhost\r\nHost: evil.example\r\n"), 421);
    assert_eq!(exchange(&control, "GET /healthz HTTP/1.0\r\n\r\n").0, 200);
    let absolute = "GET http://evil.example/tunnels HTTP/1.1\r\nHost: localhost\r\n\
                    Connection: close\r\n\r\n";
    assert_eq!(exchange(&control, absolute).0, 421);
}
