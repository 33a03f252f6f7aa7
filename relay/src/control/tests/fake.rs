//! Stand-in for shards, with answers set by the test.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::*;
use crate::directory::Forgotten;
use crate::metrics::{BoundReport, CallerReport, FrontendKind, PathReport, TunnelReport};

/// Tunnels that a shard reports per batch.
const BATCH: usize = 2;

/// Two stand-in shards; they answer only a set number of requests.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) tunnels: [Vec<String>; 2],
    pub(super) answers: AtomicUsize,
    /// Admission snapshots that the shards were sent.
    pub(super) admitted: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    /// Configurations of TLS that the shards were sent.
    pub(super) tls: Arc<Mutex<Vec<Arc<ServerConfigs>>>>,
    /// Bound names without an agent.
    pub(super) absent: Mutex<Vec<String>>,
    /// Sets of paused tunnels that the shards were sent.
    pub(super) paused: Arc<Mutex<Vec<Arc<Paused>>>>,
}

impl Inspect for Fake {
    fn tunnels(&self, wanted: Vec<(usize, String)>) -> Reply<Vec<(usize, TunnelBatch)>> {
        let answers = &self.answers;
        let left =
            answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1));
        if left.is_err() {
            return Box::pin(std::future::pending());
        }
        let batch = |(shard, after): (usize, String)| {
            let mut ids: Vec<_> = self.tunnels[shard].iter().collect();
            ids.sort();
            ids.retain(|id| **id > after);
            let rows: Vec<_> = ids.iter().take(BATCH).map(|id| report(id, shard)).collect();
            let next = rows.last().filter(|_| ids.len() > BATCH);
            let next = next.map(|row| row.tunnel_id.clone());
            (shard, TunnelBatch { rows, next })
        };
        Box::pin(std::future::ready(wanted.into_iter().map(batch).collect()))
    }

    fn detail(&self, tunnel: TunnelId) -> Reply<Option<TunnelDetail>> {
        let mut all = TunnelDetail::default();
        for (shard, ids) in self.tunnels.iter().enumerate() {
            let id = ids.iter().find(|id| **id == tunnel.as_str());
            let row = id.map(|id| report(id, shard));
            let callers: Vec<_> = row.iter().map(|_| caller(shard)).collect();
            let detail = TunnelDetail {
                callers_total: callers.len(),
                row,
                callers,
                bound: None,
            };
            all.join(detail, 1);
        }
        let mut absent = self.absent.lock().unwrap().clone().into_iter();
        all.bound = absent
            .find(|id| id == tunnel.as_str())
            .map(|_| BoundReport {
                sub: Some("ada".to_owned()),
                agent: "0102030405ab".to_owned(),
                shared: false,
                kept_for_seconds: Some(60),
            });
        Box::pin(std::future::ready(Some(all)))
    }

    fn kick(&self, tunnel: TunnelId) -> Reply<Cut> {
        let ids = self.tunnels.iter().flatten();
        let links = ids.filter(|id| **id == tunnel.as_str()).count();
        let sessions = 2 * links;
        Box::pin(std::future::ready(Cut { links, sessions }))
    }

    fn forget(&self, tunnel: TunnelId) -> Reply<Option<Forgotten>> {
        let is_live = self
            .tunnels
            .iter()
            .flatten()
            .any(|id| *id == tunnel.as_str());
        let mut absent = self.absent.lock().unwrap();
        let before = absent.len();
        absent.retain(|id| id != tunnel.as_str());
        Box::pin(std::future::ready(Some(match absent.len() < before {
            true => Forgotten::Free,
            false if is_live => Forgotten::Live,
            false => Forgotten::Unknown,
        })))
    }

    fn pause(&self, tunnels: Arc<Paused>) -> Reply<Cut> {
        self.paused.lock().unwrap().push(tunnels);
        let cut = Cut {
            links: 0,
            sessions: 5,
        };
        Box::pin(std::future::ready(cut))
    }

    fn apply_auth(&self, snapshot: Arc<Snapshot>) -> Reply<usize> {
        self.admitted.lock().unwrap().push(snapshot);
        Box::pin(std::future::ready(3))
    }

    fn apply_tls(&self, config: Arc<ServerConfigs>) -> Reply<()> {
        self.tls.lock().unwrap().push(config);
        Box::pin(std::future::ready(()))
    }

    fn rule(&self, _: Question, _: Ruling) -> Reply<()> {
        Box::pin(std::future::ready(()))
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let reason = Some("io_uring_setup: not permitted".to_owned());
        vec![
            ShardStatus {
                shard: 0,
                driver: "uring",
                driver_reason: None,
            },
            ShardStatus {
                shard: 1,
                driver: "epoll",
                driver_reason: reason,
            },
        ]
    }
}

fn report(id: &str, shard: usize) -> TunnelReport {
    TunnelReport {
        tunnel_id: id.to_owned(),
        dcc: "maya".to_owned(),
        capabilities: vec!["tools".to_owned()],
        agent_version: "0.1.0".to_owned(),
        registered_at_ms_ago: 5,
        last_heartbeat_ms_ago: 1,
        session_count: 3,
        generation: u64::MAX,
        shard,
        shards: vec![shard],
        links: 1,
        agents: 1,
        tags: vec![[0; 8]],
        is_shared: false,
        target_scheme: "http",
        transport: if shard == 0 { "tls" } else { "tcp" },
        channel_bound: shard == 0,
        paths: vec![PathReport {
            shard,
            transport: if shard == 0 { "quic" } else { "tcp" },
            rtt_ms: (shard == 0).then_some(1.5),
            loss_percent: (shard == 0).then_some(0.25),
            mtu: (shard == 0).then_some(1452),
        }],
        paused: false,
        bytes_to_target: 7,
        bytes_to_frontend: 8,
    }
}

fn caller(shard: usize) -> CallerReport {
    CallerReport {
        sub: (shard == 0).then(|| "ada".to_owned()),
        address: Some([192, 0, 2, 7].into()),
        kind: FrontendKind::Http,
        since_ms_ago: 9,
        bytes_to_target: 10,
        bytes_to_frontend: 11,
        shard,
    }
}
