//! Scripted targets on loopback.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::{Head, HttpStream};

/// Listen backlog: more connections than any test opens at once.
const BACKLOG: u32 = 4096;

/// Size of the echo's read buffer per connection, in bytes.
const ECHO_BYTES: usize = 16 * 1024;

/// A server that runs a script for each connection. Dropping it closes the connections.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    scheme: &'static str,
    accepted: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Target {
    /// Starts a TCP target that runs `script` for each connection.
    ///
    /// If a script fails, its connection is closed; the test notices that at its own end.
    ///
    /// # Errors
    /// No port is free.
    pub async fn tcp<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self::listen("", script).await
    }

    /// Starts a target that echoes bytes and closes when its peer does.
    ///
    /// # Errors
    /// No port is free.
    pub async fn echo() -> Result<Self> {
        Self::tcp(|mut stream| async move {
            loop {
                // Wait without a buffer, because a test may open ten thousand connections.
                stream.readable().await?;
                let mut buffer = vec![0; ECHO_BYTES];
                match stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    count => stream.write_all(&buffer[..count]).await?,
                }
            }
        })
        .await
    }

    /// Starts an HTTP target that runs `script` for each connection.
    ///
    /// # Errors
    /// No port is free.
    pub async fn http<F>(script: impl Fn(HttpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self::listen("http://", move |stream| script(HttpStream::new(stream))).await
    }

    /// Starts an HTTP target that runs `script` for each request, on kept-alive connections.
    ///
    /// # Errors
    /// No port is free.
    pub async fn http_requests<F>(
        script: impl Fn(HttpStream, Head) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<HttpStream>> + Send + 'static,
    {
        Self::http(move |mut http| {
            let script = script.clone();
            async move {
                while let Some(head) = http.head().await? {
                    http = script(http, head).await?;
                }
                Ok(())
            }
        })
        .await
    }

    async fn listen<F>(
        scheme: &'static str,
        script: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let server = tokio::spawn(serve(listener, count, script));
        Ok(Self {
            address,
            scheme,
            accepted,
            server,
        })
    }

    /// Address that the target listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn serve<F>(
    listener: TcpListener,
    accepted: Arc<AtomicUsize>,
    script: impl Fn(TcpStream) -> F + Send + 'static,
) where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        // Without TCP_NODELAY, the script's bytes are only delayed.
        let _ = stream.set_nodelay(true);
        connections.spawn(script(stream));
        while connections.try_join_next().is_some() {}
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Display for Target {
    /// Formats the target in the syntax of an agent's `--to`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scheme, self.address)
    }
}
