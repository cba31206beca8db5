//! Where a device was, and when: the tenures of one device, and what new coverage does to them.
//!
//! Constraint: tenures of one device never overlap. So coverage under another node or boot that reaches into one
//! is not placed at all; its window is quarantined.

use super::coverage::Interval;

/// Who holds a device: a node in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub node: i64,
    /// The cloud's instance id where there is one, else the boot id.
    pub life: String,
}

/// One stay of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    pub id: i64,
    pub place: Place,
    pub span: Interval,
}

/// What coverage means for the tenures of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It lies in the tenure at this position, which it may extend to its end.
    In(usize),
    /// It begins a new tenure, behind all others.
    New,
    /// It reaches into the tenure at this position, or lies before it, and is not that tenure's.
    Against(usize),
}

/// Places `coverage` by `place` among `tenures`, which are sorted by time.
#[must_use]
pub fn place(tenures: &[Tenure], place: &Place, coverage: Interval) -> Placed {
    let own = tenures.iter().rposition(|t| t.place == *place && t.span.start_ns <= coverage.start_ns);
    if let Some(own) = own {
        return match tenures.get(own + 1) {
            Some(next) if coverage.end_ns > next.span.start_ns => Placed::Against(own + 1),
            _ => Placed::In(own),
        };
    }
    match tenures.iter().rposition(|t| coverage.start_ns < t.span.end_ns) {
        Some(at) => Placed::Against(at),
        None => Placed::New,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(node: i64, boot: &str, start_ns: i64, end_ns: i64) -> Tenure {
        let place = Place { node, life: boot.into() };
        Tenure { id: start_ns, place, span: Interval { start_ns, end_ns } }
    }

    fn placed(tenures: &[Tenure], node: i64, boot: &str, start_ns: i64, end_ns: i64) -> Placed {
        let at = Place { node, life: boot.into() };
        place(tenures, &at, Interval { start_ns, end_ns })
    }

    #[test]
    fn the_same_boot_extends_its_tenure_across_a_gap() {
        let tenures = [stay(1, "a", 0, 10)];
        assert_eq!(placed(&tenures, 1, "a", 50, 60), Placed::In(0));
        assert_eq!(placed(&tenures, 1, "a", 3, 6), Placed::In(0));
    }

    #[test]
    fn another_boot_or_node_begins_a_tenure_only_behind_the_last() {
        let tenures = [stay(1, "a", 0, 10)];
        assert_eq!(placed(&tenures, 1, "b", 10, 20), Placed::New);
        assert_eq!(placed(&tenures, 2, "x", 12, 20), Placed::New);
        assert_eq!(placed(&tenures, 2, "x", 9, 20), Placed::Against(0));
    }

    #[test]
    fn late_data_of_an_old_tenure_fits_until_the_next_one_begins() {
        let tenures = [stay(1, "a", 0, 10), stay(2, "x", 30, 40)];
        assert_eq!(placed(&tenures, 1, "a", 10, 30), Placed::In(0));
        assert_eq!(placed(&tenures, 1, "a", 20, 31), Placed::Against(1));
        assert_eq!(placed(&tenures, 1, "a", 40, 50), Placed::Against(1));
    }

    #[test]
    fn what_lies_before_the_first_tenure_is_not_placed() {
        assert_eq!(placed(&[stay(1, "a", 100, 110)], 1, "a", 0, 10), Placed::Against(0));
        assert_eq!(placed(&[], 1, "a", 0, 10), Placed::New);
    }
}
