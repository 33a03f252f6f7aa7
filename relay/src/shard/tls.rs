//! TLS of accepted connections: the handshake, and the protocol that the client asks for in it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustls::server::ClientHello;
use tieline_wire::{CallerRefusal, LinkRefusal};
use tracing::debug;

use super::Shard;
use crate::certificates::{Served, ServerConfigs};
use crate::error::ListenKind;
use crate::io::Stream;
use crate::limits::{AddressCount, Handshake};
use crate::listen::Room;
use crate::listen::proxied::Source;
use crate::metrics::{FrontendKind, TlsFailure};

impl Shard {
    /// Completes the handshake of a connection to a TLS address, and serves the protocol that the client asked for.
    pub(super) fn tls_arrived(self: &Rc<Self>, kind: ListenKind, stream: Stream, source: Source) {
        let configs = self.kit.tls();
        let place = configs.and_then(|configs| {
            let place = self.doors.handshakes.enter(source.address().ip())?;
            Some((configs, place))
        });
        let Some((configs, place)) = place else {
            return self.no_handshake(Some(stream));
        };
        let shard = Rc::clone(self);
        // Counted before it is known to be a caller, so that a relay that stops waits for it.
        let arrived = self.kit.peers.callers.arrived();
        self.kit.tasks.spawn(async move {
            let peer = source.address();
            let accepting = shard.accept_tls(stream, source, (configs.as_ref(), kind), &place);
            let accepted = place.run(accepting).await;
            drop(place);
            match accepted {
                // A CA that checks a name needs nothing but the handshake.
                Some(Ok((stream, _, Served::Check))) => stream.shutdown(),
                Some(Ok((stream, source, Served::As(kind)))) => {
                    stream.set_unfinished(kind.unfinished());
                    let room = Room::for_callers(shard.kit.peers.open_files_max);
                    // Agents have precedence over callers, as on listeners of their own.
                    match kind == ListenKind::Agent || room.takes(&stream) {
                        true => shard.connected(kind, false, stream, source),
                        false => shard.no_room(kind, Some(stream), source.address()),
                    }
                }
                Some(Err(Some(failure))) => {
                    debug!(%peer, reason = failure.word(), "TLS handshake failed");
                    shard.kit.metrics.tls_failed(failure);
                }
                Some(Err(None)) => shard.no_proxy_header(kind),
                None => shard.kit.metrics.tls_failed(TlsFailure::Overload),
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

    /// Counts a handshake with an address until it is over; `None` if the address has too many. Those of trusted
    /// proxies are not counted, since they bring callers of many addresses.
    pub(super) fn count_handshake(&self, peer: SocketAddr) -> Option<AddressCount> {
        match &self.kit.peers.handshakes {
            Some(counted) if !self.kit.is_trusted_proxy(peer.ip()) => {
                counted.enter(peer.ip().to_canonical())
            }
            _ => Some(AddressCount::default()),
        }
    }

    /// Reads the PROXY protocol header in front of TLS, if there must be one, and completes the handshake with one of
    /// `configs`, at an address of kind `listener`.
    ///
    /// # Errors
    /// The reason of the failure; `None` for a missing header.
    async fn accept_tls(
        &self,
        stream: Stream,
        source: Source,
        (configs, listener): (&ServerConfigs, ListenKind),
        place: &Handshake,
    ) -> Result<(Stream, Source, Served), Option<TlsFailure>> {
        // On addresses of every kind, since callers and agents may come to each.
        let source = self.callers.source(&stream, source).await.ok_or(None)?;
        place.is_from(source.address().ip());
        let counted = self.count_handshake(source.address());
        let _counted = counted.ok_or(TlsFailure::Overload)?;
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
        Ok((stream, source, served))
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
