//! The emulated path keeps its promises: delay, loss, rate, what it drops, and that nothing is left behind.
//!
//! Without root, TUN devices or `nft`, the tests that need them are reported as ignored, with the reason; with
//! `TIELINE_INTEROP=require` in the environment they fail instead. The promises of times are kept on a machine with
//! nothing else to do, so they run with that variable only (`just emulated`). The commands at both ends of a path are this
//! program too (`roles`).

// Clippy's exemption for tests does not cover the helper functions of these tests.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod drops;
mod ends;
mod promises;
mod roles;

use std::fs::OpenOptions;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// A test: its name, whether it needs `nft`, and what it checks by panicking.
pub type Fact = (&'static str, bool, fn());

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("as") {
        return roles::run(words);
    }
    let mut arguments = Arguments::from_args();
    // Two tests at a time would disturb each other's delays.
    arguments.test_threads.get_or_insert(1);
    let must_run = std::env::var_os("TIELINE_INTEROP").is_some_and(|value| value == "require");
    let (no_path, no_nft) = (path_is_missing(), nft_is_missing());
    for reason in [&no_path, &no_nft].into_iter().flatten() {
        eprintln!("tests of the emulated path are ignored: {reason}");
    }
    let timed = promises::FACTS.iter().map(|fact| (fact, true));
    let others = [drops::FACTS, ends::FACTS].concat();
    let facts = timed.chain(others.iter().map(|fact| (fact, false)));
    let trials = facts.map(|(&(name, needs_nft, fact), is_timed)| {
        let nft = no_nft.clone().filter(|_| needs_nft);
        let missing = no_path.clone().or(nft);
        let busy = is_timed.then(|| "measures times (just emulated)".to_owned());
        let reason = missing.clone().or(busy).filter(|_| !must_run);
        let trial = Trial::test(name, move || match missing {
            Some(reason) => Err(Failed::from(reason)),
            None => {
                fact();
                Ok(())
            }
        });
        match reason {
            Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Why no path can be set up here.
fn path_is_missing() -> Option<String> {
    /// Numbers of capabilities (capabilities(7), linux/capability.h).
    const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0);
    let lacking = NEEDED.iter().find(|(_, bit)| own & (1 << bit) == 0);
    if let Some((name, _)) = lacking {
        return Some(format!("not root ({name})"));
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    tun.err().map(|error| format!("/dev/net/tun: {error}"))
}

fn nft_is_missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join("nft").is_file());
    (!is_there).then(|| "nft is missing (Debian: nftables)".to_owned())
}

/// The command `tieline-loadgen path` with `flags`, which are separated by blanks.
pub fn path(flags: &str, near: &str, far: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline-loadgen"));
    command
        .arg("path")
        .args(flags.split_ascii_whitespace())
        .args(["--near", near])
        .env("ROLES", std::env::current_exe().unwrap())
        .env("LOADGEN", env!("CARGO_BIN_EXE_tieline-loadgen"))
        .stdin(Stdio::null());
    if let Some(far) = far {
        command.args(["--far", far]);
    }
    command
}

/// What a path did.
pub struct Ran {
    /// JSON that the near command printed; null if none.
    pub near: Value,
    /// The path's report.
    pub report: Value,
}

/// Runs a path until its near command has succeeded. Both commands are roles with their arguments.
pub fn run(flags: &str, near: &str, far: &str) -> Ran {
    // The far roles listen on this port once they are ready.
    let flags = format!("{flags} --far-port 7001");
    run_commands(&flags, &role(near), &role(far))
}

fn role(role: &str) -> String {
    format!("exec \"$ROLES\" as {role}")
}

/// Runs a path until its near command, for a shell, has succeeded.
pub fn run_commands(flags: &str, near: &str, far: &str) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let output = path(flags, near, Some(far))
        .arg("--report")
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{flags}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = std::fs::read(&file).unwrap();
    Ran {
        near: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
        report: serde_json::from_slice(&report).unwrap(),
    }
}

pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}
