//! A child's standard input, as lines.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

/// Most pieces that one write hands to the system; a line seldom has more.
const SLICES_MAX: usize = 32;

/// The writing end of a child's standard input. Dropping it closes the pipe, which asks the child to end.
#[derive(Debug)]
pub(crate) struct Input {
    pipe: ChildStdin,
    /// True if the pipe holds the beginning of a line whose rest was not written.
    is_torn: bool,
}

impl Input {
    pub(super) fn new(pipe: ChildStdin) -> Self {
        Self {
            pipe,
            is_torn: false,
        }
    }

    /// Writes one line, given in pieces without a line end; waits while the child does not read.
    ///
    /// A call that is given up tears the line: all later ones fail.
    ///
    /// # Errors
    /// [`InputError`]; after any of them, the child is of no use.
    pub(crate) async fn write(&mut self, line: Vec<Bytes>) -> Result<(), InputError> {
        if std::mem::replace(&mut self.is_torn, true) {
            return Err(InputError::Torn);
        }
        let outcome = self.write_all(line).await.map_err(InputError::of);
        self.is_torn = matches!(outcome, Err(InputError::Failed(_)));
        outcome
    }

    async fn write_all(&mut self, line: Vec<Bytes>) -> io::Result<()> {
        let mut pieces = VecDeque::from(line);
        pieces.push_back(Bytes::from_static(b"\n"));
        pieces.retain(|piece| !piece.is_empty());
        while !pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = slices
                .iter_mut()
                .zip(&pieces)
                .map(|(slot, piece)| *slot = IoSlice::new(piece))
                .count();
            let count = self.pipe.write_vectored(&slices[..filled]).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            advance(&mut pieces, count);
        }
        // On Windows, a write returns before the system has the bytes.
        self.pipe.flush().await
    }
}

/// Why a line was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// The child has ended, or has closed its standard input.
    #[error("the child reads no more")]
    Ended,
    /// An earlier line was written in part only.
    #[error("an earlier line was not written to its end")]
    Torn,
    /// The system's error.
    #[error("cannot write to the child: {0}")]
    Failed(#[source] io::Error),
}

impl InputError {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Ended,
            _ => Self::Failed(error),
        }
    }
}

/// Drops the first `count` bytes.
fn advance(pieces: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(piece) = pieces.front_mut() {
        if count < piece.len() {
            piece.advance(count);
            break;
        }
        count -= piece.len();
        pieces.pop_front();
    }
}
