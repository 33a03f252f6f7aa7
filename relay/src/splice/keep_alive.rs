//! Pings for callers over WebSocket. A proxy between caller and relay may keep its connection to the relay open when
//! the caller is gone, and may close a connection on which nothing is sent.

use std::time::Duration;

use tieline_transport::websocket::code;
use tieline_wire::SessionEnd;

use crate::io::{Stream, sleep};

/// Silence after which a caller is asked whether it is there; proxies close connections that are silent for a minute.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Looks at the caller in one interval: silence is noticed at most one look, 25 s / 5 = 5 s, late.
const INTERVAL_LOOKS: u32 = 5;

/// Silent intervals after which the caller counts as gone.
const SILENT_INTERVALS_MAX: u32 = 3;

/// Shuts the stream once the caller over a WebSocket has not answered for [`SILENT_INTERVALS_MAX`] times
/// [`PING_INTERVAL`], and is ready then. The session goes on until its splice is dropped, which ends it with
/// [`SessionEnd::FrontendGone`]. Never ready on other streams.
pub(crate) async fn unanswered(stream: &Stream) {
    if stream.is_websocket() {
        silent(stream, PING_INTERVAL).await;
        shut(stream);
    } else {
        std::future::pending().await
    }
}

/// Ends the stream with a Close frame that says why, as far as that needs no wait.
fn shut(stream: &Stream) {
    stream.close(code::INTERNAL, SessionEnd::FrontendGone.word());
    stream.abort();
}

/// Ready once nothing has come for [`SILENT_INTERVALS_MAX`] times `interval`, in spite of pings.
async fn silent(stream: &Stream, interval: Duration) {
    let (mut heard, mut silence) = (stream.frames_received(), Silence::default());
    while !silence.is_over() {
        sleep(interval / INTERVAL_LOOKS).await;
        let before = std::mem::replace(&mut heard, stream.frames_received());
        // While the session has no credit, the stream is not read, and a caller's answer waits in it unread.
        let is_silent = heard == before && !stream.is_unread();
        if silence.look(is_silent) {
            stream.ping();
        }
    }
}

/// Number of looks in a row that found nothing new from the caller.
#[derive(Default)]
struct Silence {
    looks: u32,
}

impl Silence {
    /// Counts one look; true if a ping is due.
    const fn look(&mut self, is_silent: bool) -> bool {
        self.looks = if is_silent { self.looks + 1 } else { 0 };
        is_silent && self.looks.is_multiple_of(INTERVAL_LOOKS)
    }

    const fn is_over(&self) -> bool {
        self.looks >= SILENT_INTERVALS_MAX * INTERVAL_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::*;
    use crate::io::{Chosen, Received, pair, run, timeout};

    const INTERVAL: Duration = Duration::from_millis(20);

    /// A stream over WebSocket, and its peer's end without one.
    fn connected() -> (Stream, Stream) {
        let (ours, theirs) = pair().unwrap();
        let ours = Stream::new(ours).over_websocket(Bytes::new());
        (ours, Stream::new(theirs))
    }

    #[test]
    fn a_caller_that_answers_no_ping_is_gone() {
        run(Chosen::Epoll, async {
            let (ours, theirs) = connected();
            silent(&ours, INTERVAL).await;
            let mut heard = BytesMut::new();
            theirs.recv(&mut heard, 100).unwrap();
            assert_eq!(heard[..], [0x89, 0]);
        })
        .unwrap();
    }

    #[test]
    fn an_answer_puts_the_next_ping_off_by_one_look() {
        let mut silence = Silence::default();
        let mut looks_to_ping = |answered: bool| {
            let first = silence.look(!answered);
            assert!(!first);
            (2..100).find(|_| silence.look(true))
        };
        assert_eq!(looks_to_ping(false), Some(INTERVAL_LOOKS));
        assert_eq!(looks_to_ping(true), Some(INTERVAL_LOOKS + 1));
        assert_eq!(looks_to_ping(true), Some(INTERVAL_LOOKS + 1));
        assert!(!silence.is_over());
    }

    #[test]
    fn a_caller_that_is_gone_is_told_why() {
        run(Chosen::Epoll, async {
            let (ours, theirs) = connected();
            shut(&ours);
            let mut heard = BytesMut::new();
            theirs.recv(&mut heard, 100).unwrap();
            assert_eq!(heard[..], *b"\x88\x0f\x03\xf3frontend_gone");
        })
        .unwrap();
    }

    #[test]
    fn a_caller_that_is_not_read_is_not_gone() {
        run(Chosen::Epoll, async {
            let (ours, theirs) = connected();
            theirs.send(&[0x8a, 0x80, 0, 0, 0, 0]).unwrap();
            let gone = timeout(10 * INTERVAL, silent(&ours, INTERVAL)).await;
            assert!(gone.is_err());
            let received = ours.recv(&mut BytesMut::new(), 100).unwrap();
            assert_eq!(received, Received::Nothing);
            silent(&ours, INTERVAL).await;
        })
        .unwrap();
    }

    #[test]
    fn a_caller_that_ended_and_is_not_read_is_not_asked() {
        run(Chosen::Epoll, async {
            let (ours, theirs) = connected();
            theirs.finish().await;
            let gone = timeout(10 * INTERVAL, silent(&ours, INTERVAL)).await;
            assert!(gone.is_err());
        })
        .unwrap();
    }
}
