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
    pub(super) fn width_ns(self) -> i64 {
        match self {
            Self::Slot => SLOT_NS,
            Self::Hour => HOUR_NS,
            Self::Day => DAY_NS,
        }
    }

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

/// As [`ranges`], but slots alone at and behind `slots_from_ns`: for what sums of slots do not tell, such as method bits.
#[must_use]
pub fn ranges_in_slots(start_ns: i64, end_ns: i64, slots_from_ns: i64) -> Vec<Range> {
    let from_ns = slots_from_ns.clamp(start_ns, end_ns);
    let mut found = ranges(start_ns, from_ns);
    let mut at = from_ns;
    while at < end_ns {
        let next = (at + DAY_NS).min(end_ns);
        found.push(Range { table: Table::Slot, start_ns: at, end_ns: next });
        at = next;
    }
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

/// From when on which rows are kept; before a purge, from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    pub slots_from_ns: i64,
    pub hours_from_ns: i64,
    pub days_from_ns: i64,
}

impl Kept {
    /// Can a window be put together from the rows that are left?
    ///
    /// # Errors
    /// If not: where it would have to begin or end, in words.
    pub fn check(&self, start_ns: i64, end_ns: i64) -> Result<(), String> {
        for (edge, at_ns) in [("starts", start_ns), ("ends", end_ns)] {
            let (from_ns, width_ns, width) = if at_ns < self.hours_from_ns {
                (self.days_from_ns, DAY_NS, "days")
            } else if at_ns < self.slots_from_ns {
                (self.hours_from_ns, HOUR_NS, "hours")
            } else {
                continue;
            };
            if at_ns % width_ns != 0 && at_ns >= from_ns {
                return Err(format!(
                    "it {edge} where only whole {width} are kept any more; let it start and end with {width} of UTC"
                ));
            }
        }
        if start_ns < self.days_from_ns && end_ns > 0 && self.days_from_ns > 0 {
            return Err("it starts before what is kept at all; let it start later".to_owned());
        }
        Ok(())
    }
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
    fn a_window_that_needs_what_was_purged_is_told_where_to_start() {
        let kept = Kept { slots_from_ns: 30 * DAY_NS, hours_from_ns: 20 * DAY_NS, days_from_ns: 10 * DAY_NS };
        let right = [(30 * DAY_NS + SLOT_NS, 31 * DAY_NS), (20 * DAY_NS + HOUR_NS, 31 * DAY_NS)];
        for (start_ns, end_ns) in right.into_iter().chain([(10 * DAY_NS, 20 * DAY_NS)]) {
            assert_eq!(kept.check(start_ns, end_ns), Ok(()));
        }
        for (start_ns, end_ns, word) in [
            (30 * DAY_NS - SLOT_NS, 31 * DAY_NS, "hours"),
            (20 * DAY_NS - HOUR_NS, 31 * DAY_NS, "days"),
            (9 * DAY_NS, 31 * DAY_NS, "start later"),
        ] {
            assert!(kept.check(start_ns, end_ns).unwrap_err().contains(word));
        }
        assert_eq!(Kept::default().check(SLOT_NS, 2 * SLOT_NS), Ok(()));
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
