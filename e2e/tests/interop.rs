//! Relay and agent between third-party MCP clients and servers.
//!
//! Every test runs on every [`Path`], unless its file says why not. A difference between a tunnel and the
//! direct path is a defect of Tieline, so most tests compare the client's report with the one on the
//! direct path.
//!
//! The clients and servers come from package registries. If a registry is unreachable, or Python or Node
//! is missing, the test is reported as ignored with the reason. With `TIELINE_INTEROP=require` in
//! the environment the test fails instead.

use std::path::Path as FilePath;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tieline_e2e::interop::{Needs, Setup};
use tieline_e2e::path::Path;
use tieline_e2e::trust::Trust;

#[path = "interop/bridges.rs"]
mod bridges;
#[path = "interop/conformance.rs"]
mod conformance;
#[path = "interop/era_2026.rs"]
mod era_2026;
#[path = "interop/everything.rs"]
mod everything;
#[path = "interop/inspector.rs"]
mod inspector;
#[path = "interop/login.rs"]
mod login;
#[path = "interop/spacing.rs"]
mod spacing;

/// Time limit of one test. Every wait inside a test has a shorter limit.
const TEST_LIMIT: Duration = Duration::from_secs(150);

/// Tests that run at a time per core: they wait more than they compute.
const TESTS_PER_CORE: usize = 2;

/// Characters of a reason shown beside the name of an ignored test; standard error shows the whole reason.
const REASON_CHARS_MAX: usize = 100;

/// Checks one fact on one path.
type Check = fn(&Setup, Path) -> Result<()>;

struct Case {
    group: &'static str,
    name: &'static str,
    needs: Needs,
    check: Check,
    paths: &'static [Path],
}

impl Case {
    const fn new(group: &'static str, name: &'static str, needs: Needs, check: Check) -> Self {
        Self {
            group,
            name,
            needs,
            check,
            paths: &Path::ALL,
        }
    }

    /// Restricts the case to `paths`.
    const fn on(self, paths: &'static [Path]) -> Self {
        Self { paths, ..self }
    }

    fn name_on(&self, path: Path) -> String {
        format!("{}::{}::{}", self.group, path.word(), self.name)
    }
}

/// Checks that a report equals the one on the direct path, with one exception: on [`Path::ANY_OF_KIND`] session
/// ids carry the relay's mark, so the relay answers itself for an unknown session.
fn ensure_same(path: Path, mut report: Value, direct: &Value) -> Result<()> {
    if path == Path::ANY_OF_KIND
        && let Some(unknown) = report.get_mut("unknown_session")
    {
        let is_ours = unknown["status"] == 404 && unknown["body"]["error"] == "unknown_session";
        ensure!(is_ours, "{unknown:#}");
        *unknown = direct["unknown_session"].clone();
    }
    ensure!(
        report == *direct,
        "{report:#}\ndiffers from the report on the direct path:\n{direct:#}"
    );
    Ok(())
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores * TESTS_PER_CORE);
    let groups = [
        everything::cases(),
        era_2026::cases(),
        inspector::cases(),
        bridges::cases(),
        conformance::cases(),
        login::cases(),
    ];
    let cases: Vec<(Case, Path)> = groups
        .into_iter()
        .flatten()
        .flat_map(|case| case.paths.iter().map(move |path| (Case { ..case }, *path)))
        .collect();

    let is_wanted = wanted(&arguments, &cases);
    let trust = is_wanted.then(Trust::new).transpose()?;
    let setup = trust.map(|trust| Arc::new(Setup::prepare(&interop_directory(), trust)));
    let must_run = std::env::var_os("TIELINE_INTEROP").is_some_and(|value| value == "require");
    let mut reasons = Vec::new();
    let trials = cases
        .into_iter()
        .map(|(case, path)| {
            let Some(setup) = setup.clone() else {
                // No test runs: the command only lists tests, or its filter matches none.
                return Trial::test(case.name_on(path), || Ok(()));
            };
            let missing = setup.missing(case.needs);
            let reason = missing.clone();
            let check = case.check;
            let mut trial = Trial::test(case.name_on(path), move || match missing {
                Some(why) => Err(Failed::from(why)),
                None => within_limit(move || check(&setup, path)),
            });
            if let Some(reason) = reason.filter(|_| !must_run) {
                trial = trial.with_ignored_flag(true).with_kind(short(&reason));
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
            trial
        })
        .collect();
    for reason in reasons {
        eprintln!("interop tests are ignored: {reason}");
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// Whether any test will run; if not, no environment is prepared.
fn wanted(arguments: &Arguments, cases: &[(Case, Path)]) -> bool {
    let is_selected = |name: &str| {
        let matches = |pattern: &String| match arguments.exact {
            true => name == pattern,
            false => name.contains(pattern.as_str()),
        };
        arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
    };
    !arguments.list
        && cases
            .iter()
            .any(|(case, path)| is_selected(&case.name_on(*path)))
}

/// The folder `interop` in cargo's target directory, wherever that is.
fn interop_directory() -> std::path::PathBuf {
    let target_tmp = FilePath::new(env!("CARGO_TARGET_TMPDIR"));
    target_tmp.parent().unwrap_or(target_tmp).join("interop")
}

/// Runs a check on its own thread and fails it at [`TEST_LIMIT`]. A check that hangs keeps its servers until
/// this process ends.
fn within_limit(check: impl FnOnce() -> Result<()> + Send + 'static) -> Result<(), Failed> {
    let (done, outcome) = mpsc::sync_channel(1);
    let thread = std::thread::spawn(move || {
        let _heard = done.send(check());
    });
    match outcome.recv_timeout(TEST_LIMIT) {
        Ok(outcome) => Ok(outcome.map_err(|error| format!("{error:#}"))?),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(format!("took longer than {TEST_LIMIT:?}").into())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => Err("the check ended without an outcome".into()),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// First line of a reason, cut to [`REASON_CHARS_MAX`].
fn short(reason: &str) -> String {
    reason
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(REASON_CHARS_MAX)
        .collect()
}
