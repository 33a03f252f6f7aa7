//! Reports to operators about this shard's tunnels.

use std::ops::Bound;

use tieline_wire::{Moment, TunnelId};

use super::{AgentTag, LinkEntry, LinkId, Registry};
use crate::metrics::{CallerReport, PathReport, TunnelBatch, TunnelDetail, TunnelReport};
use crate::session::SessionRecord;

/// Entries that one report covers: 120 us of a shard's time (0.5 us each, with 10,000 links).
pub(super) const REPORT_TUNNELS: usize = 250;

/// Callers that one shard lists of one tunnel.
const REPORT_CALLERS: usize = 1000;

impl Registry {
    /// A report on some tunnels whose names follow `after`.
    pub(crate) fn report(&self, after: &str, shard: usize, now: Moment) -> TunnelBatch {
        let mut behind = self
            .names
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let mut batch = TunnelBatch::default();
        let mut seen = 0;
        for (tunnel, links) in behind.by_ref() {
            let mut row: Option<TunnelReport> = None;
            for id in links {
                let Some(one) = self.report_one(tunnel, *id, shard, now) else {
                    continue;
                };
                match &mut row {
                    Some(row) => row.join(one),
                    None => row = Some(one),
                }
            }
            batch.rows.extend(row);
            seen += links.len();
            if seen >= REPORT_TUNNELS {
                batch.next = Some(tunnel.as_str().to_owned());
                break;
            }
        }
        // No further report is needed behind the last name.
        batch.next = batch.next.filter(|_| behind.next().is_some());
        batch
    }

    fn report_one(
        &self,
        tunnel: &TunnelId,
        link: LinkId,
        shard: usize,
        now: Moment,
    ) -> Option<TunnelReport> {
        let ago = |moment| ms_ago(now, moment);
        let entry = self.links.get(&link)?;
        let it = entry.tunnels.get(tunnel)?;
        let (agent, grant) = (entry.agent.as_ref()?, it.granted?);
        let (bytes_to_target, bytes_to_frontend) = it.sessions.bytes();
        Some(TunnelReport {
            tunnel_id: tunnel.as_str().to_owned(),
            dcc: it.info.dcc.clone(),
            capabilities: it.info.capabilities.clone(),
            agent_version: agent.agent_version.clone(),
            registered_at_ms_ago: ago(grant.since),
            last_heartbeat_ms_ago: ago(entry.mux.last_received()),
            session_count: it.sessions.count(),
            generation: grant.generation.0,
            shard,
            shards: vec![shard],
            links: 1,
            agents: 1,
            tags: vec![AgentTag::of(&agent.key, &agent.machine).0],
            is_shared: it.info.shared,
            // The shard fills this in.
            paused: false,
            bytes_to_target,
            bytes_to_frontend,
            target_scheme: it.info.scheme_word(),
            transport: entry.channel.transport,
            channel_bound: entry.channel.is_bound,
            paths: vec![path(entry, shard)],
        })
    }

    /// One tunnel, and its callers on links of this shard.
    pub(crate) fn detail(&self, tunnel: &TunnelId, shard: usize, now: Moment) -> TunnelDetail {
        let mut detail = TunnelDetail::default();
        for id in self.names.get(tunnel).into_iter().flatten() {
            let row = self.report_one(tunnel, *id, shard, now);
            let entry = self.links.get(id).and_then(|it| it.tunnels.get(tunnel));
            let records = entry.map(|it| it.sessions.records()).unwrap_or_default();
            let callers = records.iter().take(REPORT_CALLERS);
            let of_link = TunnelDetail {
                row,
                callers: callers.map(|it| caller(it, shard, now)).collect(),
                callers_total: records.len(),
                bound: None,
            };
            detail.join(of_link, REPORT_CALLERS);
        }
        detail
    }
}

/// The path of one link. Over TCP only its pings have measured anything.
fn path(entry: &LinkEntry, shard: usize) -> PathReport {
    let measured = entry.quic.upgrade().map(|it| it.path());
    let rtt = measured.map(|it| it.rtt).or_else(|| entry.mux.rtt());
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    PathReport {
        shard,
        transport: entry.channel.transport,
        rtt_ms: rtt.map(|rtt| rounded(rtt.as_secs_f64() * 1e3)),
        loss_percent: measured.map(|it| {
            let sent = it.sent_packets.max(1);
            rounded(it.lost_packets as f64 / sent as f64 * 100.0)
        }),
        mtu: measured.map(|it| it.current_mtu),
    }
}

fn caller(record: &SessionRecord, shard: usize, now: Moment) -> CallerReport {
    let (bytes_to_target, bytes_to_frontend) = record.bytes();
    let caller = &record.caller;
    CallerReport {
        sub: caller.identity.as_ref().map(|it| it.sub().to_owned()),
        address: caller.address,
        kind: caller.kind,
        since_ms_ago: ms_ago(now, record.since),
        bytes_to_target,
        bytes_to_frontend,
        shard,
    }
}

fn ms_ago(now: Moment, moment: Moment) -> u64 {
    u64::try_from(now.saturating_since(moment).as_millis()).unwrap_or(u64::MAX)
}
