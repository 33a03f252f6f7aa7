//! HTML page of `scaling`: cost of a session and of a tunnel by their number.

use std::fmt::Write;

use super::document::{in_short, table};
use super::{ScalingReport, Series, Value};
use crate::report::page::{self, DIRECT, RELAY, TOKIO};
use crate::report::plot::{Axis, Curve, curves, decades, escape, grouped, steps};

const LEAD: &str = "One relay holds many sessions of a tunnel, or many tunnels. These plots show the cost of \
     each as their number grows. A flat curve means that the ten thousandth costs as much as the \
     first.";

const METHOD: &str = "Relay, agents, target and this client are separate processes, all started \
     again for each number, with the settings below. Dots show the median over the rounds, the lines \
     through them reach from the smallest to the largest round. The numbers are measured in a random \
     order in each round, so that a slowdown of the machine affects all of them alike, and \u{201c}times\u{201d} \
     is the ratio within a round. Every byte that comes back is compared with the one that was sent. CPU \
     times are user and system time of a process. A round counts as doubtful if other processes took \
     more than 10 % of the machine, or the hypervisor more than 3 %.";

/// Dash pattern of the upper of two curves with the same colour.
const RARE: &str = "5 3";

/// A line chart of the page.
struct Chart {
    title: &'static str,
    remark: &'static str,
    y_title: &'static str,
    is_logarithmic: bool,
    /// Value, name, colour and dash pattern of each curve.
    curves: &'static [(Value, &'static str, &'static str, &'static str)],
}

const CPU: Chart = Chart {
    title: "CPU time of a round trip",
    remark: "at the same number of round trips per second throughout; less is better",
    y_title: "µs per round trip",
    is_logarithmic: false,
    curves: &[
        (Value::RelayCpuUs, "relay", RELAY.0, ""),
        (Value::AgentCpuUs, "agent", TOKIO.0, ""),
    ],
};

const LATENCY: Chart = Chart {
    title: "Latency of a round trip",
    remark: "at a constant rate; less is better",
    y_title: "µs (logarithmic)",
    is_logarithmic: true,
    curves: &[
        (
            Value::P99Us,
            "over the relay, 99 of 100 below",
            RELAY.0,
            RARE,
        ),
        (Value::P50Us, "over the relay, half below", RELAY.0, ""),
        (
            Value::DirectP99Us,
            "direct, 99 of 100 below",
            DIRECT.0,
            RARE,
        ),
        (Value::DirectP50Us, "direct, half below", DIRECT.0, ""),
    ],
};

const SESSION_MEMORY: Chart = Chart {
    title: "Memory of an idle session",
    remark: "resident memory; less is better",
    y_title: "KiB per session",
    is_logarithmic: false,
    curves: &[
        (Value::RelayKib, "relay", RELAY.0, ""),
        (Value::AgentKib, "agent", TOKIO.0, ""),
    ],
};

const TUNNEL_MEMORY: Chart = Chart {
    title: "Relay memory of an idle tunnel",
    remark: "resident memory, the link included; less is better",
    y_title: "KiB per tunnel",
    is_logarithmic: false,
    curves: &[(Value::RelayKib, "relay", RELAY.0, "")],
};

const IDLE: Chart = Chart {
    title: "Relay CPU time while nothing happens",
    remark: "heartbeats of all tunnels together; less is better",
    y_title: "ms per second (logarithmic)",
    is_logarithmic: true,
    curves: &[(Value::IdleMs, "relay", RELAY.0, "")],
};

const CONNECT: Chart = Chart {
    title: "Time to connect",
    remark: "from the attempt to connect to the first answer; less is better",
    y_title: "µs (logarithmic)",
    is_logarithmic: true,
    curves: &[
        (Value::ConnectP99Us, "99 of 100 below", RELAY.0, RARE),
        (Value::ConnectP50Us, "half below", RELAY.0, ""),
    ],
};

