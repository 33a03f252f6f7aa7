//! TLS of accepted connections: the handshake, and the protocol that the client asks for in it.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use rustls::server::ClientHello;
use tieline_wire::{CallerRefusal, LinkRefusal};
use tracing::debug;

use super::Shard;
use crate::certificates::{Served, ServerConfigs};
use crate::error::ListenKind;
use crate::io::Stream;
use crate::limits::Handshake;
use crate::listen::Room;
use crate::listen::proxied::Source;
use crate::metrics::{FrontendKind, TlsFailure};

impl Shard {
    /// Completes the handshake of a connection to a TLS address, and serves the protocol that the client asked for.
    pub(super) fn tls_arrived(self: &Rc<Self>, kind: ListenKind, stream: Stream, source: Source) {
        let awaits = self.callers.awaits_header(&stream, source);
        let configs = self.kit.tls();
        let place = configs.and_then(|configs| {
            let address = source.address().ip();
            let place = match awaits {
                // A proxy brings clients of many addresses, of which its own is none.
                true => self.doors.headers.enter(address, None),
                false => self.handshake_place(address),
            };
            Some((configs, place?))
        });
        let Some((configs, place)) = place else {
            return self.no_handshake(Some(stream));
        };
        let shard = Rc::clone(self);
        // Counted before it is known to be a caller, so that a relay that stops waits for it.
        let arrived = self.kit.peers.callers.arrived();
        self.kit.tasks.spawn(async move {
            let peer = source.address();
            let announced = match awaits {
                true => shard.announced(&stream, source, place).await,
                false => Ok((source, place)),
            };
            let accepted = match announced {
                Ok((source, place)) => {
                    let accepting = shard.accept_tls(stream, (configs.as_ref(), kind), &place);
                    let accepted = place.run(accepting).await;
                    let accepted = accepted.unwrap_or(Err(TlsFailure::Overload));
                    accepted.map(|(stream, served)| (stream, source, served))
                }
                Err(failure) => match failure {
                    Some(failure) => Err(failure),
                    None => return shard.no_proxy_header(kind),
                },
            };
            match accepted {
                // A CA that checks a name needs nothing but the handshake.
                Ok((stream, _, Served::Check)) => stream.shutdown(),
                Ok((stream, source, Served::As(kind))) => {
                    stream.set_unfinished(kind.unfinished());
                    let room = Room::for_callers(shard.kit.peers.open_files_max);
                    // Agents have precedence over callers, as on listeners of their own.
                    match kind == ListenKind::Agent || room.takes(&stream) {
                        true => shard.connected(kind, false, stream, source),
                        false => shard.no_room(kind, Some(stream), source.address()),
                    }
                }
                Err(failure) => {
                    debug!(%peer, reason = failure.word(), "TLS handshake failed");
                    shard.kit.metrics.tls_failed(failure);
                }
            }
            drop(arrived);
        });
    }

    /// Refuses a connection before its handshake, because there are too many; `None` means that it was reset already.
    pub(super) fn no_handshake(&self, stream: Option<Stream>) {
        self.kit.metrics.tls_failed(TlsFailure::Overload);
        if let Some(stream) = stream {
            stream.abort();
        }
    }

    /// A place for a handshake with a client at `address`; `None` if there is none. Those of trusted proxies have no limit
    /// of their address, since they bring callers of many addresses.
    pub(super) fn handshake_place(&self, address: IpAddr) -> Option<Handshake> {
        let is_proxy = self.kit.is_trusted_proxy(address);
        let limit = self.kit.peers.handshakes.as_ref().filter(|_| !is_proxy);
        self.doors.handshakes.enter(address.to_canonical(), limit)
    }

    /// Reads the PROXY protocol header that a trusted proxy sends in front of TLS, and then takes a place for the
    /// handshake with the client that the header names; `waiting` is the connection's place until then.
    ///
    /// # Errors
    /// The reason of the failure; `None` for a missing header.
    async fn announced(
        &self,
        stream: &Stream,
        source: Source,
        waiting: Handshake,
    ) -> Result<(Source, Handshake), Option<TlsFailure>> {
        let source = waiting.run(self.callers.source(stream, source)).await;
        let source = source.ok_or(TlsFailure::Overload)?.ok_or(None)?;
        let place = self.handshake_place(source.address().ip());
        Ok((source, place.ok_or(TlsFailure::Overload)?))
    }

