//! Whether progress was heard of one step at a time, as it happened.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Scenarios of one call in steps, each with longer steps than the one before: 0.4, 1.2 and 4 s.
///
/// A busy machine delays by about the same time at every pace; a buffer delays by a part of the call.
const PACES: [&str; 3] = ["progress", "progress_slow", "progress_slowest"];

/// Lateness that a busy machine explains, in seconds.
const LATE_S: f64 = 1.5;

/// Runs a call in steps and checks that each step was told as it happened; returns the client's report.
///
/// A call whose times are wrong is judged again at a slower pace.
///
/// # Errors
/// Steps are missing or out of order at any pace, or they came early, late or in a burst at every pace.
pub(crate) fn one_by_one(run: impl Fn(&str) -> Result<Value>) -> Result<Value> {
    let in_order = |pace: &str| {
        let report = run(pace)?;
        in_order(&report)?;
        Ok(report)
    };
    in_time(&PACES, in_order, at_pace)
}

/// Runs scenarios until the times in a report are right; returns that report.
///
/// # Errors
/// A scenario fails, or the times of every report are wrong.
pub(crate) fn in_time(
    scenarios: &[&str],
    run: impl Fn(&str) -> Result<Value>,
    times: impl Fn(&Value) -> Result<()>,
) -> Result<Value> {
    let mut wrong = Vec::new();
    for scenario in scenarios {
        let report = run(scenario)?;
        match times(&report) {
            Ok(()) => return Ok(report),
            Err(error) => wrong.push(format!("{scenario}: {error:#}")),
        }
    }
    bail!("{}", wrong.join("; "))
}

/// Moments at which a client heard something, in seconds after its call.
pub(crate) fn heard_at_s(report: &Value) -> Vec<f64> {
    let heard = report["heard"].as_array().into_iter().flatten();
    heard.filter_map(|heard| heard["at_s"].as_f64()).collect()
}

/// Checks that each step was heard of, in order and before the result.
///
/// # Errors
/// It was not.
fn in_order(report: &Value) -> Result<()> {
    let heard = report["heard"]
        .as_array()
        .context("no list of what was heard")?;
    let progress: Vec<_> = heard
        .iter()
        .filter_map(|step| step["progress"].as_f64())
        .collect();
    ensure!(
        progress == [1.0, 2.0, 3.0, 4.0, 5.0],
        "not every step, or not in order: {heard:?}"
    );
    let at_s = heard_at_s(report);
    ensure!(
        at_s.len() == progress.len(),
        "steps without a time: {heard:?}"
    );
    let finished_s = report["finished_s"].as_f64().context("no finished_s")?;
    ensure!(
        finished_s >= at_s[4],
        "the result came before the last step: {report}"
    );
    Ok(())
}

/// Checks that steps were heard of at the pace at which they happened.
///
/// # Errors
/// They came early, much too late, or in a burst.
fn at_pace(report: &Value) -> Result<()> {
    let at_s = heard_at_s(report);
    let step_s = report["step_s"].as_f64().context("no step_s")?;
    let late_s = LATE_S.max(step_s * 1.5);
    let first_s = at_s[0];
    ensure!(
        first_s > step_s * 0.9,
        "the first step came before it happened: {at_s:?}"
    );
    ensure!(
        first_s < step_s + late_s,
        "the first step came late: {at_s:?}"
    );

    let mut gaps_s: Vec<_> = at_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps_s.sort_by(f64::total_cmp);
    let (shortest_s, longest_s) = (gaps_s[0], gaps_s[gaps_s.len() - 1]);
    let median_s = (gaps_s[1] + gaps_s[2]) / 2.0;
    ensure!(
        shortest_s > step_s * 0.25,
        "two steps came together: {at_s:?}"
    );
    ensure!(longest_s < step_s + late_s, "a step came late: {at_s:?}");
    ensure!(
        (median_s - step_s).abs() < step_s * 0.4,
        "not at the pace of the steps: {at_s:?}"
    );
    Ok(())
}
