//! Targets on loopback that do what a test tells them.

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

/// Connections that may wait to be accepted: more than any test opens at once.
const BACKLOG: u32 = 4096;

/// Bytes that an echo holds of one connection.
const ECHO_BYTES: usize = 16 * 1024;

/// A server that runs a script for each connection; its connections end when it is dropped.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    scheme: &'static str,
    accepted: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Target {
    /// Runs `script` for each connection.
    ///
    /// A script that fails closes its connection; the test sees that from its own end.
    ///
    /// # Errors
    /// There is no port.
    pub async fn tcp<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self::listen("", script).await
    }

    /// Sends back what it gets, and ends when its peer does.
    ///
    /// # Errors
    /// There is no port.
    pub async fn echo() -> Result<Self> {
        Self::tcp(|mut stream| async move {
            loop {
                // An idle connection holds no memory: there may be ten thousand of them.
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

    /// Runs `script` for each connection, as a server that speaks HTTP.
    ///
    /// # Errors
    /// There is no port.
    pub async fn http<F>(script: impl Fn(HttpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self::listen("http://", move |stream| script(HttpStream::new(stream))).await
    }

    /// Runs `script` for each request of each connection, kept alive as long as the caller likes.
    ///
    /// # Errors
    /// There is no port.
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

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has accepted so far.
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
        // Only delays what the script sends.
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
    /// As an agent's `--to`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scheme, self.address)
    }
}
