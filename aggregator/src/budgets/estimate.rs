//! What work typically costs: what jobs of settled holds were charged, as a part of what their holds said that they may cost. Pure.
//!
//! ```text
//! ratio        = the median of charged / estimated, of the last holds of one account, partition and model that tell anything
//! typical cost = ceil(price x GPUs x time limit x ratio)
//! ```
//!
//! With an even number of them the median is the upper one of the two in the middle. Few are no measurement.

use std::cmp::Ordering;

use super::Hold;
use super::hold::{Escrow, State};

/// Holds that a ratio is of, and the fewest that make one.
pub const SAMPLES_MAX: usize = 20;
pub const SAMPLES_MIN: usize = 5;
/// Ended holds of one account that are looked at.
pub const LOOKED_AT_MAX: usize = 200;

/// One hold whose job was charged something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub partition: String,
    /// As it was asked for; empty for any.
    pub model: String,
    pub cost_nanos: i64,
    pub charged_nanos: i64,
}

impl Sample {
    /// `None` if it tells nothing: it was not settled, its cost is not that of its price, or its job was not seen to use anything.
    #[must_use]
    pub fn of(hold: &Hold) -> Option<Self> {
        let estimated =
            hold.ask.escrow == Escrow::None && hold.ask.given_nanos.is_none() && !hold.is_of_array();
        let by_price = !hold.ask.estimate.is_outside(hold.cost_nanos);
        // More was asked for its job later, and is in what that was charged.
        let estimated = estimated && hold.first_amount_nanos() == hold.amount_nanos;
        let cost_nanos = hold.cost_nanos.filter(|cost| estimated && by_price && *cost > 0)?;
        (hold.state == State::Settled && hold.charged_nanos > 0).then(|| Self {
            partition: hold.ask.partition.clone(),
            model: hold.ask.model.clone(),
            cost_nanos,
            charged_nanos: hold.charged_nanos,
        })
    }
}

/// Charged, as a part of estimated, both in nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    pub charged_nanos: i64,
    pub cost_nanos: i64,
    /// It is the median of so many.
    pub samples: usize,
}

impl Ratio {
    /// Of samples of one account, partition and model, the newest first; `None` of too few.
    #[must_use]
    pub fn median<'a>(newest: impl Iterator<Item = &'a Sample>) -> Option<Self> {
        let mut ratios: Vec<(i64, i64)> =
            newest.take(SAMPLES_MAX).map(|sample| (sample.charged_nanos, sample.cost_nanos)).collect();
        if ratios.len() < SAMPLES_MIN {
            return None;
        }
        ratios.sort_by(compare);
        let samples = ratios.len();
        ratios.get(samples / 2).map(|&(charged_nanos, cost_nanos)| Self {
            charged_nanos,
            cost_nanos,
            samples,
        })
    }

    /// What work typically costs that may cost so much, rounded up.
    #[must_use]
    pub fn of(&self, cost_nanos: i64) -> i64 {
        let product = i128::from(cost_nanos) * i128::from(self.charged_nanos);
        let whole = i128::from(self.cost_nanos);
        let up = product.div_euclid(whole) + i128::from(product.rem_euclid(whole) > 0);
        i64::try_from(up).unwrap_or(i64::MAX)
    }

    /// In billionths, rounded down.
    #[must_use]
    pub fn billionths(&self) -> i128 {
        i128::from(self.charged_nanos) * 1_000_000_000 / i128::from(self.cost_nanos)
    }
}

/// Of two fractions by their cross products; none has 0 below.
fn compare(one: &(i64, i64), other: &(i64, i64)) -> Ordering {
    (i128::from(one.0) * i128::from(other.1)).cmp(&(i128::from(other.0) * i128::from(one.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cost_nanos: i64, charged_nanos: i64) -> Sample {
        let (partition, model) = ("gpu".to_owned(), String::new());
        Sample { partition, model, cost_nanos, charged_nanos }
    }

    #[test]
    fn the_median_is_of_fractions_and_few_are_none() {
        let samples = [sample(10, 1), sample(100, 20), sample(10, 3), sample(1000, 400), sample(2, 1)];
        assert_eq!(Ratio::median(samples[..4].iter()), None);
        let ratio = Ratio::median(samples.iter()).unwrap();
        assert_eq!((ratio.charged_nanos, ratio.cost_nanos, ratio.samples), (3, 10, 5));
        assert_eq!((ratio.of(100), ratio.of(1), ratio.billionths()), (30, 1, 300_000_000), "rounded up");
        let six = [&samples[..], &[sample(1, 1)]].concat();
        assert_eq!(Ratio::median(six.iter()).unwrap().of(10), 4, "the upper one of two");
        assert_eq!(Ratio { cost_nanos: 1, charged_nanos: i64::MAX, samples: 5 }.of(i64::MAX), i64::MAX);
    }

    #[test]
    fn only_the_last_ones_count() {
        let samples: Vec<Sample> =
            (0..2 * SAMPLES_MAX).map(|at| sample(10, if at < SAMPLES_MAX { 5 } else { 10 })).collect();
        assert_eq!(Ratio::median(samples.iter()).map(|ratio| ratio.of(10)), Some(5));
    }
}
