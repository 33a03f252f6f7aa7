//! Judges this machine's clock by the evidence that the other checks found.

use super::check::Check;
use crate::token_show::time::Span;

/// Largest difference between two clocks that is accepted, in seconds: the relay's leeway with tokens.
const SKEW_SECONDS_MAX: u64 = 60;

/// Evidence of the time, besides this machine's clock, in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// `Date` of an HTTP answer from the relay.
    pub(super) date: Option<u64>,
    /// When the token was issued, or becomes valid.
    pub(super) since: Option<u64>,
    /// When the token expires.
    pub(super) until: Option<u64>,
    /// How many more seconds the relay accepts the token.
    pub(super) left: Option<u64>,
    /// The relay said that the token has expired.
    pub(super) said_expired: bool,
    /// URLs at which the relay speaks HTTP.
    pub(super) urls: Vec<String>,
}

pub(super) fn judge(now: u64, evidence: &Evidence) -> Check {
    let fine = |whose: &str, theirs: u64| {
        let skew = now.abs_diff(theirs);
        Check::ok("clock", format!("within {skew} s of {whose}"))
    };
    if let Some(date) = evidence.date {
        let whose = "the Date of the relay's HTTP answers";
        if now.abs_diff(date) > SKEW_SECONDS_MAX {
            return wrong(now, date, "", whose);
        }
        return fine(whose, date);
    }
    // The token's expiry less its remaining time is the relay's time. A provider that sets its own
    // lifetime leaves another remainder, so a difference proves nothing.
    let by_token = evidence.until.zip(evidence.left);
    let by_token = by_token.and_then(|(until, left)| until.checked_sub(left));
    if let Some(theirs) = by_token.filter(|theirs| now.abs_diff(*theirs) <= SKEW_SECONDS_MAX) {
        return fine(
            "the relay's clock, by the token's remaining time there",
            theirs,
        );
    }
    if let Some(since) = evidence.since.filter(|it| *it > now + SKEW_SECONDS_MAX) {
        return wrong(now, since, "at least ", "the clock that issued the token");
    }
    if let Some(until) = evidence
        .until
        .filter(|it| evidence.said_expired && *it > now)
    {
        return wrong(
            now,
            until,
            "at least ",
            "the relay's clock, by which the token has expired",
        );
    }
    let found = match evidence.since {
        Some(_) => {
            "not behind the time at which the token was issued, and there is no other evidence: the relay's HTTP \
             answers have no Date"
        }
        None => {
            "nothing to compare with: the relay's HTTP answers have no Date, and no token says when it was \
             issued"
        }
    };
    Check::not_applicable("clock", found)
}

fn wrong(now: u64, theirs: u64, least: &str, whose: &str) -> Check {
    let way = if now < theirs { "behind" } else { "ahead of" };
    Check::failed(
        "clock",
        format!(
            "this machine is {least}{} {way} {whose}",
            Span(now.abs_diff(theirs))
        ),
        "set the clock (by NTP): with a wrong clock, tokens look expired or not yet valid",
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn outcome(evidence: &Evidence) -> (Outcome, String) {
        let check = judge(NOW, evidence);
        (check.outcome, check.detail)
    }

    #[test]
    fn the_date_of_an_answer_comes_before_what_a_token_says() {
        let with = |date| Evidence {
            date: Some(date),
            since: Some(NOW + 9_000),
            ..Evidence::default()
        };
        let (found, text) = outcome(&with(NOW - 2));
        assert!(
            found == Outcome::Ok && text.contains("within 2 s"),
            "{text}"
        );
        let (found, text) = outcome(&with(NOW + 300));
        assert!(
            found == Outcome::Failed && text.contains("5 min behind"),
            "{text}"
        );
        let (_, text) = outcome(&with(NOW - 7200));
        assert!(text.contains("2 h ahead of"), "{text}");
    }

    #[test]
    fn what_is_left_of_a_token_tells_the_relays_time_where_it_fits() {
        let with = |left| Evidence {
            until: Some(NOW + 600),
            left: Some(left),
            ..Evidence::default()
        };
        let (found, text) = outcome(&with(598));
        assert!(
            found == Outcome::Ok && text.contains("within 2 s"),
            "{text}"
        );
        // A provider's own lifetime for a token proves nothing.
        assert_eq!(outcome(&with(60)).0, Outcome::NotApplicable);
    }

    #[test]
    fn a_token_from_the_future_and_one_that_ended_too_early_give_a_clock_away() {
        let issued = |since| Evidence {
            since: Some(since),
            ..Evidence::default()
        };
        assert_eq!(outcome(&issued(NOW + 61)).0, Outcome::Failed);
        let (found, text) = outcome(&issued(NOW + 60));
        assert_eq!(found, Outcome::NotApplicable);
        assert!(text.contains("not behind the time"), "{text}");
        let ended = |until| Evidence {
            until: Some(until),
            said_expired: true,
            ..Evidence::default()
        };
        let (found, text) = outcome(&ended(NOW + 600));
        assert!(
            found == Outcome::Failed && text.contains("behind the relay's"),
            "{text}"
        );
        assert_eq!(outcome(&ended(NOW - 1)).0, Outcome::NotApplicable);
        assert_eq!(outcome(&Evidence::default()).0, Outcome::NotApplicable);
    }
}
