//! Bulk lanes: brings an agent's lane connection to the shard of its session.

use tieline_wire::{BulkNonce, LinkRefusal};

use super::super::mail::message::Message;
use super::Agents;
use crate::io::Stream;
use crate::metrics::HandoffKind;
use crate::session::shard_of;

impl Agents {
    /// Hands a lane to the shard whose offer its nonce names.
    pub(in crate::shard) async fn place_lane(&self, stream: Stream, nonce: BulkNonce) {
        let to = shard_of(&nonce);
        if to == self.kit.index {
            return self.lane_arrived(stream, &nonce);
        }
        let stream = stream.detach();
        let message = Message::Lane { stream, nonce };
        if to < self.kit.mail.shards() && self.kit.mail.hand_off(to, message).await {
            self.kit.metrics.handed_off(HandoffKind::Lane);
        } else {
            self.kit.metrics.link_refused(LinkRefusal::LaneRefused);
        }
    }

    /// Takes a lane whose offer this shard made.
    pub(in crate::shard) fn lane_arrived(&self, stream: Stream, nonce: &BulkNonce) {
        if !self.lanes.arrived(stream, nonce, self.kit.clock.now()) {
            self.kit.metrics.link_refused(LinkRefusal::LaneRefused);
        }
    }
}
