//! Runs tests that need software from elsewhere. What this machine lacks makes a test ignored, with the reason; with
//! `TIELINE_INTEROP=require` in the environment the test fails instead.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// Characters of a reason shown beside the name of an ignored test; standard error shows the whole reason.
const REASON_CHARS_MAX: usize = 100;

/// A test on the setup `S`, which all tests of a process share.
pub struct Test<S> {
    name: String,
    missing: Missing<S>,
    check: Check<S>,
}

/// Finds the reason why a test cannot run.
type Missing<S> = Box<dyn FnOnce(&S) -> Option<String>>;

/// Checks one fact.
type Check<S> = Box<dyn FnOnce(&S) -> Result<()> + Send>;

impl<S> Test<S> {
    /// A test that runs `check`, unless `missing` finds a reason why it cannot run on this machine.
    pub fn new(
        name: String,
        missing: impl FnOnce(&S) -> Option<String> + 'static,
        check: impl FnOnce(&S) -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            name,
            missing: Box::new(missing),
            check: Box::new(check),
        }
    }
}

/// The folder `interop` in cargo's target directory, wherever that is; `target_tmp` is the value of
/// `CARGO_TARGET_TMPDIR`, which cargo sets for tests alone.
#[must_use]
pub fn directory(target_tmp: &str) -> PathBuf {
    let target_tmp = Path::new(target_tmp);
    target_tmp.parent().unwrap_or(target_tmp).join("interop")
}

/// Runs the selected ones of `tests`, each for at most `limit`. `prepare` makes their setup, and is not called if no
/// test will run. `what` names the tests in messages.
///
/// # Errors
/// `prepare` failed.
pub fn run<S: Send + Sync + 'static>(
    what: &str,
    arguments: &Arguments,
    limit: Duration,
    tests: Vec<Test<S>>,
    prepare: impl FnOnce() -> Result<S>,
) -> Result<ExitCode> {
    let setup = is_any_wanted(arguments, &tests)
        .then(prepare)
        .transpose()?
        .map(Arc::new);
    let must_run = std::env::var_os("TIELINE_INTEROP").is_some_and(|value| value == "require");
    let mut reasons = Vec::new();
    let trials = tests
        .into_iter()
        .map(|test| {
            let Some(setup) = setup.clone() else {
                // No test runs: the command only lists tests, or its filter matches none.
                return Trial::test(test.name, || Ok(()));
            };
            let missing = (test.missing)(&setup);
            let reason = missing.clone();
            let check = test.check;
            let mut trial = Trial::test(test.name, move || match missing {
                Some(why) => Err(Failed::from(why)),
                None => within(limit, move || check(&setup)),
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
        eprintln!("{what} tests are ignored: {reason}");
    }
    Ok(libtest_mimic::run(arguments, trials).exit_code())
}

/// Whether any test will run; if not, no environment is prepared.
fn is_any_wanted<S>(arguments: &Arguments, tests: &[Test<S>]) -> bool {
    let is_selected = |name: &str| {
        let matches = |pattern: &String| match arguments.exact {
            true => name == pattern,
            false => name.contains(pattern.as_str()),
        };
        arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
    };
    !arguments.list && tests.iter().any(|test| is_selected(&test.name))
}

/// Runs a check on its own thread and fails it at `limit`. A check that hangs keeps its servers until this process
/// ends.
fn within(
    limit: Duration,
    check: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<(), Failed> {
    let (done, outcome) = mpsc::sync_channel(1);
    let thread = std::thread::spawn(move || {
        let _heard = done.send(check());
    });
    match outcome.recv_timeout(limit) {
        Ok(outcome) => Ok(outcome.map_err(|error| format!("{error:#}"))?),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("took longer than {limit:?}").into()),
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
