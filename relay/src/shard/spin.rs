//! `spin_us`: a shard that had something to do polls for a while before it sleeps.

use std::rc::Rc;
use std::time::Duration;

use tracing::error;

use super::Shard;
use crate::io::Spin;

impl Shard {
    /// Keeps the shard awake for `limit` after each time that one of its tasks ran.
    pub(super) async fn spin(self: Rc<Self>, spin: Spin, limit: Duration) {
        loop {
            self.gate.ran().await;
            let mut until = self.clock.now() + limit;
            while self.clock.now() < until {
                if let Err(error) = spin.pass().await {
                    error!(%error, "the shard cannot spin any more");
                    return;
                }
                self.metrics.spin_passes.inc();
                if self.gate.take_ran() {
                    until = self.clock.now() + limit;
                }
            }
        }
    }
}
