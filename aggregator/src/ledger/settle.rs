//! What a slot's rows say, once its existence, its coverage and who held it are known.
//!
//! A pure function of one (slot, tenure): calling it again with the same facts gives the same rows, so late data and
//! a changed price are the same case as the first time. Formulas: docs/ledger.md, "Slots" and "Price".

use super::memory::{self, ByMemory};
use super::rows::{Key, NOBODY, Row, Rows, WHOLE};
use crate::model::RowKind;

/// The time of a (slot, tenure) in slice-nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    pub existence_ns: i64,
    pub covered_ns: i64,
}

/// The ledger would not add up: a bug of ours, never a consequence of what an agent sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "slot does not add up: {held_ns} ns held or idle in instances or stranded, {covered_ns} ns covered, \
     {existence_ns} ns in existence, or its instances have more memory than the GPU"
)]
pub struct NotConserved {
    /// Held, idle of instances, and stranded.
    pub held_ns: i64,
    pub covered_ns: i64,
    pub existence_ns: i64,
}

/// By what a slot is priced.
#[derive(Clone, Copy)]
pub struct Price<'a> {
    /// Prices slice-nanoseconds, rounding down.
    pub charge: &'a dyn Fn(i64) -> i64,
    /// Where the book weighs instances by their memory.
    pub memory: Option<ByMemory<'a>>,
}

/// Works out idle, unobserved and rounding, and the cost of every row; without a price = unpriced. Returns the device's price for
/// the slot. Idle time of instances, and what is stranded, are measured as held time is; the device's own idle row is the
/// rest, of the time and, where instances are weighed by it, of the memory.
///
/// # Errors
/// If what is measured exceeds coverage, or coverage exceeds existence.
pub fn settle(
    rows: &mut Rows,
    extent: Extent,
    price: Option<Price<'_>>,
) -> Result<Option<i64>, NotConserved> {
    let measured = |(instance, _, kind): &Key| match kind {
        RowKind::Held | RowKind::Stranded => true,
        RowKind::Idle => *instance != WHOLE,
        RowKind::Unobserved | RowKind::Rounding | RowKind::Intruder => false,
        // Of no GPU: no slot of one has them.
        RowKind::Cpu | RowKind::Memory => false,
    };
    let held_ns: i64 = rows.iter().filter(|(key, _)| measured(key)).map(|(_, row)| row.time_ns).sum();
    let Extent { existence_ns, covered_ns } = extent;
    let not_conserved = NotConserved { held_ns, covered_ns, existence_ns };
    if held_ns > covered_ns || covered_ns > existence_ns {
        return Err(not_conserved);
    }
    set_time(rows, RowKind::Idle, covered_ns - held_ns);
    set_time(rows, RowKind::Unobserved, existence_ns - covered_ns);
    rows.remove(&(WHOLE, NOBODY, RowKind::Rounding));
    let by_memory = price.and_then(|price| price.memory);
    memory::mark(rows, by_memory);
    let mut charged = 0;
    for row in rows.values_mut() {
        row.cost_nanos = price.map_or(0, |price| (price.charge)(row.time_ns));
        row.unpriced_ns = if price.is_none() { row.time_ns } else { 0 };
        charged += row.cost_nanos;
    }
    if let Some(by) = by_memory.filter(|by| by.knows_any(rows)) {
        charged = memory::charge(rows, covered_ns, by).ok_or(not_conserved)?;
    }
    let price_nanos = price.map(|price| (price.charge)(existence_ns));
    if let Some(left) = price_nanos.map(|price| price - charged).filter(|left| *left != 0) {
        rows.row((WHOLE, NOBODY, RowKind::Rounding)).cost_nanos = left;
    }
    Ok(price_nanos)
}

