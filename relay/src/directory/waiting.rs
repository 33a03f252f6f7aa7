//! Callers that wait for a route to change: their agent left a moment ago or, right after the relay's start, has yet to
//! reconnect.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::query::TunnelSelector;

/// Requests on one shard that may wait for a route to change.
const WAITING_MAX: usize = 16 * 1024;

/// Number of waiting requests from which on requests for unknown names are refused, so that random names of strangers
/// leave room for callers of known names.
const WAITING_UNKNOWN_MAX: usize = 4 * 1024;

/// The waiting callers of one shard.
#[derive(Default)]
pub(crate) struct WaitingCallers {
    callers: HashMap<TunnelSelector, Vec<oneshot::Sender<()>>>,
    count: usize,
}

impl WaitingCallers {
    /// Ready at the next change of the route for `selector`; `None` if too many callers wait, with a lower limit for
    /// unknown names.
    pub(crate) fn changed(
        &mut self,
        selector: &TunnelSelector,
        is_known: bool,
    ) -> Option<oneshot::Receiver<()>> {
        let limit = if is_known {
            WAITING_MAX
        } else {
            WAITING_UNKNOWN_MAX
        };
        if self.count >= limit {
            self.forget_who_left();
            if self.count >= limit {
                return None;
            }
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = self.callers.entry(selector.clone()).or_default();
        waiting.push(sender);
        self.count += 1;
        Some(receiver)
    }

    /// Wakes the callers that wait for a change of the route for `selector`.
    pub(super) fn wake(&mut self, selector: &TunnelSelector) {
        if let Some(waiting) = self.callers.remove(selector) {
            self.count -= waiting.len();
            for one in waiting {
                // The waiting caller may have left.
                let _ = one.send(());
            }
        }
    }

    /// Wakes all callers that wait for a change.
    pub(crate) fn wake_all(&mut self) {
        self.count = 0;
        for one in self.callers.drain().flat_map(|(_, waiting)| waiting) {
            // The waiting caller may have left.
            let _ = one.send(());
        }
    }

    fn forget_who_left(&mut self) {
        self.callers.retain(|_, waiting| {
            waiting.retain(|one| !one.is_closed());
            !waiting.is_empty()
        });
        self.count = self.callers.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> TunnelSelector {
        TunnelSelector::Kind(name.to_owned())
    }

    #[test]
    fn who_waits_is_bounded_and_who_left_does_not_count() {
        let mut waiting = WaitingCallers::default();
        let mut callers: Vec<_> = (0..WAITING_MAX)
            .map(|_| waiting.changed(&kind("maya"), true).unwrap())
            .collect();
        assert!(waiting.changed(&kind("maya"), true).is_none());
        callers.pop();
        assert!(waiting.changed(&kind("maya"), true).is_some());
    }

    #[test]
    fn a_woken_caller_makes_room() {
        let mut waiting = WaitingCallers::default();
        let mut maya = waiting.changed(&kind("maya"), true).unwrap();
        let mut other = waiting.changed(&kind("other"), true).unwrap();
        waiting.wake(&kind("maya"));
        assert!(maya.try_recv().is_ok() && other.try_recv().is_err());
        assert_eq!(waiting.count, 1);
    }
}
