//! A run that is ended by a signal leaves no process behind.

// Clippy's exemption for tests does not cover the helper functions of these tests.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Child processes of `pid`.
fn children_of(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent: u32 = stat
            .rsplit_once(')')?
            .1
            .split_ascii_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        Some((pid, parent))
    });
    processes
        .filter(|(_, parent)| *parent == pid)
        .map(|(pid, _)| pid)
        .collect()
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(!stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(false)
}

#[test]
fn a_signal_ends_the_run_and_every_child() {
    let folder = tempfile::tempdir().unwrap();
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let mut running = Command::new(env!("CARGO_BIN_EXE_tieline-loadgen"))
            .args([
                "rtt",
                "--path",
                "direct,forwarder-tokio",
                "--duration",
                "60s",
            ])
            // After SIGKILL the program cannot remove its own folder.
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The first line about a round appears when all processes are running.
        let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
        assert!(
            lines
                .by_ref()
                .any(|line| line.unwrap().contains("round 1 of"))
        );
        let children = children_of(running.id());
        assert_eq!(children.len(), 3, "expected the target and two hops");
        let name = format!("-{signal}");
        assert!(
            Command::new("kill")
                .args([&name, &running.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(running.wait().unwrap().code(), code, "SIG{signal}");
        // A guard waits for its child; after SIGKILL the kernel ends the children a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        while children.iter().any(|pid| is_running(*pid)) {
            assert!(
                Instant::now() < deadline,
                "SIG{signal}: children are still running"
            );
            std::thread::yield_now();
        }
    }
}
