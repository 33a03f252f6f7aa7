//! An MCP server that is a program, published over HTTP: the driver of the bridge.
//!
//! ```text
//!   session ══ pair ══ connection ── upload ──► state ──► inbox ──► children ══ process
//!                          ▲                   (bridge)               │
//!                          └─── answer ◄─── queue ◄─── state ◄────────┘
//! ```
//!
//! A session of the agent is one end of a TCP connection within this process (`pair`), whose other end `connection`
//! serves: it reads a request (`upload`), and hands it to the bridge, which `state` keeps behind a lock. What follows
//! is carried out at once: lines for a child go into its `inbox`, and bytes of answers into their `queue`s, from which
//! the response's body (`answer`) takes them. The task of a child (`children`) starts its process and moves its lines,
//! and the `keeper` wakes the bridge in time.
//!
//! **Limits.** The messages of callers share a `room`. A child is not read while the callers of its last line have much
//! left to take, so that a slow caller slows down its own child, and none of the others.
//!
//! `event` and `status` are what the agent hears of all this, `strays` and `logs` what children write besides.

use std::io;
use std::sync::Arc;

use tieline_bridge::Settings;
use tokio::net::TcpStream;

mod answer;
mod children;
mod connection;
mod event;
mod inbox;
mod keeper;
mod logs;
mod pair;
mod queue;
mod room;
mod state;
mod status;
mod strays;
mod upload;

#[cfg(test)]
#[cfg(unix)]
mod tests;

pub(crate) use self::event::{StdioEvent, Told};
use self::state::Shared;
pub use self::status::StdioStatus;
use super::{Command, Guard};
use crate::socket::CloseMode;

/// An MCP server that is a program: its children, the bridge to them, and HTTP connections. Clones share it.
///
/// Its children end with [`StdioServer::stop`], or with the runtime.
#[derive(Clone, Debug)]
pub(crate) struct StdioServer(Arc<Shared>);

impl StdioServer {
    /// A server whose first child starts with the first request. It needs no runtime yet.
    pub(crate) fn new(
        command: Command,
        settings: Settings,
        guard: Option<Arc<Guard>>,
        told: Told,
    ) -> Self {
        Self(Arc::new(Shared::new(command, settings, guard, told)))
    }

    /// A new connection to the server; `unfinished` decides how the server sees a close before the orderly end.
    ///
    /// The number of connections is limited by its caller, as that of other targets.
    ///
    /// # Errors
    /// The system's error, for example if no socket is left.
    pub(crate) async fn connect(&self, unfinished: CloseMode) -> io::Result<TcpStream> {
        let (stream, served) = pair::pair(unfinished).await?;
        keeper::ensure(&self.0);
        tokio::spawn(connection::serve(Arc::clone(&self.0), served));
        Ok(stream)
    }

    /// What the server can tell of itself.
    pub(crate) fn status(&self) -> StdioStatus {
        self.0.status()
    }

    /// The last lines that children have written to their standard errors, each with the number of its child in
    /// brackets; 64 KiB at most.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.0.logs()
    }

    /// Ends all children in order, and waits until they have gone, which takes some seconds at most. Answers under way
    /// are broken off, and requests are refused from now on.
    pub(crate) async fn stop(&self) {
        self.0.stop().await;
    }
}
