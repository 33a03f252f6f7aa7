//! Pseudo-random test data, digests, and ways to end a plain TCP connection.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{Context as Hasher, SHA256};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Much more than any initial window or socket buffer.
pub const LONG_BYTES: usize = 3_000_003;

/// Pseudo-random bytes, reproducible from a seed, so that lost, repeated or reordered bytes change the
/// digest.
#[derive(Debug)]
pub struct Noise {
    random: fastrand::Rng,
    left: usize,
}

impl Noise {
    /// Creates a stream of `len` bytes.
    #[must_use]
    pub fn new(seed: u64, len: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            left: len,
        }
    }

    /// Writes the next bytes to the front of `buffer` and returns their number. Buffers whose sizes are
    /// multiples of 8 bytes give the same stream, whatever those sizes are.
    pub fn fill(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.left.min(buffer.len());
        self.random.fill(&mut buffer[..len]);
        self.left -= len;
        len
    }
}

/// `len` bytes of [`Noise`].
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Noise::new(seed, len).fill(&mut bytes);
    bytes
}

/// SHA-256 and length of a byte sequence.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    hash: Vec<u8>,
    len: u64,
}

impl Digest {
    /// Digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut digester = Digester::default();
        digester.update(bytes);
        digester.finish()
    }

    /// Digest of the bytes that [`noise`] returns.
    #[must_use]
    pub fn of_noise(seed: u64, len: usize) -> Self {
        let mut noise = Noise::new(seed, len);
        let mut buffer = vec![0; 64 * 1024];
        let mut digester = Digester::default();
        loop {
            match noise.fill(&mut buffer) {
                0 => return digester.finish(),
                count => digester.update(&buffer[..count]),
            }
        }
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, ", self.len)?;
        self.hash
            .iter()
            .take(6)
            .try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Computes a [`Digest`] incrementally.
#[derive(Clone)]
pub(super) struct Digester {
    hasher: Hasher,
    len: u64,
}

impl Default for Digester {
    fn default() -> Self {
        Self {
            hasher: Hasher::new(&SHA256),
            len: 0,
        }
    }
}

impl Digester {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
    }

    pub(super) fn finish(self) -> Digest {
        Digest {
            hash: self.hasher.finish().as_ref().to_vec(),
            len: self.len,
        }
    }
}

/// Sends `message`, expects the same bytes back and returns the round-trip time.
///
/// # Errors
/// The connection ends, or other bytes come back.
pub async fn echo_round_trip(stream: &mut TcpStream, message: &[u8]) -> Result<Duration> {
    let started = std::time::Instant::now();
    let mut answer = vec![0; message.len()];
    let (mut reads, mut writes) = stream.split();
    let (sent, received) = tokio::join!(writes.write_all(message), reads.read_exact(&mut answer));
    sent.context("send")?;
    received.context("receive")?;
    ensure!(answer == message, "the echo differs from the message");
    Ok(started.elapsed())
}

/// Reads to the end; returns the digest of the bytes, and how the stream ended.
pub async fn read_to_close(stream: &mut (impl AsyncRead + Unpin)) -> (Digest, io::Result<()>) {
    let mut digester = Digester::default();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(count) => digester.update(&buffer[..count]),
            Err(error) => break Err(error),
        }
    };
    (digester.finish(), end)
}

/// Whether a stream ended with a connection reset.
#[must_use]
pub fn is_reset(end: &io::Result<()>) -> bool {
    matches!(end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

/// Closes a connection with a reset, as the kernel does for a killed program with unread bytes.
///
/// # Errors
/// The socket rejects the linger option.
pub fn abort(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Closes the write direction and leaves the read direction open.
///
/// # Errors
/// The connection is closed.
pub fn half_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}
