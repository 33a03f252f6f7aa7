//! Options that every outgoing connection gets.

use std::io;

use tokio::net::TcpStream;

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