/// Formats the whole page.
pub(super) fn html(report: &ScalingReport) -> String {
    let date = &report.circumstances.date;
    let title = "Cost by the number of sessions and of tunnels";
    let mut out = page::begin(&format!("Tieline scaling, {date}"), title, LEAD);
    let doubts = report.doubts();
    if !doubts.is_empty() {
        out.push_str("<ul class=\"remarks\">");
        for doubt in doubts {
            let _ = write!(out, "<li class=\"doubt\">{}</li>", escape(&doubt));
        }
        out.push_str("</ul>\n");
    }
    for (title, series, values) in report.series() {
        let (unit, charts) = if std::ptr::eq(series, &report.sessions) {
            ("sessions", [&CPU, &SESSION_MEMORY, &LATENCY].to_vec())
        } else {
            let charts = [&CPU, &TUNNEL_MEMORY, &IDLE, &CONNECT, &LATENCY];
            ("tunnels", charts.to_vec())
        };
        let explained = escape(&report.explained(series)).replace('`', "");
        let _ = write!(
            out,
            "<section id=\"{unit}\"><h2>{title}</h2>\n<p>{explained}</p>\n{}<div class=\"plots\">",
            page::table(&in_short("in short", series))
        );
        for chart in charts {
            out.push_str(&chart.draw(series, unit));
        }
        let _ = write!(
            out,
            "</div>\n<details><summary>All numbers</summary>\n{}</details></section>\n",
            page::table(&table(series, values))
        );
    }
    out.push_str(&page::circumstances(&report.circumstances, METHOD));
    out.push_str("</body></html>\n");
    out
}

impl Chart {
    /// Draws the chart; empty if none of its values was measured.
    fn draw(&self, series: &Series, unit: &str) -> String {
        let list: Vec<Curve> = self
            .curves
            .iter()
            .filter_map(|(value, name, colour, dashes)| {
                let spreads: Vec<_> = series.spreads(*value).collect();
                (!spreads.is_empty()).then(|| Curve {
                    name: (*name).to_owned(),
                    colour,
                    dashes,
                    points: spreads
                        .iter()
                        .map(|(count, spread)| (*count as f64, spread.median))
                        .collect(),
                    ranges: spreads
                        .iter()
                        .map(|(_, spread)| (spread.min, spread.max))
                        .collect(),
                })
            })
            .collect();
        if list.is_empty() {
            return String::new();
        }
        let ends = || list.iter().flat_map(|curve| &curve.ranges);
        let lowest = ends().map(|range| range.0).fold(f64::INFINITY, f64::min);
        let highest = ends().map(|range| range.1).fold(0.0, f64::max);
        let x_axis = Axis {
            title: format!("{unit} (logarithmic)"),
            scale: f64::log10,
            // Ticks at all numbers, so that all charts of a series share one axis.
            ticks: series
                .points
                .iter()
                .map(|point| (point.count as f64, grouped(point.count as f64, 0)))
                .collect(),
        };
        let (scale, ticks): (fn(f64) -> f64, Vec<f64>) = if self.is_logarithmic {
            (f64::log10, decades(lowest.max(1e-3), highest))
        } else {
            (|value| value, steps(highest))
        };
        let digits = |value: f64| match ticks.get(1).map_or(value, |step| step.max(value / 10.0)) {
            step if step < 1.0 => 2,
            step if step < 5.0 => 1,
            _ => 0,
        };
        let y_axis = Axis {
            title: self.y_title.to_owned(),
            scale,
            ticks: ticks
                .iter()
                .map(|value| (*value, grouped(*value, digits(*value))))
                .collect(),
        };
        format!(
            "<figure><figcaption><b>{}</b> <span>{}</span></figcaption>{}{}</figure>\n",
            self.title,
            self.remark,
            curves(self.title, &list, &x_axis, &y_axis),
            page::legend(&list)
        )
    }
}
