//! The caller's connection: what hyper reads and writes through, and whether the caller is still
//! connected.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor};
use hyper_util::rt::TokioIo;
use tieline_hop::{CallerSocket, CallerState, Cut, Intake, Reader};
use tokio::io::{AsyncRead, copy, sink};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::upgraded::Upgraded;
use tieline_agent::socket;

/// Longest time to read and discard what a caller still sends after the last answer. Closing
/// earlier would reset the connection and could destroy an answer that the caller has not read
/// yet (RFC 9112, section 9.6).
const LINGER_MAX: Duration = Duration::from_secs(5);

/// State of one caller's connection, shared by the connection's driver and the bodies.
#[derive(Default)]
pub(super) struct ConnectionState {
    /// A request is being answered.
    busy: Cell<bool>,
    /// The caller may still be sending bytes that the proxy does not read: the rest of a request's body, or what is not
    /// HTTP.
    pub(super) unread: Cell<bool>,
    /// The request's body is being sent to the relay.
    uploading: Cell<bool>,
    read_blocked: Cell<bool>,
    flushes: Cell<u64>,
    /// The answer broke off, and only a reset can show that to the caller.
    cut_hidden: Cell<bool>,
    /// The task that drives the connection.
    driver: RefCell<Option<Waker>>,
    /// The last request to upgrade was not answered with `101`, so the connection stays HTTP; the reader has not
    /// noticed yet.
    stays_http: Cell<bool>,
    /// The relay's side of the connection once the last answer, a `101`, is written.
    pub(super) upgraded: RefCell<Option<Upgraded>>,
}

impl ConnectionState {
    /// Records the task that drives the connection.
    pub(super) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        driver
            .get_or_insert_with(|| waker.clone())
            .clone_from(waker);
    }

    /// Records that the answer to a request to upgrade is not a `101`.
    pub(super) fn stay_http(&self) {
        self.stays_http.set(true);
        // hyper does not read again unless its task is woken.
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Records that a request's head is complete.
    pub(super) fn begin(&self, has_body: bool) {
        self.unread.set(has_body);
        self.uploading.set(false);
        self.busy.set(true);
    }
}

impl CallerState for ConnectionState {
    fn begin_turn(&self) {
        self.read_blocked.set(false);
    }

    fn read_polled(&self, is_pending: bool) {
        self.read_blocked.set(is_pending);
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }

    fn is_unwatched(&self) -> bool {
        self.busy.get() && !self.read_blocked.get() && !self.uploading.get()
    }

    fn passes_upgrades(&self) -> bool {
        true
    }

    fn stays_http(&self) -> bool {
        self.stays_http.take()
    }
}

impl Reader for ConnectionState {
    type Piece = Bytes;

    fn piece(&self, bytes: Bytes) -> Bytes {
        bytes
    }

    fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    fn await_flush(&self, cx: &Context<'_>) {
        // The same task flushes after this turn, so one wake is enough.
        cx.waker().wake_by_ref();
    }

    fn set_cut(&self, cut: Cut) {
        self.cut_hidden.set(cut == Cut::Hidden);
    }

    fn answered(&self) {
        self.busy.set(false);
    }
}

/// A request's body on its way to the relay.
pub(super) type RequestBody = tieline_hop::RequestBody<Progress>;

/// Records a request body's progress for the caller's connection.
pub(super) struct Progress(pub(super) Rc<ConnectionState>);

impl tieline_hop::Progress for Progress {
    type Timeout = Pin<Box<dyn Future<Output = ()>>>;

    fn asked(&self, _is_pending: bool) {
        self.0.uploading.set(true);
    }

    fn done(&self) {
        self.0.uploading.set(false);
        self.0.unread.set(false);
    }
}

/// A caller's connection, shared by hyper and the connection's driver, both in one task.
pub(super) type Caller = tieline_hop::Caller<Socket, ConnectionState>;

/// A caller's socket.
pub(super) struct Socket(TokioIo<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Makes a close a reset until the orderly end: a killed process then leaves no answer that looks whole.
        let _ = stream.set_zero_linger();
        Self(TokioIo::new(stream))
    }

    /// The connection itself, whose close is a reset until its orderly end.
    pub(super) fn into_stream(self) -> TcpStream {
        self.0.into_inner()
    }

    /// Closes the connection so that the caller sees how its last answer ended.
    pub(super) async fn close(self, state: &ConnectionState) {
        let mut stream = self.into_stream();
        if state.cut_hidden.get() {
            // Dropping the stream resets the connection, as `new` has set; an orderly close would look like the
            // answer's end.
            return;
        }
        socket::finish(&stream);
        if state.unread.get() {
            let _ = timeout(LINGER_MAX, copy(&mut stream, &mut sink())).await;
        }
    }
}

impl CallerSocket for Socket {
    type Stream = TokioIo<TcpStream>;

    fn stream(&mut self) -> &mut TokioIo<TcpStream> {
        &mut self.0
    }

    fn poll_scanned(
        &mut self,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
        _bytes_max: usize,
        intake: &mut Intake,
    ) -> Poll<io::Result<()>> {
        let stream = self.0.inner_mut();
        Pin::new(&mut TokioIo::new(Scanned { stream, intake })).poll_read(cx, buf)
    }
}

/// Reads the caller's bytes through the scanner before hyper sees them.
struct Scanned<'a> {
    stream: &'a mut TcpStream,
    intake: &'a mut Intake,
}

impl AsyncRead for Scanned<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buf))?;
        let passed = self.intake.pass(&mut buf.filled_mut()[before..]);
        buf.set_filled(before + passed);
        self.intake
            .read(buf.remaining(), |bytes| buf.put_slice(bytes));
        Poll::Ready(Ok(()))
    }
}
