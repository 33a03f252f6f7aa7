//! Moves bytes between a caller and a session on another shard, which both have left HTTP. A session on the caller's own
//! shard is spliced instead.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBuf, Write};

use super::meter::Meter;
use crate::io::{PollStream, sleep};
use crate::metrics::Direction;

/// Bytes of one direction that may wait for room.
const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers that one direction moves before other tasks get a turn.
const BUFFERS_A_TURN: usize = 16;

/// Interval of checks on a caller that is not read at present.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time for accepted bytes to leave before a reset follows them, and the interval of checks.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// Runs until both directions have ended, or one failed; then the caller's connection is reset, and dropping `target`
/// resets the session. `ahead` are the target's first bytes; `meter` counts what is moved.
pub(super) async fn join<S: Read + Write + Unpin>(
    mut caller: PollStream,
    mut target: S,
    ahead: Bytes,
    meter: Meter,
) {
    let mut up = Way::new(Direction::ToTarget, Bytes::new());
    let mut down = Way::new(Direction::ToFrontend, ahead);
    let mut looking: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
    let outcome = poll_fn(|cx| {
        match up.poll(cx, &mut caller, &mut target, &meter) {
            Poll::Ready(Err(Failure::Source)) => return Poll::Ready(Err(())),
            // The session takes no more; its other direction delivers the rest, and then the reset.
            Poll::Ready(Err(Failure::Sink)) => up.stop(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if let Poll::Ready(outcome) = down.poll(cx, &mut target, &mut caller, &meter) {
            if outcome.is_err() {
                return Poll::Ready(Err(()));
            }
            if up.is_over() {
                return Poll::Ready(Ok(()));
            }
        }
        if up.is_reading() {
            looking = None;
            return Poll::Pending;
        }
        loop {
            let pause = looking.get_or_insert_with(|| Box::pin(sleep(LOOK_INTERVAL)));
            ready!(pause.as_mut().poll(cx));
            looking = None;
            if caller.stream().is_broken() {
                return Poll::Ready(Err(()));
            }
        }
    })
    .await;
    if outcome.is_err() {
        drop(target);
        flush(&caller).await;
        caller.end(true).await;
    }
}

/// Which end of a direction failed.
enum Failure {
    Source,
    Sink,
}

/// One direction.
struct Way {
    direction: Direction,
    /// Bytes that wait for room.
    waiting: Bytes,
    stage: Stage,
}

enum Stage {
    Open,
    /// The source has ended, and the sink has yet to be told.
    Ending,
    Over,
}

impl Way {
    const fn new(direction: Direction, waiting: Bytes) -> Self {
        Self {
            direction,
            waiting,
            stage: Stage::Open,
        }
    }

    /// Ends the direction, whose sink takes no more.
    fn stop(&mut self) {
        self.waiting.clear();
        self.stage = Stage::Over;
    }

    const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Whether the source is read, so that a failure of it shows.
    const fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.waiting.is_empty()
    }

    /// Ready once the sink has all bytes of the source and its end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl Read + Unpin),
        sink: &mut (impl Write + Unpin),
        meter: &Meter,
    ) -> Poll<Result<(), Failure>> {
        for _ in 0..BUFFERS_A_TURN {
            ready!(self.poll_write(cx, sink, meter)).map_err(|_| Failure::Sink)?;
            match self.stage {
                Stage::Open => {
                    let read = ready!(poll_read(cx, source)).map_err(|_| Failure::Source)?;
                    if read.is_empty() {
                        self.stage = Stage::Ending;
                    }
                    self.waiting = read;
                }
                Stage::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(|_| Failure::Sink)?;
                    self.stage = Stage::Over;
                }
                Stage::Over => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl Write + Unpin),
        meter: &Meter,
    ) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let count = ready!(Pin::new(&mut *sink).poll_write(cx, &self.waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            meter.moved(self.direction, count);
            drop(self.waiting.split_to(count));
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads what there is; nothing at the end. The buffer lives only while bytes are in it: most connections are idle.
fn poll_read(cx: &mut Context<'_>, source: &mut (impl Read + Unpin)) -> Poll<io::Result<Bytes>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
    let mut read = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(source).poll_read(cx, read.unfilled()))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
}

/// Lets the kernel deliver the bytes that it accepted: a reset discards the rest.
async fn flush(caller: &PollStream) {
    let stream = caller.stream();
    let mut waited = Duration::ZERO;
    while stream.has_unsent() && !stream.is_broken() && waited < FLUSH_TIMEOUT {
        sleep(FLUSH_PAUSE).await;
        waited += FLUSH_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::io::{Chosen, Received, Stream, pair, run, spawn};
    use crate::limits::RatePass;

    /// The far ends of a caller and a session that are joined; the target's first bytes are `ahead`.
    fn joined(ahead: &'static [u8]) -> (Stream, Stream) {
        let ((caller, near), (target, far)) = (pair().unwrap(), pair().unwrap());
        let [caller, near, target, far] = [caller, near, target, far].map(Stream::new);
        let (near, far) = (PollStream::new(near), PollStream::new(far));
        let ahead = Bytes::from_static(ahead);
        let meter = Meter::new(RatePass::default(), None, None);
        spawn(join(near, far, ahead, meter)).detach();
        (caller, target)
    }

    /// Reads to the end, or to the failure of the connection.
    async fn read_all(stream: &Stream) -> io::Result<Vec<u8>> {
        let mut all = BytesMut::new();
        loop {
            stream.readable().await;
            match stream.recv(&mut all, 1000)? {
                Received::End => return Ok(all.to_vec()),
                Received::Bytes(_) | Received::Nothing => {}
            }
        }
    }

    async fn write_all(stream: &Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            stream.writable().await;
            bytes = &bytes[stream.send(bytes).unwrap()..];
        }
    }

    #[test]
    fn each_direction_ends_alone_and_the_targets_first_bytes_come_first() {
        run(Chosen::Epoll, async {
            let long = vec![b'x'; 1_000_000];
            let (caller, target) = joined(b"first, ");
            write_all(&caller, b"a request").await;
            caller.finish().await;
            assert_eq!(read_all(&target).await.unwrap(), b"a request");
            let sent = long.clone();
            spawn(async move {
                write_all(&target, &sent).await;
                target.finish().await;
            })
            .detach();
            let heard = read_all(&caller).await.unwrap();
            assert_eq!(heard, [&b"first, "[..], &long].concat());
        })
        .unwrap();
    }

    #[test]
    fn a_caller_that_is_gone_ends_the_session() {
        run(Chosen::Epoll, async {
            let (caller, target) = joined(b"");
            write_all(&target, b"unread").await;
            sleep(Duration::from_millis(20)).await;
            // A close in front of unread bytes is a reset.
            drop(caller);
            let end = read_all(&target).await;
            assert!(end.is_err() || end.unwrap().is_empty());
        })
        .unwrap();
    }
}
