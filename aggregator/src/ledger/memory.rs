//! What the rows of a partitioned GPU's slot cost where the price book weighs its instances by their memory. Formulas: docs/ledger.md,
//! "Price".
//!
//! Each row has a part of the GPU's memory for a while, an exact number of `MEMORY_PARTS`. Those of instances and of owners
//! depend on their own time alone; what they leave of the memory that was covered is what nobody had. An instance of which nobody said
//! what it has is weighed by its compute slices, and marked.

use tonnage_proto::limits::{MEMORY_PARTS, WEIGHED_SLICES_MAX};
use tonnage_proto::method::WEIGHED_BY_COMPUTE;

use super::rows::{Key, NOBODY, Row, Rows, WHOLE};
use crate::model::{MemoryShare, RowKind};

/// How a book weighs by memory.
#[derive(Clone, Copy)]
pub struct ByMemory<'a> {
    /// Compute slices of the GPU.
    pub slices: u32,
    /// What an instance has, by its number; `None` where nobody said.
    pub share: &'a dyn Fn(i64) -> Option<MemoryShare>,
    /// Prices parts of the memory times nanoseconds, rounding down.
    pub charge: &'a dyn Fn(i128) -> i64,
}

impl ByMemory<'_> {
    /// Of no instance it is known, so compute slices are all that there is to weigh by.
    pub(super) fn knows_any(&self, rows: &Rows) -> bool {
        let known = |(instance, ..): &Key| *instance != WHOLE && (self.share)(*instance).is_some();
        self.slices <= WEIGHED_SLICES_MAX && rows.keys().any(known)
    }
}

const IDLE: Key = (WHOLE, NOBODY, RowKind::Idle);

/// What each row has of the memory, in the order of the rows. `None` if that is more than all of it: a bug of ours, since what agents
/// say is held against it when it comes.
#[must_use]
pub fn parts(rows: &Rows, covered_ns: i64, by: ByMemory<'_>) -> Option<Vec<i128>> {
    let of_compute = |time_ns: i64| i128::from(time_ns) * (MEMORY_PARTS / i128::from(by.slices));
    let mut left = of_compute(covered_ns);
    let mut nobodys_ns = 0;
    let mut parts = Vec::with_capacity(rows.len());
    for ((instance, _, kind), row) in rows.iter() {
        parts.push(match kind {
            RowKind::Unobserved => of_compute(row.time_ns),
            RowKind::Held | RowKind::Idle if *instance != WHOLE => {
                let share = (by.share)(*instance);
                share.map_or_else(|| of_compute(row.time_ns), |share| share.parts(row.time_ns))
            }
            RowKind::Held => of_compute(row.time_ns),
            RowKind::Idle | RowKind::Stranded => {
                nobodys_ns += i128::from(row.time_ns);
                0
            }
            RowKind::Rounding | RowKind::Intruder | RowKind::Cpu | RowKind::Memory => 0,
        });
        if *kind != RowKind::Unobserved {
            left -= parts.last().copied().unwrap_or(0);
        }
    }
    if left < 0 {
        return None;
    }
    let mut idle = left;
    let mut idle_at = None;
    for (at, (key, row)) in rows.iter().enumerate() {
        if *key == IDLE {
            idle_at = Some(at);
        } else if key.2 == RowKind::Stranded && nobodys_ns > 0 {
            // By time: it says how much of what is in no instance no instance can be made of.
            parts[at] = left * i128::from(row.time_ns) / nobodys_ns;
            idle -= parts[at];
        }
    }
    // Where it came to less than a nano-dollar and had no time, there may be no row of it.
    if let Some(at) = idle_at {
        parts[at] = idle;
    }
    Some(parts)
}

/// Prices every row, and gives the sum. What is left of the memory may be a row without any time.
pub(super) fn charge(rows: &mut Rows, covered_ns: i64, by: ByMemory<'_>) -> Option<i64> {
    rows.row(IDLE);
    let parts = parts(rows, covered_ns, by)?;
    let mut charged = 0;
    for (row, part) in rows.values_mut().zip(parts) {
        row.cost_nanos = (by.charge)(part);
        charged += row.cost_nanos;
    }
    if rows.get(&IDLE).is_some_and(|row| *row == Row::default()) {
        rows.remove(&IDLE);
    }
    Some(charged)
}

