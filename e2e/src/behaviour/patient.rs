//! A target that answers only after the end of a request, so that its caller must half-close.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{Digest, LONG_BYTES, Target, noise, read_to_close, soon};

/// A target that reads each connection's bytes to their end, and then answers with [`LONG_BYTES`].
#[derive(Debug)]
pub struct PatientTarget {
    target: Target,
    requests: mpsc::Receiver<Digest>,
}

impl PatientTarget {
    /// Starts the target.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let (tell, requests) = mpsc::channel(1);
        let target = Target::tcp(move |mut stream| {
            let tell = tell.clone();
            async move {
                let (request, end) = read_to_close(&mut stream).await;
                end?;
                tell.send(request).await?;
                stream.write_all(&noise(2, LONG_BYTES)).await?;
                Ok(())
            }
        })
        .await?;
        Ok(Self { target, requests })
    }

    /// What an agent publishes.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Sends [`LONG_BYTES`] as `caller`, ends that direction, and reads the answer to its end.
    ///
    /// # Errors
    /// The connection fails, or bytes are lost or changed in a direction.
    pub async fn answers(
        &mut self,
        caller: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<()> {
        soon("the request", caller.write_all(&noise(1, LONG_BYTES))).await??;
        caller.shutdown().await?;
        let request = soon("the request's end", self.requests.recv()).await?;
        let request = request.context("the target is gone")?;
        ensure!(
            request == Digest::of_noise(1, LONG_BYTES),
            "the target got {request:?}"
        );
        let (answer, end) = soon("the answer", read_to_close(caller)).await?;
        end?;
        ensure!(
            answer == Digest::of_noise(2, LONG_BYTES),
            "the caller got {answer:?}"
        );
        Ok(())
    }
}
