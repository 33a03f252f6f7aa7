//! Tests of rates and counts, with the clock as an argument.

mod model;

use super::*;

const NONE: Allowance = Allowance {
    registrations_per_minute: 0,
    sessions: 0,
    requests_per_second: 0,
    bytes_per_second: 0,
};

fn limits(sub: Allowance, address: Allowance) -> Arc<Limits> {
    let config = LimitsConfig {
        sub,
        address,
        ..LimitsConfig::default()
    };
    Limits::new(&config).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn kind(outcome: Result<impl Sized, Limited>) -> Option<LimitKind> {
    outcome.err().map(|it| it.kind)
}

#[test]
fn where_nothing_is_limited_nothing_is_counted() {
    assert!(Limits::new(&LimitsConfig::default()).is_none());
    let mut pass = RatePass::arrive(None, ip("192.0.2.1")).unwrap();
    pass.identify("ada").unwrap();
    pass.moved(u64::MAX);
}

#[test]
fn an_address_and_a_holder_have_limits_of_their_own() {
    let two = Allowance {
        sessions: 2,
        ..NONE
    };
    let three = Allowance {
        sessions: 3,
        ..NONE
    };
    let limits = limits(two, three);
    let arrive = || RatePass::arrive(Some(&limits), ip("192.0.2.1"));
    let mut passes = [arrive().unwrap(), arrive().unwrap(), arrive().unwrap()];
    assert_eq!(kind(arrive()), Some(LimitKind::Sessions));
    assert!(RatePass::arrive(Some(&limits), ip("192.0.2.2")).is_ok());
    passes[0].identify("ada").unwrap();
    // Identifying again does not count as another session.
    passes[0].identify("ada").unwrap();
    passes[1].identify("ada").unwrap();
    assert_eq!(kind(passes[2].identify("ada")), Some(LimitKind::Sessions));
    passes[2].identify("bob").unwrap();
    drop(passes);
    let mut again = [arrive().unwrap(), arrive().unwrap()];
    assert!(again.iter_mut().all(|it| it.identify("ada").is_ok()));
}

#[test]
fn a_network_of_ipv6_counts_as_one_and_mapped_addresses_are_what_they_map() {
    let one = Allowance {
        sessions: 1,
        ..NONE
    };
    let limits = limits(NONE, one);
    let arrive = |text| RatePass::arrive(Some(&limits), ip(text));
    let _first = arrive("2001:db8:0:1::1").unwrap();
    assert!(arrive("2001:db8:0:1:ffff::2").is_err());
    let _other = arrive("2001:db8:0:2::1").unwrap();
    let _mapped = arrive("::ffff:192.0.2.1").unwrap();
    assert!(arrive("192.0.2.1").is_err());
}

#[test]
fn requests_beyond_the_rate_are_told_when_to_come_back_and_are_no_sessions() {
    let some = Allowance {
        sessions: 100,
        requests_per_second: 2,
        ..NONE
    };
    let limits = limits(NONE, some);
    let arrive = || RatePass::arrive(Some(&limits), ip("192.0.2.1"));
    let passed = (0..100).map_while(|_| arrive().ok()).count();
    // Ten seconds' allowance, and what was earned meanwhile.
    assert!((20..30).contains(&passed), "{passed}");
    let limited = arrive().unwrap_err();
    assert_eq!(limited.kind, LimitKind::Requests);
    assert!(limited.retry_after <= Duration::from_millis(500));
    let (side, at) = limits.address(ip("192.0.2.1")).unwrap();
    assert!(side.table.open(*at, 1), "a session was not uncounted");
}

/// Limits of one megabyte per second and holder, and a function that lets a holder in.
fn megabyte_a_second() -> (Arc<Limits>, impl Fn(&str) -> Result<RatePass, Limited>) {
    let some = Allowance {
        bytes_per_second: 1_000_000,
        ..NONE
    };
    let limits = limits(some, NONE);
    let arrive = {
        let limits = Arc::clone(&limits);
        move |sub: &str| {
            let mut pass = RatePass::arrive(Some(&limits), ip("192.0.2.1")).unwrap();
            pass.identify(sub).map(|()| pass)
        }
    };
    (limits, arrive)
}

#[test]
fn a_caller_over_its_byte_limit_keeps_what_runs_and_gets_nothing_new() {
    let (_, arrive) = megabyte_a_second();
    let first = arrive("ada").unwrap();
    first.moved(9_000_000);
    assert!(arrive("ada").is_ok());
    // Small pieces are collected and charged at the end.
    for _ in 0..60_000 {
        first.moved(50);
    }
    drop(first);
    let limited = arrive("ada").unwrap_err();
    assert_eq!(limited.kind, LimitKind::Bytes);
    assert!(limited.retry_after <= Duration::from_secs(2), "{limited:?}");
    assert!(arrive("bob").is_ok());
}

#[test]
fn a_caller_that_moves_bytes_stays_in_the_table_when_others_flood_it() {
    let (limits, arrive) = megabyte_a_second();
    let pass = arrive("ada").unwrap();
    // More holders than places: each place without a user gets a new holder.
    let flood = (0..20 * SUBS).filter(|number| arrive(&number.to_string()).is_err());
    assert_eq!(flood.count(), 0);
    pass.moved(50_000_000);
    assert_eq!(kind(arrive("ada")), Some(LimitKind::Bytes));
    let others = (0..20 * SUBS).filter(|number| arrive(&number.to_string()).is_err());
    assert_eq!(others.count(), 0, "another holder was charged");
    drop(pass);
    let (side, at) = limits.sub("ada").unwrap();
    assert!(side.table.open(*at, 1), "a session was not uncounted");
}

#[test]
fn registrations_are_counted_apart() {
    let three = Allowance {
        registrations_per_minute: 3,
        ..NONE
    };
    let limits = limits(three.clone(), three);
    for _ in 0..3 {
        limits.register_from(ip("192.0.2.1")).unwrap();
        limits.register_as("ada").unwrap();
    }
    let from = limits.register_from(ip("192.0.2.1"));
    assert_eq!(kind(from), Some(LimitKind::Registrations));
    let limited = limits.register_as("ada").unwrap_err();
    assert!(
        limited.retry_after <= Duration::from_secs(20),
        "{limited:?}"
    );
    limits.register_as("bob").unwrap();
    assert!(RatePass::arrive(Some(&limits), ip("192.0.2.1")).is_ok());
}
