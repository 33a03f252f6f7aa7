use std::fs;
use std::net::SocketAddr;

use http::Method;
use serde_json::{Value, json};
use tieline_wire::{AgentKey, TunnelId};

use super::*;
use crate::auth::{Identity, Owner};

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .map(|mut line: Value| {
            let time = line["time"].take();
            let time = time.as_str().unwrap();
            assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
            line.as_object_mut().unwrap().remove("time");
            line
        })
        .collect()
}

fn ada() -> Identity {
    let owner = Owner {
        sub: "ada\n\"".to_owned(),
        groups: vec!["fx".to_owned()],
    };
    Identity {
        owner: Arc::new(owner),
        jti: Some("number".to_owned()),
        ..Identity::default()
    }
}

#[test]
fn every_entry_is_a_line_of_its_own_and_all_are_there_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let config = AuditConfig::new(folder.path().join("audit.log"));
    let (audit, writer) = Audit::start(Some(&config)).unwrap();
    let maya = || TunnelId::parse("maya").unwrap();
    let peer: SocketAddr = "[::ffff:192.0.2.7]:4000".parse().unwrap();
    audit.note(|| {
        let entry = Entry::new(Kind::Registered).of(Some(&ada())).from(peer);
        entry
            .agent(AgentKey::new([0xab; 32]))
            .tunnel(maya())
            .dcc("maya")
    });
    audit.note(|| {
        let mut call = Call::new(Method::POST, "/w/maya/mcp");
        (call.address, call.tunnel) = (Some(peer.ip().to_canonical()), Some(maya()));
        call.answered(None, Some(503), Some("tunnel_offline"))
    });
    audit.note(|| {
        Entry::new(Kind::Revoked)
            .what("sub \"eve\"".to_owned())
            .count(2)
    });
    writer.unwrap().stop();
    let wanted = [
        json!({"event": "registered", "sub": "ada\n\"", "agent": "ab".repeat(16),
            "address": "192.0.2.7", "port": 4000, "tunnel": "maya", "dcc": "maya"}),
        json!({"event": "request", "address": "192.0.2.7", "tunnel": "maya", "method": "POST",
            "path": "/w/maya/mcp", "status": 503, "reason": "tunnel_offline"}),
        json!({"event": "revoked", "what": "sub \"eve\"", "count": 2}),
    ];
    assert_eq!(lines(&config.file), wanted);
}

#[test]
fn a_long_path_is_cut_between_two_characters() {
    let call = Call::new(Method::GET, &("/".to_owned() + &"ä".repeat(200)));
    let entry = serde_json::to_value(call.answered(None, Some(200), None)).unwrap();
    let path = entry["path"].as_str().unwrap();
    assert_eq!(path.len(), 255);
    assert!(path.ends_with('ä'));
}

#[test]
fn what_does_not_fit_is_counted_and_said_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = AuditConfig::new(folder.path().join("audit.log"));
    // Nobody reads yet: the queue fills up.
    let (sender, entries) = sync_channel(QUEUE_MAX);
    let dropped = Arc::<AtomicU64>::default();
    let audit = Audit(Some(Queue {
        entries: sender,
        dropped: Arc::clone(&dropped),
    }));
    for _ in 0..QUEUE_MAX + 7 {
        audit.note(|| Entry::new(Kind::Started));
    }
    assert_eq!(audit.dropped(), 7);
    let writer = Writer::start(&config, entries, dropped).unwrap();
    writer.stop();
    let lines = lines(&config.file);
    assert_eq!(lines.len(), QUEUE_MAX + 1);
    assert_eq!(lines[QUEUE_MAX], json!({"event": "lost", "count": 7}));
}

#[test]
fn without_a_file_nothing_is_made() {
    let (audit, writer) = Audit::start(None).unwrap();
    assert!(!audit.is_on() && writer.is_none());
    audit.note(|| panic!("nobody wants it"));
    assert_eq!(audit.dropped(), 0);
}

#[test]
fn a_file_that_cannot_be_written_stops_the_start() {
    let config = AuditConfig::new("/nowhere/at/all/audit.log".into());
    let error = Audit::start(Some(&config)).unwrap_err();
    assert_eq!(error.exit_code(), crate::error::EXIT_USAGE);
    let text = error.to_string();
    assert!(text.contains("/nowhere/at/all/audit.log"), "{text}");
}

#[test]
#[ignore = "measures; by hand, with --release"]
fn how_long_a_request_takes_to_note() {
    const ROUNDS: u32 = 5_000;
    let folder = tempfile::tempdir().unwrap();
    let config = AuditConfig::new(folder.path().join("audit.log"));
    let (audit, writer) = Audit::start(Some(&config)).unwrap();
    let (ada, maya) = (ada(), TunnelId::parse("maya").unwrap());
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        audit.note(|| {
            let mut call = Call::new(Method::POST, "/w/maya/mcp");
            call.tunnel = Some(maya.clone());
            call.answered(Some(&ada), Some(200), None)
        });
    }
    println!("{:?} each", began.elapsed() / ROUNDS);
    assert_eq!(audit.dropped(), 0);
    writer.unwrap().stop();
}
