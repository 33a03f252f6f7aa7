use std::collections::HashSet;
use std::sync::Arc;

use super::*;

fn text_of(metrics: &[Arc<ShardMetrics>]) -> String {
    let status = |shard, driver| ShardStatus {
        shard,
        driver,
        driver_reason: None,
    };
    render(
        metrics,
        &[status(0, "uring"), status(1, "epoll")],
        1_800_000_000,
        &AuditCounts {
            dropped: 1,
            refusals_left_out: 1,
        },
        &TlsReport::default(),
    )
}

#[test]
fn certificates_and_their_orders_are_shown() {
    let certificate = |name: &str| ShownCertificate {
        names: vec![name.to_owned(), "other.example".to_owned()],
        end_epoch_seconds: 1_900_000_000,
    };
    let report = TlsReport {
        certificates: vec![certificate("relay.example"), certificate("a\"b\\c")],
        acme: Some(AcmeReport {
            renewal_epoch_seconds: Some(1_890_000_000),
            orders_issued: 2,
            orders_failed: 3,
            ..AcmeReport::default()
        }),
    };
    let text = render(&[], &[], 0, &AuditCounts::default(), &report);
    for line in [
        "relay_tls_certificate_end_epoch_seconds{certificate=\"1\",name=\"relay.example\"} 1900000000",
        "relay_tls_certificate_end_epoch_seconds{certificate=\"2\",name=\"a\\\"b\\\\c\"} 1900000000",
        "relay_acme_renewal_epoch_seconds 1890000000",
        "relay_acme_orders_total{outcome=\"issued\"} 2",
        "relay_acme_orders_total{outcome=\"failed\"} 3",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
}

#[test]
fn shards_are_added_up() {
    let metrics = [
        Arc::new(ShardMetrics::default()),
        Arc::new(ShardMetrics::default()),
    ];
    for shard in &metrics {
        shard.links.inc();
        shard.sessions.inc();
        shard.link_evicted(Eviction::Stale);
        shard.bytes_moved(Direction::ToTarget, 10);
    }
    metrics[1].sessions.dec();
    metrics[1].link_evicted(Eviction::Stale);
    let text = text_of(&metrics);
    for line in [
        "relay_links 2",
        "relay_sessions 1",
        "relay_link_evictions_total{reason=\"stale\"} 3",
        "relay_link_evictions_total{reason=\"internal\"} 0",
        "relay_bytes_total{direction=\"to_target\"} 20",
        "relay_driver{driver=\"uring\",shard=\"0\"} 1",
        "relay_driver{driver=\"epoll\",shard=\"1\"} 1",
        "relay_start_epoch_seconds 1800000000",
        "relay_audit_dropped_total 1",
        "relay_audit_refusals_left_out_total 1",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

/// Counts each reason of a type once.
fn each<T: Copy>(all: &[T], count: impl Fn(T)) {
    all.iter().copied().for_each(count);
}

#[test]
fn a_family_has_the_words_of_its_own_reasons_only() {
    let text = text_of(&[Arc::default(), Arc::default()]);
    let of = |family: &str| {
        let start = format!("{family}{{reason=\"");
        text.lines().filter(|line| line.starts_with(&start)).count()
    };
    assert_eq!(of("relay_link_evictions_total"), Eviction::ALL.len());
    assert_eq!(of("relay_link_refused_total"), LinkRefusal::ALL.len());
    assert_eq!(
        of("relay_registration_refused_total"),
        RefusalReason::ALL.len()
    );
    assert_eq!(
        of("relay_tunnels_withdrawn_total"),
        WithdrawalReason::ALL.len()
    );
    assert_eq!(of("relay_session_resets_total"), SessionEnd::ALL.len());
    assert_eq!(of("relay_frontend_refused_total"), CallerRefusal::ALL.len());
    let series = text.lines().filter(|line| line.contains("{reason=\""));
    assert_eq!(of("relay_tls_failures_total"), TLS_FAILURES.len());
    assert_eq!(of("relay_quic_dropped_total"), QUIC_DROPS.len());
    assert_eq!(series.count(), 123);
}

#[test]
fn every_counter_is_shown_once_it_is_counted() {
    let shard = Arc::new(ShardMetrics::default());
    for gauge in [
        &shard.links,
        &shard.tunnels,
        &shard.sessions,
        &shard.frontends,
        &shard.lanes,
        &shard.quic_connections,
    ] {
        gauge.inc();
    }
    for counter in [
        &shard.callers_revoked,
        &shard.lane_offers_total,
        &shard.lanes_total,
        &shard.sessions_total,
        &shard.mailbox_full,
        &shard.crossings,
        &shard.route_updates,
        &shard.spin_passes,
        &shard.state_dropped,
        &shard.tls_resumed,
        &shard.quic_packets,
        &shard.quic_handshakes,
        &shard.quic_retries,
        &shard.quic_strays,
        &shard.quic_sent,
        &shard.quic_lost,
        &shard.quic_id_floods,
        &shard.quic_broken,
        &shard.quic_windows_short,
        &shard.quic_moves,
    ] {
        counter.inc();
    }
    each(Eviction::ALL, |it| shard.link_evicted(it));
    each(LinkRefusal::ALL, |it| shard.link_refused(it));
    each(RefusalReason::ALL, |it| shard.registration_refused(it));
    each(WithdrawalReason::ALL, |it| shard.tunnel_withdrawn(it));
    each(SessionEnd::ALL, |it| shard.session_reset(it));
    each(CallerRefusal::ALL, |it| shard.frontend_refused(it));
    for (version, group) in [
        (Some(ProtocolVersion::TLSv1_2), NamedGroup::X25519),
        (Some(ProtocolVersion::TLSv1_3), NamedGroup::X25519MLKEM768),
        (None, NamedGroup::secp256r1),
        (None, NamedGroup::secp384r1),
    ] {
        shard.tls_accepted(&Agreed {
            application: None,
            version,
            group: Some(group),
            is_resumed: false,
        });
    }
    for failure in [
        TlsFailure::NotTls,
        TlsFailure::Alpn,
        TlsFailure::Incompatible,
        TlsFailure::ClientRefused,
        TlsFailure::NoCertificate,
        TlsFailure::NoClientCertificate,
        TlsFailure::BadClientCertificate,
        TlsFailure::Protocol,
        TlsFailure::Closed,
        TlsFailure::Timeout,
        TlsFailure::Overload,
    ] {
        shard.tls_failed(failure);
    }
    for reason in [
        QuicDrop::Malformed,
        QuicDrop::Version,
        QuicDrop::ShortInitial,
        QuicDrop::BadInitial,
        QuicDrop::UnknownConnection,
        QuicDrop::Overload,
        QuicDrop::Closing,
        QuicDrop::StrayLost,
        QuicDrop::SocketFailed,
        QuicDrop::Unproved,
    ] {
        shard.quic_dropped(reason, 1);
    }
    for transport in TRANSPORTS {
        shard.link_established(transport);
    }
    shard.frontend_accepted(FrontendKind::Tcp);
    shard.frontend_accepted(FrontendKind::Http);
    shard.frontend_accepted(FrontendKind::WebSocket);
    shard.frontend_accepted(FrontendKind::Quic);
    // Bytes over a lane count as bytes, too.
    shard.lane_bytes_moved(Direction::ToTarget, 1);
    shard.lane_bytes_moved(Direction::ToFrontend, 1);
    shard.frames_dropped(DropKind::EndedSession, 1);
    shard.frames_dropped(DropKind::Optional, 1);
    shard.handed_off(HandoffKind::Link);
    shard.handed_off(HandoffKind::Frontend);
    shard.handed_off(HandoffKind::Lane);
    for kind in [
        LimitKind::Registrations,
        LimitKind::Sessions,
        LimitKind::Requests,
        LimitKind::Bytes,
        LimitKind::Tunnels,
        LimitKind::Links,
    ] {
        shard.limited(kind);
    }
    for status in [100, 200, 302, 404, 503] {
        shard.http_answered(status);
    }
    let text = text_of(&[shard]);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    // Links change the budget; this test counts no event for it.
    let others = ["relay_start_epoch", "relay_budget", "relay_links_total"];
    let counted = |line: &&str| !others.iter().any(|other| line.starts_with(other));
    for sample in samples.filter(counted) {
        assert!(sample.ends_with(" 1"), "{sample}");
    }
}

#[test]
fn budgets_of_all_shards_are_added_up() {
    let shards = [100, 20].map(|limit| Arc::new(ShardMetrics::new(limit)));
    let text = text_of(&shards);
    assert!(text.contains("\nrelay_budget_bytes 120\n"), "{text}");
}

#[test]
fn each_family_is_introduced_once_and_each_sample_is_unique() {
    let text = text_of(&[Arc::default()]);
    let mut families = HashSet::new();
    let mut samples = HashSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap();
            assert!(families.insert(current), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let kind = rest.strip_prefix(current).unwrap().trim();
            let is_counter = current.ends_with("_total");
            assert_eq!(kind, if is_counter { "counter" } else { "gauge" }, "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(sample.split('{').next().unwrap(), current);
            assert!(samples.insert(sample), "{line}");
            value.parse::<u64>().unwrap();
        }
    }
    assert!(text.ends_with('\n') && families.len() > 15);
}

#[test]
fn an_odd_status_is_counted_all_the_same() {
    let shard = ShardMetrics::default();
    shard.http_answered(0);
    shard.http_answered(999);
    assert_eq!(shard.http_requests.0[0].read(), 1);
    assert_eq!(shard.http_requests.0[4].read(), 1);
}

#[test]
fn the_manual_has_exactly_these_families() {
    let manual = include_str!("../../../docs/OPERATIONS.md");
    let rows = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `relay_"));
    let listed: HashSet<_> = rows
        .filter_map(|row| row.split(['`', '{']).next())
        .collect();
    let text = text_of(&[]);
    let shown = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE relay_"));
    let shown: HashSet<_> = shown.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(listed, shown);
}
