//! Medians, spreads, ratios and differences of values over the rounds.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

use super::round3;

/// Median, minimum and maximum of a value over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle value, or the mean of the two middle values.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Computes the spread; all zeros if there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Self {
                median: 0.0,
                min: 0.0,
                max: 0.0,
            };
        };
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self {
            median: round3(median),
            min: *min,
            max: *max,
        }
    }
}

impl fmt::Display for Spread {
    /// Formats as `1.04 (1.01..1.09)`, with the requested precision.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        if self.min == self.max {
            return write!(f, "{:.digits$}", self.median);
        }
        write!(
            f,
            "{:.digits$} ({:.digits$}..{:.digits$})",
            self.median, self.min, self.max
        )
    }
}

/// Ratio of `values` to `base` within each round. `None` if the numbers of rounds differ or a base
/// is zero.
pub(super) fn ratios(values: &[f64], base: &[f64]) -> Option<Spread> {
    if values.is_empty() || values.len() != base.len() || base.contains(&0.0) {
        return None;
    }
    Some(Spread::of(
        std::iter::zip(values, base).map(|(value, base)| round3(value / base)),
    ))
}

/// Difference of `values` and `base` within each round. `None` if the numbers of rounds differ.
pub(super) fn differences(values: &[f64], base: &[f64]) -> Option<Spread> {
    if values.is_empty() || values.len() != base.len() {
        return None;
    }
    let pairs = std::iter::zip(values, base);
    Some(Spread::of(pairs.map(|(value, base)| round3(value - base))))
}

/// The entry with the best median.
pub(super) fn pick_better<N: Copy>(
    entries: &[(N, Vec<f64>)],
    more_is_better: bool,
) -> Option<(N, &[f64])> {
    let median = |values: &[f64]| Spread::of(values.iter().copied()).median;
    let order = |a: &&(N, Vec<f64>), b: &&(N, Vec<f64>)| -> Ordering {
        let order = median(&a.1).total_cmp(&median(&b.1));
        if more_is_better {
            order.reverse()
        } else {
            order
        }
    };
    entries
        .iter()
        .min_by(order)
        .map(|(name, values)| (*name, values.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_one() {
        let spread = Spread::of([5.0, 1.0, 3.0]);
        assert_eq!(
            spread,
            Spread {
                median: 3.0,
                min: 1.0,
                max: 5.0
            }
        );
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 100.0, 2.0]);
        assert_eq!(
            spread,
            Spread {
                median: 3.0,
                min: 1.0,
                max: 100.0
            }
        );
    }

    #[test]
    fn no_rounds_give_zeros() {
        assert_eq!(
            Spread::of([]),
            Spread {
                median: 0.0,
                min: 0.0,
                max: 0.0
            }
        );
    }

    #[test]
    fn a_ratio_compares_within_each_round() {
        // The machine was twice as slow in the second round; the ratio is unaffected.
        let spread = ratios(&[30.0, 60.0, 33.0], &[10.0, 20.0, 10.0]);
        assert_eq!(
            spread,
            Some(Spread {
                median: 3.0,
                min: 3.0,
                max: 3.3
            })
        );
    }

    #[test]
    fn a_ratio_needs_a_base_in_every_round() {
        assert_eq!(ratios(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(ratios(&[1.0], &[0.0]), None);
        assert_eq!(ratios(&[], &[]), None);
    }

    #[test]
    fn a_difference_compares_within_each_round() {
        let spread = differences(&[30.0, 60.0, 33.0], &[10.0, 45.0, 10.0]);
        let expected = Spread::of([20.0, 15.0, 23.0]);
        assert_eq!(spread, Some(expected));
        assert_eq!(differences(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(differences(&[], &[]), None);
    }

    #[test]
    fn better_is_less_latency_or_more_throughput() {
        let entries = [("a", vec![3.0, 9.0, 3.0]), ("b", vec![4.0, 4.0, 4.0])];
        assert_eq!(
            pick_better(&entries, false).map(|(name, _)| name),
            Some("a")
        );
        assert_eq!(pick_better(&entries, true).map(|(name, _)| name), Some("b"));
        assert!(pick_better::<()>(&[], true).is_none());
    }

    #[test]
    fn a_spread_is_written_with_its_extremes() {
        let spread = Spread {
            median: 1.04,
            min: 1.0,
            max: 1.096,
        };
        assert_eq!(spread.to_string(), "1.04 (1.00..1.10)");
        assert_eq!(format!("{spread:.1}"), "1.0 (1.0..1.1)");
        assert_eq!(Spread::of([2.0]).to_string(), "2.00");
    }
}
