//! The front between scripted callers and targets, on simulated time.

mod early;
mod endings;
mod forwarding;
mod hygiene;
mod lives;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::ReadBufCursor;
use hyper_util::rt::TokioIo;
use tieline_wire::Generation;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::*;

/// Bytes that a simulated socket holds.
const SOCKET_BYTES: usize = 64 * 1024;

/// Where the relay says the target is.
const AUTHORITY: &str = "127.0.0.1:8765";

/// Runs a test in one thread; when all of it waits, time jumps to the next timer.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let limited = async {
        let day = Duration::from_secs(24 * 3600);
        tokio::time::timeout(day, test)
            .await
            .expect("the test waits for what does not come");
    };
    LocalSet::new().block_on(&runtime.unwrap(), limited);
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// What a tunnel does when a session is opened.
#[derive(Clone, Copy)]
enum Opens {
    To(Generation),
    Not(Reason),
    Never,
}

struct Shared {
    tunnels: RefCell<HashMap<String, Opens>>,
    opened: mpsc::Sender<Peer>,
    answered: RefCell<Vec<(u16, Option<&'static str>)>>,
    draining: Cell<bool>,
}

#[derive(Clone)]
struct Shard(Rc<Shared>);

impl Gateway for Shard {
    type Stream = Session;

    fn find(&self, tunnel: &TunnelId) -> Result<Rc<Target>, Reason> {
        let generation = match self.0.tunnels.borrow().get(tunnel.as_str()) {
            None => return Err(Reason::UnknownTunnel),
            Some(Opens::Not(Reason::TunnelOffline)) => return Err(Reason::TunnelOffline),
            Some(Opens::To(generation)) => *generation,
            Some(_) => Generation(1),
        };
        Ok(Rc::new(Target::new(false, AUTHORITY, generation).unwrap()))
    }

    async fn open(&self, tunnel: &TunnelId) -> Result<Session, Reason> {
        let opens = self.0.tunnels.borrow()[tunnel.as_str()];
        match opens {
            Opens::Never => std::future::pending().await,
            Opens::Not(reason) => Err(reason),
            Opens::To(_) => {
                let (near, far) = tokio::io::duplex(SOCKET_BYTES);
                let fate = Rc::new(Fate::default());
                let peer = Peer {
                    io: Some(far),
                    fate: Rc::clone(&fate),
                };
                self.0
                    .opened
                    .try_send(peer)
                    .map_err(|_| Reason::ShuttingDown)?;
                Ok(Session { io: near, fate })
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    fn answered(&self, status: StatusCode, problem: Option<&'static str>) {
        self.0
            .answered
            .borrow_mut()
            .push((status.as_u16(), problem));
    }
}

/// How the two ends of a session end it.
#[derive(Default)]
struct Fate {
    /// Why the target's side reset it.
    reset: Cell<Option<Reason>>,
    /// Whether the relay's side reset it, once it is gone.
    relay_reset: Cell<Option<bool>>,
    is_shut: Cell<bool>,
}

/// The relay's end of a session.
struct Session {
    io: DuplexStream,
    fate: Rc<Fate>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.fate.relay_reset.set(Some(!self.fate.is_shut.get()));
    }
}

impl Read for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 8192];
        let room = buf.remaining().min(bytes.len());
        let mut read = tokio::io::ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        match self.fate.reset.get() {
            Some(reason) if read.filled().is_empty() => {
                Poll::Ready(Err(SessionEnded(reason).into()))
            }
            _ => {
                buf.put_slice(read.filled());
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Write for Session {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fate.is_shut.set(true);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The far end of a connection: a caller's, or a target's.
struct Peer {
    io: Option<DuplexStream>,
    fate: Rc<Fate>,
}

impl Peer {
    fn io(&mut self) -> &mut DuplexStream {
        self.io.as_mut().unwrap()
    }

    async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.io().write_all(text.as_ref()).await.unwrap();
    }

    /// Reads up to and with `end`.
    async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            match self.io().read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => panic!("closed after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads exactly this.
    async fn expect(&mut self, text: impl AsRef<[u8]>) {
        let expected = text.as_ref();
        let mut bytes = vec![0; expected.len()];
        self.io().read_exact(&mut bytes).await.unwrap();
        let (read, expected) = (
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(expected),
        );
        assert_eq!(read, expected);
    }

    /// Reads until the end.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.io().read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn finish(&mut self) {
        self.io().shutdown().await.unwrap();
    }

    fn close(&mut self) {
        self.io = None;
    }

    fn reset(&mut self, reason: Reason) {
        self.fate.reset.set(Some(reason));
        self.close();
    }

    /// Waits until the relay has ended the session; true if by a reset.
    async fn is_reset(&mut self) -> bool {
        self.rest().await;
        // The stream is dropped in the same turn in which its end is seen, or in the next.
        tokio::task::yield_now().await;
        self.fate.relay_reset.get().unwrap()
    }

    /// Writes until nothing more is taken; tells how much was.
    async fn flood(&mut self) -> usize {
        let chunk = [b'x'; 1024];
        let mut taken = 0;
        while let Ok(written) =
            tokio::time::timeout(Duration::from_secs(1), self.io().write(&chunk)).await
        {
            taken += written.unwrap();
        }
        taken
    }
}

/// A shard with some tunnels, and the ends of what comes out at their targets.
struct Relay {
    shard: Shard,
    opened: mpsc::Receiver<Peer>,
}

impl Relay {
    /// One with the tunnels `maya` and `comfy`.
    fn new() -> Self {
        let (opened, receiver) = mpsc::channel(16);
        let tunnels = ["maya", "comfy"].map(|t| (t.to_owned(), Opens::To(Generation(1))));
        let tunnels = RefCell::new(HashMap::from(tunnels));
        let answered = RefCell::default();
        Self {
            shard: Shard(Rc::new(Shared {
                tunnels,
                opened,
                answered,
                draining: Cell::new(false),
            })),
            opened: receiver,
        }
    }

    fn set(&self, tunnel: &str, opens: Opens) {
        self.shard
            .0
            .tunnels
            .borrow_mut()
            .insert(tunnel.to_owned(), opens);
    }

    /// A new caller, and how its connection will have ended.
    fn connect(&self) -> (Peer, JoinHandle<Ended>) {
        let (near, far) = tokio::io::duplex(SOCKET_BYTES);
        let serving = serve(TokioIo::new(near), self.shard.clone(), Settings::default());
        let task = tokio::task::spawn_local(async { serving.await.1 });
        (
            Peer {
                io: Some(far),
                fate: Rc::default(),
            },
            task,
        )
    }

    fn caller(&self) -> Peer {
        self.connect().0
    }

    /// The next session, at its target.
    async fn target(&mut self) -> Peer {
        self.opened.recv().await.unwrap()
    }

    fn has_opened(&mut self) -> bool {
        self.opened.try_recv().is_ok()
    }

    /// A caller whose request is answered by `answer`, and what it reads up to and with `end`.
    async fn answer_to(&mut self, request: &str, answer: &str, end: &str) -> String {
        let mut caller = self.caller();
        caller.send(request).await;
        let mut target = self.target().await;
        target.head().await;
        target.send(answer).await;
        caller.until(end).await
    }
}

const GET: &str = "GET /w/maya/mcp HTTP/1.1\r\nHost: relay.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /w/maya/mcp HTTP/1.1\r\nHost: relay.example\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
