//! Options that every outgoing connection gets, and what a reset needs from the kernel before.

use std::io;
#[cfg(target_os = "linux")]
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
#[cfg(target_os = "linux")]
use tokio::time::sleep;

/// Unsent bytes that the kernel may hold for a target or a lane that reads slowly: without a limit
/// they grow to `net.ipv4.tcp_wmem`, and a few hundred stalled sessions use up the memory that TCP
/// has for everybody (`net.ipv4.tcp_mem`). With less than this, bulk costs more wake-ups.
pub(crate) const SESSION_NOTSENT_BYTES_MAX: u32 = 1024 * 1024;

/// Lets bytes leave at once, and the kernel hold at most `notsent_bytes_max` that could not.
pub(crate) fn prepare(stream: &TcpStream, notsent_bytes_max: u32) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(notsent_bytes_max)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = notsent_bytes_max;
    Ok(())
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
