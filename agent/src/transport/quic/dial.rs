//! Makes the connection: the addresses of the relay race, and the first whose handshake ends wins.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn_proto::ClientConfig;
use tieline_transport::quic::client;
use tokio::time::Instant;

use super::Quic;
use super::failure::of_handshake;
use crate::address::HostPort;
use crate::transport::hello::Try;
use crate::transport::verifier::Refusals;

/// Makes one try of a connection to `to`, before `deadline`: its addresses are tried as over TCP, the next a quarter of a
/// second after the one before. `refusals` is where the configuration's verifier notes why it refuses a certificate.
///
/// # Errors
/// The error of the address that tells most: with an inner [`rustls::Error`] or [`QuicError`](super::QuicError) if the
/// handshake failed; `ConnectionRefused` if nothing listens there; `TimedOut` if the deadline passed.
pub(in crate::transport) async fn connect(
    to: HostPort,
    attempt: Try<()>,
    refusals: Refusals,
    deadline: Instant,
) -> io::Result<Quic> {
    let config = client(&attempt.config).map_err(io::Error::other)?;
    let name = to.host();
    let shake = |remote| shake(remote, config.clone(), &name, &attempt.has_heard, &refusals);
    to.first(deadline, shake).await
}

/// Makes a handshake with the server `name` at `remote`; sets `has_heard` once that has sent something.
async fn shake(
    remote: SocketAddr,
    config: ClientConfig,
    name: &str,
    has_heard: &AtomicBool,
    refusals: &Refusals,
) -> io::Result<Quic> {
    let mut quic = Quic::begin(remote, config, name)?;
    loop {
        let taken_in = quic.take_in();
        if quic.has_heard {
            has_heard.store(true, Ordering::Relaxed);
        }
        taken_in.map_err(|reason| of_handshake(&reason, refusals))?;
        quic.send_out();
        if quic.is_connected {
            let (rtt, mtu) = (quic.path().rtt, quic.path().mtu);
            tracing::debug!(transport = "quic", %remote, ?rtt, mtu, "connected");
            return Ok(quic);
        }
        if quic.is_refused && !quic.has_heard {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        quic.ready(None).await;
    }
}
