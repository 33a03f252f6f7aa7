//! Reports of hand-made outcomes.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::histogram::{Recorder, Window};

/// One measurement in which all 1,000 answers have the same latency.
fn measurement(path: PathKind, latency_us: u64, hop_ms: Option<u64>) -> Measurement {
    let mut recorder = Recorder::new(Window {
        from_ns: 0,
        until_ns: u64::MAX,
    });
    for _ in 0..1_000 {
        recorder.answered(0, latency_us * 1_000);
    }
    let mut cpu = vec![(Role::Client, Duration::from_millis(20))];
    for role in [Role::NearHop, Role::FarHop] {
        cpu.extend(hop_ms.map(|ms| (role, Duration::from_millis(ms))));
    }
    Measurement {
        path,
        position: 0,
        started: UNIX_EPOCH,
        length: Duration::from_secs(2),
        tally: recorder,
        hops_known: hop_ms.is_some(),
        cpu,
        memory_kib: Vec::new(),
        memory_before_kib: Vec::new(),
        others_share: 0.0,
        stolen_share: 0.0,
    }
}

fn outcome() -> Outcome {
    use PathKind::{Direct, ForwarderTokio, ForwarderTokioUring, Relay};
    let round = |factor: u64| {
        vec![
            measurement(Direct, 20 * factor, None),
            measurement(ForwarderTokio, 60 * factor, Some(10)),
            measurement(ForwarderTokioUring, 80 * factor, Some(5)),
            measurement(Relay, 90 * factor, Some(15)),
        ]
    };
    Outcome {
        scenario: "1x256".parse().unwrap(),
        rounds: vec![round(1), round(2), round(1)],
        left_out: Vec::new(),
        repeated: 0,
    }
}

/// Plain paths, and the same with TLS towards the client.
pub(super) fn wrapped_outcome() -> Outcome {
    use crate::path::Wrapping;
    let caller = Wrapped::TLS_CALLER;
    let round = || {
        vec![
            measurement(PathKind::Direct, 20, None),
            measurement(PathKind::DirectOver(Wrapping::Tls), 25, None),
            measurement(PathKind::PeerOver("haproxy", caller), 200, Some(36)),
            measurement(PathKind::Relay, 90, Some(15)),
            measurement(PathKind::RelayOver(caller), 100, Some(18)),
        ]
    };
    Outcome {
        scenario: "64x256".parse().unwrap(),
        rounds: vec![round(), round()],
        left_out: Vec::new(),
        repeated: 0,
    }
}

/// One measurement in which `mib` were moved. `cpu_ms` is the CPU time of each hop, or of the target if there is no hop;
/// the relay's memory grew by `grown_kib`.
fn bulk_and_idle(path: PathKind, mib: u64, cpu_ms: u64, grown_kib: u64) -> Measurement {
    let mut measurement = measurement(path, 100, path.is_relay().then_some(cpu_ms));
    if path.is_direct() {
        let cpu = Duration::from_millis(cpu_ms);
        measurement.cpu.push((Role::Target, cpu));
    }
    measurement.tally.up_bytes = mib << 20;
    measurement.memory_before_kib = vec![(Role::NearHop, 1000)];
    measurement.memory_kib = vec![(Role::NearHop, 1000 + grown_kib)];
    measurement
}

/// QUIC without a hop, and relay paths without QUIC, with QUIC on either hop and on both.
pub(super) fn quic_outcome(scenario: &str) -> Outcome {
    use crate::path::Wrapping::{Plain, Quic};
    let over = |caller, link| PathKind::RelayOver(Wrapped::new(caller, link));
    let round = || {
        vec![
            bulk_and_idle(PathKind::DirectOver(Quic), 1024, 400, 0),
            bulk_and_idle(PathKind::Relay, 2048, 200, 200),
            bulk_and_idle(over(Plain, Quic), 768, 360, 350),
            bulk_and_idle(over(Quic, Plain), 768, 500, 2000),
            bulk_and_idle(over(Quic, Quic), 512, 600, 2100),
        ]
    };
    Outcome {
        scenario: scenario.parse().unwrap(),
        rounds: vec![round(), round()],
        left_out: Vec::new(),
        repeated: 0,
    }
}

