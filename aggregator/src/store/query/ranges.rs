//! Cuts a window into whole days, whole hours and slots. Pure.

use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

/// Days read by one statement: between statements a query can be given up.
const DAYS_MAX: i64 = 32;

/// Where sums of this width are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Slot,
    Hour,
    Day,
}

impl Table {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Rows of one table that start in `[start_ns, end_ns)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub table: Table,
    pub start_ns: i64,
    pub end_ns: i64,
}

/// The fewest rows that cover `[start_ns, end_ns)`, both on slots' edges.
#[must_use]
pub fn ranges(start_ns: i64, end_ns: i64) -> Vec<Range> {
    let mut found = Vec::new();
    cut(
        start_ns,
        end_ns,
        &[(Table::Day, DAY_NS), (Table::Hour, HOUR_NS), (Table::Slot, SLOT_NS)],
        &mut found,
    );
    found
}

fn cut(start_ns: i64, end_ns: i64, widths: &[(Table, i64)], found: &mut Vec<Range>) {
    let Some(((table, width), narrower)) = widths.split_first() else { return };
    let from = start_ns + (-start_ns).rem_euclid(*width);
    let to = end_ns - end_ns.rem_euclid(*width);
    if from >= to {
        return cut(start_ns, end_ns, narrower, found);
    }
    cut(start_ns, from, narrower, found);
    let mut at = from;
    while at < to {
        let next = (at + DAYS_MAX * DAY_NS).min(to);
        found.push(Range { table: *table, start_ns: at, end_ns: next });
        at = next;
    }
    cut(to, end_ns, narrower, found);
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn ranges_cover_the_window_once_and_use_the_widest_rows() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..1000 {
            let start = rng.random_range(-5000..5000) * SLOT_NS;
            let end = start + rng.random_range(0..20_000) * SLOT_NS;
            let mut at = start;
            for range in ranges(start, end) {
                assert_eq!(range.start_ns, at);
                assert!(range.end_ns > at);
                let (width, most) = match range.table {
                    Table::Day => (DAY_NS, DAYS_MAX * DAY_NS),
                    Table::Hour => (HOUR_NS, DAY_NS * 2),
                    Table::Slot => (SLOT_NS, HOUR_NS * 2),
                };
                assert_eq!((range.start_ns % width, range.end_ns % width), (0, 0));
                assert!(range.end_ns - range.start_ns <= most);
                at = range.end_ns;
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn a_window_without_a_whole_hour_reads_slots() {
        let found = ranges(HOUR_NS - SLOT_NS, HOUR_NS + SLOT_NS);
        assert_eq!(
            found,
            [Range { table: Table::Slot, start_ns: HOUR_NS - SLOT_NS, end_ns: HOUR_NS + SLOT_NS }]
        );
    }
}
