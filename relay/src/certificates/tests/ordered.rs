//! The certificate that the relay has ordered, whose file gets another one while it is in use.

use super::*;

#[test]
fn a_certificate_that_clients_would_refuse_does_not_take_the_place_of_the_ordered_one() {
    let files = Files::new();
    put_ordered(&files, &files.lasting("good", &["relay.example"]));
    let certificates = with_ordered(&files, Vec::new()).unwrap();
    let (sources, table) = (&certificates.sources, &certificates.table);
    for (name, years, wanted) in [
        ("relay.example", 2020..=2026, "expired at 2026-01-01"),
        (
            "relay.example",
            2028..=2030,
            "is not valid before 2028-01-01",
        ),
        ("other.example", 2020..=2030, "lacks the name relay.example"),
    ] {
        let path = put_ordered(&files, &files.certificate_of_years("wrong", &[name], years));
        let (again, problems) = sources.read_again(table, NOW_SECONDS);
        assert!(again == **table, "{wanted}");
        assert_eq!(problems.len(), 1, "{wanted}");
        let problem = problems[0].to_string();
        let beginning = format!("{}: {wanted}", path.display());
        assert!(
            problem.starts_with(&beginning)
                && problem.ends_with("stays in use, and another one is ordered"),
            "{problem}"
        );
    }
}

#[test]
fn an_ordered_certificate_may_begin_a_day_ahead_and_stays_in_use_after_its_end() {
    let files = Files::new();
    put_ordered(&files, &files.lasting("good", &["relay.example"]));
    let certificates = with_ordered(&files, Vec::new()).unwrap();
    let (sources, table) = (&certificates.sources, &certificates.table);
    let next = files.certificate_of_years("next", &["relay.example"], 2028..=2030);
    put_ordered(&files, &next);
    let (start, day) = (1_830_297_600, 24 * 60 * 60);
    let (again, problems) = sources.read_again(table, start - day - 1);
    assert!(again == **table && problems.len() == 1);
    let (again, problems) = sources.read_again(table, start - day);
    assert!(again != **table && problems.is_empty());
    // As for a certificate of the settings: it is used until there is another one.
    let (last, problems) = sources.read_again(&again, start + 10 * 366 * day);
    assert!(last == again && problems.is_empty());
}

#[test]
fn an_expired_certificate_is_left_out_where_none_is_in_use() {
    let files = Files::new();
    let certificates = with_ordered(&files, Vec::new()).unwrap();
    let expired = files.certificate_of_years("old", &["relay.example"], 2000..=2001);
    put_ordered(&files, &expired);
    let (again, problems) = certificates
        .sources
        .read_again(&certificates.table, NOW_SECONDS);
    assert!(again.is_empty() && problems.is_empty());
}
