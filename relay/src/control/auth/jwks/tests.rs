use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::thread;

use super::*;

/// A server with the same answer for every request; a test may change the answer.
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: mpsc::Receiver<Instant>,
}

impl Server {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (tell, asked) = mpsc::channel(1024);
        let server = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(answer.to_owned())),
            asked,
        };
        let answer = Arc::clone(&server.answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                let text = answer.lock().unwrap().clone();
                let _ = stream.write_all(text.as_bytes());
                if tell.try_send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        server
    }

    fn answers(&self, answer: &str) {
        answer.clone_into(&mut self.answer.lock().unwrap());
    }

    fn url(&self) -> HttpUrl {
        HttpUrl::parse(&format!("http://{}/keys", self.address)).unwrap()
    }
}

fn ok(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A response with a key set that has one key per name.
fn set(names: &[&str]) -> String {
    let key = |name: &&str| {
        let secret = name.repeat(43);
        format!(r#"{{"kty":"oct","kid":"{name}","k":"{secret}"}}"#)
    };
    let keys: Vec<_> = names.iter().map(key).collect();
    ok("", &format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
}

/// Short retry pauses, and a refresh that does not happen within a test.
const QUICK: Pace = Pace {
    refresh_default: Duration::from_secs(3600),
    refresh_min: Duration::from_millis(20),
    overlap: Duration::from_secs(3600),
    wish_gap: Duration::from_millis(1),
    retry_min: Duration::from_millis(10),
    retry_max: Duration::from_millis(40),
    ..Pace::STANDARD
};

struct Rig {
    server: Server,
    keys_due: Arc<Notify>,
    fetched: mpsc::Receiver<KeySet>,
}

impl Rig {
    fn start(answer: &str, pace: Pace) -> Self {
        let server = Server::start(answer);
        let (news, fetched) = mpsc::channel(1);
        let keys_due = Arc::<Notify>::default();
        let client = HttpClient::new(&server.url()).unwrap();
        let keys = RemoteKeys::new(server.url(), client, pace, Arc::clone(&keys_due), news);
        tokio::spawn(keys.run());
        Self {
            server,
            keys_due,
            fetched,
        }
    }

    /// Number of valid keys after the next change.
    async fn news(&mut self) -> usize {
        let waiting = time::timeout(Duration::from_secs(20), self.fetched.recv());
        waiting
            .await
            .expect("a new key set")
            .expect("the task runs")
            .len()
    }

    async fn asked(&mut self) -> Instant {
        let waiting = time::timeout(Duration::from_secs(20), self.server.asked.recv());
        waiting.await.expect("a request").expect("the server runs")
    }
}

#[tokio::test]
async fn keys_that_cannot_be_had_at_first_are_tried_for_again() {
    let long = " ".repeat(JWKS_BYTES_MAX + 1);
    let mut rig = Rig::start("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", QUICK);
    for bad in [
        "".to_owned(),
        "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ok("", "<html>"),
        ok("", r#"{"keys":[]}"#),
        ok("", r#"{"keys":[{"kty":"EC"}]}"#),
        ok("", &long),
        set(&["A"]).replace("]}", ""),
    ] {
        rig.asked().await;
        rig.server.answers(&bad);
        rig.asked().await;
    }
    assert!(rig.fetched.try_recv().is_err());
    rig.server.answers(&set(&["A"]));
    assert_eq!(rig.news().await, 1);
}

#[tokio::test]
async fn a_key_that_left_the_set_is_good_for_an_overlap() {
    let pace = Pace {
        overlap: Duration::from_millis(300),
        ..QUICK
    };
    let mut rig = Rig::start(&set(&["A", "E"]), pace);
    assert_eq!(rig.news().await, 2);
    rig.server.answers(&set(&["E", "I"]));
    let changed_at = Instant::now();
    rig.keys_due.notify_one();
    assert_eq!(rig.news().await, 3);
    assert_eq!(rig.news().await, 2);
    assert!(changed_at.elapsed() >= pace.overlap);
}

#[tokio::test]
async fn a_fetch_that_fails_keeps_what_was_good() {
    let mut rig = Rig::start(&set(&["A"]), QUICK);
    assert_eq!(rig.news().await, 1);
    rig.asked().await;
    rig.server.answers("");
    rig.keys_due.notify_one();
    for _ in 0..3 {
        rig.asked().await;
    }
    rig.server.answers(&set(&["A", "E"]));
    // Failed fetches in between reported no change.
    assert_eq!(rig.news().await, 2);
}

#[tokio::test]
async fn wishes_for_newer_keys_are_fulfilled_every_now_and_again() {
    let pace = Pace {
        wish_gap: Duration::from_millis(200),
        ..QUICK
    };
    let mut rig = Rig::start(&set(&["A"]), pace);
    assert_eq!(rig.news().await, 1);
    let first = rig.asked().await;
    for _ in 0..50 {
        rig.keys_due.notify_one();
        tokio::task::yield_now().await;
    }
    let second = rig.asked().await;
    // Each time is recorded a little after its request.
    assert!(second - first > pace.wish_gap / 2, "{:?}", second - first);
}

#[tokio::test]
async fn a_set_says_for_how_long_it_is_good() {
    let good = set(&["A"]).replace(
        "Connection",
        "Cache-Control: public, max-age=0\r\nConnection",
    );
    let mut rig = Rig::start(&good, QUICK);
    // Refreshes come by themselves, but not as often as `max-age=0` says.
    for _ in 0..3 {
        rig.asked().await;
    }
    assert_eq!(rig.news().await, 1);
}
