//! How a path ends, and that nothing of it is left.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Fact, path};

pub const FACTS: &[Fact] = &[
    (
        "the_exit_code_is_that_of_the_near_command",
        false,
        the_exit_code_is_the_near_ones,
    ),
    (
        "what_the_commands_started_ends_with_the_path",
        false,
        all_ends_with_the_near_command,
    ),
    (
        "sigterm_and_sigkill_leave_nothing_behind",
        false,
        signals_leave_nothing_behind,
    ),
    (
        "a_setting_holds_in_the_namespaces_only",
        false,
        a_setting_holds_inside_only,
    ),
    (
        "wrong_flags_are_a_usage_error",
        false,
        wrong_flags_are_a_usage_error,
    ),
];

/// Starts a process that survives its parent and SIGTERM, then prints the namespace.
const STUBBORN: &str = "(trap '' TERM HUP; exec setsid sleep 1000) & readlink /proc/self/ns/net; ";

fn the_exit_code_is_the_near_ones() {
    for (near, code) in [("true", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        let status = path("", near, Some("sleep 1000"))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{near}");
    }
}

/// A running path whose both commands have started processes that do not end by themselves.
struct Stubborn {
    path: Child,
    namespaces: Vec<String>,
}

impl Stubborn {
    fn start(near_end: &str) -> Self {
        let near = format!("{STUBBORN}{near_end}");
        let far = format!("{STUBBORN}sleep 1000");
        let mut path = path("", &near, Some(&far))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(path.stdout.take().unwrap()).lines();
        let namespaces = [lines.next(), lines.next()].map(|line| line.unwrap().unwrap());
        assert_ne!(namespaces[0], namespaces[1]);
        assert!(namespaces.iter().all(|it| it.starts_with("net:[")));
        Self {
            path,
            namespaces: namespaces.to_vec(),
        }
    }

    /// Waits until no process has the standard error of the path any more, which all of them inherit and the guards close
    /// last; then none may be left in its namespaces.
    fn assert_gone(mut self) {
        let mut rest = Vec::new();
        let mut stderr = self.path.stderr.take().unwrap();
        stderr.read_to_end(&mut rest).unwrap();
        self.path.wait().unwrap();
        // A process closes its files a moment before it leaves its namespace.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.has_processes() {
            assert!(Instant::now() < deadline, "processes are left");
            std::thread::yield_now();
        }
    }

    /// Whether a process is in one of the path's namespaces.
    fn has_processes(&self) -> bool {
        let entries = std::fs::read_dir("/proc").unwrap();
        let mut namespaces =
            entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("ns/net")).ok());
        namespaces.any(|link| {
            let is_it = |namespace: &String| link.as_os_str() == OsStr::new(namespace);
            self.namespaces.iter().any(is_it)
        })
    }
}

fn all_ends_with_the_near_command() {
    // Waits until the test has seen both namespaces.
    let mut stubborn = Stubborn::start("read end");
    drop(stubborn.path.stdin.take());
    stubborn.assert_gone();
}

fn signals_leave_nothing_behind() {
    for signal in ["TERM", "KILL"] {
        let stubborn = Stubborn::start("sleep 1000");
        let status = Command::new("kill")
            .args([format!("-{signal}"), stubborn.path.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        stubborn.assert_gone();
    }
}

fn a_setting_holds_inside_only() {
    let name = "/proc/sys/net/ipv4/tcp_retries2";
    let outside = std::fs::read_to_string(name).unwrap();
    let output = path(
        "--sysctl net.ipv4.tcp_retries2=11",
        &format!("cat {name}"),
        None,
    )
    .output()
    .unwrap();
    assert_eq!(output.stdout, b"11\n");
    assert!(output.status.success());
    assert_eq!(std::fs::read_to_string(name).unwrap(), outside);
}

fn wrong_flags_are_a_usage_error() {
    for (flags, word) in [
        ("--loss 1", "percentage"),
        ("--rate 200", "200mbit"),
        ("--queue 1bdp", "--rate"),
        ("--delay 11s", "--delay"),
        ("--path-mtu 9000", "--path-mtu"),
    ] {
        let output = path(flags, "true", None).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(word), "{flags}: {error}");
    }
}
