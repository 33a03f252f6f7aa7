//! Outcomes made by hand, and what is told about them.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::histogram::{Recorder, Window};

/// One measurement with the same latency for all of its 1,000 answers.
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
        latency: recorder.latency,
        send_delay: recorder.send_delay,
        answered: recorder.answered_in_window,
        unanswered: 0,
        cpu,
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
    let p50 = ratios.p50.as_ref().unwrap();
    assert_eq!(p50.to, PathKind::ForwarderTokio);
    assert!(close(p50.spread.median, 1.5), "{:?}", p50.spread);
    let cpu = ratios.hops_cpu.as_ref().unwrap();
    assert_eq!(cpu.to, PathKind::ForwarderTokioUring);
    assert!(close(cpu.spread.median, 3.0), "{:?}", cpu.spread);
}

#[test]
fn a_slow_round_does_not_move_a_ratio() {
    let report = ScenarioReport::new(&outcome());
    let to_direct = report.paths[3]
        .to_direct
        .as_ref()
        .unwrap()
        .p50
        .as_ref()
        .unwrap();
    assert!(close(to_direct.spread.min, 4.5) && close(to_direct.spread.max, 4.5));
    assert!(close(report.paths[3].p50_us.max, 180.0));
    assert!(report.paths[0].to_direct.is_none());
    assert!(report.paths[1].to_forwarder.is_none());
}

#[test]
fn cpu_time_is_per_answer_of_the_window() {
    let report = ScenarioReport::new(&outcome());
    let relay = report.paths.last().unwrap();
    assert!(close(relay.cpu_us[&Role::NearHop].median, 15.0));
    assert!(close(relay.hops_cpu_us.unwrap().median, 30.0));
    assert!(close(relay.answers_per_s.median, 500.0));
    assert!(report.paths[0].hops_cpu_us.is_none());
    assert_eq!(relay.round_trips, 3_000);
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
    assert!(table::against_forwarder(&report).is_some());
}

#[test]
fn the_json_names_processes_and_ratios() {
    let json = serde_json::to_value(ScenarioReport::new(&outcome())).unwrap();
    let relay = &json["paths"][3];
    assert_eq!(relay["path"], "relay");
    assert!(relay["cpu_us"]["near_hop"]["median"].is_number());
    assert_eq!(relay["to_forwarder"]["p50"]["to"], "forwarder-tokio");
    assert!(relay["to_forwarder"]["p50"]["median"].is_number());
}
