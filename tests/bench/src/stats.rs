//! The few statistics that the figures need.

use std::time::Duration;

/// The value that a part of all samples does not exceed (nearest rank), in milliseconds; `part` is 0.5 for the median.
///
/// Not a number where there are no samples.
pub(crate) fn percentile(samples: &[Duration], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    // The rank is counted from 1.
    let rank = (part * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted
        .get(rank - 1)
        .map_or(f64::NAN, |found| millis(*found))
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The items whose score is the median (of an even number, the worse of the middle two), and the highest.
pub(crate) fn median_and_worst<T: Copy>(items: &[T], score: impl Fn(&T) -> f64) -> Option<(T, T)> {
    let mut sorted = items.to_vec();
    sorted.sort_by(|a, b| score(a).total_cmp(&score(b)));
    Some((*sorted.get(sorted.len() / 2)?, *sorted.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(last: u64) -> Vec<Duration> {
        // Not in order.
        (1..=last).rev().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        assert_eq!(percentile(&up_to(1000), 0.99), 990.0);
        assert_eq!(percentile(&up_to(1000), 0.5), 500.0);
        assert_eq!(percentile(&up_to(3), 0.5), 2.0);
        assert_eq!(percentile(&up_to(3), 0.99), 3.0);
        assert_eq!(percentile(&up_to(1), 0.5), 1.0);
    }

    #[test]
    fn no_samples_have_no_percentile() {
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn median_and_worst_run_are_by_their_score() {
        let runs = [(3, 'c'), (9, 'z'), (1, 'a'), (5, 'e'), (4, 'd')];
        let score = |run: &(i32, char)| f64::from(run.0);
        assert_eq!(median_and_worst(&runs, score), Some(((4, 'd'), (9, 'z'))));
        assert_eq!(
            median_and_worst(&runs[..2], score),
            Some(((9, 'z'), (9, 'z')))
        );
        assert_eq!(median_and_worst(&[], score), None);
    }
}
