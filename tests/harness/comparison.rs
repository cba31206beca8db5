//! A ledger against the reference: what is missing, what is there twice, and whether rows and charges follow from the
//! windows. It shares no code with the ledger, and says how far off it is rather than only that it is.
//!
//! Constraint: one device's accepted windows by one (node, boot) are one tenure, from the first to the last; holds where
//! no two nodes contend for a device.

use std::collections::{BTreeMap, BTreeSet};

use tonnage_aggregator::model::RowKind;
use tonnage_proto::limits::{SLOT_NS, WINDOW_NS, slot_start};

use crate::books::{Books, Folded, Key};
use crate::reference::{self, Piece};

/// What one kill may cost one device: the open window, and the reading (of at most two periods of a second) that was
/// not worked off.
pub const LOST_MAX_NS: i64 = WINDOW_NS + 2_000_000_000;
/// [`crate::aggregator::PRICES`]: so many nanoseconds cost a nano-dollar.
const NS_PER_NANO: i128 = 1_000;

/// Start and end.
pub type Stretch = (i64, i64);

/// Length of stretches that do not overlap.
#[must_use]
pub fn length_ns(stretches: &[Stretch]) -> i64 {
    stretches.iter().map(|(start_ns, end_ns)| end_ns - start_ns).sum()
}

/// Parts `whole` into what lies in none of `by` and what lies in some. All are sorted; those of `by` may overlap.
#[must_use]
pub fn part(whole: &[Stretch], by: &[Stretch]) -> (Vec<Stretch>, Vec<Stretch>) {
    let (mut outside, mut within) = (Vec::new(), Vec::new());
    for (start_ns, end_ns) in whole {
        let mut at_ns = *start_ns;
        for (from_ns, to_ns) in by.iter().filter(|(from_ns, to_ns)| to_ns > start_ns && from_ns < end_ns) {
            let hit = (at_ns.max(*from_ns), (*end_ns).min(*to_ns));
            if hit.0 < hit.1 {
                outside.push((at_ns, hit.0));
                within.push(hit);
                at_ns = hit.1;
            }
        }
        outside.push((at_ns, *end_ns));
    }
    outside.retain(|(start_ns, end_ns)| start_ns < end_ns);
    (outside, within)
}

/// Stretches of a device that its driver served, joined.
#[must_use]
pub fn served(device: &str, pieces: &[Piece]) -> Vec<Stretch> {
    missing(device, &[], pieces)
}

/// Every window says what the driver served and the scenario knows.
///
/// # Errors
/// The first window that does not.
pub fn same_as_served(device: &str, windows: &[Folded], pieces: &[Piece]) -> anyhow::Result<()> {
    for window in windows {
        let expected = reference::sums(pieces, device, window.start_ns, window.end_ns);
        anyhow::ensure!(
            window.held_ns == expected.held_ns && window.idle_ns == expected.idle_ns,
            "{device}: {window:?} should be {expected:?}"
        );
    }
    Ok(())
}

/// Time that windows (sorted by start) cover more than once.
#[must_use]
pub fn doubled_ns(windows: &[Folded]) -> i64 {
    let (mut until_ns, mut doubled_ns) = (0, 0);
    for window in windows {
        doubled_ns += (until_ns.min(window.end_ns) - window.start_ns).max(0);
        until_ns = until_ns.max(window.end_ns);
    }
    doubled_ns
}

/// Stretches of a device that the driver served and no window (sorted by start) has.
#[must_use]
pub fn missing(device: &str, windows: &[Folded], pieces: &[Piece]) -> Vec<Stretch> {
    let is_missing = |piece: &&Piece| {
        let at = windows.partition_point(|window| window.end_ns <= piece.start_ns);
        windows.get(at).is_none_or(|window| window.start_ns > piece.start_ns)
    };
    let own = pieces.iter().filter(|piece| piece.device == device).filter(is_missing);
    let lost: BTreeSet<Stretch> = own.map(|piece| (piece.start_ns, piece.end_ns)).collect();
    let mut joined: Vec<Stretch> = Vec::new();
    for (start_ns, end_ns) in lost {
        match joined.last_mut() {
            Some(last) if last.1 == start_ns => last.1 = end_ns,
            _ => joined.push((start_ns, end_ns)),
        }
    }
    joined
}

/// What is missing, by the kill that explains it.
#[derive(Debug, Clone, Default)]
pub struct Losses {
    /// Time of the kill, and the one stretch before it.
    pub by_kill: BTreeMap<i64, Stretch>,
    /// Not followed by a kill, or the second stretch before one.
    pub unexplained: Vec<Stretch>,
}

impl Losses {
    /// Most that one kill cost.
    #[must_use]
    pub fn longest_ns(&self) -> i64 {
        self.by_kill.values().map(|(start_ns, end_ns)| end_ns - start_ns).max().unwrap_or(0)
    }
}

/// Lays each missing stretch to the next kill of its node's agent (sorted); `kills` may name a time more than once.
#[must_use]
pub fn by_kill(missing: &[Stretch], kills: &[i64]) -> Losses {
    let mut losses = Losses::default();
    for stretch in missing {
        match kills.iter().find(|kill| **kill >= stretch.1) {
            Some(kill) if !losses.by_kill.contains_key(kill) => drop(losses.by_kill.insert(*kill, *stretch)),
            _ => losses.unexplained.push(*stretch),
        }
    }
    losses
}

/// The stored rows beside what they should be.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Slots that have rows.
    pub slots: usize,
    pub unobserved_ns: i128,
    /// By how much charges are off, over all rows.
    pub lost_nanos: i128,
    /// What is wrong, row by row.
    pub wrong: Vec<String>,
}