/// Keeps what else the row holds (energy, unattributed use); a row of nothing is not kept.
fn set_time(rows: &mut Rows, kind: RowKind, time_ns: i64) {
    let row = rows.row((WHOLE, NOBODY, kind));
    row.time_ns = time_ns;
    if *row == (Row { cost_nanos: row.cost_nanos, unpriced_ns: row.unpriced_ns, ..Row::default() }) {
        rows.remove(&(WHOLE, NOBODY, kind));
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn by_time(charge: &dyn Fn(i64) -> i64) -> Price<'_> {
        Price { charge, memory: None }
    }

    fn held(time_ns: i64) -> Row {
        Row { time_ns, ..Row::default() }
    }

    #[test]
    fn the_worked_example_of_the_documentation_adds_up() {
        // 2 pods hold a GPU at 3 nano-dollars per 7 ns for 10 and 20 of 50 ns; 5 ns nobody saw.
        let mut rows =
            Rows::from_iter([((WHOLE, 1, RowKind::Held), held(10)), ((WHOLE, 2, RowKind::Held), held(20))]);
        let charge = |ns: i64| ns * 3 / 7;
        let price =
            settle(&mut rows, Extent { existence_ns: 50, covered_ns: 45 }, Some(by_time(&charge))).unwrap();
        assert_eq!(price, Some(21));
        let cost = |owner, kind| rows.get(&(WHOLE, owner, kind)).unwrap().cost_nanos;
        assert_eq!(cost(1, RowKind::Held), 4);
        assert_eq!(cost(2, RowKind::Held), 8);
        assert_eq!(cost(NOBODY, RowKind::Idle), 6);
        assert_eq!(cost(NOBODY, RowKind::Unobserved), 2);
        assert_eq!(cost(NOBODY, RowKind::Rounding), 1);
    }

    #[test]
    fn settling_again_changes_nothing() {
        let mut rows = Rows::from_iter([((WHOLE, 1, RowKind::Held), held(10))]);
        let charge = |ns: i64| ns * 3 / 7;
        let extent = Extent { existence_ns: 50, covered_ns: 45 };
        settle(&mut rows, extent, Some(by_time(&charge))).unwrap();
        let once = rows.clone();
        settle(&mut rows, extent, Some(by_time(&charge))).unwrap();
        assert_eq!(rows, once);
    }

    #[test]
    fn without_a_price_the_time_is_unpriced_and_costs_nothing() {
        let mut rows = Rows::from_iter([((WHOLE, 1, RowKind::Held), held(10))]);
        let price = settle(&mut rows, Extent { existence_ns: 50, covered_ns: 45 }, None).unwrap();
        assert_eq!(price, None);
        assert_eq!(rows.values().map(|row| row.unpriced_ns).sum::<i64>(), 50);
        assert!(rows.values().all(|row| row.cost_nanos == 0));
    }

    #[test]
    fn more_held_than_covered_is_an_error_not_a_clamp() {
        let mut rows = Rows::from_iter([((WHOLE, 1, RowKind::Held), held(10))]);
        let extent = Extent { existence_ns: 50, covered_ns: 9 };
        assert!(settle(&mut rows, extent, None).is_err());
    }

    #[test]
    fn money_and_time_are_conserved_for_random_slots_and_rates() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..2000 {
            let existence_ns = rng.random_range(1..=900_000_000_000_i64);
            let covered_ns = rng.random_range(0..=existence_ns);
            let mut rows = Rows::new();
            let mut left = covered_ns;
            for owner in 1..rng.random_range(1..20) {
                let time_ns = rng.random_range(0..=left);
                left -= time_ns;
                *rows.row((WHOLE, owner, RowKind::Held)) = held(time_ns);
                if rng.random_bool(0.3) {
                    // An instance that nobody held meanwhile, or slices that none can be made of.
                    let kind = if rng.random_bool(0.5) { RowKind::Idle } else { RowKind::Stranded };
                    let instance = if kind == RowKind::Idle { owner } else { WHOLE };
                    let time_ns = rng.random_range(0..=left);
                    left -= time_ns;
                    let row = rows.row((instance, NOBODY, kind));
                    row.time_ns += time_ns;
                }
                if rng.random_bool(0.3) {
                    let busy_ns = rng.random_range(0..=2 * existence_ns);
                    *rows.row((WHOLE, owner, RowKind::Intruder)) = Row { busy_ns, ..Row::default() };
                }
            }
            let (num, den) = (rng.random_range(0..=10_i128.pow(13)), rng.random_range(1..=10_i128.pow(13)));
            let charge = |ns: i64| i64::try_from(i128::from(ns) * num / den).unwrap_or(i64::MAX);
            if charge(existence_ns) > i64::MAX / 4 {
                continue;
            }
            let price =
                settle(&mut rows, Extent { existence_ns, covered_ns }, Some(by_time(&charge))).unwrap();
            assert_eq!(rows.values().map(|row| row.time_ns).sum::<i64>(), existence_ns);
            assert_eq!(rows.values().map(|row| row.cost_nanos).sum::<i64>(), price.unwrap());
            let intruders = rows.iter().filter(|((_, _, kind), _)| *kind == RowKind::Intruder);
            assert!(intruders.into_iter().all(|(_, row)| (row.cost_nanos, row.unpriced_ns) == (0, 0)));
            let rounding = rows.get(&(WHOLE, NOBODY, RowKind::Rounding)).map_or(0, |row| row.cost_nanos);
            assert!(rounding >= 0 && rounding < i64::try_from(rows.len()).unwrap());
        }
    }
}
