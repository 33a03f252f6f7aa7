//! The end of links that a new auth snapshot no longer allows.

use super::super::kit::Kit;
use super::Agents;
use crate::auth::Snapshot;
use crate::io::turn;
use crate::registry::LinkEntry;

/// Links and tunnels that are rechecked in one turn of the shard: some 100 us.
const RECHECK_COUNT: usize = 512;

impl Agents {
    /// Ends the links that the auth snapshot no longer allows; returns their number.
    pub(in crate::shard) async fn recheck(&self, snapshot: &Snapshot) -> usize {
        let (mut total, mut after) = (0, None);
        loop {
            let now_seconds = Kit::seconds_since_1970();
            let (ended, last) = self.registry.borrow().recheck(
                after,
                RECHECK_COUNT,
                |key, identity| {
                    let allowed = snapshot.still_allows(identity, key, now_seconds);
                    // The sweep withdraws tunnels whose tokens have merely expired.
                    allowed.or_else(|end| end.of_links().map_or(Ok(()), Err))
                },
                |entry: &LinkEntry, reason| entry.mux.close(reason),
            );
            total += ended;
            match last {
                Some(last) => after = Some(last),
                None => return total,
            }
            turn().await;
        }
    }
}
