//! TLS of the generator and its target: settings, and rustls's buffered calls.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

use anyhow::Context;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, NamedGroup, RootCertStore};

use super::BUFFER_BYTES_MIN;

/// Server name of the handshakes.
pub(super) const NAME: &str = "localhost";

/// Largest TLS record, in bytes (RFC 5246, section 6.2.3): rustls may hold an incomplete one between two reads.
const RECORD_BYTES_MAX: usize = 16 * 1024 + 2048 + 5;

/// Tickets that a client keeps for one server; each resumes one connection.
const TICKETS: usize = 8;

thread_local! {
    static CIPHERTEXT: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; BUFFER_BYTES_MIN].into_boxed_slice());
}

/// Kind of a measured handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shake {
    /// Full, with the key exchange X25519.
    X25519,
    /// Full, with the key exchange X25519MLKEM768, which quantum computers do not break.
    Hybrid,
    /// Resumed by a ticket, with the key exchange X25519.
    Resumed,
}

impl Shake {
    /// All kinds.
    pub(crate) const ALL: [Self; 3] = [Self::X25519, Self::Hybrid, Self::Resumed];

    /// Word in scenario names.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::Hybrid => "x25519mlkem768",
            Self::Resumed => "resumed",
        }
    }

    /// Short description.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::X25519 => "full with X25519",
            Self::Hybrid => "full with X25519MLKEM768",
            Self::Resumed => "resumed by a ticket",
        }
    }

    fn group(self) -> NamedGroup {
        match self {
            Self::X25519 | Self::Resumed => NamedGroup::X25519,
            Self::Hybrid => NamedGroup::X25519MLKEM768,
        }
    }
}

/// Settings of the generator's TLS connections.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient {
    roots: Arc<RootCertStore>,
    /// For loads that measure no handshake: full handshakes with the provider's groups.
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Settings that trust only `certificate`.
    pub(super) fn trusting(certificate: CertificateDer<'static>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate)
            .context("cannot trust the certificate of this run")?;
        let roots = Arc::new(roots);
        let mut config = ClientConfig::builder()
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            roots,
            config: Arc::new(config),
        })
    }

    /// Settings for loads that measure no handshake.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Settings for handshakes of this kind, with tickets of their own; `None` if the cryptography of this program
    /// lacks the key exchange.
    pub(crate) fn handshakes(&self, shake: Shake) -> Option<Arc<ClientConfig>> {
        let provider = self.config.crypto_provider();
        let groups = provider.kx_groups.iter().copied();
        let provider = CryptoProvider {
            kx_groups: groups
                .filter(|group| group.name() == shake.group())
                .collect(),
            ..(**provider).clone()
        };
        if provider.kx_groups.is_empty() {
            return None;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let mut config = builder
            .with_protocol_versions(&[&rustls::version::TLS13])
            .ok()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.resumption = match shake {
            Shake::Resumed => Resumption::in_memory_sessions(TICKETS),
            Shake::X25519 | Shake::Hybrid => Resumption::disabled(),
        };
        Some(Arc::new(config))
    }
}

/// A client's side of a connection whose handshake has not begun.
pub(super) fn connection(config: Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(NAME)
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    ClientConnection::new(config, name).map_err(io::Error::other)
}

/// Reads plaintext into `buffer`; 0 is the end. Also writes what the handshake must send next.
pub(super) fn read(
    tls: &mut Connection,
    io: &mut (impl Read + Write),
    buffer: &mut [u8],
) -> io::Result<usize> {
    debug_assert!(buffer.len() >= BUFFER_BYTES_MIN, "the buffer is too small");
    loop {
        let (received, filled, is_closed) = CIPHERTEXT.with_borrow_mut(|ciphertext| {
            // Room for the plaintext of all that is read and of a record that was incomplete.
            let room = buffer.len().saturating_sub(RECORD_BYTES_MAX);
            let room = room.clamp(1, ciphertext.len());
            let received = io.read(&mut ciphertext[..room])?;
            let (filled, is_closed) = decrypt(tls, &ciphertext[..received], buffer)?;
            Ok::<_, io::Error>((received, filled, is_closed))
        })?;
        flush(tls, io)?;
        if filled > 0 || received == 0 || is_closed {
            return Ok(filled);
        }
    }
}

/// Decrypts `input`; returns the bytes of plaintext, and whether the peer has ended its direction.
fn decrypt(tls: &mut Connection, mut input: &[u8], buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let (mut filled, mut is_closed) = (0, false);
    while !input.is_empty() && !is_closed {
        tls.read_tls(&mut input)?;
        let state = tls.process_new_packets();
        let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        is_closed = state.peer_has_closed();
        loop {
            match tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok((filled, is_closed))
}

/// Encrypts bytes, unless earlier ones still wait for room in the kernel. During the handshake rustls holds them.
pub(super) fn write(
    tls: &mut Connection,
    io: &mut (impl Read + Write),
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    if !flush(tls, io)? {
        return Err(ErrorKind::WouldBlock.into());
    }
    let taken = tls.writer().write_vectored(slices)?;
    flush(tls, io)?;
    Ok(taken)
}

/// Writes the records that wait; returns whether the kernel has all of them.
pub(super) fn flush(tls: &mut Connection, io: &mut (impl Read + Write)) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(io) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if super::is_not_yet(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
