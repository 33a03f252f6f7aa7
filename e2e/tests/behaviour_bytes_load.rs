//! Bytes under load: large bodies, many sessions, callers that come and go, and callers that do not
//! read.
//!
//! The tests run one at a time, so that each measures only its own latency and memory.

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

/// Binary that runs a relay or an agent in a separate process.
const CHILD: &str = env!("CARGO_BIN_EXE_child");

const MIB: u64 = 1024 * 1024;

/// Waits until no other test of this file is running.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

fn child() -> &'static Path {
    Path::new(CHILD)
}
