//! Connection IDs that lead to their shard: IDs are drawn until the arithmetic by which the kernel steers packets names
//! the shard that draws.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::io::{ID_BYTES, PacketSteering, SteeringKey};

/// Random bytes of an ID; its last byte is a check of them.
const RANDOM_BYTES: usize = ID_BYTES - 1;

/// Draws for which random bytes are fetched at once: with few shards, enough for most IDs.
const DRAWS: usize = 16;

/// Where the packets of a shard come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here {
    pub(super) steering: PacketSteering,
    /// Number of this shard, and of all shards.
    pub(super) shard: usize,
    pub(super) shards: usize,
}

impl Here {
    /// The shard that has the socket at `place`: after a take-over from a relay with more shards there are more sockets
    /// than shards.
    const fn shard_at(&self, place: usize) -> usize {
        place % self.shards
    }

    /// Another shard that `packet` belongs to. A client's first packets stay where the arithmetic leads them, too,
    /// although the client has drawn their ID: so all of them come to one shard.
    pub(super) fn elsewhere(&self, packet: &[u8]) -> Option<usize> {
        let shard = self.shard_at(self.steering.place_of(packet)?);
        (shard != self.shard).then_some(shard)
    }
}

/// Makes the connection IDs of one shard.
pub(super) struct ShardIds {
    here: Here,
    check: SteeringKey,
    random: [u8; DRAWS * RANDOM_BYTES],
    /// Bytes of `random` that were used.
    used: usize,
}

impl ShardIds {
    pub(super) fn new(here: Here, check: SteeringKey) -> Self {
        let random = [0; DRAWS * RANDOM_BYTES];
        Self {
            here,
            check,
            used: random.len(),
            random,
        }
    }

    fn draw(&mut self) -> [u8; ID_BYTES] {
        if self.used + RANDOM_BYTES > self.random.len() {
            let filled = SystemRandom::new().fill(&mut self.random);
            filled.expect("random numbers were there when the relay made its keys");
            self.used = 0;
        }
        let mut id = [0; ID_BYTES];
        id[..RANDOM_BYTES].copy_from_slice(&self.random[self.used..self.used + RANDOM_BYTES]);
        self.used += RANDOM_BYTES;
        id[RANDOM_BYTES] = check_byte(&self.check, id);
        id
    }
}

/// The last byte of the ID that begins like `id`.
fn check_byte(key: &SteeringKey, mut id: [u8; ID_BYTES]) -> u8 {
    id[RANDOM_BYTES] = 0;
    key.hash(id).to_be_bytes()[0]
}

impl ConnectionIdGenerator for ShardIds {
    fn generate_cid(&mut self) -> ConnectionId {
        loop {
            let id = self.draw();
            // Every shard has the same share of all IDs, so this takes as many draws as there are shards, on average.
            if self.here.shard_at(self.here.steering.place(id)) == self.here.shard {
                return ConnectionId::new(&id);
            }
        }
    }

    /// Accepts IDs of all shards, and of an earlier relay with the same state folder: their senders get a reset. Of
    /// other packets 255 in 256 are dropped without an answer.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let id = <[u8; ID_BYTES]>::try_from(&**id).map_err(|_| InvalidCid)?;
        match check_byte(&self.check, id) == id[RANDOM_BYTES] {
            true => Ok(()),
            false => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::quic::QuicKeys;

    fn ids(keys: &QuicKeys, shard: usize, shards: usize, sockets: usize) -> ShardIds {
        let here = Here {
            steering: PacketSteering::new(keys.steering(), sockets),
            shard,
            shards,
        };
        ShardIds::new(here, keys.check)
    }

    #[test]
    fn an_id_leads_to_the_shard_that_drew_it() {
        let keys = QuicKeys::of(&[7; 32]);
        for (shards, sockets) in [(1, 1), (2, 2), (5, 5), (64, 64), (2, 5)] {
            for shard in [0, shards / 2, shards - 1] {
                let mut ids = ids(&keys, shard, shards, sockets);
                let mut seen = HashSet::new();
                for _ in 0..50 {
                    let id = ids.generate_cid();
                    assert_eq!(id.len(), ids.cid_len());
                    // Behind a short header, and behind a long one.
                    let short = [&[0x40][..], &*id, &[0; 20]].concat();
                    let long = [&[0xe0, 0, 0, 0, 1, 8][..], &*id, &[0; 20]].concat();
                    assert_eq!(ids.here.elsewhere(&short), None);
                    assert_eq!(ids.here.elsewhere(&long), None);
                    assert!(seen.insert(id.to_vec()));
                }
            }
        }
    }

    #[test]
    fn ids_of_all_shards_are_known_and_those_of_other_relays_are_not() {
        let keys = QuicKeys::of(&[7; 32]);
        let other = ids(&QuicKeys::of(&[8; 32]), 0, 1, 1);
        let mut known = 0;
        for _ in 0..1_000 {
            let id = ids(&keys, 1, 2, 2).generate_cid();
            // Also after a restart with another number of shards.
            assert!(ids(&keys, 0, 3, 3).validate(&id).is_ok());
            known += usize::from(other.validate(&id).is_ok());
        }
        // One in 256.
        assert!(known < 50, "{known}");
        assert!(other.validate(&ConnectionId::new(&[1; 4])).is_err());
    }
}
