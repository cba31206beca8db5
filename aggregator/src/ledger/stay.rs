//! Where a device was, and when: its stays, worked out from what was covered, by whom.
//!
//! A *tenure* is a device in one life of a node. A *stay* is a stretch of coverage by one tenure that no other tenure
//! interrupts, with the gaps in it: there the device existed and nobody looked. How far a stay reaches beyond its
//! last coverage is what [`Stay::end`] decides.
//!
//! Constraint: stays of one device never overlap. All of this is a function of the covered intervals, the times of
//! retirement, the horizon and the book, whatever the order in which they became known.

use super::coverage::{Covered, Interval};

/// One stay of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    pub tenure: i64,
    pub from_ns: i64,
    /// End of its last covered interval.
    pub covered_ns: i64,
    /// End of its existence.
    pub to_ns: i64,
}

impl Stay {
    fn begin(tenure: i64, span: Interval) -> Self {
        Self { tenure, from_ns: span.start_ns, covered_ns: span.end_ns, to_ns: span.end_ns }
    }

    #[must_use]
    pub fn span(&self) -> Interval {
        Interval { start_ns: self.from_ns, end_ns: self.to_ns }
    }

    /// Where this stay's existence ends. `next` is the device's stay behind it. `lasts`: the same node has the device
    /// again in `next`, or nobody has, and the price book says that a silent GPU is there. `horizon_ns`: until then
    /// silence has been taken note of.
    #[must_use]
    pub fn end(&self, next: Option<&Self>, retired: &[i64], horizon_ns: i64, lasts: bool) -> i64 {
        let until_ns = next.map_or(i64::MAX, |next| next.from_ns);
        if let Some(at) = retired.iter().find(|at| (self.covered_ns..=until_ns).contains(at)) {
            return *at;
        }
        match next {
            Some(next) if lasts => next.from_ns,
            None if lasts => self.covered_ns.max(horizon_ns),
            _ => self.covered_ns,
        }
    }
}

/// Adds covered time to the stays of its device where that is simple: it lengthens a stay, or begins one behind all
/// others. Gives the position of the stay that changed or began; `None` = the stays must be [`rebuilt`](rebuild).
/// Ends are not brought up to date.
pub fn extend(stays: &mut Vec<Stay>, retired: &[i64], tenure: i64, span: Interval) -> Option<usize> {
    let Some(at) = stays.iter().rposition(|stay| stay.from_ns <= span.start_ns) else {
        if stays.is_empty() {
            stays.push(Stay::begin(tenure, span));
            return Some(0);
        }
        return None;
    };
    let (next_ns, is_last) = (stays.get(at + 1).map_or(i64::MAX, |next| next.from_ns), at + 1 == stays.len());
    let stay = &mut stays[at];
    if stay.tenure == tenure && span.end_ns <= next_ns && !parted(stay.covered_ns, span.start_ns, retired) {
        stay.covered_ns = stay.covered_ns.max(span.end_ns);
        return Some(at);
    }
    if is_last && span.start_ns >= stay.covered_ns {
        stays.push(Stay::begin(tenure, span));
        return Some(at + 1);
    }
    None
}

/// The stays of a device from its covered intervals, sorted. `frozen` are stays that began before the purge horizon:
/// of their intervals only the last before it is left. Ends are not brought up to date.
#[must_use]
pub fn rebuild(frozen: &[Stay], covered: &[Covered], retired: &[i64]) -> Vec<Stay> {
    let mut stays = frozen.to_vec();
    if let (Some(last), Some(first)) = (stays.last_mut(), covered.first()) {
        last.covered_ns = last.covered_ns.min(first.span.start_ns);
    }
    for Covered { span, tenure, .. } in covered {
        match stays.last_mut() {
            Some(last) if last.tenure == *tenure && !parted(last.covered_ns, span.start_ns, retired) => {
                last.covered_ns = span.end_ns;
            }
            _ => stays.push(Stay::begin(*tenure, *span)),
        }
    }
    stays
}

/// The device was taken out of service between two covered intervals.
fn parted(covered_ns: i64, start_ns: i64, retired: &[i64]) -> bool {
    retired.iter().any(|at| (covered_ns..=start_ns).contains(at))
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn span(start_ns: i64, end_ns: i64) -> Interval {
        Interval { start_ns, end_ns }
    }

    fn covered(tenure: i64, start_ns: i64, end_ns: i64) -> Covered {
        Covered { span: span(start_ns, end_ns), cursor: 1, tenure }
    }

    fn spans(stays: &[Stay]) -> Vec<(i64, i64, i64)> {
        stays.iter().map(|stay| (stay.tenure, stay.from_ns, stay.covered_ns)).collect()
    }

    #[test]
    fn one_tenure_stays_across_a_gap_unless_another_has_the_device_in_between() {
        let gap = [covered(1, 0, 10), covered(1, 50, 60)];
        assert_eq!(spans(&rebuild(&[], &gap, &[])), [(1, 0, 60)]);
        let moved = [covered(1, 0, 10), covered(2, 20, 30), covered(1, 50, 60)];
        assert_eq!(spans(&rebuild(&[], &moved, &[])), [(1, 0, 10), (2, 20, 30), (1, 50, 60)]);
    }

    #[test]
    fn a_retirement_parts_two_stays_of_one_tenure() {
        let gap = [covered(1, 0, 10), covered(1, 50, 60)];
        assert_eq!(spans(&rebuild(&[], &gap, &[30])), [(1, 0, 10), (1, 50, 60)]);
        let stays = rebuild(&[], &gap, &[30]);
        assert_eq!(stays[0].end(stays.get(1), &[30], 1000, true), 30);
        assert_eq!(spans(&rebuild(&[], &gap, &[5])), [(1, 0, 60)], "observed after it: it was there");
    }

    #[test]
    fn a_silent_device_exists_up_to_the_horizon_only_where_it_lasts() {
        let stay = Stay::begin(1, span(0, 10));
        assert_eq!(stay.end(None, &[], 100, true), 100);
        assert_eq!(stay.end(None, &[], 100, false), 10);
        assert_eq!(stay.end(None, &[], 5, true), 10);
        assert_eq!(stay.end(None, &[40], 100, true), 40);
        let next = Stay::begin(2, span(50, 60));
        assert_eq!(stay.end(Some(&next), &[], 100, true), 50);
        assert_eq!(stay.end(Some(&next), &[], 100, false), 10);
    }

    #[test]
    fn in_whatever_order_coverage_comes_the_stays_are_those_of_all_of_it() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..500 {
            let retired: Vec<i64> =
                (0..rng.random_range(0..3)).map(|_| rng.random_range(0..40) * 10).collect();
            let mut all: Vec<Covered> =
                (0..40).map(|cell| covered(rng.random_range(1..3), cell * 10, cell * 10 + 10)).collect();
            all.retain(|_| rng.random_bool(0.6));
            let expected = rebuild(&[], &all, &retired);
            let mut shuffled = all.clone();
            shuffled.shuffle(&mut rng);
            let (mut stays, mut known) = (Vec::new(), Vec::<Covered>::new());
            for next in shuffled {
                known.push(next);
                known.sort_by_key(|covered| covered.span);
                if extend(&mut stays, &retired, next.tenure, next.span).is_none() {
                    stays = rebuild(&[], &known, &retired);
                }
                assert_eq!(spans(&stays), spans(&rebuild(&[], &known, &retired)));
            }
            assert_eq!(spans(&stays), spans(&expected));
        }
    }
}
