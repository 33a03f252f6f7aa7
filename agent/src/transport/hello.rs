//! The hello with which a TLS handshake begins: the usual one, and a short one for a second try.
//!
//! A hello with ML-KEM fills more than one packet, and some middleboxes drop such a hello.

use std::io;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::tls::Trust;
use crate::error::TrustError;

/// Configurations of TLS for one server: with the usual hello, and with a short one. Clones share the choice of the
/// hello with which the next handshake begins.
#[derive(Clone, Debug)]
pub struct Hellos {
    usual: Arc<ClientConfig>,
    /// Configuration for a second try; `None` if the hello of `usual` is as short.
    short: Option<Arc<ClientConfig>>,
    /// Whether the last handshake got through with the short hello alone.
    is_short_first: Arc<AtomicBool>,
}

/// One try of a handshake; over QUIC without a socket, because it begins with one of its own.
#[derive(Debug)]
pub struct Try<S = TcpStream> {
    /// Connection to the server.
    pub socket: S,
    /// Configuration with the hello of this try.
    pub config: Arc<ClientConfig>,
    /// To be set once the server has sent a byte.
    pub has_heard: Arc<AtomicBool>,
}

impl Hellos {
    /// The hellos of a client that speaks `protocol` (ALPN, RFC 7301) and trusts the certificates in `trust`.
    ///
    /// # Errors
    /// [`TrustError::Tls`] if the TLS library cannot be set up.
    pub fn new(trust: &Trust, protocol: &[u8]) -> Result<Self, TrustError> {
        Ok(Self {
            usual: trust.client_config(protocol)?,
            short: trust.short_client_config(protocol)?,
            is_short_first: Arc::default(),
        })
    }

    /// Shows the server this certificate in each handshake.
    pub(super) fn show(&mut self, certificate: &Arc<dyn ResolvesClientCert>) {
        for config in iter::once(&mut self.usual).chain(&mut self.short) {
            Arc::make_mut(config).client_auth_cert_resolver = Arc::clone(certificate);
        }
    }

    #[cfg(test)]
    pub(super) fn configs(&self) -> impl Iterator<Item = &Arc<ClientConfig>> {
        iter::once(&self.usual).chain(&self.short)
    }

    /// Makes a handshake over `socket`, before `deadline`; `handshake` makes one try. If the first breaks off, or half
    /// of the time passes, before the server's first byte, tries once more over the connection that `again` makes, with
    /// the short hello. Later handshakes begin with the short hello if that got through, until it breaks off as well.
    ///
    /// # Errors
    /// The error of the handshake; of two that broke off, that of the first.
    pub async fn shake<S, T, F>(
        &self,
        socket: S,
        again: impl Future<Output = io::Result<S>>,
        deadline: Instant,
        handshake: impl Fn(Try<S>) -> F,
    ) -> io::Result<T>
    where
        F: Future<Output = io::Result<T>>,
    {
        let has_heard = Arc::<AtomicBool>::default();
        let shake = |socket: S, config: &Arc<ClientConfig>| {
            let attempt = Try {
                socket,
                config: Arc::clone(config),
                has_heard: Arc::clone(&has_heard),
            };
            within(deadline, handshake(attempt))
        };
        let Some(short) = &self.short else {
            return shake(socket, &self.usual).await;
        };
        if self.is_short_first.load(Ordering::Relaxed) {
            let outcome = shake(socket, short).await;
            if outcome.as_ref().is_err_and(breaks_off) {
                self.is_short_first.store(false, Ordering::Relaxed);
            }
            return outcome;
        }
        let mut first = Box::pin(shake(socket, &self.usual));
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        let outcome = timeout_at(Instant::now() + half, &mut first).await;
        let is_unanswered = !has_heard.load(Ordering::Relaxed);
        let error = match outcome {
            Ok(Err(error)) if is_unanswered && breaks_off(&error) => error,
            Ok(outcome) => return outcome,
            Err(_) if is_unanswered => io::ErrorKind::TimedOut.into(),
            Err(_) => return first.await,
        };
        drop(first);
        tracing::debug!(%error, "the TLS handshake broke off: trying once more without ML-KEM");
        let Ok(socket) = again.await else {
            return Err(error);
        };
        match shake(socket, short).await {
            Err(second) if breaks_off(&second) => Err(error),
            outcome => {
                self.is_short_first
                    .store(outcome.is_ok(), Ordering::Relaxed);
                outcome
            }
        }
    }
}

/// The outcome of a handshake that must end before `deadline`.
async fn within<T>(
    deadline: Instant,
    handshake: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let outcome = timeout_at(deadline, handshake).await;
    outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// True if a handshake failed without an error of TLS: the connection was cut or stayed silent.
fn breaks_off(error: &io::Error) -> bool {
    let is_of_tls = error.get_ref().is_some_and(|it| it.is::<rustls::Error>());
    !is_of_tls
        && matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::TimedOut
        )
}
