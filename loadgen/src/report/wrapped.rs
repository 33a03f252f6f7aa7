//! Table of what a wrapping adds: each wrapped path compared with its plain one, and the relay with each peer whose
//! hops are wrapped in the same way.

use super::arithmetic::{differences, ratios};
use super::grid::{Grid, or_dash};
use super::metric::Metric;
use super::{PathReport, ScenarioReport};
use crate::path::{PathKind, Wrapped, Wrapping};

/// Metrics whose ratios are shown, if the scenario has them.
const RATIOS: [Metric; 9] = [
    Metric::P50Us,
    Metric::P99Us,
    Metric::AnswersPerS,
    Metric::MibPerS,
    Metric::HandshakesPerCpuS,
    Metric::ConnectionsPerS,
    Metric::NearCpu,
    Metric::HopsCpu,
    Metric::NearKib,
];

/// Metrics whose differences are shown, if the scenario has them.
const DIFFERENCES: [Metric; 3] = [Metric::P50Us, Metric::NearCpu, Metric::NearKib];

/// Formats the table; `None` if no wrapped path was measured.
pub(super) fn grid(report: &ScenarioReport) -> Option<Grid> {
    let pairs = pairs(report);
    let is_known = |metric: &&Metric| {
        let mut all = pairs.iter();
        all.any(|(own, base)| values(own, **metric).is_some() && values(base, **metric).is_some())
    };
    let added: Vec<Metric> = DIFFERENCES.iter().filter(is_known).copied().collect();
    let times: Vec<Metric> = RATIOS.iter().filter(is_known).copied().collect();
    let mut head = vec!["wrapped, against".to_owned()];
    head.extend(
        added
            .iter()
            .map(|metric| format!("{} added", metric.label())),
    );
    head.extend(times.iter().map(|metric| format!("{} ×", metric.label())));
    let mut grid = Grid::new(head);
    for (own, base) in &pairs {
        let both = |metric| Some((values(own, metric)?, values(base, metric)?));
        let mut row = vec![format!("{}, {}", own.path, base.path)];
        row.extend(added.iter().map(|metric| {
            let both = both(*metric);
            let spread = both.and_then(|(own, base)| differences(&own, &base));
            or_dash(spread.map(|spread| format!("{spread:.2}")))
        }));
        row.extend(times.iter().map(|metric| {
            let both = both(*metric);
            let spread = both.and_then(|(own, base)| ratios(&own, &base));
            or_dash(spread.map(|spread| spread.to_string()))
        }));
        grid.rows.push(row);
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// Values of a metric in all rounds; `None` if a round lacks it.
fn values(path: &PathReport, metric: Metric) -> Option<Vec<f64>> {
    path.over_rounds(metric).filter(|values| !values.is_empty())
}

/// The compared paths, each as (path, what it is compared with).
fn pairs(report: &ScenarioReport) -> Vec<(&PathReport, &PathReport)> {
    let found = |kind: PathKind| report.paths.iter().find(|path| path.path == kind);
    let mut pairs = Vec::new();
    for path in &report.paths {
        let kind = path.path;
        let wrapped = kind.wrapped();
        // A peer that passes WebSockets on is configured differently than for TCP, so the two are not compared.
        let is_same_setup = kind.is_relay() || wrapped != Wrapped::PASSED;
        if kind.plain() != kind && is_same_setup {
            pairs.extend(found(kind.plain()).map(|base| (path, base)));
        }
        // Shows what a WebSocket adds to TLS.
        if kind.is_relay() && wrapped.caller.is_tls() && wrapped.caller.is_websocket() {
            pairs.extend(found(PathKind::RelayOver(Wrapped::TLS_CALLER)).map(|base| (path, base)));
        }
        // Shows what a link over QUIC costs in place of a link over TCP, for callers over QUIC.
        if wrapped.link == Wrapping::Quic && wrapped.caller != Wrapping::Plain {
            let over_tcp = PathKind::RelayOver(Wrapped::new(wrapped.caller, Wrapping::Plain));
            pairs.extend(found(over_tcp).map(|base| (path, base)));
        }
    }
    for peer in report.paths.iter().filter(|path| path.path.is_peer()) {
        let wrapped = peer.path.wrapped();
        let same = match wrapped {
            Wrapped::PLAIN => PathKind::Relay,
            // The suite has no relay path with a WebSocket link; the nearest is a link with TLS.
            Wrapped::WSS_LINK => PathKind::RelayOver(Wrapped::TLS_LINK),
            wrapped => PathKind::RelayOver(wrapped),
        };
        pairs.extend(found(same).map(|relay| (relay, peer)));
        // rathole and wstunnel cannot end a caller's TLS: the relay with TLS on both hops does more than they do.
        if wrapped == Wrapped::TLS_LINK || wrapped == Wrapped::WSS_LINK {
            pairs.extend(found(PathKind::RelayOver(Wrapped::TLS)).map(|relay| (relay, peer)));
        }
    }
    let has_wrapped = report
        .paths
        .iter()
        .any(|path| path.path.plain() != path.path);
    if has_wrapped { pairs } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{quic_outcome, wrapped_outcome};

    /// The row that begins with `name`.
    fn row<'a>(text: &'a str, name: &str) -> &'a str {
        let mut lines = text.lines();
        let line = lines.find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    #[test]
    fn a_wrapped_path_is_compared_with_its_plain_one_and_with_peers_of_its_wrapping() {
        let report = ScenarioReport::new(&wrapped_outcome());
        let text = grid(&report).unwrap().text();
        let row = |name| row(&text, name);
        // 18 µs of CPU for a round trip instead of 15 µs.
        let caller = row("relay-tls-caller, relay ");
        assert!(
            caller.contains("3.00") && caller.contains("1.20"),
            "{caller}"
        );
        assert!(row("relay-tls-caller, haproxy-tls-caller").contains("0.50"));
        assert!(row("direct-tls, direct").contains('–'));
        let relay = report
            .paths
            .iter()
            .find(|path| path.path == PathKind::Relay);
        assert!(relay.is_some_and(|relay| relay.to_peer.is_none()));
    }

    #[test]
    fn a_link_over_quic_is_compared_with_a_link_over_tcp() {
        let text = |scenario| {
            let report = ScenarioReport::new(&quic_outcome(scenario));
            grid(&report).unwrap().text()
        };
        // 360 and 200 µs of the relay's CPU for a round trip; 600 and 500 with a caller over QUIC.
        let trips = text("64x256");
        let link = row(&trips, "relay-quic-link, relay ");
        assert!(link.contains("160.00") && link.contains("1.80"), "{link}");
        let both = row(&trips, "relay-quic, relay-quic-caller ");
        assert!(both.contains("100.00") && both.contains("1.20"), "{both}");
        // 3.5 and 2 KiB for a session.
        let idle = text("idle-100");
        assert!(idle.contains("near hop KiB/session added"), "{idle}");
        let link = row(&idle, "relay-quic-link, relay ");
        assert!(link.contains(" 1.50 ") && link.contains("1.75"), "{link}");
    }

    #[test]
    fn a_report_without_wrapped_paths_has_no_such_table() {
        let mut outcome = wrapped_outcome();
        for round in &mut outcome.rounds {
            round.retain(|one| one.path.plain() == one.path);
        }
        assert!(grid(&ScenarioReport::new(&outcome)).is_none());
    }
}
