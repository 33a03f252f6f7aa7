use super::super::packet::tests as samples;
use super::*;

const MS: u64 = 1_000_000;

/// 10 ms without a rate.
const FREE: WaySettings = WaySettings {
    delay_ns: 10 * MS,
    rate_bits: None,
    queue_bytes_max: u64::MAX,
    queue_packets_max: usize::MAX,
    loss: 0.0,
    reorder: 0.0,
    held_back_ns: MS,
};

fn from_device(offload: &Offload, packet: &[u8]) -> Vec<u8> {
    [&offload.encode()[..], packet].concat()
}

/// 30 segments of 1,500 bytes on the wire.
fn large() -> Vec<u8> {
    from_device(
        &samples::offload_tcp_v4(1_448),
        &samples::tcp_v4(0x10, 30 * 1_448),
    )
}

fn offer(crossing: &mut Crossing, bytes: &[u8]) -> (Vec<Delivery>, Option<Delivery>) {
    let mut deliveries = Vec::new();
    let answer = crossing.offer(&mut bytes.to_vec(), 0, true, &mut deliveries);
    (deliveries, answer)
}

/// Payload bytes of TCP of all deliveries, headers of 52 bytes left out.
fn payload_bytes(deliveries: &[Delivery]) -> usize {
    let bytes = deliveries.iter().map(|it| it.bytes.len() - 10 - 52);
    bytes.sum()
}

#[test]
fn without_rate_and_loss_a_large_packet_crosses_whole() {
    let mut crossing = Crossing::new(Filter::default(), FREE, 1);
    let packet = large();
    let (deliveries, answer) = offer(&mut crossing, &packet);
    let whole = Delivery {
        at_ns: 10 * MS,
        bytes: packet,
    };
    assert_eq!((deliveries, answer), (vec![whole], None));
    let counts = crossing.counts();
    assert_eq!((counts.packets, counts.bytes), (30, 45_000));
    assert_eq!((counts.passed_packets, counts.passed_bytes), (30, 45_000));
}

#[test]
fn at_a_rate_segments_arrive_in_small_groups_and_none_much_too_late() {
    let settings = WaySettings {
        // 40 us for each segment.
        rate_bits: Some(300_000_000),
        ..FREE
    };
    let mut crossing = Crossing::new(Filter::default(), settings, 1);
    let (deliveries, _) = offer(&mut crossing, &large());
    let times: Vec<u64> = deliveries.iter().map(|it| it.at_ns).collect();
    // Groups of 7: from the first to the last are 240 us.
    assert_eq!(
        times,
        [280, 560, 840, 1_120, 1_200].map(|us| 10 * MS + us * 1_000)
    );
    assert_eq!(payload_bytes(&deliveries), 30 * 1_448);
    assert_eq!(crossing.counts().queue_ns_max, 1_200_000);
}

#[test]
fn only_lost_segments_are_missing() {
    let settings = WaySettings { loss: 0.2, ..FREE };
    let mut crossing = Crossing::new(Filter::default(), settings, 11);
    let (deliveries, _) = offer(&mut crossing, &large());
    let counts = crossing.counts();
    assert!((1..30).contains(&counts.lost), "{counts:?}");
    assert_eq!(counts.lost + counts.passed_packets, 30);
    let passed = usize::try_from(counts.passed_packets).unwrap();
    assert_eq!(payload_bytes(&deliveries), passed * 1_448);
    for delivery in &deliveries {
        assert!(samples::is_valid(&delivery.bytes[10..]));
        assert_eq!(delivery.at_ns, 10 * MS);
    }
}

#[test]
fn the_queue_counts_segments() {
    let settings = WaySettings {
        rate_bits: Some(1_000_000),
        queue_bytes_max: 15_000,
        ..FREE
    };
    let mut crossing = Crossing::new(Filter::default(), settings, 1);
    let (deliveries, _) = offer(&mut crossing, &large());
    let counts = crossing.counts();
    assert_eq!((counts.passed_packets, counts.queue_full), (10, 20));
    assert_eq!(deliveries.len(), 10);
}

