//! HTTP/2 callers: several requests at once on one connection.
//! Long because streams share a connection in many ways, and each way has its test.

use http::{Request, Response, Version};
use http_body_util::{BodyExt, Channel, Empty, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::Executor;

use super::*;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;
type Sender = SendRequest<Body>;

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A new caller, and the task that resolves to its connection's end.
async fn connect(relay: &Relay) -> (Sender, JoinHandle<Ended>) {
    let (mut peer, ended) = relay.connect();
    let io = TokioIo::new(peer.io.take().unwrap());
    let (sender, connection) = handshake(Local, io).await.unwrap();
    tokio::task::spawn_local(async {
        // The tests look at the relay's side of the end.
        let _ = connection.await;
    });
    (sender, ended)
}

fn request(method: &str, uri: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    request.version(Version::HTTP_2).body(body).unwrap()
}

fn get(uri: &str) -> Request<Body> {
    request("GET", uri, Empty::new().boxed_unsync())
}

const MAYA: &str = "http://relay.example/w/maya/mcp";
const COMFY: &str = "http://relay.example/w/comfy/mcp";

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A pending answer.
type PendingResponse = JoinHandle<hyper::Result<Response<Incoming>>>;

/// Sends `request`, and accepts it at a new target, up to its body.
async fn ask(
    relay: &mut Relay,
    sender: &mut Sender,
    request: Request<Body>,
) -> (PendingResponse, Peer) {
    let pending = tokio::task::spawn_local(sender.send_request(request));
    let mut target = relay.target().await;
    target.head().await;
    (pending, target)
}

/// Sends the target's answer, and reads it at the caller.
async fn answered(pending: PendingResponse, target: &mut Peer) {
    target.send(OK).await;
    assert_eq!(text(pending.await.unwrap().unwrap()).await, "ok");
}

#[test]
fn requests_of_one_connection_do_not_wait_for_one_another() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let slow = tokio::task::spawn_local(sender.send_request(get(MAYA)));
        let mut maya = relay.target().await;
        assert!(
            maya.head()
                .await
                .starts_with("GET /mcp HTTP/1.1\r\nhost: 127.0.0.1:8765\r\n")
        );
        let (fast, mut comfy) = ask(&mut relay, &mut sender, get(COMFY)).await;
        answered(fast, &mut comfy).await;
        answered(slow, &mut maya).await;
        // Both connections are kept for further requests.
        let next = tokio::task::spawn_local(sender.send_request(get(MAYA)));
        maya.head().await;
        answered(next, &mut maya).await;
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_request_that_the_caller_gives_up_is_given_up_at_the_target_and_no_other() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let (given_up, mut maya) = ask(&mut relay, &mut sender, get(MAYA)).await;
        let (other, mut comfy) = ask(&mut relay, &mut sender, get(COMFY)).await;
        given_up.abort();
        assert!(maya.is_reset().await);
        answered(other, &mut comfy).await;
    });
}

#[test]
fn a_caller_that_goes_takes_all_its_requests_along() {
    run(async {
        let mut relay = Relay::new();
        let (mut peer, ended) = relay.connect();
        let (near, mut far) = tokio::io::duplex(SOCKET_BYTES);
        let wire = tokio::task::spawn_local(async move {
            tokio::io::copy_bidirectional(peer.io(), &mut far).await
        });
        let (mut sender, connection) = handshake(Local, TokioIo::new(near)).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut targets = Vec::new();
        for uri in [MAYA, COMFY] {
            targets.push(ask(&mut relay, &mut sender, get(uri)).await.1);
        }
        wire.abort();
        for mut target in targets {
            assert!(target.is_reset().await);
        }
        ended.await.unwrap();
    });
}

#[test]
fn events_leave_at_once_and_bodies_stream_both_ways() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let (mut upload, body) = Channel::new(1);
        let answer = sender.send_request(request("POST", MAYA, body.boxed_unsync()));
        let answer = tokio::task::spawn_local(answer);
        let mut target = relay.target().await;
        assert!(
            target
                .head()
                .await
                .contains("\r\ntransfer-encoding: chunked\r\n")
        );
        upload.send_data("one".into()).await.unwrap();
        target.expect("3\r\none\r\n").await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        target.send(head).await;
        let mut body = answer.await.unwrap().unwrap().into_body();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            target
                .send(format!("{:x}\r\n{event}\r\n", event.len()))
                .await;
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
        upload.send_data("two".into()).await.unwrap();
        target.expect("3\r\ntwo\r\n").await;
        drop(upload);
        target.expect("0\r\n\r\n").await;
        let comment = body.frame().await.unwrap().unwrap();
        assert_eq!(comment.into_data().unwrap(), ":\n\n");
        target.send("0\r\n\r\n").await;
        let last = body.frame().await.map(|frame| frame.unwrap().into_data());
        let is_end = last
            .as_ref()
            .is_none_or(|it| it.as_ref().is_ok_and(|data| data.is_empty()));
        assert!(is_end, "{last:?}");
    });
}

