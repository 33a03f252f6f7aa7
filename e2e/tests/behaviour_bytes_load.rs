//! What happens to bytes when there are many: of one body, of many sessions, of callers that come
//! and go, and of one that takes none.
//!
//! Each test takes the machine for itself, so that its latencies and its memory are its own.

#[path = "behaviour_bytes_load/churn.rs"]
mod churn;
#[path = "behaviour_bytes_load/large.rs"]
mod large;
#[path = "behaviour_bytes_load/latency.rs"]
mod latency;
#[path = "behaviour_bytes_load/many.rs"]
mod many;
#[path = "behaviour_bytes_load/memory.rs"]
mod memory;
#[path = "behaviour_bytes_load/stalled.rs"]
mod stalled;

use std::path::Path;

use tokio::sync::{Mutex, MutexGuard};

/// The program that runs relay or agent in a process of its own.
const CHILD: &str = env!("CARGO_BIN_EXE_child");

const MIB: u64 = 1024 * 1024;

/// Waits until no other test of this file runs.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

fn child() -> &'static Path {
    Path::new(CHILD)
}
