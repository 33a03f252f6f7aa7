//! The shards, as the control thread sees them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time;

use crate::DriverReport;
use crate::auth::{Question, Ruling, Snapshot};
use crate::control::{Ended, Inspect, Told, Tunnels};
use crate::metrics::ShardStatus;
use crate::shard::{Message, Peers};

/// Time for all shards to say how many links a change ended.
const ENDED_TIMEOUT: Duration = Duration::from_secs(2);

/// The way into the shards.
pub(crate) struct Inspector {
    pub(crate) peers: Arc<Peers>,
    pub(crate) driver: DriverReport,
}

impl Inspect for Inspector {
    fn tunnels(&self, wanted: Vec<(usize, String)>) -> Tunnels {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let mut answers = Vec::new();
            for (shard, after) in wanted {
                let (answer, batch) = oneshot::channel();
                let mut message = Message::Report { after, answer };
                // The caller of this future has a deadline.
                while let Err(back) = peers.mailboxes[shard].try_send(message) {
                    message = back;
                    time::sleep(Duration::from_millis(1)).await;
                }
                answers.push((shard, batch));
            }
            let mut batches = Vec::new();
            for (shard, batch) in answers {
                // A shard that has stopped has no tunnels.
                batches.push((shard, batch.await.unwrap_or_default()));
            }
            batches
        })
    }

    fn admit(&self, snapshot: Arc<Snapshot>) -> Ended {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let mut answers = Vec::new();
            let mut waiting: Vec<_> = peers
                .mailboxes
                .iter()
                .map(|mailbox| {
                    let (ended, answer) = oneshot::channel();
                    answers.push(answer);
                    let snapshot = Arc::clone(&snapshot);
                    (mailbox, Some(Message::Auth { snapshot, ended }))
                })
                .collect();
            // No shard may miss it, and none waits for another.
            loop {
                for (mailbox, message) in &mut waiting {
                    *message = message.take().and_then(|it| mailbox.try_send(it).err());
                }
                waiting.retain(|(_, message)| message.is_some());
                if waiting.is_empty() {
                    break;
                }
                time::sleep(Duration::from_millis(1)).await;
            }
            let deadline = time::Instant::now() + ENDED_TIMEOUT;
            let mut total = 0;
            for answer in answers {
                // A shard that has stopped has no links.
                if let Ok(Ok(ended)) = time::timeout_at(deadline, answer).await {
                    total += ended;
                }
            }
            total
        })
    }

    fn rule(&self, question: Question, ruling: Ruling) -> Told {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let mailbox = &peers.mailboxes[question.shard];
            let mut message = Message::Ruled(Box::new((question, ruling)));
            while let Err(back) = mailbox.try_send(message) {
                message = back;
                time::sleep(Duration::from_millis(1)).await;
            }
        })
    }

    fn shards(&self) -> Vec<ShardStatus> {
        (0..self.peers.mailboxes.len())
            .map(|shard| ShardStatus {
                shard,
                driver: self.driver.driver,
                driver_reason: self.driver.reason.clone(),
            })
            .collect()
    }
}
