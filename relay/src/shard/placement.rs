//! Places a new link on the shard with the fewest links, and steers raw callers to the shards that have links.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tieline_wire::limits::{HANDSHAKE_TIMEOUT, PREFACE};
use tieline_wire::{GoAway, LinkEnd, LinkRefusal, Mux, RelayHello, Settings, Transmit};
use tracing::info;

use super::Shard;
use super::mail::message::Message;
use crate::io::{Stream, timeout};
use crate::limits::AddressCount;
use crate::listen::agent::{Opening, opening};
use crate::listen::proxied::Source;
use crate::metrics::HandoffKind;

/// Time for the first bytes of an agent that will be refused.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(1);

/// Most times that one call steers raw callers: it repeats the steering if links of other shards came or went
/// meanwhile.
const STEERINGS_MAX: usize = 16;

impl Shard {
    /// Reads the first bytes of a connection on an agent listener: they open a link or a bulk lane.
    pub(super) fn agent_arrived(self: &Rc<Self>, stream: Stream, source: Source) {
        let shard = Rc::clone(self);
        let place = self.agents.count_new_link(source.address());
        let deadline = match place {
            Ok(_) => HANDSHAKE_TIMEOUT,
            Err(_) => REFUSED_TIMEOUT,
        };
        self.kit.tasks.spawn(async move {
            match timeout(deadline, opening(&stream)).await {
                Ok(Some(Opening::Link)) => match place {
                    Ok(place) => shard.place_link(stream, source, place).await,
                    Err(_) => shard.refuse_link(&stream, source.address()),
                },
                Ok(Some(Opening::Lane(nonce))) => shard.agents.place_lane(stream, nonce).await,
                Ok(None) => shard.kit.metrics.link_refused(LinkRefusal::LinkLost),
                Err(_) => shard
                    .kit
                    .metrics
                    .link_refused(LinkRefusal::HandshakeTimeout),
            }
        });
    }

    /// Refuses an agent's link because its address has too many, in one send.
    fn refuse_link(&self, stream: &Stream, peer: SocketAddr) {
        // A close in front of unread bytes is a reset, which could destroy the answer.
        let mut preface = BytesMut::with_capacity(PREFACE.len());
        let _ = stream.recv(&mut preface, PREFACE.len());
        let now = self.kit.clock.now();
        let mut mux = Mux::relay(RelayHello::new([0; 32], 0), Settings::default(), now);
        let reason = match mux.handle_input(now, &mut preface.freeze()) {
            Ok(_) => LinkEnd::Limited,
            Err(error) => error.reason,
        };
        mux.go_away(&GoAway {
            last_session: 0,
            reason,
            deadline_ms: 0,
            message: reason.to_string(),
        });
        let mut out = Transmit::new();
        if mux.poll_transmit(now, &mut out) {
            // The connection ends now, whether or not the agent receives the reason.
            let _ = out.send_with(|slices| stream.send_vectored(slices));
        }
        stream.shutdown();
        self.kit.metrics.link_refused(reason.refusal());
        if self.agents.may_log() {
            info!(%peer, reason = reason.word(), "link refused: {reason}");
        }
    }

    /// Places a new link on the shard with the fewest links.
    async fn place_link(self: &Rc<Self>, stream: Stream, source: Source, stranger: AddressCount) {
        let to = self.least_loaded();
        self.link_expected(to);
        if to == self.kit.index {
            self.serve_link(stream, (source, stranger), None);
            return;
        }
        let message = Message::Link {
            stream: stream.detach(),
            source,
            stranger,
            nonce: None,
        };
        self.move_link(to, message).await;
    }

    /// Hands a link off to a shard whose load includes it already.
    pub(super) async fn move_link(&self, to: usize, message: Message) {
        if self.kit.mail.hand_off(to, message).await {
            self.kit.metrics.handed_off(HandoffKind::Link);
        } else {
            self.link_gone(to);
            self.kit.metrics.link_refused(LinkRefusal::Overload);
        }
    }

    /// Counts a link for a shard that has it or will get it.
    pub(super) fn link_expected(&self, shard: usize) {
        if self.kit.peers.loads[shard].fetch_add(1, Ordering::SeqCst) == 0 {
            self.steer_callers();
        }
    }

    /// Counts a link of a shard out: it ended, moved away or never arrived.
    pub(super) fn link_gone(&self, shard: usize) {
        if self.kit.peers.loads[shard].fetch_sub(1, Ordering::SeqCst) == 1 {
            self.steer_callers();
        }
    }

    /// Steers raw callers to the shards that have links, which saves a hand-off.
    fn steer_callers(&self) {
        let mut shards = self.shards_with_links();
        for _ in 0..STEERINGS_MAX {
            if !self.doors.steer(&shards) {
                return;
            }
            // Another shard may have overwritten this steering with older loads.
            let now = self.shards_with_links();
            if now == shards {
                return;
            }
            shards = now;
        }
    }

    /// Which shards have links; all of them if none has any.
    fn shards_with_links(&self) -> Vec<bool> {
        let loads = self.kit.peers.loads.iter();
        let with_links: Vec<bool> = loads.map(|load| load.load(Ordering::SeqCst) > 0).collect();
        if with_links.contains(&true) {
            return with_links;
        }
        vec![true; with_links.len()]
    }

    /// The shard with the fewest links; among equals this shard, then the lowest number.
    fn least_loaded(&self) -> usize {
        let load = |shard: usize| self.kit.peers.loads[shard].load(Ordering::Relaxed);
        (0..self.kit.peers.loads.len())
            .min_by_key(|shard| (load(*shard), *shard != self.kit.index))
            .unwrap_or(self.kit.index)
    }
}