fn close(value: f64, wanted: f64) -> bool {
    (value / wanted - 1.0).abs() < 0.002
}

#[test]
fn ratios_are_to_the_forwarder_that_is_better_in_each_value() {
    let report = ScenarioReport::new(&outcome());
    let relay = report.paths.last().unwrap();
    let ratios = relay.to_forwarder.as_ref().unwrap();
    let p50 = &ratios[&Metric::P50Us];
    assert_eq!(p50.to, PathKind::ForwarderTokio);
    assert!(close(p50.spread.median, 1.5), "{:?}", p50.spread);
    let cpu = &ratios[&Metric::HopsCpu];
    assert_eq!(cpu.to, PathKind::ForwarderTokioUring);
    assert!(close(cpu.spread.median, 3.0), "{:?}", cpu.spread);
    assert!(relay.to_peer.is_none());
}

#[test]
fn a_peer_is_held_against_the_forwarders_and_the_relay_against_the_best_peer() {
    let mut outcome = outcome();
    for round in &mut outcome.rounds {
        round.insert(3, measurement(PathKind::Peer("slow"), 300, Some(90)));
        round.insert(3, measurement(PathKind::Peer("fast"), 45, Some(30)));
    }
    let report = ScenarioReport::new(&outcome);
    let fast = &report.paths[3];
    assert!(fast.to_forwarder.is_some() && fast.to_peer.is_none());
    let relay = report.paths.last().unwrap();
    let p50 = &relay.to_peer.as_ref().unwrap()[&Metric::P50Us];
    assert_eq!(p50.to, PathKind::Peer("fast"));
    assert!(close(p50.spread.median, 2.0), "{:?}", p50.spread);
}

#[test]
fn the_epoll_driver_is_held_against_all_others_and_nothing_against_it() {
    let mut outcome = outcome();
    for (round, factor) in outcome.rounds.iter_mut().zip([1, 2, 1]) {
        round.insert(
            3,
            measurement(PathKind::Peer("peer"), 90 * factor, Some(30)),
        );
        // Better than every other path, and still not a base for ratios of `relay`.
        round.push(measurement(PathKind::RelayEpoll, 30 * factor, Some(1)));
    }
    let report = ScenarioReport::new(&outcome);
    let [.., peer, relay, epoll] = &report.paths[..] else {
        panic!("{}", report.paths.len());
    };
    let p50 = |ratios: &Option<Ratios>| {
        let ratio = &ratios.as_ref().unwrap()[&Metric::P50Us];
        (ratio.to, ratio.spread.median)
    };
    assert_eq!(p50(&epoll.to_relay).0, PathKind::Relay);
    assert!(close(p50(&epoll.to_relay).1, 1.0 / 3.0));
    assert_eq!(p50(&epoll.to_direct).0, PathKind::Direct);
    assert_eq!(p50(&epoll.to_forwarder).0, PathKind::ForwarderTokio);
    assert_eq!(p50(&epoll.to_peer).0, PathKind::Peer("peer"));
    assert_eq!(p50(&relay.to_forwarder).0, PathKind::ForwarderTokio);
    assert_eq!(p50(&relay.to_peer).0, PathKind::Peer("peer"));
    assert!(relay.to_relay.is_none() && peer.to_peer.is_none());
    let tables: String = table::grids(&report).iter().map(grid::Grid::text).collect();
    assert!(tables.contains("against relay "), "{tables}");
}

