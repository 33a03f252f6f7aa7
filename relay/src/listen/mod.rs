//! The ways in: sockets are accepted here, and say where they want to go.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::io::{Listener, Socket, sleep};

pub(crate) mod agent;
pub(crate) mod http;
pub(crate) mod proxied;
pub(crate) mod tcp;

/// How long an accept loop rests after an error that will not pass by itself at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an accept loop that fails again and again says so.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections until the listener is shut, and hands each to `arrived`, which must not
/// block.
pub(crate) async fn accept(listener: Rc<Listener>, mut arrived: impl FnMut(Socket, SocketAddr)) {
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => arrived(socket, peer),
            // The caller went away before it was accepted (accept(2), Error handling).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => {
                // At the limit it fails and succeeds in turns.
                if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    warned = Some(Instant::now());
                    warn!(%error, "cannot accept connections; is the limit of open files reached?");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
