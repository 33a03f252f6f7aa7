//! Reports of hand-made samples.

use super::*;

fn sample(count: Count, values: &[(Value, f64)]) -> Sample {
    Sample {
        count,
        values: values.iter().copied().collect(),
        noisy: false,
    }
}

fn rounds(samples: impl IntoIterator<Item = Sample>) -> Series {
    let mut rounds = Rounds::new();
    for sample in samples {
        let (Count::Sessions(count) | Count::Tunnels(count)) = sample.count;
        let of_count = rounds.entry(count).or_default();
        of_count.push((sample.values, sample.noisy));
    }
    Series::new(rounds)
}

#[test]
fn ends_are_compared_within_each_round() {
    let cpu = |count, us| sample(Count::Sessions(count), &[(Value::RelayCpuUs, us)]);
    // The machine was twice as slow in the second round, and the orders differ.
    let series = rounds([
        cpu(1, 10.0),
        cpu(10_000, 12.0),
        cpu(100, 11.0),
        cpu(10_000, 24.0),
        cpu(1, 20.0),
        cpu(100, 22.0),
    ]);
    let counts: Vec<usize> = series.points.iter().map(|point| point.count).collect();
    assert_eq!(counts, [1, 100, 10_000]);
    let change = &series.changes[&Value::RelayCpuUs];
    assert_eq!((change.from, change.to), (1, 10_000));
    assert_eq!((change.ratio.min, change.ratio.max), (1.2, 1.2));
    assert_eq!(series.points[0].values[&Value::RelayCpuUs].median, 15.0);
}

#[test]
fn a_value_is_compared_from_the_smallest_number_that_has_it() {
    let of = |count, values: &[(Value, f64)]| sample(Count::Sessions(count), values);
    let series = rounds([
        of(1, &[(Value::P50Us, 80.0)]),
        of(100, &[(Value::P50Us, 82.0), (Value::RelayKib, 2.0)]),
        of(1_000, &[(Value::P50Us, 88.0), (Value::RelayKib, 1.5)]),
    ]);
    let change = &series.changes[&Value::RelayKib];
    assert_eq!(
        (change.from, change.to, change.ratio.median),
        (100, 1_000, 0.75)
    );
    assert_eq!(series.changes[&Value::P50Us].from, 1);
    assert!(!series.changes.contains_key(&Value::AgentKib));
}

#[test]
fn an_idle_tunnel_costs_what_comes_on_top_of_the_relays_own_timers() {
    let idle = |count, ms| sample(Count::Tunnels(count), &[(Value::IdleMs, ms)]);
    let up = |count| sample(Count::Tunnels(count), &[(Value::UpMs, 9.0)]);
    let series = rounds([
        idle(1, 0.2),
        idle(10, 0.3),
        idle(1_001, 2.2),
        up(1),
        up(1_001),
    ]);
    let each = |place: usize| series.points[place].values.get(&Value::IdleUs);
    assert!(each(0).is_none() && each(1).is_none());
    assert_eq!(each(2).map(|spread| spread.median), Some(2.0));
    // Idle time was measured in only one of two rounds.
    assert_eq!(series.points[2].values[&Value::IdleMs].median, 2.2);
}

#[test]
fn rounds_in_which_others_ran_are_counted() {
    let mut noisy = sample(Count::Tunnels(10), &[(Value::P50Us, 80.0)]);
    noisy.noisy = true;
    let series = rounds([noisy, sample(Count::Tunnels(10), &[(Value::P50Us, 70.0)])]);
    assert_eq!(series.points[0].noisy_rounds, 1);
    assert_eq!(series.points[0].values[&Value::P50Us].median, 75.0);
}