#[test]
fn a_path_that_could_not_hold_a_load_is_told_with_its_reason() {
    let mut outcome = outcome();
    outcome.rounds.iter_mut().for_each(|round| {
        round.remove(1);
    });
    outcome.left_out.push(LeftOut {
        path: PathKind::ForwarderTokio,
        reason: "needs 20064 descriptors".to_owned(),
    });
    let report = ScenarioReport::new(&outcome);
    let told = table::remarks(&report).join("\n");
    assert!(
        told.contains("forwarder-tokio left out: it needs 20064"),
        "{told}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["left_out"][0]["path"], "forwarder-tokio");
}

#[test]
fn a_slow_round_does_not_move_a_ratio() {
    let report = ScenarioReport::new(&outcome());
    let relay = &report.paths[3];
    let to_direct = &relay.to_direct.as_ref().unwrap()[&Metric::P50Us];
    assert!(close(to_direct.spread.min, 4.5) && close(to_direct.spread.max, 4.5));
    assert!(close(relay.values[&Metric::P50Us].max, 180.0));
    assert!(report.paths[0].to_direct.is_none());
    assert!(report.paths[1].to_forwarder.is_none());
}

#[test]
fn cpu_time_is_per_answer_of_the_window() {
    let report = ScenarioReport::new(&outcome());
    let relay = report.paths.last().unwrap();
    assert!(close(relay.cpu[&Role::NearHop].median, 15.0));
    assert!(close(relay.median(Metric::HopsCpu).unwrap(), 30.0));
    assert!(close(relay.median(Metric::AnswersPerS).unwrap(), 500.0));
    assert!(report.paths[0].median(Metric::HopsCpu).is_none());
    assert_eq!(relay.round_trips, 3_000);
}

/// Metrics of a relay measurement under the scenario named `scenario`.
fn values(scenario: &str, change: fn(&mut Measurement)) -> BTreeMap<Metric, f64> {
    let mut measurement = measurement(PathKind::Relay, 100, Some(256));
    change(&mut measurement);
    RoundReport::new(scenario.parse().unwrap(), &measurement).values
}

#[test]
fn bulk_is_bytes_per_second_and_cpu_per_gib() {
    let values = values("bulk-both-1", |measurement| {
        // Bytes over 2 s.
        measurement.tally.up_bytes = 1 << 30;
        measurement.tally.down_bytes = 3 << 30;
    });
    assert!(close(values[&Metric::MibPerS], 2048.0));
    assert!(close(values[&Metric::UpMibPerS], 512.0));
    assert!(close(values[&Metric::HopsCpu], 2.0 * 0.256 / 4.0));
}

#[test]
fn idle_memory_is_growth_per_session() {
    let values = values("idle-100", |measurement| {
        let kib = |near, far| {
            vec![
                (Role::NearHop, near),
                (Role::FarHop, far),
                (Role::FarHop, 7),
            ]
        };
        measurement.memory_before_kib = kib(1000, 2000);
        measurement.memory_kib = kib(1200, 2500);
    });
    assert!(close(values[&Metric::NearKib], 2.0));
    assert!(close(values[&Metric::FarKib], 5.0));
    assert!(close(values[&Metric::HopsKib], 7.0));
}

#[test]
fn a_curve_ends_where_there_is_less_than_one_value() {
    let report = ScenarioReport::new(&outcome());
    let curve = &report.paths[0].curve;
    // 3,000 values resolve quantiles up to 1 - 1/3,000.
    let (last, _) = *curve.last().unwrap();
    assert!(
        curve[0].0 == 0.0 && (0.999..0.9997).contains(&last),
        "{last}"
    );
    assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
}

#[test]
fn a_round_in_which_others_used_the_machine_is_marked() {
    let mut outcome = outcome();
    outcome.rounds[1][3].others_share = 0.4;
    outcome.rounds[2][0].stolen_share = 0.2;
    let noisy = ScenarioReport::new(&outcome).noisy_rounds();
    assert_eq!(
        noisy,
        [(PathKind::Direct, vec![3]), (PathKind::Relay, vec![2])]
    );
}

#[test]
fn a_run_without_direct_path_has_no_ratio_to_it() {
    let mut outcome = outcome();
    for round in &mut outcome.rounds {
        round.remove(0);
    }
    let report = ScenarioReport::new(&outcome);
    assert!(report.paths.iter().all(|path| path.to_direct.is_none()));
    assert!(table::overhead(&report).is_none());
    let relay = report.paths.last().unwrap();
    assert!(relay.to_forwarder.is_some());
}

#[test]
fn the_json_names_processes_and_ratios() {
    let json = serde_json::to_value(ScenarioReport::new(&outcome())).unwrap();
    assert_eq!(json["scenario"]["name"], "1x256");
    let relay = &json["paths"][3];
    assert_eq!(relay["path"], "relay");
    assert!(relay["cpu"]["near_hop"]["median"].is_number());
    assert!(relay["p50_us"]["median"].is_number());
    assert_eq!(relay["to_forwarder"]["p50_us"]["to"], "forwarder-tokio");
    assert!(relay["to_forwarder"]["p50_us"]["median"].is_number());
}
