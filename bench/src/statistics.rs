//! Distributions of measured times.

use std::time::Duration;

/// Times of one kind, sorted.
pub struct Times(Vec<f64>);

impl Times {
    /// Takes milliseconds in any order.
    pub fn of_millis(mut millis: Vec<f64>) -> Times {
        millis.sort_by(f64::total_cmp);
        Times(millis)
    }

    /// Takes durations in any order.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Times {
        Times::of_millis(durations.into_iter().map(|d| d.as_secs_f64() * 1e3).collect())
    }

    /// The time in milliseconds that this share (0 to 1) of them does not exceed; the nearest
    /// rank, so it is always a time that was seen. NaN of none.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// The longest.
    pub fn longest(&self) -> f64 {
        self.at(1.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The middle one of a few figures; of an even number, the lower of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times = Times::of_millis((1..=100).rev().map(f64::from).collect());
        assert_eq!((times.at(0.5), times.at(0.99), times.longest()), (50.0, 99.0, 100.0));
        assert_eq!(Times::of_millis(vec![7.0]).at(0.5), 7.0);
        assert!(Times::of_millis(vec![]).at(0.5).is_nan());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
    }
}
