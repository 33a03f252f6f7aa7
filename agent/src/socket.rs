//! Outgoing TCP connections: the options common to all, their orderly end, and the flush before a reset.

use std::io;
use std::net::{Shutdown, SocketAddr};
#[cfg(target_os = "linux")]
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
#[cfg(target_os = "linux")]
use tokio::time::sleep;

/// Limit on unsent bytes in the kernel for a target or a lane that reads slowly. Without the limit, unsent bytes
/// grow to `net.ipv4.tcp_wmem`, and a few hundred stalled sessions use up the memory of all TCP sockets
/// (`net.ipv4.tcp_mem`). With a lower limit, bulk costs more wake-ups.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_BYTES_MAX: u32 = 1024 * 1024;

/// Congestion control of connections within this machine: Reno never paces. BBR paces even on loopback, with a
/// timer for each segment (ADR 17). Every Linux kernel has Reno.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// How the peer sees a connection that is closed without [`finish`], for example by the kernel after the process
/// was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Reset: the peer cannot mistake partial data for complete data (`SO_LINGER` of 0 s, socket(7)).
    Resets,
    /// Orderly end: the protocol on the connection marks its own lengths and ends.
    Ends,
}

/// Ends our direction in order after the written bytes: the peer knows that it has all data. A later close of the
/// connection is an orderly end, too.
pub fn finish(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    // Both fail only on a broken connection, which the direction from the peer reports.
    let _ = socket.set_linger(None);
    let _ = socket.shutdown(Shutdown::Write);
}

/// Connects to `address`.
///
/// # Errors
/// As connect(2).
pub(crate) async fn connect(address: SocketAddr, unfinished: CloseMode) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // The writer decides when to send; holding bytes back only adds latency.
    socket.set_nodelay(true)?;
    // Otherwise reads skip a byte that the peer marks as urgent.
    let _ = socket2::SockRef::from(&socket).set_out_of_band_inline(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let options = socket2::SockRef::from(&socket);
        // Optional: without these options, the connection works but is slower.
        let _ = options.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX);
        // Set before connecting: a socket that began to pace never stops.
        if address.ip().to_canonical().is_loopback() {
            let _ = options.set_tcp_congestion(LOOPBACK_CONGESTION);
        }
    }
    if unfinished == CloseMode::Resets {
        socket.set_zero_linger()?;
    }
    socket.connect(address).await
}

/// Waits until the kernel has sent all written bytes, or until `deadline`: a reset discards unsent bytes
/// (`SO_LINGER`, socket(7)).
#[cfg(target_os = "linux")]
pub(crate) async fn flush(stream: &TcpStream, deadline: Instant) {
    // With this limit, a socket is writable only if nothing is unsent (tcp(7)). A socket whose end is already queued
    // is writable too, and cannot be told apart.
    if socket2::SockRef::from(stream)
        .set_tcp_notsent_lowat(1)
        .is_err()
    {
        return;
    }
    let mut pause = Duration::from_millis(1);
    while !is_writable(stream) && Instant::now() < deadline {
        // Polls, since tokio reports edges only, and the socket was writable before.
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// True if the connection is writable or broken.
#[cfg(target_os = "linux")]
fn is_writable(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default())) != Ok(0)
}

/// Does nothing: other kernels do not report unsent bytes.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn flush(_: &TcpStream, _: Instant) {}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_within_this_machine_is_not_paced() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host).await else {
                continue; // No IPv6 here.
            };
            let stream = connect(listener.local_addr().unwrap(), CloseMode::Ends)
                .await
                .unwrap();
            let options = SockRef::from(&stream);
            let congestion = options.tcp_congestion().unwrap();
            assert!(congestion.starts_with(LOOPBACK_CONGESTION));
            assert!(stream.nodelay().unwrap());
            assert_eq!(options.tcp_notsent_lowat().unwrap(), NOTSENT_BYTES_MAX);
        }
    }
}