#[test]
fn an_answer_that_breaks_off_is_reset_behind_all_that_came() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let (answer, mut target) = ask(&mut relay, &mut sender, get(MAYA)).await;
        target
            .send("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\npart")
            .await;
        target.close();
        let mut body = answer.await.unwrap().unwrap().into_body();
        let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(part, "part");
        assert!(body.frame().await.unwrap().is_err());
        // The connection stays open.
        let (next, mut comfy) = ask(&mut relay, &mut sender, get(COMFY)).await;
        answered(next, &mut comfy).await;
    });
}

#[test]
fn an_early_answer_lets_the_upload_come_to_its_end() {
    run(async {
        let absent = MAYA.replace("maya", "nobody");
        for (uri, status) in [(MAYA, 413), (&absent, 404)] {
            let mut relay = Relay::new();
            let (mut sender, _) = connect(&relay).await;
            let (mut upload, body) = Channel::new(1);
            let answer = sender.send_request(request("POST", uri, body.boxed_unsync()));
            let answer = tokio::task::spawn_local(answer);
            if uri == MAYA {
                let mut target = relay.target().await;
                target.head().await;
                let refusal = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
                target.send(refusal).await;
                target.close();
            }
            // The upload is larger than all windows: such clients read only after their upload.
            for _ in 0..200 {
                upload.send_data(vec![b'x'; 16_384].into()).await.unwrap();
            }
            drop(upload);
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.status(), status);
            assert!(!text(answer).await.is_empty());
            let (next, mut comfy) = ask(&mut relay, &mut sender, get(COMFY)).await;
            answered(next, &mut comfy).await;
        }
    });
}

#[test]
fn a_body_that_is_not_wanted_is_not_read_for_ever() {
    run(async {
        let relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let (mut upload, body) = Channel::new(1);
        let uri = MAYA.replace("maya", "nobody");
        let answer = sender.send_request(request("POST", &uri, body.boxed_unsync()));
        assert_eq!(answer.await.unwrap().status(), 404);
        let before = tokio::time::Instant::now();
        while upload.send_data("more".into()).await.is_ok() {
            seconds(1).await;
        }
        assert!(before.elapsed() <= Duration::from_secs(40));
    });
}

#[test]
fn an_answer_of_the_relay_to_head_is_that_to_get_without_its_body() {
    run(async {
        let mut relay = Relay::new();
        relay.set("maya", Opens::Not(SessionEnd::TargetRefused));
        relay.set("comfy", Opens::Not(SessionEnd::TunnelOffline));
        let nobody = MAYA.replace("maya", "nobody");
        let known = [
            ("http://relay.example/health", 200),
            ("http://relay.example/nowhere", 404),
            (nobody.as_str(), 404),
            (MAYA, 502),
            (COMFY, 503),
        ];
        let strict = [(MAYA, 401)];
        for (cases, wants_tokens) in [(&known[..], false), (&strict[..], true)] {
            relay.shard.0.wants_tokens.set(wants_tokens);
            relay.settings().takes_tokens = wants_tokens;
            let (mut sender, _) = connect(&relay).await;
            for (uri, status) in cases {
                let to_get = sender.send_request(get(uri)).await.unwrap();
                let head = request("HEAD", uri, Empty::new().boxed_unsync());
                let to_head = sender.send_request(head).await.unwrap();
                assert_eq!(to_head.status(), *status, "{uri}");
                assert_eq!(to_head.status(), to_get.status(), "{uri}");
                assert_eq!(to_head.headers(), to_get.headers(), "{uri}");
                assert!(to_head.body().is_end_stream(), "{uri}");
                let length = to_get.headers()["content-length"].clone();
                let body = text(to_get).await;
                assert_eq!(length, body.len().to_string().as_str(), "{uri}");
                assert!(!body.is_empty(), "{uri}");
            }
        }
    });
}

