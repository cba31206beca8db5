//! Dividing whole numbers so that the parts sum to the whole. Every part of a bill goes through one of these.

/// `total` in proportion to `weights`, by largest remainder; among equal remainders the earlier one gains.
///
/// The parts sum to `total`, and each is less than one away from its exact share. All weights zero: all parts are
/// zero, and the caller keeps `total`.
pub(super) fn by_largest_remainder(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    // A product of two u64 fits a u128, and a quotient by a sum of weights is at most `total`.
    let shares = weights.iter().map(|&weight| u128::from(total) * u128::from(weight));
    let (mut parts, remainders): (Vec<u64>, Vec<u128>) =
        shares.map(|share| (u64::try_from(share / sum).unwrap_or(total), share % sum)).unzip();
    let left = total - parts.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| remainders[b].cmp(&remainders[a]).then(a.cmp(&b)));
    for &winner in order.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        parts[winner] += 1;
    }
    parts
}

/// `total` in `n` equal parts; the first `total mod n` have one more. Nothing for no parts.
pub(super) fn equally(total: u64, n: usize) -> impl Iterator<Item = u64> {
    let parts = u64::try_from(n).unwrap_or(u64::MAX).max(1);
    let (each, more) = (total / parts, total % parts);
    (0..parts).take(n).map(move |i| each + u64::from(i < more))
}

/// `total` spread over steps of `whole`, by cumulative rounding: ask for each step in turn.
///
/// The parts sum to `total` once the steps sum to `whole`; and where `total <= whole`, no part is larger than its
/// step. That keeps busy time under held time in each window, however an interval is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    total: u64,
    whole: u64,
    done: u64,
}

impl Spread {
    pub(super) fn new(total: u64, whole: u64) -> Self {
        Self { total, whole, done: 0 }
    }

    /// The part of the next `step` of `whole`.
    pub(super) fn next(&mut self, step: u64) -> u64 {
        let before = self.upto(self.done);
        self.done += step;
        self.upto(self.done) - before
    }

    fn upto(&self, done: u64) -> u64 {
        match u128::from(self.whole) {
            0 => 0,
            whole => u64::try_from(u128::from(self.total) * u128::from(done) / whole).unwrap_or(self.total),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn the_largest_remainder_gains_and_the_first_of_equals() {
        assert_eq!(by_largest_remainder(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(by_largest_remainder(10, &[10, 26, 64]), [1, 3, 6]);
        assert_eq!(by_largest_remainder(7, &[0, 5, 0]), [0, 7, 0]);
        assert_eq!(by_largest_remainder(7, &[0, 0]), [0, 0]);
        assert!(by_largest_remainder(7, &[]).is_empty());
        assert_eq!(by_largest_remainder(u64::MAX, &[u64::MAX, u64::MAX]), [u64::MAX / 2 + 1, u64::MAX / 2]);
    }

    #[test]
    fn equal_parts_differ_by_one_at_most_and_the_first_are_larger() {
        assert_eq!(equally(11, 4).collect::<Vec<_>>(), [3, 3, 3, 2]);
        assert_eq!(equally(0, 2).collect::<Vec<_>>(), [0, 0]);
        assert_eq!(equally(5, 0).count(), 0);
    }

    #[test]
    fn parts_always_sum_to_the_whole() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..2_000 {
            let weights: Vec<u64> = (0..rng.random_range(1..9))
                .map(|_| {
                    let bits = rng.random_range(0..64);
                    rng.random_range(0..=1_u64 << bits)
                })
                .collect();
            let bits = rng.random_range(0..63);
            let total = rng.random_range(0..=1_u64 << bits);
            let parts = by_largest_remainder(total, &weights);
            let sum: u128 = weights.iter().copied().map(u128::from).sum();
            assert_eq!(parts.iter().sum::<u64>(), if sum == 0 { 0 } else { total }, "{weights:?}");
            for (&part, &weight) in parts.iter().zip(&weights) {
                let (have, exact) = (u128::from(part) * sum, u128::from(total) * u128::from(weight));
                assert!(
                    sum == 0 || have.abs_diff(exact) < sum,
                    "{part} of {total} by {weight} of {weights:?}"
                );
            }
            assert_eq!(equally(total, weights.len()).sum::<u64>(), total);
        }
    }

    #[test]
    fn a_spread_sums_to_its_total_and_never_passes_a_step() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..2_000 {
            let steps: Vec<u64> = (0..rng.random_range(1..6)).map(|_| rng.random_range(0..1_000)).collect();
            let whole: u64 = steps.iter().sum();
            let total = rng.random_range(0..=whole);
            let mut spread = Spread::new(total, whole);
            let parts: Vec<u64> = steps.iter().map(|&step| spread.next(step)).collect();
            assert_eq!(parts.iter().sum::<u64>(), total);
            assert!(parts.iter().zip(&steps).all(|(part, step)| part <= step), "{parts:?} of {steps:?}");
        }
    }
}
