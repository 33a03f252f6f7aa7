//! Callers over QUIC whose session is on another shard's link. A stream of QUIC cannot leave the shard of its connection, so
//! the other shard serves one end of a socket pair as the frontend, and this one moves bytes between the other end and the
//! stream. What the two tell each other beside the bytes is in a [`Verdict`].

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tieline_wire::{CallerRefusal, SessionEnd};

use super::super::Shard;
use super::super::callers::Caller;
use super::super::mail::message::{Message, OpenVerdict, RawFrontend, Verdict};
use super::callers::until_delivered;
use crate::io::{Received, Stream, pair, sleep, timeout};
use crate::quic::QuicStream;
use crate::splice::{Frontend, break_off};

/// Bytes of one direction that may wait here for room.
const BUFFER_BYTES: usize = 64 * 1024;

/// Interval of checks on a caller that is not read, because the other shard has no room.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time without room at a caller after which the bytes before a reset are given up.
const RESET_PATIENCE: Duration = Duration::from_secs(2);

/// Why a crossing session broke off.
enum Broken {
    /// The caller reset its stream, or is gone.
    Caller,
    /// The other shard says so.
    Session(SessionEnd),
}

impl Shard {
    /// Has shard `to` serve the session of a caller's stream, and moves the stream's bytes until both directions are over.
    pub(super) async fn cross(
        self: &Rc<Self>,
        stream: QuicStream,
        raw: RawFrontend,
        caller: Caller,
        to: usize,
    ) {
        let (tunnel, peer) = (raw.tunnel.clone(), raw.peer);
        let refuse = || {
            let refused = (Some(&tunnel), Some(&caller));
            self.refuse_stream(&stream, peer, refused, CallerRefusal::Overload);
        };
        let Ok((ours, theirs)) = pair() else {
            return refuse();
        };
        self.kit.metrics.crossings.inc();
        let verdict = Arc::new(Verdict::default());
        // Dropped before `far`, so that the other shard does not take the close for an orderly end.
        let far = Stream::new(ours);
        let mut unfinished = Cancels(Some(&verdict));
        let _arrived = Arc::clone(&raw.arrived);
        let message = Message::Frontend {
            raw: Box::new(RawFrontend {
                crossing: Some(OpenVerdict::new(Arc::clone(&verdict))),
                ..raw
            }),
            stream: Stream::new(theirs).detach(),
            identity: caller.identity().cloned(),
        };
        if !self.kit.mail.hand_off(to, message).await {
            return refuse();
        }
        match carry(&stream, &far, &verdict).await {
            Ok(()) => {
                unfinished.0 = None;
                drop(far);
                until_delivered(&stream).await;
            }
            Err(Broken::Caller) => {}
            Err(Broken::Session(reason)) => break_off(&stream, reason).await,
        }
    }
}

/// Marks a crossing session as cancelled by its caller on drop, unless it ended in order.
struct Cancels<'a>(Option<&'a Verdict>);

impl Drop for Cancels<'_> {
    fn drop(&mut self) {
        if let Some(verdict) = self.0 {
            verdict.cancel();
        }
    }
}

/// Moves bytes both ways until both directions have ended.
async fn carry(caller: &QuicStream, far: &Stream, verdict: &Verdict) -> Result<(), Broken> {
    let (mut up, mut down) = (
        pin!(upward(caller, far)),
        pin!(downward(far, caller, verdict)),
    );
    let mut gone = pin!(gone(caller));
    let (mut is_up_over, mut is_down_over) = (false, false);
    poll_fn(|cx| -> Poll<Result<(), Broken>> {
        if !is_up_over && let Poll::Ready(outcome) = up.as_mut().poll(cx) {
            outcome?;
            is_up_over = true;
        }
        if !is_down_over && let Poll::Ready(outcome) = down.as_mut().poll(cx) {
            outcome?;
            is_down_over = true;
        }
        match is_up_over && is_down_over {
            true => Poll::Ready(Ok(())),
            false => gone.as_mut().poll(cx).map(Err),
        }
    })
    .await
}

/// Direction from the caller to the other shard.
async fn upward(caller: &QuicStream, far: &Stream) -> Result<(), Broken> {
    loop {
        caller.readable().await;
        // The buffer lives only while bytes are in it.
        let mut buffer = BytesMut::new();
        match caller.recv(&mut buffer, BUFFER_BYTES) {
            Ok(Received::Bytes(_) | Received::Nothing) => {}
            Ok(Received::End) => {
                far.finish().await;
                return Ok(());
            }
            Err(_) => return Err(Broken::Caller),
        }
        // The other direction tells why the other shard takes no more.
        if write_all(far, buffer).await.is_err() {
            return Ok(());
        }
    }
}