#[test]
fn what_comes_behind_a_targets_answer_to_head_stays_away_from_the_caller() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        for (sent, status, length) in [
            (OK, 200, Some("2")),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                200,
                None,
            ),
            ("HTTP/1.1 2x0 OK\r\n\r\nok", 502, None),
        ] {
            let head = request("HEAD", MAYA, Empty::new().boxed_unsync());
            let (pending, mut target) = ask(&mut relay, &mut sender, head).await;
            target.send(sent).await;
            let answer = pending.await.unwrap().unwrap();
            assert_eq!(answer.status(), status, "{sent}");
            assert!(answer.body().is_end_stream(), "{sent}");
            if status == 200 {
                let told = answer.headers().get("content-length");
                assert_eq!(told.map(|it| it.to_str().unwrap()), length, "{sent}");
            }
        }
        // The bytes behind an answer end only the target's connection.
        let (next, mut comfy) = ask(&mut relay, &mut sender, get(COMFY)).await;
        answered(next, &mut comfy).await;
    });
}

#[test]
fn a_caller_that_names_two_hosts_is_refused() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let mut two = get(MAYA);
        two.headers_mut()
            .insert("host", "other.example".parse().unwrap());
        let answer = sender.send_request(two).await.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(!relay.has_opened());
        assert!(text(answer).await.contains("bad_request"));
    });
}

#[test]
fn an_idle_connection_is_told_to_end_and_a_quiet_answer_lives_on() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, ended) = connect(&relay).await;
        let (answer, mut target) = ask(&mut relay, &mut sender, get(MAYA)).await;
        seconds(3600).await;
        answered(answer, &mut target).await;
        seconds(119).await;
        assert!(sender.is_ready(), "the connection was closed too early");
        assert_eq!(ended.await.unwrap(), Ended::Closed);
        assert!(sender.send_request(get(MAYA)).await.is_err());
    });
}

#[test]
fn a_relay_that_drains_finishes_what_runs() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, ended) = connect(&relay).await;
        let (answer, mut target) = ask(&mut relay, &mut sender, get(MAYA)).await;
        relay.shard.0.draining.set(true);
        answered(answer, &mut target).await;
        assert_eq!(ended.await.unwrap(), Ended::Closed);
    });
}

fn with_token(uri: &str, token: &str) -> Request<Body> {
    let mut request = get(uri);
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

/// Revokes the caller `maya`, and checks that its request ends on both sides.
async fn is_cut_off(
    relay: &Relay,
    pending: PendingResponse,
    mut target: Peer,
    ended: JoinHandle<Ended>,
) {
    relay.shard.0.revoke("maya");
    assert!(target.is_reset().await);
    assert_eq!(ended.await.unwrap(), Ended::Revoked);
    assert!(pending.await.unwrap().is_err());
}

#[test]
fn a_caller_whose_access_is_revoked_is_cut_off_while_its_request_waits() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().takes_tokens = true;
        let (mut sender, ended) = connect(&relay).await;
        let request = with_token(MAYA, "maya");
        let (answer, target) = ask(&mut relay, &mut sender, request).await;
        seconds(1).await;
        is_cut_off(&relay, answer, target, ended).await;
    });
}

#[test]
fn a_caller_is_remembered_for_as_long_as_something_runs_for_it() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().takes_tokens = true;
        let (mut sender, ended) = connect(&relay).await;
        let request = with_token(MAYA, "maya");
        let (waiting, target) = ask(&mut relay, &mut sender, request).await;
        // More callers than one connection remembers.
        for name in 0..20 {
            let request = with_token(COMFY, &format!("other-{name}"));
            assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
        }
        is_cut_off(&relay, waiting, target, ended).await;
    });
}

#[test]
fn what_only_begins_like_http_2_is_no_http() {
    run(async {
        for begin in [
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            "PRI * HTTP/1.1\r\n\r\n",
            "P",
        ] {
            let relay = Relay::new();
            let (mut caller, ended) = relay.connect();
            caller.send(begin).await;
            caller.finish().await;
            caller.rest().await;
            assert_ne!(ended.await.unwrap(), Ended::Closed, "{begin:?}");
        }
    });
}

#[test]
fn a_preface_that_does_not_come_to_its_end_has_the_time_of_a_head() {
    run(async {
        let relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send("PRI * HTT").await;
        let began = tokio::time::Instant::now();
        assert_eq!(ended.await.unwrap(), Ended::HeadTimeout);
        assert_eq!(began.elapsed().as_secs(), 10);
    });
}