/// Slots are what these windows sum to; the rest of existence is unobserved; each row costs what its time costs, and
/// all rows of a slot and tenure cost what its existence costs.
#[must_use]
pub fn rows(books: &Books, windows: &BTreeMap<String, Vec<Folded>>) -> Rows {
    let mut expected: BTreeMap<Key, i128> = BTreeMap::new();
    let mut prices: BTreeMap<(i64, String, i64), i128> = BTreeMap::new();
    for (device, windows) in windows {
        for tenure in tenures(windows) {
            add_tenure(&mut expected, &mut prices, device, &tenure);
        }
    }
    let mut rows = Rows {
        slots: prices.keys().map(|(slot, ..)| slot).collect::<BTreeSet<_>>().len(),
        ..Rows::default()
    };
    let keys: BTreeSet<&Key> = expected.keys().chain(books.slots.keys()).collect();
    for key in keys {
        let (slot, device, tenure, kind, owner) = key;
        let (is, should) = (books.slots.get(key).copied().unwrap_or_default(), expected.get(key).copied());
        let should_ns = should.unwrap_or_default();
        let price = prices.entry((*slot, device.clone(), *tenure)).or_default();
        *price -= is.cost_nanos;
        let charge = if *kind == RowKind::Rounding { is.cost_nanos } else { should_ns / NS_PER_NANO };
        rows.lost_nanos += (is.cost_nanos - charge).abs();
        if *kind == RowKind::Unobserved {
            rows.unobserved_ns += is.time_ns;
        }
        if is.time_ns != should_ns || is.cost_nanos != charge || is.unpriced_ns != 0 {
            rows.wrong.push(format!("{slot} {device} {kind:?} {owner:?}: {is:?}, should be {should_ns} ns"));
        }
    }
    for ((slot, device, _), left) in prices.iter().filter(|(_, left)| **left != 0) {
        rows.lost_nanos += left.abs();
        rows.wrong.push(format!("{slot} {device}: its charges are {left} off its price"));
    }
    rows
}

/// Windows of one node in one of its lives, in the order of their first ones.
fn tenures(windows: &[Folded]) -> Vec<Vec<&Folded>> {
    let mut tenures: Vec<Vec<&Folded>> = Vec::new();
    for window in windows {
        match tenures.iter_mut().find(|tenure| tenure[0].place == window.place) {
            Some(tenure) => tenure.push(window),
            None => tenures.push(vec![window]),
        }
    }
    tenures
}

fn add_tenure(
    expected: &mut BTreeMap<Key, i128>,
    prices: &mut BTreeMap<(i64, String, i64), i128>,
    device: &str,
    windows: &[&Folded],
) {
    let from_ns = windows.iter().map(|window| window.start_ns).min().unwrap_or(0);
    let to_ns = windows.iter().map(|window| window.end_ns).max().unwrap_or(0);
    let mut add = |at_ns: i64, kind: RowKind, owner: &str, time_ns: i64| {
        let key = (slot_start(at_ns), device.to_owned(), from_ns, kind, owner.to_owned());
        *expected.entry(key).or_default() += i128::from(time_ns);
    };
    let mut slot = slot_start(from_ns);
    while slot < to_ns {
        let existence_ns = to_ns.min(slot + SLOT_NS) - from_ns.max(slot);
        add(slot, RowKind::Unobserved, "", existence_ns);
        prices.insert((slot, device.to_owned(), from_ns), i128::from(existence_ns) / NS_PER_NANO);
        slot += SLOT_NS;
    }
    for window in windows {
        let at_ns = window.start_ns;
        add(at_ns, RowKind::Unobserved, "", at_ns - window.end_ns);
        add(at_ns, RowKind::Idle, "", window.idle_ns);
        window.held_ns.iter().for_each(|(owner, held_ns)| add(at_ns, RowKind::Held, owner, *held_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start_ns: i64, end_ns: i64) -> Folded {
        Folded { start_ns, end_ns, ..Folded::default() }
    }

    fn piece(start_ns: i64, end_ns: i64) -> Piece {
        Piece { device: "d".to_owned(), start_ns, end_ns, owner: None, held_ns: end_ns - start_ns }
    }

    #[test]
    fn what_is_covered_twice_is_counted_once_for_each_time_too_many() {
        assert_eq!(doubled_ns(&[window(0, 10), window(10, 20)]), 0);
        assert_eq!(doubled_ns(&[window(0, 10), window(5, 20), window(6, 8)]), 5 + 2);
    }

    #[test]
    fn stretches_that_were_served_and_are_in_no_window_are_missing_whole() {
        let pieces: Vec<Piece> = (0..10).map(|n| piece(n * 10, n * 10 + 10)).collect();
        assert_eq!(missing("d", &[window(0, 30), window(50, 60)], &pieces), [(30, 50), (60, 100)]);
        assert_eq!(missing("d", &[window(0, 100)], &pieces), []);
        assert_eq!(missing("other", &[], &pieces), []);
    }

    #[test]
    fn what_is_parted_is_the_whole() {
        let (outside, within) = part(&[(0, 10), (20, 30)], &[(5, 25), (6, 7)]);
        assert_eq!((outside, within), (vec![(0, 5), (25, 30)], vec![(5, 10), (20, 25)]));
        assert_eq!(part(&[(0, 10)], &[]), (vec![(0, 10)], vec![]));
    }

    #[test]
    fn a_loss_without_a_kill_and_a_second_one_by_the_same_kill_are_unexplained() {
        let losses = by_kill(&[(0, 10), (20, 30), (50, 60)], &[35]);
        assert_eq!(losses.by_kill, BTreeMap::from([(35, (0, 10))]));
        assert_eq!(losses.unexplained, [(20, 30), (50, 60)]);
    }
}
