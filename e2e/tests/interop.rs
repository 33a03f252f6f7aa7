//! Relay and agent between third-party MCP clients and servers.
//!
//! Every test runs on every [`Path`], unless its file says why not. A difference between a tunnel and the
//! direct path is a defect of Tieline, so most tests compare the client's report with the one on the
//! direct path.
//!
//! The clients and servers come from package registries. If a registry is unreachable, or Python or Node
//! is missing, the test is reported as ignored with the reason. With `TIELINE_INTEROP=require` in
//! the environment the test fails instead.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Arguments;
use serde_json::Value;
use tieline_e2e::interop::{Needs, Setup};
use tieline_e2e::path::Path;
use tieline_e2e::trials::{self, Test};
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

    fn test_on(&self, path: Path) -> Test<Setup> {
        let (needs, check) = (self.needs, self.check);
        Test::new(
            self.name_on(path),
            move |setup: &Setup| setup.missing(needs),
            move |setup: &Setup| check(setup, path),
        )
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
    let tests = groups
        .into_iter()
        .flatten()
        .flat_map(|case| case.paths.iter().map(move |path| case.test_on(*path)))
        .collect();
    trials::run("interop", &arguments, TEST_LIMIT, tests, || {
        let directory = trials::directory(env!("CARGO_TARGET_TMPDIR"));
        Ok(Setup::prepare(&directory, Trust::new()?))
    })
}
