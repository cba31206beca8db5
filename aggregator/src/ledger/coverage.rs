//! The covered intervals of one device in one slot: half-open, sorted, disjoint, each with who covers it. Those that
//! touch and have one label are one.

/// An interval `[start_ns, end_ns)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    pub start_ns: i64,
    pub end_ns: i64,
}

impl Interval {
    /// Its length in nanoseconds; 0 if it is empty.
    #[must_use]
    pub fn length_ns(self) -> i64 {
        (self.end_ns - self.start_ns).max(0)
    }

    /// What both cover; empty if they do not meet.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let start_ns = self.start_ns.max(other.start_ns);
        Self { start_ns, end_ns: self.end_ns.min(other.end_ns).max(start_ns) }
    }
}

/// A stretch that was observed: by which cursor (0 = counted by a person's order), in which tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    pub span: Interval,
    pub cursor: i64,
    pub tenure: i64,
}

impl Covered {
    fn joins(&self, next: &Self) -> bool {
        self.span.end_ns == next.span.start_ns && self.cursor == next.cursor && self.tenure == next.tenure
    }
}

/// The covered intervals of one (slot, device).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(Vec<Covered>);

impl Coverage {
    /// From stored intervals, which are sorted and do not overlap.
    #[must_use]
    pub fn from_sorted(intervals: Vec<Covered>) -> Self {
        Self(intervals)
    }

    /// Sorted, merged.
    #[must_use]
    pub fn intervals(&self) -> &[Covered] {
        &self.0
    }

    /// The covered intervals that `span` would cover again.
    #[must_use]
    pub fn overlapping(&self, span: Interval) -> &[Covered] {
        let from = self.0.partition_point(|known| known.span.end_ns <= span.start_ns);
        let to = self.0.partition_point(|known| known.span.start_ns < span.end_ns);
        &self.0[from..to.max(from)]
    }

    /// Adds an interval that overlaps none.
    pub fn insert(&mut self, new: Covered) {
        debug_assert!(
            self.overlapping(new.span).is_empty() && new.span.length_ns() > 0,
            "checked by the caller"
        );
        let at = self.0.partition_point(|known| known.span.end_ns <= new.span.start_ns);
        let joins_next = self.0.get(at).is_some_and(|next| new.joins(next));
        let joins_previous = at > 0 && self.0[at - 1].joins(&new);
        match (joins_previous, joins_next) {
            (true, true) => self.0[at - 1].span.end_ns = self.0.remove(at).span.end_ns,
            (true, false) => self.0[at - 1].span.end_ns = new.span.end_ns,
            (false, true) => self.0[at].span.start_ns = new.span.start_ns,
            (false, false) => self.0.insert(at, new),
        }
    }

    /// Takes away a span that lies within one covered interval. False if it does not: then nothing has changed.
    pub fn remove(&mut self, span: Interval) -> bool {
        let at = self.0.partition_point(|known| known.span.end_ns <= span.start_ns);
        let Some(whole) = self.0.get(at).copied() else { return false };
        if whole.span.start_ns > span.start_ns || whole.span.end_ns < span.end_ns {
            return false;
        }
        let before = Interval { start_ns: whole.span.start_ns, end_ns: span.start_ns };
        let after = Interval { start_ns: span.end_ns, end_ns: whole.span.end_ns };
        let rest = [before, after].into_iter().filter(|rest| rest.length_ns() > 0);
        self.0.splice(at..=at, rest.map(|span| Covered { span, ..whole }));
        true
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn interval(start_ns: i64, end_ns: i64) -> Interval {
        Interval { start_ns, end_ns }
    }

    fn covered(start_ns: i64, end_ns: i64, cursor: i64) -> Covered {
        Covered { span: interval(start_ns, end_ns), cursor, tenure: 1 }
    }

    #[test]
    fn intervals_that_touch_become_one_in_whatever_order_they_come() {
        let mut coverage = Coverage::default();
        for (start, end) in [(20, 30), (0, 10), (10, 20), (40, 50)] {
            assert!(coverage.overlapping(interval(start, end)).is_empty());
            coverage.insert(covered(start, end, 1));
        }
        assert_eq!(coverage.intervals(), [covered(0, 30, 1), covered(40, 50, 1)]);
        assert_eq!(coverage.overlapping(interval(29, 41)), [covered(0, 30, 1), covered(40, 50, 1)]);
        assert!(coverage.overlapping(interval(30, 40)).is_empty());
    }

    #[test]
    fn intervals_of_two_cursors_stay_apart_where_they_touch() {
        let mut coverage = Coverage::default();
        coverage.insert(covered(0, 10, 1));
        coverage.insert(covered(10, 20, 2));
        assert_eq!(coverage.intervals().len(), 2);
    }

    #[test]
    fn random_intervals_cover_what_a_bitmap_of_the_slot_covers() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let mut bitmap = [0; 100];
            let mut coverage = Coverage::default();
            for _ in 0..60 {
                let start = rng.random_range(0..99_usize);
                let end = rng.random_range(start + 1..=100.min(start + 12));
                let cursor = rng.random_range(1..3_i64);
                let taken = bitmap[start..end].iter().any(|by| *by != 0);
                let new = covered(i64::try_from(start).unwrap(), i64::try_from(end).unwrap(), cursor);
                assert_eq!(!coverage.overlapping(new.span).is_empty(), taken);
                if !taken {
                    coverage.insert(new);
                    bitmap[start..end].fill(cursor);
                } else if rng.random_bool(0.5) {
                    let by = bitmap[start];
                    let whole = by != 0 && bitmap[start..end].iter().all(|other| *other == by);
                    assert_eq!(coverage.remove(new.span), whole);
                    if whole {
                        bitmap[start..end].fill(0);
                    }
                }
            }
            let covered: i64 = coverage.intervals().iter().map(|i| i.span.length_ns()).sum();
            assert_eq!(usize::try_from(covered).unwrap(), bitmap.iter().filter(|by| **by != 0).count());
            assert!(coverage.intervals().windows(2).all(|pair| !pair[0].joins(&pair[1])));
        }
    }
}