/// Says of rows that their compute slices were weighed for want of knowledge, and of no others.
pub(super) fn mark(rows: &mut Rows, by: Option<ByMemory<'_>>) {
    if by.is_none() && rows.values().all(|row| row.method & WEIGHED_BY_COMPUTE == 0) {
        return;
    }
    let measured = |kind| matches!(kind, RowKind::Held | RowKind::Idle);
    let unknown = |(instance, _, kind): &Key| {
        *instance != WHOLE && measured(*kind) && by.is_some_and(|by| (by.share)(*instance).is_none())
    };
    let any = rows.keys().any(unknown);
    // Who holds what is in no instance has what the others leave.
    let beside = |key: &Key| any && key.0 == WHOLE && key.2 == RowKind::Held;
    let marked: Vec<bool> = rows.keys().map(|key| unknown(key) || beside(key)).collect();
    for (row, marked) in rows.values_mut().zip(marked) {
        row.method = row.method & !WEIGHED_BY_COMPUTE | if marked { WEIGHED_BY_COMPUTE } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::ledger::settle::{Extent, Price, settle};

    /// Nano-dollars for a nanosecond of a whole GPU, as a fraction.
    type Whole = (i128, i128);

    fn settled(
        rows: &mut Rows,
        extent: Extent,
        (slices, (num, den)): (u32, Whole),
        share: &dyn Fn(i64) -> Option<MemoryShare>,
    ) -> i64 {
        let wide = i128::from(slices);
        let by_time = |ns: i64| i64::try_from(num * i128::from(ns) / (den * wide)).unwrap();
        let by_part = |part: i128| i64::try_from(num * part / (den * MEMORY_PARTS)).unwrap();
        let memory = Some(ByMemory { slices, share, charge: &by_part });
        settle(rows, extent, Some(Price { charge: &by_time, memory })).unwrap().unwrap()
    }

    fn held(time_ns: i64) -> Row {
        Row { time_ns, ..Row::default() }
    }

    fn cost(rows: &Rows, key: Key) -> Option<i64> {
        rows.get(&key).map(|row| row.cost_nanos)
    }

    #[test]
    fn memory_that_is_in_no_instance_costs_though_all_compute_slices_are_cut() {
        // Seven 1g.10gb of an H100 for 80 ns at a nano-dollar each.
        let mut rows = Rows::from_iter((1..8).map(|n| ((n, 9, RowKind::Held), held(80))));
        let extent = Extent { existence_ns: 560, covered_ns: 560 };
        let share = |_| Some(MemoryShare { slices: 1, compute_slices: 1, of: 8 });
        assert_eq!(settled(&mut rows, extent, (7, (1, 1)), &share), 80);
        assert_eq!((1..8).map(|n| cost(&rows, (n, 9, RowKind::Held)).unwrap()).sum::<i64>(), 70);
        assert_eq!((cost(&rows, IDLE), rows.get(&IDLE).unwrap().time_ns), (Some(10), 0));
        // By compute slices again, there is no such row.
        let charge = |ns: i64| ns / 7;
        settle(&mut rows, extent, Some(Price { charge: &charge, memory: None })).unwrap();
        assert_eq!(cost(&rows, IDLE), None);
    }

    #[test]
    fn what_is_stranded_has_its_part_of_what_is_left_and_none_of_nothing() {
        let share = |n| Some(MemoryShare { slices: if n == 3 { 2 } else { 4 }, compute_slices: 3, of: 8 });
        let stranded = (WHOLE, NOBODY, RowKind::Stranded);
        let extent = Extent { existence_ns: 7_000, covered_ns: 7_000 };
        let two = [((1, 9, RowKind::Held), held(3_000)), ((2, 9, RowKind::Held), held(3_000))];
        let mut rows = Rows::from_iter(two);
        *rows.row(stranded) = held(1_000);
        assert_eq!(settled(&mut rows, extent, (7, (1, 1)), &share), 1_000);
        assert_eq!((cost(&rows, (1, 9, RowKind::Held)), cost(&rows, stranded)), (Some(500), Some(0)));
        let mut rows = Rows::from_iter([two[0], ((3, 9, RowKind::Idle), held(1_500))]);
        *rows.row(stranded) = held(1_500);
        settled(&mut rows, extent, (7, (1, 1)), &share);
        // 4 of 8, and half a 2 of 8, leave 3/8; 1500 ns of 2500 are stranded.
        assert_eq!((cost(&rows, stranded), cost(&rows, IDLE)), (Some(225), Some(150)));
    }

    #[test]
    fn who_does_not_say_what_it_has_is_weighed_by_compute_and_marked_until_it_is_known() {
        let mut rows =
            Rows::from_iter([((1, 9, RowKind::Held), held(30)), ((WHOLE, 9, RowKind::Held), held(10))]);
        rows.row((2, NOBODY, RowKind::Idle)).time_ns = 30;
        let extent = Extent { existence_ns: 70, covered_ns: 70 };
        let marked = |rows: &Rows| rows.values().filter(|row| row.method & WEIGHED_BY_COMPUTE != 0).count();
        let known = |_| Some(MemoryShare { slices: 2, compute_slices: 3, of: 8 });
        for (share, expected) in [
            (&(|_| None) as &dyn Fn(i64) -> Option<MemoryShare>, 3),
            (&|n| known(n).filter(|_| n == 1), 2),
            (&known, 0),
        ] {
            settled(&mut rows, extent, (7, (1, 1)), share);
            assert_eq!(marked(&rows), expected);
        }
        settled(&mut rows, extent, (7, (1, 1)), &|_| None);
        settle(&mut rows, extent, None).unwrap();
        assert_eq!(marked(&rows), 0, "without a price nothing is weighed");
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_not_a_clamp() {
        let mut rows =
            Rows::from_iter([((1, 9, RowKind::Held), held(30)), ((2, 9, RowKind::Held), held(30))]);
        let share = |_| Some(MemoryShare { slices: 5, compute_slices: 3, of: 8 });
        let by = ByMemory { slices: 7, share: &share, charge: &|_| 0 };
        let price = Price { charge: &|_| 0, memory: Some(by) };
        assert!(settle(&mut rows, Extent { existence_ns: 70, covered_ns: 70 }, Some(price)).is_err());
    }

    /// Cuts a GPU anew and anew, some of the time nobody looks, some of its instances do not say what they have.
    #[test]
    fn whatever_is_cut_money_is_conserved_and_an_owner_pays_for_own_time_alone() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..500 {
            let slices = [1_u32, 4, 7, 16][rng.random_range(0..4)];
            let of = rng.random_range(1..=WEIGHED_SLICES_MAX);
            let (mut rows, mut shares) = (Rows::new(), vec![None]);
            let (mut existence_ns, mut covered_ns) = (0, 0);
            for _ in 0..rng.random_range(1..5) {
                let length_ns = rng.random_range(1..=100_000_000_000_i64);
                existence_ns += length_ns * i64::from(slices);
                if rng.random_bool(0.2) {
                    continue;
                }
                covered_ns += length_ns * i64::from(slices);
                let told = rng.random_bool(0.8);
                let (mut compute, mut memory) = (slices, of);
                while compute > 0 && rng.random_bool(0.8) {
                    let (part, has) = (rng.random_range(1..=compute), rng.random_range(0..=memory));
                    (compute, memory) = (compute - part, memory - has);
                    shares.push(told.then_some(MemoryShare { slices: has, compute_slices: part, of }));
                    let number = i64::try_from(shares.len()).unwrap() - 1;
                    let held_ns = rng.random_range(0..=length_ns * i64::from(part));
                    rows.row((number, rng.random_range(1..4), RowKind::Held)).time_ns += held_ns;
                    rows.row((number, NOBODY, RowKind::Idle)).time_ns +=
                        length_ns * i64::from(part) - held_ns;
                }
                let left_ns = length_ns * i64::from(compute);
                if !told || compute == slices {
                    // Where memory is told, what is held beside instances is an instance, too.
                    rows.row((WHOLE, 1, RowKind::Held)).time_ns += rng.random_range(0..=left_ns / 2);
                }
                rows.row((WHOLE, NOBODY, RowKind::Stranded)).time_ns += rng.random_range(0..=left_ns / 2);
            }
            let whole = (rng.random_range(0..=10_i128.pow(11)), rng.random_range(1..=3_600_000_000_000));
            let share = |n: i64| shares[usize::try_from(n).unwrap()];
            let extent = Extent { existence_ns, covered_ns };
            let price_nanos = settled(&mut rows, extent, (slices, whole), &share);
            assert_eq!(rows.values().map(|row| row.cost_nanos).sum::<i64>(), price_nanos);
            assert_eq!(rows.values().map(|row| row.time_ns).sum::<i64>(), existence_ns);
            let rounding = cost(&rows, (WHOLE, NOBODY, RowKind::Rounding)).unwrap_or(0);
            assert!(rounding >= 0 && rounding < i64::try_from(rows.len()).unwrap(), "{rounding}");
            for ((instance, _, kind), row) in rows.iter().filter(|(key, _)| key.0 != WHOLE) {
                // floor(rate * memory slices of the instance / of the GPU * time), and time is what its compute slices had.
                let (num, den) = match share(*instance) {
                    Some(of) => (i128::from(of.slices), i128::from(of.compute_slices * of.of)),
                    None => (1, i128::from(slices)),
                };
                let alone = whole.0 * num * i128::from(row.time_ns) / (whole.1 * den);
                assert_eq!(i128::from(row.cost_nanos), alone, "{kind:?}");
            }
        }
    }
}
