//! Direction from the target: reads into the link up to the session's credit, until a lane takes over.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::{Collected, Session};
use crate::link::{Link, Pull};

/// Next step once nothing more can be read now.
enum Next {
    Lane(Arc<TcpStream>),
    AwaitCredit,
    Done(Collected),
}

impl Session {
    /// Reads the target to its end, up to the session's credit.
    pub(super) async fn read_target(&self, link: &Link, stream: &mut OwnedReadHalf) -> Collected {
        loop {
            match poll_fn(|context| self.poll_target(context, link, stream)).await {
                Next::Lane(lane) => return self.read_to_lane(link, &lane, stream.as_ref()).await,
                Next::AwaitCredit => self.writable.heard().await,
                Next::Done(collected) => return collected,
            }
        }
    }

    fn poll_target(
        &self,
        context: &mut Context<'_>,
        link: &Link,
        stream: &mut OwnedReadHalf,
    ) -> Poll<Next> {
        loop {
            if let Some(lane) = self.lane()
                && link.move_to_lane(self.id)
            {
                return Poll::Ready(Next::Lane(lane));
            }
            match ready!(link.poll_pull(context, self.id, stream)) {
                // After a short read, tokio knows that the socket is empty: checking readiness alone spares the
                // link's lock. The next read reports an error.
                Pull::Sent => drop(ready!(stream.as_ref().poll_read_ready(context))),
                Pull::NoCredit => return Poll::Ready(Next::AwaitCredit),
                Pull::End => return Poll::Ready(Next::Done(Collected::All)),
                Pull::Failed => return Poll::Ready(Next::Done(Collected::TargetFailed)),
            }
        }
    }
}
