//! A session's bulk lane: a separate connection to the relay, on which the kernel moves the bytes where possible.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;
use tieline_wire::{BulkNonce, Event};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::pipe::Pipe;
use super::{Collected, Delivered, FLUSH_TIMEOUT, Session};
use crate::link::Link;
use crate::transport::{Lane, dial_lane};

/// Time limit for connecting a lane; the relay forgets its offer a little later.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Time limit for the relay to reset the session after a lane broke; both ends see the break.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the relay to close the lane of an ended session; longer than the relay reads on.
const LINGER_TIMEOUT: Duration = Duration::from_secs(3);

const LINGER_READ_BYTES: usize = 16 * 1024;

/// Bytes that one direction moves before it lets other tasks run.
const TURN_BYTES: usize = 256 * 1024;

/// Whether the session has a lane.
#[derive(Debug, Default)]
pub(super) enum LaneState {
    #[default]
    Free,
    /// The relay offered a lane, which is being dialled.
    Dialling,
    Taken(Arc<Lane>),
    /// The relay offered a lane, but it could not be connected.
    Lost,
}

impl Session {
    /// Records that the relay's direction goes on over the lane.
    pub(crate) fn moved(&self) {
        self.inbox().moved = true;
        self.changed.ring();
    }

    /// Accepts the offer of a lane; false if the session already had one.
    pub(crate) fn takes_lane(&self) -> bool {
        let mut inbox = self.inbox();
        let free = matches!(inbox.lane, LaneState::Free);
        if free {
            inbox.lane = LaneState::Dialling;
        }
        free
    }

    /// Stores the connected lane; `None` if it could not be connected.
    fn set_lane(&self, lane: Option<Arc<Lane>>) {
        let seated = lane.is_some();
        self.inbox().lane = lane.map_or(LaneState::Lost, LaneState::Taken);
        self.seated.store(seated, Ordering::Release);
        self.changed.ring();
        self.writable.ring();
    }

    pub(super) fn lane(&self) -> Option<Arc<Lane>> {
        if !self.seated.load(Ordering::Acquire) {
            return None;
        }
        match &self.inbox().lane {
            LaneState::Taken(lane) => Some(Arc::clone(lane)),
            LaneState::Free | LaneState::Dialling | LaneState::Lost => None,
        }
    }

    /// Moves bytes from the lane to the target until the lane ends; `None` if the link or the inbox decides how the
    /// direction ends.
    pub(super) async fn write_lane(
        &self,
        link: &Link,
        lane: &Lane,
        target: &TcpStream,
    ) -> Option<Delivered> {
        let mut total = 0;
        let carried = {
            let mut carrying = pin!(carry(lane, target, |count| {
                total += count as u64;
                link.lane_received(count);
            }));
            tokio::select! {
                carried = &mut carrying => Some(carried),
                // Bytes on their way get the time that a backlog gets.
                () = self.aborted() => timeout(FLUSH_TIMEOUT, carrying).await.ok(),
            }
        };
        match carried {
            None => Some(Delivered::Aborted),
            Some(Ok(())) => match link.lane_ended(self.id, total) {
                Some(Event::Finished { .. }) => {
                    self.finish();
                    None
                }
                broken => broken.map(|_| Delivered::Aborted),
            },
            Some(Err(Broken::To)) => {
                self.inbox().failed = true;
                None
            }
            Some(Err(Broken::From)) => {
                let aborted = timeout(VERDICT_TIMEOUT, self.aborted()).await;
                Some(aborted.map_or(Delivered::LaneFailed, |()| Delivered::Aborted))
            }
        }
    }

    /// Moves bytes from the target to the lane until the target ends or a connection breaks.
    pub(super) async fn read_to_lane(
        &self,
        link: &Link,
        lane: &Lane,
        target: &TcpStream,
    ) -> Collected {
        let carried = carry(target, lane, |count| link.lane_sent(self.id, count)).await;
        if !matches!(carried, Err(Broken::To)) {
            // The relay reads the lane up to this end, even if the link resets the session.
            let _ = SockRef::from(lane).shutdown(Shutdown::Write);
        }
        match carried {
            Ok(()) => Collected::All,
            Err(Broken::From) => Collected::TargetFailed,
            Err(Broken::To) => {
                // A reset from the relay ends this wait.
                sleep(VERDICT_TIMEOUT).await;
                Collected::LaneFailed
            }
        }
    }
}

/// The side of a transfer that failed.
#[derive(Debug)]
enum Broken {
    From,
    To,
}

