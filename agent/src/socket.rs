//! Outgoing connections, with the options that all of them get, and what a reset needs from the
//! kernel before.

use std::io;
use std::net::{Shutdown, SocketAddr};
#[cfg(target_os = "linux")]
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
#[cfg(target_os = "linux")]
use tokio::time::sleep;

/// Unsent bytes that the kernel may hold for a target or a lane that reads slowly: without a limit
/// they grow to `net.ipv4.tcp_wmem`, and a few hundred stalled sessions use up the memory that TCP
/// has for everybody (`net.ipv4.tcp_mem`). With less than this, bulk costs more wake-ups.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_BYTES_MAX: u32 = 1024 * 1024;

/// The congestion control of connections within this machine: one that never paces. BBR does, even
/// on loopback, with a timer for each segment (ADR 17). The kernel always has this one.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// What a connection looks like to its peer when it is closed without [`finish`], as the kernel does for
/// a process that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// Reset: the peer cannot take what it has for all of it (`SO_LINGER` of 0 s, socket(7)).
    Resets,
    /// Ended in order: the bytes on it have lengths and ends of their own.
    Ends,
}

/// From now on the close of the connection is an orderly end.
pub(crate) fn end_in_order(stream: &TcpStream) {
    // It fails only on a connection that is gone.
    let _ = socket2::SockRef::from(stream).set_linger(None);
}

/// Ends our direction in order, behind what was written: the peer has all that there is.
pub(crate) fn finish(stream: &TcpStream) {
    end_in_order(stream);
    // A peer that is gone already shows in the direction from it.
    let _ = socket2::SockRef::from(stream).shutdown(Shutdown::Write);
}

/// Connects to `address`.
///
/// # Errors
/// As connect(2).
pub(crate) async fn connect(address: SocketAddr, unfinished: Unfinished) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Who writes decided when to send; holding bytes back only adds latency.
    socket.set_nodelay(true)?;
    // Else a byte that the peer calls urgent is not among those that are read.
    let _ = socket2::SockRef::from(&socket).set_out_of_band_inline(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let options = socket2::SockRef::from(&socket);
        // Without these all works, only slower.
        let _ = options.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX);
        // Before it is connected: a socket that began to pace never stops.
        if address.ip().to_canonical().is_loopback() {
            let _ = options.set_tcp_congestion(LOOPBACK_CONGESTION);
        }
    }
    if unfinished == Unfinished::Resets {
        socket.set_zero_linger()?;
    }
    socket.connect(address).await
}

/// Lets the kernel send what it took, until `deadline`: a reset discards the rest (`SO_LINGER`,
/// socket(7)).
#[cfg(target_os = "linux")]
pub(crate) async fn flush(stream: &TcpStream, deadline: Instant) {
    // With this limit only a socket that has nothing unsent is writable (tcp(7)); or one whose end
    // was queued already, which then cannot be told.
    if socket2::SockRef::from(stream)
        .set_tcp_notsent_lowat(1)
        .is_err()
    {
        return;
    }
    let mut pause = Duration::from_millis(1);
    while !is_writable(stream) && Instant::now() < deadline {
        // tokio knows edges only, and there is none that it has not seen.
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// True also for a connection that is broken.
#[cfg(target_os = "linux")]
fn is_writable(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default())) != Ok(0)
}

/// Elsewhere the kernel does not tell.
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
            let stream = connect(listener.local_addr().unwrap(), Unfinished::Ends)
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
