//! A link over a stream of bytes: the mux's output goes out in gathered writes, and the end waits for the relay's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tieline_wire::{SendProgress, Transmit};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::gathered;
use crate::error::Error;
use crate::link::Link;
use crate::link::buffer::{READ_BYTES_MIN, TURN_BYTES_MAX};
use crate::transport::{Reads, Writes};

/// Time limit for the relay to close its side after the agent closed its own.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Sends the mux's output in gathered writes until the socket fails.
pub(super) async fn write(link: Arc<Link>, writes: Writes) -> Result<(), Error> {
    let mut out = Transmit::new();
    let (mut turn_bytes, mut written) = (0, SendProgress::default());
    loop {
        gathered(&link).await;
        {
            let mut core = link.core();
            if core.mux.wants_transmit() {
                core.mux.poll_transmit(link.now(), &mut out);
                core.after_turn(&link.deadline);
            }
            written.waiting = out.len() as u64;
            core.written = written;
        }
        if out.is_empty() {
            link.flushed.notify_waiters();
            turn_bytes = 0;
            link.transmit.heard().await;
            continue;
        }
        while !out.is_empty() {
            let sent: io::Result<usize> = out.send_with(|slices| {
                let count = writes.try_send_vectored(slices)?;
                #[cfg(test)]
                crate::link::tests::witness::written(writes.socket(), slices, count);
                Ok(count)
            });
            match sent {
                Ok(count) => {
                    turn_bytes += count;
                    written.acked += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    written.waiting = out.len() as u64;
                    link.core().written = written;
                    writes.writable().await.map_err(Error::lost_by)?;
                }
                Err(error) => return Err(Error::lost_by(error)),
            }
            if turn_bytes >= TURN_BYTES_MAX {
                turn_bytes = 0;
                yield_now().await;
            }
        }
    }
}

/// Waits until the kernel has all that the mux had to send.
pub(super) async fn flushed(link: &Link) {
    loop {
        let flushed = link.flushed.notified();
        tokio::pin!(flushed);
        flushed.as_mut().enable();
        {
            let core = link.core();
            if core.written.waiting == 0 && !core.mux.wants_transmit() {
                return;
            }
        }
        flushed.await;
    }
}

/// Closes our side, and reads until the relay has closed its own.
///
/// Closing a socket with unread bytes resets the connection, and the relay could lose our last frames.
pub(super) async fn say_farewell(reads: &mut Reads) {
    let mut rest = BytesMut::with_capacity(READ_BYTES_MIN);
    let _ = timeout(FAREWELL_TIMEOUT, async {
        reads.end_sending().await;
        while matches!(reads.read(&mut rest).await, Ok(count) if count > 0) {
            rest.clear();
        }
    })
    .await;
}
