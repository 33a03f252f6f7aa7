//! Sessions of random sizes and orders: the caller's and the target's side.

use anyhow::Result;
use tieline_e2e::behaviour::{Digest, Noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Writes noise in pieces of random size.
pub(super) async fn write_noise(
    writes: &mut (impl AsyncWriteExt + Unpin),
    seed: u64,
    len: usize,
) -> Result<()> {
    let mut sizes = fastrand::Rng::with_seed(seed ^ 0x5ca1e);
    let mut noise = Noise::new(seed, len);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        // Multiples of 8 bytes, so that the stream does not depend on the piece sizes.
        let largest = if sizes.bool() { 128 } else { 32 * 1024 };
        let most = 8 * sizes.usize(1..=largest);
        match noise.fill(&mut buffer[..most]) {
            0 => return Ok(()),
            count => writes.write_all(&buffer[..count]).await?,
        }
    }
}

/// Sizes and order of one session in the property test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) up: usize,
    pub(super) down: usize,
    order: usize,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut len = || {
            if random.bool() {
                random.usize(..6_000_000)
            } else {
                random.usize(..100_000)
            }
        };
        Self {
            seed,
            up: len(),
            down: len(),
            order: random.usize(..3),
        }
    }

    /// The target's side: answers after the request, concurrently with it, or before it.
    pub(super) async fn serve(self, stream: TcpStream) -> Result<Digest> {
        let (mut reads, mut writes) = stream.into_split();
        let mut request = Vec::new();
        // Dropping the write half ends its direction.
        let answer = async move { write_noise(&mut writes, self.answer_seed(), self.down).await };
        match self.order {
            0 => {
                reads.read_to_end(&mut request).await?;
                answer.await?;
            }
            1 => {
                let (read, written) = tokio::join!(reads.read_to_end(&mut request), answer);
                read?;
                written?;
            }
            _ => {
                answer.await?;
                reads.read_to_end(&mut request).await?;
            }
        }
        Ok(Digest::of(&request))
    }

    pub(super) const fn answer_seed(self) -> u64 {
        self.seed + 1_000_000
    }

    /// The caller's side: sends the request, ends it, and reads the whole answer.
    pub(super) async fn call(self, stream: TcpStream) -> Result<Digest> {
        let (mut reads, mut writes) = stream.into_split();
        let mut answer = Vec::new();
        let request = async move { write_noise(&mut writes, self.seed, self.up).await };
        let (read, written) = tokio::join!(reads.read_to_end(&mut answer), request);
        read?;
        written?;
        Ok(Digest::of(&answer))
    }
}
