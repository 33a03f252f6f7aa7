//! The target's side of bulk transfers: receives and checks blocks, sends blocks, or both at once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, Sleep, sleep};

use crate::blocks::{BLOCK_BYTES, Incoming, Outgoing, Table};
use crate::targets::quic_stream::QuicStream;
use crate::targets::request::{ACCEPTED, Request};
use crate::targets::wrapped::{Parts, Wrapped};

/// Capacity of the queue of connections for the stream thread; a full queue makes `hand_over` wait.
const WAITING_MAX: usize = 256;

/// Bytes that a source with a rate sends at a time: less than a packet.
const PACED_BYTES: u64 = 1_200;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BLOCK_BYTES].into_boxed_slice());
}

/// A connection that comes from the main thread.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Without wrapping.
    Plain(std::net::TcpStream),
    /// In TLS, WebSocket messages or both.
    Wrapped(Box<Parts>),
    /// A stream of QUIC, whose connection stays with the main thread.
    Quic(Box<QuicStream>),
}

/// Handle of the thread that serves bulk transfers. A separate thread, because a source that is always
/// ready must not delay the echoes on the main thread.
#[derive(Clone, Debug)]
pub(super) struct Streams(Sender<(Arrival, Request)>);

impl Streams {
    /// Starts the thread, which runs until the process ends.
    pub(super) fn start() -> anyhow::Result<Self> {
        let (sender, arrivals) = channel(WAITING_MAX);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("streams".to_owned())
            .spawn(move || runtime.block_on(serve_all(arrivals)))?;
        Ok(Self(sender))
    }

    /// Passes a connection to the thread.
    pub(super) async fn hand_over(&self, arrival: Arrival, request: Request) -> anyhow::Result<()> {
        self.0
            .send((arrival, request))
            .await
            .context("the stream thread has ended")
    }
}

async fn serve_all(mut arrivals: Receiver<(Arrival, Request)>) {
    let table = Arc::new(Table::new());
    while let Some((arrival, request)) = arrivals.recv().await {
        let table = Arc::clone(&table);
        let started = match arrival {
            Arrival::Plain(stream) => TcpStream::from_std(stream)
                .map(|stream| drop(tokio::spawn(serve(stream, request, table)))),
            Arrival::Wrapped(parts) => Wrapped::from_parts(*parts)
                .map(|stream| drop(tokio::spawn(serve(stream, request, table)))),
            Arrival::Quic(stream) => {
                drop(tokio::spawn(serve(*stream, request, table)));
                Ok(())
            }
        };
        if let Err(error) = started {
            eprintln!("refused a connection: {error}");
        }
    }
}

/// Serves one connection until the client closes it.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: Request,
    table: Arc<Table>,
) {
    let mut serving = Serving {
        outgoing: Outgoing::new(request.stream),
        incoming: Incoming::new(request.stream),
        sends: request.duty.sends(),
        pace: request.pace_kbit.map(Pace::new),
        is_accepted: false,
    };
    // A client that disconnects is the normal end, even of a failed run: the client reports the reason.
    let _ = poll_fn(|cx| serving.poll(cx, &mut stream, &table)).await;
}

struct Serving {
    outgoing: Outgoing,
    incoming: Incoming,
    sends: bool,
    /// Rate of a source that has one.
    pace: Option<Pace>,
    is_accepted: bool,
}

/// A constant rate, which a source that was held up catches up with.
struct Pace {
    bytes_per_s: u64,
    began: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(kbit_per_s: u32) -> Self {
        Self {
            bytes_per_s: u64::from(kbit_per_s) * 125,
            began: Instant::now(),
            timer: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// Ready once bytes beyond the first `sent` ones are due, at least [`PACED_BYTES`]; with their number.
    fn poll_due(&mut self, cx: &mut Context<'_>, sent: u64) -> Poll<usize> {
        let mut due = self.due().saturating_sub(sent);
        if due < PACED_BYTES {
            let at = (sent + PACED_BYTES) as f64 / self.bytes_per_s as f64;
            let at = self.began + Duration::from_secs_f64(at);
            self.timer.as_mut().reset(at);
            ready!(self.timer.as_mut().poll(cx));
            due = self.due().saturating_sub(sent).max(PACED_BYTES);
        }
        Poll::Ready(usize::try_from(due).unwrap_or(usize::MAX))
    }

    /// Bytes that are due by now, those that were sent included.
    fn due(&self) -> u64 {
        let bytes = self.began.elapsed().as_nanos() * u128::from(self.bytes_per_s) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Serving {
    /// tokio's task budget ends the loop, so a connection that is always ready cannot starve others.
    fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        table: &Table,
    ) -> Poll<io::Result<()>> {
        loop {
            let is_read = self.read(cx, stream, table)?;
            let is_written = self.write(cx, stream, table)?;
            match (is_read, is_written) {
                (Poll::Ready(0), _) => return Poll::Ready(Ok(())),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                _ => {}
            }
        }
    }

    /// Ready with the number of bytes read.
    fn read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        table: &Table,
    ) -> io::Result<Poll<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            if Pin::new(stream).poll_read(cx, &mut buffer)?.is_pending() {
                return Ok(Poll::Pending);
            }
            self.incoming.check(table, buffer.filled());
            let own = self.incoming.own_verdict();
            if self.incoming.verdict().is_some() || own.wrong_at.is_some() {
                self.outgoing.end(own);
            }
            Ok(Poll::Ready(buffer.filled().len()))
        })
    }

    fn write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        table: &Table,
    ) -> io::Result<Poll<()>> {
        let mut stream = Pin::new(stream);
        if !self.is_accepted {
            if stream.as_mut().poll_write(cx, &[ACCEPTED])?.is_pending() {
                return Ok(Poll::Pending);
            }
            self.is_accepted = true;
        }
        if self.outgoing.is_finished() || !(self.sends || self.outgoing.is_ending()) {
            return Ok(Poll::Pending);
        }
        let mut bytes = BLOCK_BYTES;
        // The end of the stream is not held up: it comes behind what is measured.
        if let Some(pace) = self.pace.as_mut().filter(|_| !self.outgoing.is_ending()) {
            match pace.poll_due(cx, self.outgoing.sent()) {
                Poll::Ready(due) => bytes = due,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        let [head, body] = self.outgoing.next(table);
        let head = &head[..bytes.min(head.len())];
        let body = &body[..(bytes - head.len()).min(body.len())];
        match stream.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])? {
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(taken) => {
                self.outgoing.advance(taken);
                Ok(Poll::Ready(()))
            }
            Poll::Pending => Ok(Poll::Pending),
        }
    }
}
