//! Bytes that differ everywhere, their digests, and the ends of plain connections.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Hasher, SHA256};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A stream of bytes that look random and are the same for the same seed, so that loss,
/// repetition and disorder all change the digest.
#[derive(Debug)]
pub struct Noise {
    random: fastrand::Rng,
    left: usize,
}

impl Noise {
    /// `len` bytes.
    #[must_use]
    pub fn new(seed: u64, len: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            left: len,
        }
    }

    /// Writes the next bytes to the front of `buffer`; how many. Pieces of whole multiples of
    /// 8 bytes give the same stream whatever their size.
    pub fn fill(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.left.min(buffer.len());
        self.random.fill(&mut buffer[..len]);
        self.left -= len;
        len
    }
}

/// `len` bytes of [`Noise`] at once.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Noise::new(seed, len).fill(&mut bytes);
    bytes
}

/// What a run of bytes is known by: its SHA-256 and its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    hash: Vec<u8>,
    len: u64,
}

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut digester = Digester::default();
        digester.update(bytes);
        digester.finish()
    }

    /// Of what [`noise`] returns.
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

    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were none.
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

/// Makes a [`Digest`] of what passes.
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

/// Sends `message` and expects it back; how long that took.
///
/// # Errors
/// The connection ends, or something else comes back.
pub async fn echo_round_trip(stream: &mut TcpStream, message: &[u8]) -> Result<Duration> {
    let started = std::time::Instant::now();
    let mut answer = vec![0; message.len()];
    let (mut reads, mut writes) = stream.split();
    let (sent, received) = tokio::join!(writes.write_all(message), reads.read_exact(&mut answer));
    sent.context("send")?;
    received.context("receive")?;
    ensure!(
        answer == message,
        "what came back differs from what was sent"
    );
    Ok(started.elapsed())
}

/// Reads to the end: what came, and how the stream ended.
pub async fn read_to_close(stream: &mut TcpStream) -> (Digest, io::Result<()>) {
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

/// Whether a stream ended by a reset, and not in order.
#[must_use]
pub fn is_reset(end: &io::Result<()>) -> bool {
    matches!(end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

/// Closes a connection with a reset, as a program does that is killed with bytes unread.
///
/// # Errors
/// The socket refuses the option.
pub fn abort(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Ends one's own direction, and leaves the other open.
///
/// # Errors
/// The connection is gone.
pub fn half_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}
