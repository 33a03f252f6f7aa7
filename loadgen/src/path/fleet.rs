//! Many agents in one process, run by `agent/examples/fleet`: with one process per agent, the
//! overhead of ten thousand processes would dominate the measurement.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::interrupt::Interrupt;
use crate::process::{Program, Running};

/// How long the agents may take to generate keys and to register their tunnels.
const UP_PATIENCE: Duration = Duration::from_secs(120);

/// A fleet process whose tunnels are all registered.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Process that runs the agents.
    pub(crate) process: Running,
    /// Time from the start of the first agent to the registration of the last tunnel.
    pub(crate) up: Duration,
}

impl Fleet {
    /// Starts `tunnels` agents and waits until all tunnels are registered. Reuses keys that an earlier
    /// fleet left in `keys`.
    pub(crate) fn start(
        binary: &Path,
        tunnels: usize,
        (relay, target): (SocketAddr, SocketAddr),
        core: Option<usize>,
        (keys, logs): (&Path, &Path),
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let arguments = [
            "--relay".to_owned(),
            format!("tcp://{relay}"),
            "--to".to_owned(),
            target.to_string(),
            "--agents".to_owned(),
            tunnels.to_string(),
            "--state-dir".to_owned(),
            keys.to_string_lossy().into_owned(),
        ];
        let program = Program {
            name: "fleet".to_owned(),
            path: binary.to_owned(),
            arguments: arguments.into_iter().map(OsString::from).collect(),
            environment: Vec::new(),
            cores: core.into_iter().collect(),
            in_front: Vec::new(),
        };
        let mut process = Running::start_with_input(&program, logs)?;
        let what = format!("that {tunnels} tunnels are up");
        let up = process.wait_for(&what, UP_PATIENCE, interrupt, news)?;
        let up = up.map_err(|reason| anyhow::anyhow!("an agent gave up: {reason}"))?;
        Ok(Self { process, up })
    }
}

/// Tunnel name that the fleet program gives to its agent number `agent`.
pub(crate) fn tunnel_name(agent: usize) -> String {
    format!("fleet-{agent:05}")
}

/// Folder for keys: in memory if possible, because each key is synced to disk, which takes milliseconds.
pub(crate) fn folder_for_keys() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let is_usable = tempfile::tempfile_in(&memory).is_ok();
    if is_usable {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// Reads an output line of the fleet: time until all tunnels were up, or the reason why an agent gave up.
fn news(line: &Value) -> Option<Result<Duration, String>> {
    match line.get("event")?.as_str()? {
        "up" => Some(Ok(Duration::from_millis(line.get("ms")?.as_u64()?))),
        "failed" => Some(Err(line.get("reason")?.as_str()?.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fleet_is_up_or_tells_why_not() {
        let up = json!({"event": "up", "agents": 3, "ms": 12, "disconnects": 0});
        assert_eq!(news(&up), Some(Ok(Duration::from_millis(12))));
        let failed = json!({"event": "failed", "agent": 1, "reason": "no room"});
        assert_eq!(news(&failed), Some(Err("no room".to_owned())));
        assert_eq!(news(&json!({"event": "other"})), None);
    }
}
