//! Implements the control thread's requests to the shards.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::TunnelId;
use tokio::sync::oneshot;
use tokio::time;

use crate::DriverReport;
use crate::auth::{Question, Ruling, Snapshot};
use crate::certificates::ServerConfigs;
use crate::control::{Inspect, Reply};
use crate::directory::{Forgotten, home};
use crate::metrics::{Cut, ShardStatus, TunnelBatch, TunnelDetail};
use crate::shard::{MailboxSender, Message, Paused, Peers};

/// Time for all shards to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before another try at a full mailbox.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Callers of one tunnel that an operator is shown.
const CALLERS_MAX: usize = 1000;

/// Sends requests to the shards' mailboxes.
pub(crate) struct Inspector {
    pub(crate) peers: Arc<Peers>,
    pub(crate) driver: DriverReport,
}

impl Inspector {
    /// Sends every shard a message, however long that takes; returns each shard's answer, `None` if it was late.
    fn ask_all<T: Send + 'static>(
        &self,
        message: impl Fn(oneshot::Sender<T>) -> Message + Send + 'static,
    ) -> impl Future<Output = Vec<Option<T>>> + Send + 'static {
        let peers = Arc::clone(&self.peers);
        async move {
            let mut answers = Vec::new();
            let mut waiting: Vec<_> = peers
                .mailboxes
                .iter()
                .map(|mailbox| {
                    let (sender, answer) = oneshot::channel();
                    answers.push(answer);
                    (mailbox, Some(message(sender)))
                })
                .collect();
            // Each shard must get the message, and none waits for another's full mailbox.
            loop {
                for (mailbox, message) in &mut waiting {
                    *message = message.take().and_then(|it| mailbox.try_send(it).err());
                }
                waiting.retain(|(_, message)| message.is_some());
                if waiting.is_empty() {
                    break;
                }
                time::sleep(FULL_PAUSE).await;
            }
            let deadline = time::Instant::now() + ANSWER_TIMEOUT;
            let mut replies = Vec::new();
            for answer in answers {
                let answer = time::timeout_at(deadline, answer).await;
                replies.push(answer.ok().and_then(Result::ok));
            }
            replies
        }
    }

    fn cut_all(
        &self,
        message: impl Fn(oneshot::Sender<Cut>) -> Message + Send + 'static,
    ) -> impl Future<Output = Cut> + Send + 'static {
        let asked = self.ask_all(message);
        // A shard that has stopped has nothing to end.
        async move {
            let cuts = asked.await.into_iter().flatten();
            cuts.fold(Cut::default(), Cut::and)
        }
    }
}

/// Sends a message as soon as the mailbox has room.
async fn deliver(mailbox: &MailboxSender, mut message: Message) {
    while let Err(back) = mailbox.try_send(message) {
        message = back;
        time::sleep(FULL_PAUSE).await;
    }
}

impl Inspect for Inspector {
    fn tunnels(&self, wanted: Vec<(usize, String)>) -> Reply<Vec<(usize, TunnelBatch)>> {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let mut answers = Vec::new();
            for (shard, after) in wanted {
                let (answer, batch) = oneshot::channel();
                // The caller of this future sets a deadline.
                deliver(&peers.mailboxes[shard], Message::Report { after, answer }).await;
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

    fn detail(&self, tunnel: TunnelId) -> Reply<Option<TunnelDetail>> {
        let asked = self.ask_all(move |answer| Message::Detail {
            tunnel: tunnel.clone(),
            answer,
        });
        Box::pin(async move {
            let mut all = TunnelDetail::default();
            for detail in asked.await {
                all.join(detail?, CALLERS_MAX);
            }
            Some(all)
        })
    }

    fn kick(&self, tunnel: TunnelId) -> Reply<Cut> {
        Box::pin(self.cut_all(move |answer| Message::Kick {
            tunnel: tunnel.clone(),
            answer,
        }))
    }

    fn forget(&self, tunnel: TunnelId) -> Reply<Option<Forgotten>> {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let mailbox = &peers.mailboxes[home(&tunnel, peers.mailboxes.len())];
            let (answer, answered) = oneshot::channel();
            let told = async {
                deliver(mailbox, Message::Forget { tunnel, answer }).await;
                answered.await.ok()
            };
            time::timeout(ANSWER_TIMEOUT, told).await.ok().flatten()
        })
    }

    fn pause(&self, tunnels: Arc<Paused>) -> Reply<Cut> {
        Box::pin(self.cut_all(move |answer| Message::Pause {
            tunnels: Arc::clone(&tunnels),
            answer,
        }))
    }

    fn apply_auth(&self, snapshot: Arc<Snapshot>) -> Reply<usize> {
        let asked = self.ask_all(move |ended| Message::Auth {
            snapshot: Arc::clone(&snapshot),
            ended,
        });
        // A shard that has stopped has no links.
        Box::pin(async move { asked.await.into_iter().flatten().sum() })
    }

    fn apply_tls(&self, configs: Arc<ServerConfigs>) -> Reply<()> {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            for mailbox in peers.mailboxes.iter() {
                deliver(mailbox, Message::Tls(Arc::clone(&configs))).await;
            }
        })
    }

    fn rule(&self, question: Question, ruling: Ruling) -> Reply<()> {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let mailbox = &peers.mailboxes[question.shard];
            deliver(mailbox, Message::Ruled(Box::new((question, ruling)))).await;
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
