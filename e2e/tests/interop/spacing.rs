//! Checks that progress messages arrive one at a time, when their steps happen.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Scenarios of the same call with steps of 0.4, 1.2 and 4 s.
///
/// A busy machine adds about the same delay at every pace; a buffer adds a share of the call's duration.
const PACES: [&str; 3] = ["progress", "progress_slow", "progress_slowest"];

/// Delay that a busy machine may cause, in seconds.
const LATE_S: f64 = 1.5;

/// Runs a call in steps, checks that each progress message arrived when its step happened, and returns the
/// client's report. If the times are wrong, the call is repeated at a slower pace.
///
/// # Errors
/// Messages are missing or out of order at any pace, or came early, late or in a burst at every pace.
pub(crate) fn one_by_one(run: impl Fn(&str) -> Result<Value>) -> Result<Value> {
    let in_order = |pace: &str| {
        let report = run(pace)?;
        in_order(&report)?;
        Ok(report)
    };
    in_time(&PACES, in_order, at_pace)
}

/// Runs scenarios until `times` accepts a report; returns the accepted report.
///
/// # Errors
/// `run` fails for a scenario, or `times` rejects every report.
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

/// Arrival times of the messages in a client's report, in seconds after its call.
pub(crate) fn heard_at_s(report: &Value) -> Vec<f64> {
    let heard = report["heard"].as_array().into_iter().flatten();
    heard.filter_map(|heard| heard["at_s"].as_f64()).collect()
}

/// Checks that all five progress messages arrived, in order and before the result.
///
/// # Errors
/// A message is missing, out of order or without a time, or the result came first.
fn in_order(report: &Value) -> Result<()> {
    let heard = report["heard"]
        .as_array()
        .context("no list `heard` reported")?;
    let progress: Vec<_> = heard
        .iter()
        .filter_map(|step| step["progress"].as_f64())
        .collect();
    ensure!(
        progress == [1.0, 2.0, 3.0, 4.0, 5.0],
        "steps are missing or out of order: {heard:?}"
    );
    let at_s = heard_at_s(report);
    ensure!(
        at_s.len() == progress.len(),
        "steps without a time: {heard:?}"
    );
    let finished_s = report["finished_s"]
        .as_f64()
        .context("no finished_s reported")?;
    ensure!(
        finished_s >= at_s[4],
        "the result came before the last step: {report}"
    );
    Ok(())
}

/// Checks that progress messages arrived at the pace of the steps.
///
/// # Errors
/// Messages came early, late or in a burst.
fn at_pace(report: &Value) -> Result<()> {
    let at_s = heard_at_s(report);
    let step_s = report["step_s"].as_f64().context("no step_s reported")?;
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
        "the steps did not arrive at their pace: {at_s:?}"
    );
    Ok(())
}
