//! Ends the programs behind the targets of an agent, however the agent ends.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::targets::WatchedTarget;

/// The programs of an agent; their processes end when this is dropped.
pub(super) struct Programs {
    targets: Arc<[WatchedTarget]>,
    is_stopped: bool,
}

impl Programs {
    pub(super) fn of(targets: &Arc<[WatchedTarget]>) -> Self {
        Self {
            targets: Arc::clone(targets),
            is_stopped: false,
        }
    }

    /// Ends all programs at once, and waits until none of their processes is left.
    pub(super) async fn stop(&mut self) {
        stop_all(&self.targets).await;
        self.is_stopped = true;
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // Without a runtime, the processes have ended with it.
        if !self.is_stopped
            && let Ok(runtime) = Handle::try_current()
        {
            let targets = Arc::clone(&self.targets);
            runtime.spawn(async move { stop_all(&targets).await });
        }
    }
}

async fn stop_all(targets: &[WatchedTarget]) {
    let mut stopping = JoinSet::new();
    for target in targets {
        let target = target.clone();
        stopping.spawn(async move { target.stop().await });
    }
    while stopping.join_next().await.is_some() {}
}
