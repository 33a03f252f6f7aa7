//! Whether progress was heard of one step at a time, as it happened.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Lateness that a busy machine explains, in seconds.
const LATE_S: f64 = 1.5;

/// Checks a client's report of a call that takes `steps` steps of `step_s` seconds each.
///
/// # Errors
/// Steps are missing, came early, came much too late, or came in a burst.
pub(crate) fn assert_one_by_one(report: &Value) -> Result<()> {
    let step_s = report["step_s"].as_f64().context("no step_s")?;
    let heard = report["heard"]
        .as_array()
        .context("no list of what was heard")?;
    let progress: Vec<_> = heard
        .iter()
        .filter_map(|step| step["progress"].as_f64())
        .collect();
    let at_s: Vec<_> = heard
        .iter()
        .filter_map(|step| step["at_s"].as_f64())
        .collect();
    ensure!(
        progress == [1.0, 2.0, 3.0, 4.0, 5.0],
        "not every step, or not in order: {heard:?}"
    );

    let first_s = at_s[0];
    ensure!(
        first_s > step_s * 0.9,
        "the first step came before it happened: {at_s:?}"
    );
    ensure!(
        first_s < step_s + LATE_S,
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
    ensure!(longest_s < step_s + LATE_S, "a step came late: {at_s:?}");
    ensure!(
        (median_s - step_s).abs() < step_s * 0.4,
        "not at the pace of the steps: {at_s:?}"
    );

    let finished_s = report["finished_s"].as_f64().context("no finished_s")?;
    ensure!(
        finished_s >= at_s[4],
        "the result came before the last step: {report}"
    );
    Ok(())
}