    /// Completes the handshake of a connection to an address of kind `listener` with one of `configs`.
    ///
    /// # Errors
    /// The reason of the failure.
    async fn accept_tls(
        &self,
        stream: Stream,
        (configs, listener): (&ServerConfigs, ListenKind),
        place: &Handshake,
    ) -> Result<(Stream, Served), TlsFailure> {
        let deadline = self.kit.peers.config.preamble_timeout;
        let choose = |hello: &ClientHello<'_>| configs.choose(hello, listener);
        let accepting = stream.accept_tls(choose, || place.may_answer());
        let accepted = self.kit.in_time(deadline, true, accepting).await;
        let stream = accepted
            .ok_or(TlsFailure::Timeout)?
            .map_err(|it| failure(&it))?;
        let agreed = stream.agreed();
        let protocol = agreed.as_ref().and_then(|it| it.application.as_deref());
        let served = configs
            .served(protocol, listener, stream.has_peer_certificate())
            .ok_or(TlsFailure::NoClientCertificate)?;
        if let Some(agreed) = &agreed {
            self.kit.metrics.tls_accepted(agreed);
        }
        Ok((stream, served))
    }

    /// Counts a connection whose trusted proxy sent no PROXY protocol header.
    fn no_proxy_header(&self, kind: ListenKind) {
        let metrics = &self.kit.metrics;
        let frontend = match kind {
            ListenKind::Agent => return metrics.link_refused(LinkRefusal::LinkLost),
            ListenKind::Http => FrontendKind::Http,
            ListenKind::Tcp | ListenKind::Quic | ListenKind::Admin => FrontendKind::Tcp,
        };
        metrics.frontend_accepted(frontend);
        metrics.frontend_refused(CallerRefusal::Preamble);
    }
}

/// The reason of a handshake's failure.
fn failure(error: &io::Error) -> TlsFailure {
    use rustls::{Error, InvalidMessage};
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => TlsFailure::NotTls,
        Some(Error::NoApplicationProtocol) => TlsFailure::Alpn,
        Some(Error::PeerIncompatible(_)) => TlsFailure::Incompatible,
        Some(Error::AlertReceived(_)) => TlsFailure::ClientRefused,
        Some(Error::NoCertificatesPresented) => TlsFailure::NoClientCertificate,
        Some(Error::InvalidCertificate(_)) => TlsFailure::BadClientCertificate,
        // rustls fails with this error if there is no certificate for the client.
        Some(Error::General(_)) => TlsFailure::NoCertificate,
        Some(_) => TlsFailure::Protocol,
        // rustls's buffer for an unfinished message is full.
        None if error.kind() == io::ErrorKind::InvalidData => TlsFailure::Protocol,
        None => TlsFailure::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_a_reason_of_its_own() {
        let of = |error: rustls::Error| failure(&io::Error::new(io::ErrorKind::InvalidData, error));
        let refused = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        assert_eq!(of(refused), TlsFailure::ClientRefused);
        assert_eq!(of(rustls::Error::NoApplicationProtocol), TlsFailure::Alpn);
        assert_eq!(of(rustls::Error::DecryptError), TlsFailure::Protocol);
        let none = rustls::Error::General("no server certificate chain resolved".to_owned());
        assert_eq!(of(none), TlsFailure::NoCertificate);
        let none = rustls::Error::NoCertificatesPresented;
        assert_eq!(of(none), TlsFailure::NoClientCertificate);
        let strange = rustls::CertificateError::UnknownIssuer.into();
        assert_eq!(of(strange), TlsFailure::BadClientCertificate);
        let closed = io::ErrorKind::UnexpectedEof.into();
        assert_eq!(failure(&closed), TlsFailure::Closed);
    }
}