#[test]
fn held_back_segments_are_delivered_alone_and_later() {
    let settings = WaySettings {
        reorder: 0.2,
        ..FREE
    };
    let mut crossing = Crossing::new(Filter::default(), settings, 5);
    let (deliveries, _) = offer(&mut crossing, &large());
    let counts = crossing.counts();
    assert!((1..30).contains(&counts.held_back), "{counts:?}");
    let late = deliveries.iter().filter(|it| it.at_ns == 11 * MS).count();
    assert_eq!(late as u64, counts.held_back);
    assert_eq!(payload_bytes(&deliveries), 30 * 1_448);
}

#[test]
fn udp_and_icmp_are_dropped_and_counted_if_asked() {
    let udp = from_device(&samples::offload_udp_v6(1_200), &samples::udp_v6(3 * 1_200));
    let mut icmp = from_device(&Offload::default(), &samples::tcp_v4(0, 8));
    icmp[10 + 9] = headers::ICMP;
    let filter = Filter {
        no_udp: true,
        no_icmp: true,
        ..Filter::default()
    };
    let mut crossing = Crossing::new(filter, FREE, 1);
    for packet in [&udp, &icmp] {
        assert_eq!(offer(&mut crossing, packet), (vec![], None));
    }
    let counts = crossing.counts();
    assert_eq!((counts.udp_dropped, counts.icmp_dropped), (3, 1));
    assert_eq!(offer(&mut crossing, &large()).0.len(), 1);
    let mut open = Crossing::new(Filter::default(), FREE, 1);
    for packet in [&udp, &icmp] {
        assert_eq!(offer(&mut open, packet).0.len(), 1);
    }
}

#[test]
fn what_is_larger_than_the_path_is_dropped_and_answered_once() {
    let filter = Filter {
        path_mtu: Some(1_250),
        ..Filter::default()
    };
    let mut crossing = Crossing::new(filter, FREE, 1);
    let (deliveries, answer) = offer(&mut crossing, &large());
    assert!(deliveries.is_empty());
    assert_eq!(crossing.counts().too_big, 30);
    let answer = answer.unwrap();
    assert_eq!(answer.at_ns, 10 * MS);
    let headers = Headers::read(&answer.bytes[10..]).unwrap();
    assert!(headers.is_icmp());
    // A last segment that is small enough passes.
    let packet = from_device(
        &samples::offload_tcp_v4(1_448),
        &samples::tcp_v4(0x10, 1_448 + 100),
    );
    let (deliveries, answer) = offer(&mut crossing, &packet);
    assert_eq!(payload_bytes(&deliveries), 100);
    assert!(answer.is_some());
}

#[test]
fn without_icmp_a_packet_that_is_too_big_disappears() {
    let filter = Filter {
        path_mtu: Some(1_250),
        no_icmp: true,
        ..Filter::default()
    };
    let mut crossing = Crossing::new(filter, FREE, 1);
    assert_eq!(offer(&mut crossing, &large()), (vec![], None));
}

#[test]
fn segment_sizes_are_clamped_only_if_asked() {
    let mut syn = samples::tcp_v4(0x02, 0);
    syn[40..44].copy_from_slice(&[2, 4, 0x05, 0xb4]);
    let syn = from_device(&samples::offload_tcp_v4(0), &syn);
    for (clamps, size) in [(true, 1_210), (false, 1_460)] {
        let filter = Filter {
            path_mtu: Some(1_250),
            clamps,
            ..Filter::default()
        };
        let (deliveries, _) = offer(&mut Crossing::new(filter, FREE, 1), &syn);
        let bytes = &deliveries[0].bytes;
        assert_eq!(u16::from_be_bytes([bytes[52], bytes[53]]), size);
    }
}

#[test]
fn without_room_packets_count_as_met_by_a_full_queue() {
    let mut crossing = Crossing::new(Filter::default(), FREE, 1);
    let mut deliveries = Vec::new();
    crossing.offer(&mut large(), 0, false, &mut deliveries);
    assert!(deliveries.is_empty());
    assert_eq!(crossing.counts().queue_full, 30);
}

#[test]
fn bytes_that_are_no_packet_pass_as_one_and_shorter_ones_are_ignored() {
    let mut crossing = Crossing::new(Filter::default(), FREE, 1);
    let noise = from_device(&Offload::default(), &[0xff; 60]);
    assert_eq!(offer(&mut crossing, &noise).0[0].bytes, noise);
    assert_eq!(offer(&mut crossing, &[0; 9]), (vec![], None));
    assert_eq!(crossing.counts().packets, 1);
}