#[test]
fn a_body_whose_end_comes_late_leaves_its_connection_to_the_next_one() {
    run(async {
        let mut relay = Relay::new();
        let (mut sender, _) = connect(&relay).await;
        let mut target = None;
        for _ in 0..3 {
            let (mut upload, body) = Channel::new(1);
            let ending = tokio::task::spawn_local(async move {
                upload.send_data("{}".into()).await.unwrap();
                seconds(1).await;
            });
            let mut request = request("POST", MAYA, body.boxed_unsync());
            request.headers_mut().insert("content-length", 2.into());
            let pending = tokio::task::spawn_local(sender.send_request(request));
            let target = match &mut target {
                Some(target) => target,
                none => none.insert(relay.target().await),
            };
            target.head().await;
            target.expect("{}").await;
            answered(pending, target).await;
            ending.await.unwrap();
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_stream_of_which_nothing_is_taken_loses_its_target_and_the_others_go_on() {
    run(async {
        let mut relay = Relay::new();
        let (mut peer, _ended) = relay.connect();
        let io = TokioIo::new(peer.io.take().unwrap());
        let mut builder = hyper::client::conn::http2::Builder::new(Local);
        // A small window, so that the target's flood exceeds it.
        let builder = builder.initial_stream_window_size(16 * 1024);
        let (mut sender, connection) = builder.handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);

        let (flooded, mut maya) = ask(&mut relay, &mut sender, get(MAYA)).await;
        let (slow, mut comfy) = ask(&mut relay, &mut sender, get(COMFY)).await;
        maya.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
            .await;
        let taken = maya.flood().await;
        assert!((16_384..256 * 1024).contains(&taken), "{taken}");
        let unread = flooded.await.unwrap().unwrap();
        let began = tokio::time::Instant::now();
        assert!(maya.is_reset().await);
        let took = began.elapsed().as_secs();
        assert!((200..=400).contains(&took), "{took} s");

        // The other stream only has a slow target: its caller does not stall.
        answered(slow, &mut comfy).await;
        // The buffered bytes arrive, and then the reset: the answer is incomplete.
        assert!(unread.into_body().collect().await.is_err());
        let (next, mut maya) = ask(&mut relay, &mut sender, get(MAYA)).await;
        answered(next, &mut maya).await;
    });
}

/// A connection's first HTTP/2 frames: the preface, and a GET of `path`.
fn frames(path: &[u8]) -> Vec<u8> {
    let literal = |name: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        [&[name, length], value].concat()
    };
    // `GET` and `http` in the static table (RFC 7541, appendix A).
    let fields = [
        vec![0x82, 0x86],
        literal(1, b"relay.example"),
        literal(4, path),
    ]
    .concat();
    let length = u8::try_from(fields.len()).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let head = [0, 0, length, 1, 5, 0, 0, 0, 1];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    [&preface[..], &settings, &head, &fields].concat()
}

#[test]
fn an_odd_path_is_answered_or_its_reset_is_noted() {
    run(async {
        let refused = [(Some(404), Some("not_found"))];
        let reset = [(None, Some("bad_request"))];
        for (path, noted) in [
            (&b"*"[..], &refused),
            (b"?x", &refused),
            (b"#x", &refused),
            (b"/x#y", &refused),
            (b"", &reset),
            (b"w/maya/mcp", &reset),
            (b"http://relay.example/w/maya/mcp", &reset),
            (b"/w/maya/\x01", &reset),
            (b"/w/maya/ x", &reset),
            (b"/w/maya/<x", &reset),
            (b"/w/maya/x>", &reset),
            (b"/w/maya/`x", &reset),
            (b"/w/maya/mcp?<", &reset),
            (b"/w/maya/mcp?>", &reset),
            (b"/w/maya/mcp?\"", &reset),
        ] {
            let mut relay = Relay::new();
            let (mut caller, _ended) = relay.connect();
            caller.send(frames(path)).await;
            let text = String::from_utf8_lossy(path);
            for _ in 0..60 {
                if !relay.shard.0.noted.borrow().is_empty() {
                    break;
                }
                seconds(1).await;
            }
            assert_eq!(*relay.shard.0.noted.borrow(), *noted, "{text}");
            assert!(!relay.has_opened(), "{text}");
        }
    });
}

#[test]
fn what_urls_do_not_have_reaches_the_target_as_over_http1() {
    run(async {
        for (path, expected) in [
            ("/w/maya/mcp/\u{fc}?q=\u{fc}", "/mcp/%C3%BC?q=%C3%BC"),
            ("/w/maya/mcp/\"a\"?{`}|", "/mcp/%22a%22?{%60}|"),
        ] {
            let mut relay = Relay::new();
            let (mut caller, _ended) = relay.connect();
            caller.send(frames(path.as_bytes())).await;
            let head = relay.target().await.head().await;
            let line = format!("GET {expected} HTTP/1.1\r\n");
            assert!(head.starts_with(&line), "{head}");
        }
    });
}

#[test]
fn a_path_that_is_not_utf_8_ends_the_connection() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(frames(b"/w/maya/mcp?\xe9")).await;
        ended.await.unwrap();
        assert!(!relay.has_opened());
    });
}
