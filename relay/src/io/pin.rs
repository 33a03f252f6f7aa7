//! Threads stay on their core.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Pins this thread to the `index`-th core that the process may use; false if there are fewer
/// cores than shards, where pinning would only take the scheduler's freedom.
pub(crate) fn pin_to_core(index: usize, shards: usize) -> bool {
    let Ok(allowed) = sched_getaffinity(None) else {
        return false;
    };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    let Some(core) = cores.get(index).filter(|_| shards <= cores.len()) else {
        return false;
    };
    let mut own = CpuSet::new();
    own.set(*core);
    sched_setaffinity(None, &own).is_ok()
}
