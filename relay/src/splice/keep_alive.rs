//! Pings for callers over WebSocket, whose silence a proxy between them and the relay may hide: it keeps its connection to
//! the relay open when the caller is gone, and closes one on which nothing is sent.

use std::time::Duration;

use crate::io::{Stream, sleep};

/// Silence after which a caller is asked whether it is there; proxies close connections that are silent for a minute.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Silent intervals after which the caller counts as gone.
const SILENT_INTERVALS_MAX: u32 = 3;

/// Ready once the caller over a WebSocket has not answered for [`SILENT_INTERVALS_MAX`] times [`PING_INTERVAL`]. The stream
/// is shut then, so that the session ends with [`SessionEnd::FrontendGone`]. Never ready on other streams.
///
/// [`SessionEnd::FrontendGone`]: tieline_wire::SessionEnd::FrontendGone
pub(crate) async fn unanswered(stream: &Stream) {
    if stream.is_websocket() {
        silent(stream, PING_INTERVAL).await;
        stream.abort();
    } else {
        std::future::pending().await
    }
}

/// Ready once nothing has come for [`SILENT_INTERVALS_MAX`] times `interval`, in spite of pings.
async fn silent(stream: &Stream, interval: Duration) {
    let (mut heard, mut intervals) = (stream.frames_received(), 0);
    while intervals < SILENT_INTERVALS_MAX {
        sleep(interval).await;
        let before = std::mem::replace(&mut heard, stream.frames_received());
        // While the session has no credit the stream is not read, and an answer would wait there.
        if heard != before || stream.is_unread() {
            intervals = 0;
        } else {
            intervals += 1;
            stream.ping();
        }
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
