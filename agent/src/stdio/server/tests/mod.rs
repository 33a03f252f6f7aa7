use std::path::Path;

use super::*;

mod rig;

use self::rig::{ANN, ANSWER, PROGRESS, Rig, soon};

/// The event of the end of the first child.
fn ended(how: &str, last_line: Option<&str>, is_asked: bool) -> StdioEvent {
    StdioEvent::Ended {
        child: 1,
        how: how.to_owned(),
        last_line: last_line.map(str::to_owned),
        is_asked,
    }
}

/// The event of a line of the first child that is not a message.
fn stray(line: &str) -> StdioEvent {
    StdioEvent::Stray {
        child: 1,
        line: line.to_owned(),
        untold: 0,
    }
}

#[test]
fn a_server_that_nothing_calls_needs_no_runtime_and_starts_nothing() {
    let rig = Rig::legacy(ANSWER);
    assert_eq!(rig.server.status(), StdioStatus::default());
    assert!(rig.server.logs().is_empty());
}

#[tokio::test]
async fn a_call_is_answered_by_a_child() {
    let mut rig = Rig::legacy(ANSWER);
    let mut client = rig.called().await;
    rig.start().await;
    let head = client.head().await;
    let field = |name: &str| head.fields.get(name).map(String::as_str);
    assert_eq!(head.status, 200);
    assert_eq!(field("content-type"), Some("application/json"));
    assert_eq!(field("cache-control"), Some("no-store"));
    let body = client.body(&head).await;
    assert_eq!(body, r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    let status = rig.server.status();
    assert_eq!((status.running, status.starting), (1, 0));
    assert_eq!((status.sessions, status.starts), (1, 1));
    assert_eq!(status.era.as_deref(), Some("legacy"));
}

#[tokio::test]
async fn a_stream_reaches_its_caller_event_by_event() {
    let call = format!("{PROGRESS}; read -r line; {ANSWER}");
    let mut rig = Rig::legacy(&call);
    let mut client = rig.called().await;
    rig.start().await;
    let head = client.head().await;
    assert_eq!(head.fields["content-type"], "text/event-stream");
    assert_eq!(head.fields["x-accel-buffering"], "no");
    assert_eq!(head.fields["cache-control"], "no-store");
    let chunk = client.chunk().await;
    assert!(chunk.contains(r#""progressToken":"p""#), "{chunk}");
    // The child waits for another line before it answers.
    assert_eq!(rig.server.status().calls, 1);
}

#[tokio::test]
async fn requests_that_the_relay_does_not_vouch_for_are_refused() {
    let rig = Rig::legacy(ANSWER);
    let mut client = rig.client().await;
    client.post(&[], "{}").await;
    let (status, body) = client.response().await;
    assert_eq!(status, 400);
    assert!(body.contains("the caller"), "{body}");
    let mut client = rig.client().await;
    let get = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.send(get).await;
    assert_eq!(client.response().await.0, 404);
    // The connection goes on.
    client.post(&[("tieline-caller", ANN)], "{").await;
    assert_eq!(client.response().await.0, 400);
    assert_eq!(rig.server.status().starts, 0);
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_has_come() {
    let rig = Rig::legacy(ANSWER);
    let mut client = rig.client().await;
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ntieline-caller: 0a\r\n\
                content-length: 67108865\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.response().await.0, 413);
}

#[tokio::test]
async fn a_crash_fails_the_call_with_the_exit_status_and_the_last_line() {
    let mut rig = Rig::legacy("echo 'out of cheese' >&2; exit 3");
    let mut client = rig.called().await;
    rig.start().await;
    let (status, body) = client.response().await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""id":7"#), "{body}");
    assert!(
        body.contains("ended with exit code 3: out of cheese"),
        "{body}"
    );
    let expected = ended("ended with exit code 3", Some("out of cheese"), false);
    assert_eq!(rig.event().await, expected);
    assert_eq!(rig.server.logs(), ["[1] out of cheese"]);
    let status = rig.server.status();
    assert_eq!((status.running, status.sessions, status.ends), (0, 0, 1));
}

#[tokio::test]
async fn an_answer_that_is_written_before_the_exit_arrives() {
    let mut rig = Rig::legacy(&format!("{ANSWER}; exit 0"));
    let mut client = rig.called().await;
    rig.start().await;
    let (_, body) = client.response().await;
    assert!(body.contains(r#""result":{"content":[]}"#), "{body}");
    let expected = ended("ended with exit code 0", None, false);
    assert_eq!(rig.event().await, expected);
}

#[tokio::test]
async fn a_child_that_closes_its_output_and_lives_on_fails_the_call_and_is_ended() {
    let mut rig = Rig::legacy("exec >&-; read -r line; exit 0");
    let mut client = rig.called().await;
    let process = rig.start().await;
    let (_, body) = client.response().await;
    assert!(body.contains("closed its standard output"), "{body}");
    let expected = ended("closed its standard output", None, false);
    assert_eq!(rig.event().await, expected);
    soon(rig.server.stop()).await;
    assert!(!is_running(process));
}

#[tokio::test]
async fn half_a_line_at_the_end_is_a_stray_one() {
    let mut rig = Rig::legacy("printf '{\"jsonrpc\":'; exit 1");
    let mut client = rig.called().await;
    rig.start().await;
    let (_, body) = client.response().await;
    assert!(body.contains("ended with exit code 1"), "{body}");
    assert_eq!(rig.event().await, stray(r#"{"jsonrpc":"#));
    let expected = ended("ended with exit code 1", None, false);
    assert_eq!(rig.event().await, expected);
    assert_eq!(rig.server.status().stray_lines, 1);
}

#[tokio::test]
async fn a_modern_caller_that_leaves_cancels_its_call() {
    let mut rig = Rig::cancelled("echo called", "exit 9");
    let mut client = rig.client().await;
    client.modern_call().await;
    rig.start().await;
    assert_eq!(rig.event().await, stray("called"));
    drop(client);
    let expected = ended("ended with exit code 9", None, false);
    assert_eq!(rig.event().await, expected);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_told_to_caller_and_person() {
    let mut rig = Rig::command("/nonexistent/program");
    let mut client = rig.client().await;
    client.modern_call().await;
    let head = client.head().await;
    assert_eq!(head.status, 503);
    assert!(head.fields.contains_key("retry-after"));
    let body = client.body(&head).await;
    assert!(body.contains("no such file"), "{body}");
    let expected = ended(
        "cannot start /nonexistent/program: no such file",
        None,
        false,
    );
    assert_eq!(rig.event().await, expected);
    assert_eq!(rig.server.status().ends, 1);
}

#[tokio::test]
async fn a_stop_breaks_streams_off_and_leaves_no_process() {
    let mut rig = Rig::legacy(PROGRESS);
    let mut client = rig.called().await;
    let process = rig.start().await;
    client.head().await;
    client.chunk().await;
    soon(rig.server.stop()).await;
    let rest = client.rest().await;
    assert!(!rest.ends_with("0\r\n\r\n"), "{rest}");
    let expected = ended("ended with exit code 0", None, true);
    assert_eq!(rig.event().await, expected);
    assert!(!is_running(process));
    let mut client = rig.client().await;
    client.modern_call().await;
    assert_eq!(client.response().await.0, 503);
    assert_eq!(rig.server.status().running, 0);
}

#[tokio::test]
async fn a_child_that_floods_a_slow_caller_can_be_stopped() {
    let mut rig = Rig::legacy(&format!("while :; do {PROGRESS}; done"));
    let mut client = rig.called().await;
    rig.start().await;
    client.head().await;
    client.chunk().await;
    soon(rig.server.stop()).await;
    assert!(!client.rest().await.ends_with("0\r\n\r\n"));
    let expected = ended("was ended by signal 15 (SIGTERM)", None, true);
    assert_eq!(rig.event().await, expected);
}

#[tokio::test]
async fn a_server_that_nothing_uses_ends_its_keeper() {
    let rig = Rig::legacy(ANSWER);
    let shared = Arc::downgrade(&rig.server.0);
    let client = rig.client().await;
    drop((rig, client));
    let gone = async {
        while shared.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
}

/// True if there is a process of this number; on systems without /proc, it is not looked for.
fn is_running(process: u32) -> bool {
    Path::new(&format!("/proc/{process}/status")).exists()
}
