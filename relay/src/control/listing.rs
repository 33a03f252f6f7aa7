//! Answers `/tunnels`: row by row, from batches that take a shard little time.
//!
//! Every shard lists its tunnels in order of their names. The answer merges these lists and holds one batch per
//! shard, however many tunnels there are and however slowly the reader reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::Serialize;
use tokio::time;

use super::Inspect;
use crate::metrics::{TunnelBatch, TunnelReport};

/// Time for all shards to report a batch.
const SHARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Size at which a chunk of the answer is sent, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// A shard did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("not every shard answered in time")]
pub(super) struct ShardsBusy;

/// Iterator over the tunnels of all shards, in order of their names.
pub(super) struct Listing {
    inspect: Arc<dyn Inspect>,
    shards: Vec<ShardTunnels>,
}

/// Tunnels of one shard that were fetched already.
struct ShardTunnels {
    rows: VecDeque<TunnelReport>,
    /// Name after which the shard may have more tunnels.
    next: Option<String>,
}

impl Listing {
    /// Starts after the name `after`.
    pub(super) fn begin(inspect: Arc<dyn Inspect>, after: &str) -> Self {
        let shards = inspect.shards().into_iter().map(|_| ShardTunnels {
            rows: VecDeque::new(),
            next: Some(after.to_owned()),
        });
        Self {
            shards: shards.collect(),
            inspect,
        }
    }

    /// Fetches a batch from each shard whose next row is not known.
    ///
    /// # Errors
    /// A shard did not answer in time.
    pub(super) async fn fill(&mut self) -> Result<(), ShardsBusy> {
        loop {
            let wanted: Vec<_> = self.shards.iter().enumerate().filter_map(wanted).collect();
            if wanted.is_empty() {
                return Ok(());
            }
            let batches = time::timeout(SHARD_TIMEOUT, self.inspect.tunnels(wanted)).await;
            for (shard, batch) in batches.map_err(|_| ShardsBusy)? {
                let TunnelBatch { rows, next } = batch;
                let known = &mut self.shards[shard];
                (known.rows, known.next) = (rows.into(), next);
            }
        }
    }

    /// The next tunnel, if its row is known already.
    fn pop(&mut self) -> Option<TunnelReport> {
        let mut shards = self.shards.iter().enumerate();
        if shards.any(|it| wanted(it).is_some()) {
            return None;
        }
        let heads = self.shards.iter().filter_map(|shard| shard.rows.front());
        let first = heads.map(|row| &row.tunnel_id).min()?.clone();
        let mut rows = self.shards.iter_mut().filter_map(|shard| {
            let is_first = shard.rows.front().is_some_and(|row| row.tunnel_id == first);
            is_first.then(|| shard.rows.pop_front())?
        });
        // The rows of one tunnel whose links are on several shards.
        let mut row = rows.next()?;
        rows.for_each(|other| row.join(other));
        Some(row)
    }

    async fn next(&mut self) -> Result<Option<TunnelReport>, ShardsBusy> {
        if let Some(row) = self.pop() {
            return Ok(Some(row));
        }
        self.fill().await?;
        Ok(self.pop())
    }
}

/// The batch to ask a shard for, if its next row is not known.
fn wanted((index, shard): (usize, &ShardTunnels)) -> Option<(usize, String)> {
    let after = shard.next.as_ref().filter(|_| shard.rows.is_empty())?;
    Some((index, after.clone()))
}

/// Extent and form of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    /// Every tunnel: `[...]`.
    All,
    /// The next `limit` tunnels, with the number of all:
    /// `{"tunnels":[...],"total":2,"next":null}`.
    Page { limit: usize, total: i64 },
}

/// A response body that a task writes while it is read: the next tunnels of `listing`.
pub(super) fn body(listing: Listing, extent: Extent) -> Channel<Bytes, ShardsBusy> {
    // The task is at most one chunk ahead of the reader.
    let (mut chunks, body) = Channel::new(1);
    tokio::spawn(async move {
        if let Err(error) = write(listing, extent, &mut chunks).await {
            // Breaks the response off, so that the reader does not take it for complete.
            chunks.abort(error);
        }
    });
    body
}

async fn write(
    mut listing: Listing,
    extent: Extent,
    chunks: &mut Sender<Bytes, ShardsBusy>,
) -> Result<(), ShardsBusy> {
    let (start, limit) = match extent {
        Extent::All => ("[", usize::MAX),
        Extent::Page { limit, .. } => (r#"{"tunnels":["#, limit),
    };
    let mut text = String::from(start);
    let mut last = None;
    for row in 0..limit {
        let Some(tunnel) = listing.next().await? else {
            last = None;
            break;
        };
        if row > 0 {
            text.push(',');
        }
        text.push_str(&json(&tunnel));
        last = Some(tunnel.tunnel_id);
        if text.len() >= CHUNK_BYTES {
            let chunk = std::mem::take(&mut text);
            if chunks.send_data(chunk.into()).await.is_err() {
                // The reader has disconnected.
                return Ok(());
            }
        }
    }
    match extent {
        Extent::All => text.push(']'),
        Extent::Page { total, .. } => {
            let more = last.is_some() && listing.next().await?.is_some();
            let next = json(&last.filter(|_| more));
            text.push_str(&format!(r#"],"total":{total},"next":{next}}}"#));
        }
    }
    let _ = chunks.send_data(text.into()).await;
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    // Serializing strings and numbers cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}
