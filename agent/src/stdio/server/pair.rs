//! A connection within this process, as two TCP sockets: sessions of the agent end in TCP connections, whose bytes the
//! kernel may move.
//!
//! For a moment a port of this machine's own address is open. Other programs may connect to it, and are dropped.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::socket::{self, CloseMode};

/// Longest wait for both ends; without other programs that connect, they are there at once.
const PAIR_TIMEOUT: Duration = Duration::from_secs(2);

/// Limit on unsent bytes in the kernel for a session that reads slowly: the answer's own queue has as many.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_BYTES_MAX: u32 = 256 * 1024;

/// Congestion control of connections within this machine, as of other connections of the agent.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// Two ends of a connection; `unfinished` decides how the second one sees a close of the first before the orderly end.
///
/// # Errors
/// The system's error; `TimedOut` if other programs keep the port busy.
pub(super) async fn pair(unfinished: CloseMode) -> io::Result<(TcpStream, TcpStream)> {
    let connected = timeout(PAIR_TIMEOUT, connected(unfinished)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connected(unfinished: CloseMode) -> io::Result<(TcpStream, TcpStream)> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
        Ok(listener) => listener,
        // A machine without IPv4.
        Err(_) => TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await?,
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Accepted connections inherit it. Optional, as in `socket::connect`.
        let _ = socket2::SockRef::from(&listener).set_tcp_congestion(LOOPBACK_CONGESTION);
    }
    let first = socket::connect(listener.local_addr()?, unfinished).await?;
    let second = accepted(&listener, first.local_addr()?).await?;
    second.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let _ = socket2::SockRef::from(&second).set_tcp_notsent_lowat(NOTSENT_BYTES_MAX);
    }
    Ok((first, second))
}

/// The connection that comes from `address`; others are closed.
async fn accepted(listener: &TcpListener, address: SocketAddr) -> io::Result<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if peer == address => return Ok(stream),
            Ok((_, peer)) => tracing::debug!(%peer, "another program has connected"),
            Err(error) if is_peers(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// True for the error of a connection that has ended before it was accepted.
fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways() {
        let (mut first, mut second) = pair(CloseMode::Ends).await.unwrap();
        first.write_all(b"ping").await.unwrap();
        second.write_all(b"pong").await.unwrap();
        let mut bytes = [0; 4];
        first.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"pong");
        second.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        assert!(first.nodelay().unwrap() && second.nodelay().unwrap());
    }

    #[tokio::test]
    async fn the_first_end_closes_as_it_is_told() {
        let mut byte = [0];
        let (first, mut second) = pair(CloseMode::Ends).await.unwrap();
        drop(first);
        assert_eq!(second.read(&mut byte).await.unwrap(), 0);
        let (first, mut second) = pair(CloseMode::Resets).await.unwrap();
        drop(first);
        let error = second.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn another_program_that_connects_is_dropped() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let mut ours = TcpStream::connect(address).await.unwrap();
        let mut stream = accepted(&listener, ours.local_addr().unwrap())
            .await
            .unwrap();
        let mut byte = [0];
        assert_eq!(stranger.read(&mut byte).await.unwrap(), 0);
        stream.write_all(b"x").await.unwrap();
        ours.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }
}
