//! The covered intervals of one device in one slot: half-open, sorted, merged where they touch.

/// An interval `[start_ns, end_ns)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// The covered intervals of one (slot, device).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(Vec<Interval>);

impl Coverage {
    /// From stored intervals, which are sorted and do not overlap.
    #[must_use]
    pub fn from_sorted(intervals: Vec<Interval>) -> Self {
        Self(intervals)
    }

    /// Sorted, merged.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        &self.0
    }

    /// The first covered interval that `new` would cover again.
    #[must_use]
    pub fn overlap(&self, new: Interval) -> Option<Interval> {
        let after = self.0.partition_point(|known| known.end_ns <= new.start_ns);
        self.0.get(after).copied().filter(|known| known.start_ns < new.end_ns)
    }

    /// Adds an interval that overlaps none.
    pub fn insert(&mut self, new: Interval) {
        debug_assert!(self.overlap(new).is_none() && new.length_ns() > 0, "checked by the caller");
        let at = self.0.partition_point(|known| known.end_ns <= new.start_ns);
        let joins_next = self.0.get(at).is_some_and(|next| next.start_ns == new.end_ns);
        let joins_previous = at > 0 && self.0[at - 1].end_ns == new.start_ns;
        match (joins_previous, joins_next) {
            (true, true) => self.0[at - 1].end_ns = self.0.remove(at).end_ns,
            (true, false) => self.0[at - 1].end_ns = new.end_ns,
            (false, true) => self.0[at].start_ns = new.start_ns,
            (false, false) => self.0.insert(at, new),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn interval(start_ns: i64, end_ns: i64) -> Interval {
        Interval { start_ns, end_ns }
    }

    #[test]
    fn intervals_that_touch_become_one_in_whatever_order_they_come() {
        let mut coverage = Coverage::default();
        for (start, end) in [(20, 30), (0, 10), (10, 20), (40, 50)] {
            assert_eq!(coverage.overlap(interval(start, end)), None);
            coverage.insert(interval(start, end));
        }
        assert_eq!(coverage.intervals(), [interval(0, 30), interval(40, 50)]);
        assert_eq!(coverage.overlap(interval(29, 41)), Some(interval(0, 30)));
        assert_eq!(coverage.overlap(interval(30, 40)), None);
    }

    #[test]
    fn random_intervals_cover_what_a_bitmap_of_the_slot_covers() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let mut bitmap = [false; 100];
            let mut coverage = Coverage::default();
            for _ in 0..40 {
                let start = rng.random_range(0..99_usize);
                let end = rng.random_range(start + 1..=100.min(start + 12));
                let taken = bitmap[start..end].iter().any(|covered| *covered);
                let new = interval(i64::try_from(start).unwrap(), i64::try_from(end).unwrap());
                assert_eq!(coverage.overlap(new).is_some(), taken);
                if !taken {
                    coverage.insert(new);
                    bitmap[start..end].fill(true);
                }
            }
            let covered: i64 = coverage.intervals().iter().map(|i| i.length_ns()).sum();
            assert_eq!(usize::try_from(covered).unwrap(), bitmap.iter().filter(|b| **b).count());
            assert!(coverage.intervals().windows(2).all(|pair| pair[0].end_ns < pair[1].start_ns));
        }
    }
}