/// Direction from the other shard to the caller.
async fn downward(far: &Stream, caller: &QuicStream, verdict: &Verdict) -> Result<(), Broken> {
    loop {
        far.readable().await;
        let mut buffer = BytesMut::new();
        let received = far.recv(&mut buffer, BUFFER_BYTES);
        match (received, verdict.reset_reason()) {
            (Ok(Received::Bytes(_) | Received::Nothing), _) => {}
            // A reset looks like an end of the socket pair; the other shard records its reason before that.
            (Ok(Received::End) | Err(_), Some(reason)) => return Err(Broken::Session(reason)),
            (Ok(Received::End), None) => {
                caller.finish();
                return Ok(());
            }
            (Err(_), None) => return Err(Broken::Session(SessionEnd::Internal)),
        }
        write_down(caller, buffer, verdict, RESET_PATIENCE).await?;
    }
}

/// Writes all of `bytes`. If the session was reset, a caller that has no room for `patience` is not waited for any more, as
/// over TCP.
async fn write_down(
    caller: &impl Frontend,
    mut bytes: BytesMut,
    verdict: &Verdict,
    patience: Duration,
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        let taken = caller.send(&bytes).map_err(|_| Broken::Caller)?;
        bytes.advance(taken);
        if taken > 0 {
            continue;
        }
        // Known before the wait, so that a reset in the middle of it leaves the caller the whole time.
        let reset = verdict.reset_reason();
        let has_room = timeout(patience, caller.writable()).await.is_ok();
        if let (false, Some(reason)) = (has_room, reset) {
            return Err(Broken::Session(reason));
        }
    }
    Ok(())
}

/// Writes all of `bytes`.
///
/// # Errors
/// The stream takes no more.
async fn write_all(stream: &impl Frontend, mut bytes: BytesMut) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await;
        bytes.advance(stream.send(&bytes)?);
    }
    Ok(())
}

/// Ends once the caller has reset its stream or is gone, which no read shows while the other shard has no room.
async fn gone(caller: &QuicStream) -> Broken {
    while !caller.is_broken() {
        sleep(LOOK_INTERVAL).await;
    }
    Broken::Caller
}

/// Runs `spliced`, which joins `stream`, the end of a socket pair to the shard of a caller over QUIC, and a session; tells
/// that shard how it ends. Drops it unfinished if the caller is revoked.
pub(in crate::shard) async fn serve_crossed(
    verdict: OpenVerdict,
    stream: Rc<Stream>,
    spliced: impl Future<Output = Option<SessionEnd>>,
    caller: Caller,
) {
    // The verdict is dropped before the stream: the other shard must not mistake the stream's close for an orderly end.
    let _stream = stream;
    let mut verdict = verdict;
    let mut spliced = pin!(spliced);
    let reset = poll_fn(|cx| match caller.poll_revoked(cx) {
        Poll::Ready(reason) => Poll::Ready(Some(SessionEnd::from(reason))),
        Poll::Pending => spliced.as_mut().poll(cx),
    })
    .await;
    verdict.settle(reset);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{choose, run};

    /// Far longer than any step takes; only a hang reaches this limit.
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_caller_that_reads_nothing_is_given_up_once_its_session_was_reset() {
        let (driver, _) = choose(None).unwrap();
        let outcome = run(driver, async {
            let (ours, _theirs) = pair().unwrap();
            let caller = Stream::new(ours);
            let verdict = Verdict::default();
            // More than a socket holds.
            let bytes = || BytesMut::zeroed(16 * 1024 * 1024);
            let patience = Duration::from_millis(20);
            let writing = write_down(&caller, bytes(), &verdict, patience);
            let waited = timeout(10 * patience, writing).await;
            assert!(
                waited.is_err(),
                "without a reset the caller has all the time"
            );
            verdict.reset(SessionEnd::TargetReset);
            timeout(LONG, write_down(&caller, bytes(), &verdict, patience)).await
        });
        let ended = outcome.unwrap();
        let Ok(Err(Broken::Session(reason))) = ended else {
            panic!("the caller is still waited for");
        };
        assert_eq!(reason, SessionEnd::TargetReset);
    }
}
