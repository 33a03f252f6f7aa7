use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

/// 50 ms, 12 Mbit/s (1 ms for a packet of 1500 bytes), 10 packets of 1500 bytes in the queue.
const SLOW: WaySettings = WaySettings {
    delay_ns: 50 * MS,
    rate_bits: Some(12_000_000),
    queue_bytes_max: 15_000,
    queue_packets_max: 1_000,
    loss: 0.0,
    reorder: 0.0,
    held_back_ns: 12 * MS,
};

const FREE: WaySettings = WaySettings {
    rate_bits: None,
    ..SLOW
};

fn arrival(fate: Fate) -> u64 {
    match fate {
        Fate::Arrives { at_ns, .. } => at_ns,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_rate_a_packet_arrives_after_the_delay() {
    let mut way = Way::new(FREE, 1);
    for now_ns in [0, 7, 7, 3 * MS] {
        assert_eq!(arrival(way.offer(1500, now_ns)), now_ns + 50 * MS);
    }
}

#[test]
fn packets_leave_one_after_the_other_at_the_rate() {
    let mut way = Way::new(SLOW, 1);
    for place in 1..=10 {
        let fate = way.offer(1500, 0);
        assert_eq!(arrival(fate), (place + 50) * MS);
        assert!(matches!(fate, Fate::Arrives { queued_ns, .. } if queued_ns == place * MS));
    }
    // An idle bottleneck starts at once.
    assert_eq!(arrival(way.offer(1500, 100 * MS)), 151 * MS);
}

#[test]
fn a_full_queue_drops_the_newest_packet_until_one_has_left() {
    let mut way = Way::new(SLOW, 1);
    for _ in 0..10 {
        arrival(way.offer(1500, 0));
    }
    assert_eq!(way.offer(1500, 0), Fate::QueueFull);
    assert_eq!(way.offer(1, MS - 1), Fate::QueueFull);
    assert_eq!(arrival(way.offer(1500, MS)), 61 * MS);
    assert_eq!(way.offer(1500, MS), Fate::QueueFull);
}

#[test]
fn the_queue_is_limited_in_packets_too() {
    let settings = WaySettings {
        queue_packets_max: 3,
        ..SLOW
    };
    let mut way = Way::new(settings, 1);
    for _ in 0..3 {
        arrival(way.offer(40, 0));
    }
    assert_eq!(way.offer(40, 0), Fate::QueueFull);
}

#[test]
fn an_empty_queue_takes_a_packet_larger_than_the_queue() {
    let settings = WaySettings {
        queue_bytes_max: 100,
        ..SLOW
    };
    let mut way = Way::new(settings, 1);
    assert_eq!(arrival(way.offer(1500, 0)), 51 * MS);
    assert_eq!(way.offer(1, 0), Fate::QueueFull);
}

#[test]
fn small_packets_have_the_exact_rate() {
    let settings = WaySettings {
        rate_bits: Some(700_000_000),
        queue_bytes_max: u64::MAX,
        queue_packets_max: usize::MAX,
        ..SLOW
    };
    let mut way = Way::new(settings, 1);
    let mut last = 0;
    for _ in 0..70_000 {
        last = arrival(way.offer(40, 0));
    }
    // 70,000 packets of 320 bits at 700 Mbit/s take 32 ms.
    assert_eq!(last, 82 * MS);
}

#[test]
fn the_share_of_lost_packets_is_the_one_asked_for() {
    let settings = WaySettings { loss: 0.01, ..FREE };
    let mut way = Way::new(settings, 7);
    let packets = 200_000;
    let lost = (0..packets)
        .filter(|now_ns| way.offer(1500, *now_ns) == Fate::Lost)
        .count();
    // Binomial: mean 2000, standard deviation 44.5; four of them to each side.
    assert!((1_822..=2_178).contains(&lost), "{lost}");
}

#[test]
fn held_back_packets_are_overtaken_and_arrive() {
    let settings = WaySettings {
        reorder: 0.1,
        ..FREE
    };
    let mut way = Way::new(settings, 3);
    let mut held_back = 0;
    for now_ns in 0..10_000 {
        let Fate::Arrives {
            at_ns,
            is_held_back,
            ..
        } = way.offer(100, now_ns)
        else {
            panic!("nothing is lost here");
        };
        let later = if is_held_back { 12 * MS } else { 0 };
        assert_eq!(at_ns, now_ns + 50 * MS + later);
        held_back += u32::from(is_held_back);
    }
    assert!((880..=1_120).contains(&held_back), "{held_back}");
}

#[test]
fn all_or_none_can_be_lost() {
    for (loss, fate) in [(1.0, true), (0.0, false)] {
        let mut way = Way::new(WaySettings { loss, ..FREE }, 5);
        assert!((0..1_000).all(|now_ns| (way.offer(1500, now_ns) == Fate::Lost) == fate));
    }
}

proptest! {
    #[test]
    fn the_nth_packet_is_lost_for_the_same_seed_whatever_its_size_and_time(
        seed in any::<u64>(),
        offers in prop::collection::vec((1_u64..65_536, 0_u64..5 * MS), 1..300),
    ) {
        let settings = WaySettings { loss: 0.3, ..SLOW };
        let mut way = Way::new(settings, seed);
        let mut even = Way::new(settings, seed);
        let mut now_ns = 0;
        for (place, (bytes, step_ns)) in offers.into_iter().enumerate() {
            now_ns += step_ns;
            let is_lost = way.offer(bytes, now_ns) == Fate::Lost;
            let is_lost_too = even.offer(1, place as u64) == Fate::Lost;
            prop_assert_eq!(is_lost, is_lost_too);
        }
    }

    #[test]
    fn the_queue_never_holds_more_than_its_limits(
        offers in prop::collection::vec((1_u64..9_000, 0_u64..3 * MS), 1..500),
        packets_max in 1_usize..20,
    ) {
        let settings = WaySettings { queue_packets_max: packets_max, ..SLOW };
        let mut way = Way::new(settings, 1);
        let (mut now_ns, mut last_ns) = (0, 0);
        for (bytes, step_ns) in offers {
            now_ns += step_ns;
            if let Fate::Arrives { at_ns, queued_ns, .. } = way.offer(bytes, now_ns) {
                // Nothing overtakes without reordering, and nothing waits longer than a full queue takes.
                prop_assert!(at_ns >= last_ns);
                last_ns = at_ns;
                let longest_bytes = settings.queue_bytes_max.max(bytes);
                prop_assert!(queued_ns <= longest_bytes * 8 * NS_PER_S / 12_000_000 + 1);
            }
            prop_assert!(way.waiting.len() <= packets_max);
            let sum: u64 = way.waiting.iter().map(|waiting| waiting.bytes).sum();
            prop_assert_eq!(sum, way.waiting_bytes);
            prop_assert!(sum <= settings.queue_bytes_max || way.waiting.len() == 1);
        }
    }
}
