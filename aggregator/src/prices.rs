//! What a GPU's time, and what jobs without GPUs, cost: rates, the charge formula (docs/ledger.md, "Price"), the price book, and the
//! nodes file, by which an operator says what nodes are.
//!
//! Pure: a rate depends on the book, the device's facts and the slot alone, so that pricing a slot again is doing
//! it again. Only [`watch`] touches a file. Not here: whose time it was, and where charges are kept.

pub mod book;
mod compute;
mod matcher;
mod nodes;
mod parse;
pub mod teams;
mod unit;
pub mod watch;

pub use book::{Book, BookError, Matched, PriceFacts};
pub use compute::Compute;
pub use nodes::Nodes;

use crate::model::mul_div;

const HOUR_NS: i128 = 3_600_000_000_000;

/// Nano-dollars per slice-nanosecond, as an exact fraction that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    num: i128,
    den: i128,
    by_memory: bool,
}

impl Rate {
    /// `num / den`; `None` if `num < 0` or `den <= 0`.
    #[must_use]
    pub fn new(num: i128, den: i128) -> Option<Self> {
        (num >= 0 && den > 0).then_some(Self { num, den, by_memory: false })
    }

    /// The same, where the book weighs instances of a GPU by their memory.
    #[must_use]
    fn weighing(self, by_memory: bool) -> Self {
        Self { by_memory, ..self }
    }

    /// Does the book weigh instances of a GPU by their memory, and not by their compute slices?
    #[must_use]
    pub fn is_by_memory(&self) -> bool {
        self.by_memory
    }

    /// Nano-dollars for `part / of` nanoseconds of a whole GPU of `slices` slices, rounded down: multiplied first, divided once.
    /// Exact up to 2^126 on either side of the division; `part` is not negative and `of` is positive.
    #[must_use]
    pub fn charge_part(&self, part: i128, of: i128, slices: u32) -> i128 {
        let (num, den) = (self.num * i128::from(slices), self.den * of);
        let (nanos, _) = mul_div(part.unsigned_abs(), num.unsigned_abs(), den.unsigned_abs());
        i128::try_from(nanos).unwrap_or(i128::MAX)
    }

    /// Nano-dollars for `slice_ns` slice-nanoseconds, rounded down: multiplied first, divided once.
    ///
    /// A book's rates have `num <= 10^15` (its highest price in nano-dollars), so the product stays below 2^127 for
    /// any `slice_ns` below 10^23: three thousand years of a thousand GPUs. Beyond that it stops at the limit rather
    /// than wrapping.
    #[must_use]
    pub fn charge(&self, slice_ns: i128) -> i128 {
        self.num.saturating_mul(slice_ns).div_euclid(self.den)
    }

    /// Numerator and denominator.
    #[must_use]
    pub fn parts(&self) -> (i128, i128) {
        (self.num, self.den)
    }

    /// Nano-dollars for an hour of a whole GPU of `slices` slices, rounded down.
    #[must_use]
    pub fn per_gpu_hour_nanos(&self, slices: u32) -> i128 {
        self.charge(HOUR_NS * i128::from(slices))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn parts_of_a_slot_never_cost_more_than_the_slot_and_at_most_a_nano_less_each() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..1000 {
            let den = HOUR_NS * rng.random_range(1..=7 * 31 * 24);
            let rate = Rate::new(rng.random_range(0..=1_000_000_000_000_000), den).unwrap();
            let parts: Vec<i128> =
                (0..rng.random_range(1..20)).map(|_| rng.random_range(0..900_000_000_000)).collect();
            let whole = rate.charge(parts.iter().sum());
            let charged: i128 = parts.iter().map(|part| rate.charge(*part)).sum();
            let rounding = whole - charged;
            assert!(rounding >= 0 && rounding < i128::try_from(parts.len()).unwrap());
        }
    }

    #[test]
    fn an_hour_of_a_gpu_costs_what_the_book_says() {
        let rate = Rate::new(2_500_000_000, HOUR_NS * 7).unwrap();
        assert_eq!(rate.per_gpu_hour_nanos(7), 2_500_000_000);
        assert_eq!(rate.charge(HOUR_NS), 357_142_857);
    }

    #[test]
    fn the_highest_price_for_the_longest_time_does_not_overflow() {
        let rate = Rate::new(1_000_000_000_000_000, HOUR_NS).unwrap();
        let century_of_a_thousand_gpus = 100 * 366 * 24 * HOUR_NS * 1000;
        assert_eq!(rate.charge(century_of_a_thousand_gpus), 100 * 366 * 24 * 1000 * 1_000_000_000_000_000);
    }

    #[test]
    fn a_rate_is_neither_negative_nor_a_division_by_zero() {
        assert_eq!(Rate::new(-1, 1), None);
        assert_eq!(Rate::new(1, 0), None);
        assert!(Rate::new(0, 1).is_some());
    }
}
