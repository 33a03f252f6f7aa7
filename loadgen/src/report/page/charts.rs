//! Line charts of the page: latency by percentile, and cost by the number of connections.

use std::fmt::Write;

use super::{Styles, words};
use crate::path::PathKind;
use crate::report::metric::Metric;
use crate::report::plot::{Axis, Curve, curves, decades, escape, grouped, steps};
use crate::report::{Report, ScenarioReport};
use crate::scenario::{Pacing, Scenario};

/// Plots latency by percentile; empty if no latency was measured.
pub(super) fn latency_plot(report: &ScenarioReport, styles: &Styles) -> String {
    let list: Vec<Curve> = report
        .paths
        .iter()
        .filter(|path| path.curve.len() > 1)
        .map(|path| curve(path.path, path.curve.clone(), styles))
        .collect();
    let points = || list.iter().flat_map(|curve| &curve.points);
    let lowest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = points().map(|point| point.1).fold(0.0, f64::max);
    let rarest = points().map(|point| point.0).fold(0.0, f64::max);
    if list.is_empty() {
        return String::new();
    }
    let percentiles = [
        (0.0, ""),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
        (0.999_999, "99.9999 %"),
    ];
    // Ticks up to the first percentile that encloses all curves.
    let count = percentiles.partition_point(|(quantile, _)| *quantile < rarest) + 1;
    let x_axis = Axis {
        title: "share of requests answered within this latency".to_owned(),
        scale: |quantile| -(1.0 - quantile).log10(),
        ticks: percentiles[..count.min(percentiles.len())]
            .iter()
            .map(|(quantile, text)| (*quantile, (*text).to_owned()))
            .collect(),
    };
    let y_axis = Axis {
        title: "latency, µs (logarithmic)".to_owned(),
        scale: f64::log10,
        ticks: decades(lowest, highest)
            .into_iter()
            .map(|value| (value, grouped(value, usize::from(value < 10.0))))
            .collect(),
    };
    format!(
        "<figure><figcaption><b>Latency by percentile</b> <span>all rounds together; lower is \
         better</span></figcaption>{}{}</figure>\n",
        curves("Latency by percentile", &list, &x_axis, &y_axis),
        legend(&list)
    )
}

/// Plots CPU time per round trip by the number of connections, for each message size that was run with
/// at least three numbers of connections.
pub(super) fn scaling(report: &Report, styles: &Styles) -> String {
    let mut sizes: Vec<usize> = report
        .scenarios
        .iter()
        .filter_map(|one| Some(shape(one.scenario)?.0))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    let plots = sizes
        .into_iter()
        .filter_map(|size| scaling_of(report, size, styles));
    let out: String = plots.collect();
    if out.is_empty() {
        return out;
    }
    format!(
        "<h2>Cost of a round trip by the number of connections</h2>\n<p>{}</p>\n\
         <div class=\"plots\">{out}</div>\n",
        words::SCALING
    )
}

/// Message size and number of connections of a closed loop of round trips.
fn shape(scenario: Scenario) -> Option<(usize, usize)> {
    match scenario {
        Scenario::RoundTrips {
            messages,
            pacing: Pacing::Closed,
        } => Some((messages.bytes, messages.connections)),
        _ => None,
    }
}

/// Plots CPU time per round trip for messages of `size` bytes; `None` if fewer than three numbers of connections were
/// measured.
fn scaling_of(report: &Report, size: usize, styles: &Styles) -> Option<String> {
    let mut of_size: Vec<(f64, &ScenarioReport)> = report
        .scenarios
        .iter()
        .filter_map(|one| {
            let (bytes, connections) = shape(one.scenario)?;
            (bytes == size).then_some((connections as f64, one))
        })
        .collect();
    of_size.sort_by(|a, b| a.0.total_cmp(&b.0));
    if of_size.len() < 3 {
        return None;
    }
    let list: Vec<Curve> = styles
        .0
        .iter()
        .filter_map(|(kind, _)| {
            let point = |(connections, one): &(f64, &ScenarioReport)| {
                let path = one.paths.iter().find(|path| path.path == *kind)?;
                Some((*connections, path.median(Metric::HopsCpu)?))
            };
            let points: Vec<(f64, f64)> = of_size.iter().filter_map(point).collect();
            (points.len() > 2).then(|| curve(*kind, points, styles))
        })
        .collect();
    if list.is_empty() {
        return None;
    }
    let points = list.iter().flat_map(|curve| &curve.points);
    let highest = points.map(|point| point.1).fold(0.0, f64::max);
    let x_axis = Axis {
        title: "connections (logarithmic)".to_owned(),
        scale: f64::log2,
        ticks: of_size
            .iter()
            .map(|(value, _)| (*value, grouped(*value, 0)))
            .collect(),
    };
    let y_axis = Axis {
        title: "hops' CPU, µs per round trip".to_owned(),
        scale: |value| value,
        ticks: steps(highest)
            .into_iter()
            .map(|value| (value, grouped(value, if highest < 5.0 { 1 } else { 0 })))
            .collect(),
    };
    Some(format!(
        "<figure><figcaption><b>Messages of {size} B, closed loop</b> <span>less is \
         better</span></figcaption>{}{}</figure>\n",
        curves("CPU per round trip", &list, &x_axis, &y_axis),
        legend(&list)
    ))
}

fn curve(kind: PathKind, points: Vec<(f64, f64)>, styles: &Styles) -> Curve {
    let (colour, dashes) = styles.style(kind);
    Curve {
        name: kind.to_string(),
        colour,
        dashes,
        points,
        ranges: Vec::new(),
    }
}

/// Legend of a chart: dash pattern, colour and name of each curve.
pub(in crate::report) fn legend(list: &[Curve]) -> String {
    let mut out = String::from("<p class=\"legend\">");
    for curve in list {
        let _ = write!(
            out,
            "<span><svg class=\"key\" viewBox=\"0 0 30 8\"><path class=\"curve\" stroke=\"{}\" \
             stroke-dasharray=\"{}\" d=\"M0 4H30\"/></svg> {}</span> ",
            curve.colour,
            curve.dashes,
            escape(&curve.name)
        );
    }
    out.push_str("</p>");
    out
}