/// Dials a lane for `session` and stores it. Without a lane, the session stays on the link, unless the relay has
/// already moved to the lane.
pub(crate) async fn take_offer(session: Arc<Session>, relay: SocketAddr, nonce: BulkNonce) {
    let lane = match timeout(DIAL_TIMEOUT, dial_lane(relay, &nonce)).await {
        Ok(Ok(lane)) => Some(Arc::new(lane)),
        Ok(Err(error)) => {
            tracing::debug!(session = %session.id, %error, "cannot connect the bulk lane");
            None
        }
        Err(_) => {
            tracing::debug!(session = %session.id, "the bulk lane was not connected in time");
            None
        }
    };
    session.set_lane(lane);
}

/// Reads a lane that is no longer needed until the relay has closed it: closing a connection with unread bytes resets
/// it, and the relay would lose what it has not read yet.
pub(super) async fn linger(lane: Arc<Lane>) {
    let _ = SockRef::from(lane.as_ref()).shutdown(Shutdown::Write);
    let mut rest = vec![0; LINGER_READ_BYTES];
    let closed = async {
        loop {
            if lane.readable().await.is_err() {
                return;
            }
            match lane.try_read(&mut rest) {
                Ok(0) => return,
                Ok(_) => yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, closed).await;
}

/// Moves bytes until `from` ends; calls `taken` with the size of each piece that `to` took.
async fn carry(
    from: &TcpStream,
    to: &TcpStream,
    mut taken: impl FnMut(usize),
) -> Result<(), Broken> {
    let mut pipe = Pipe::open();
    let mut turn = 0;
    loop {
        let count = loop {
            match pipe.fill(from) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    from.readable().await.map_err(|_| Broken::From)?;
                }
                outcome => break outcome.map_err(|_| Broken::From)?,
            }
        };
        if count == 0 {
            return Ok(());
        }
        while !pipe.is_empty() {
            match pipe.drain(to) {
                Ok(count) => taken(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable().await.map_err(|_| Broken::To)?;
                }
                Err(_) => return Err(Broken::To),
            }
        }
        turn += count;
        if turn >= TURN_BYTES {
            turn = 0;
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tieline_wire::SessionId;
    use tieline_wire::limits::{LANE_HELLO_BYTES, LANE_PREFACE};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::targets::{Target, WatchedTarget};

    /// A session whose direction from the relay goes over a lane.
    struct OnLane {
        session: Arc<Session>,
        /// The relay's end of the lane.
        relay: TcpStream,
        /// The target's end of its connection.
        target: TcpStream,
    }

    async fn on_lane() -> OnLane {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let session = Arc::new(Session::new(SessionId(1)));
        let target = WatchedTarget::new(Target::parse(&address.to_string()).unwrap());
        let link = Arc::new(Link::new());
        tokio::spawn(super::super::run(link, Arc::clone(&session), target));
        let (target, _) = listener.accept().await.unwrap();

        assert!(session.takes_lane());
        let offer = take_offer(Arc::clone(&session), address, BulkNonce::new([7; 16]));
        let answer = async {
            let (mut relay, _) = listener.accept().await.unwrap();
            let mut hello = [0; LANE_HELLO_BYTES];
            relay.read_exact(&mut hello).await.unwrap();
            relay.write_all(&LANE_PREFACE).await.unwrap();
            relay
        };
        let ((), relay) = tokio::join!(offer, answer);
        session.moved();
        OnLane {
            session,
            relay,
            target,
        }
    }

    async fn read_to_reset(mut target: TcpStream) -> usize {
        let mut seen = Vec::new();
        let end = target.read_to_end(&mut seen).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(seen.iter().all(|byte| *byte == 7));
        seen.len()
    }

    #[tokio::test]
    async fn what_a_lane_brought_before_an_abort_reaches_the_target_before_the_reset() {
        for closes in [false, true] {
            let it = on_lane().await;
            it.relay.writable().await.unwrap();
            // No other task runs in between, so the session sees the abort first.
            let accepted = it.relay.try_write(&[7; 100_000]).unwrap();
            it.session.abort();
            let lane = (!closes).then_some(it.relay);
            assert_eq!(read_to_reset(it.target).await, accepted);
            drop(lane);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_the_kernel_took_before_an_abort_reaches_a_slow_target_before_the_reset() {
        let mut it = on_lane().await;
        // More than the target's own socket holds, and less than all buffers on the way hold.
        let bytes = vec![7; 1024 * 1024];
        it.relay.write_all(&bytes).await.unwrap();
        it.session.abort();
        drop(it.relay);
        assert_eq!(read_to_reset(it.target).await, bytes.len());
    }

    #[tokio::test]
    async fn a_lane_has_no_limit_on_how_long_its_relay_takes_nothing() {
        let it = on_lane().await;
        let lane = it.session.lane().unwrap();
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&*lane).tcp_user_timeout().unwrap(), None);
        drop(lane);
    }
}
