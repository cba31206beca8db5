//! Which rows of an answer are shown, in what order, and what becomes of the others. Pure.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use tonnage_proto::rest::sentinel;

use crate::api::error::{ApiError, quoted};
use crate::store::query::{Group, Sums};

/// What rows are ordered by: the most first, but names from `a` on. What is equal is ordered by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    #[default]
    Cost,
    HeldCost,
    IdleCost,
    UnobservedCost,
    HeldSeconds,
    BusySeconds,
    IdleSeconds,
    UnobservedSeconds,
    EnergyJoules,
    Name,
}

impl Order {
    pub(super) const ALL: [(Self, &'static str); 10] = [
        (Self::Cost, "cost"),
        (Self::HeldCost, "held_cost"),
        (Self::IdleCost, "idle_cost"),
        (Self::UnobservedCost, "unobserved_cost"),
        (Self::HeldSeconds, "held_seconds"),
        (Self::BusySeconds, "busy_seconds"),
        (Self::IdleSeconds, "idle_seconds"),
        (Self::UnobservedSeconds, "unobserved_seconds"),
        (Self::EnergyJoules, "energy_joules"),
        (Self::Name, "name"),
    ];

    /// The value of an `order`.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let known = Self::ALL.into_iter().find(|(_, name)| *name == text);
        known.map(|(order, _)| order).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name).join(", ");
            ApiError::invalid("order", format!("order {:?} is not known; use {names}", quoted(text)))
        })
    }

    fn of(self, sums: &Sums) -> i128 {
        match self {
            Self::Cost => sums.cost_nanos(),
            Self::HeldCost => sums.held_cost_nanos,
            Self::IdleCost => sums.idle_cost_nanos,
            Self::UnobservedCost => sums.unobserved_cost_nanos,
            Self::HeldSeconds => sums.held.ns(),
            Self::BusySeconds => sums.busy.ns(),
            Self::IdleSeconds => sums.idle.ns(),
            Self::UnobservedSeconds => sums.unobserved.ns(),
            Self::EnergyJoules => sums.energy_uj,
            Self::Name => 0,
        }
    }

    fn compare(self, a: &Group, b: &Group) -> Ordering {
        self.of(&b.sums).cmp(&self.of(&a.sums)).then_with(|| a.key.cmp(&b.key))
    }
}

/// A part of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) order: Order,
    /// Rows on the pages before.
    pub(super) skip: usize,
    pub(super) limit: usize,
}

/// The rows of one page. The sum of the rows behind it is one row at its end, so that all pages' rows but these sum to
/// everything.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Group>,
    /// Rows on this page and those before it, if there are more.
    pub(super) next: Option<usize>,
}

/// Cuts a page of owners, and likewise a page of what nobody held: it does not count as an owner.
pub(super) fn arrange(groups: Vec<Group>, width: usize, view: View) -> Page {
    let View { order, skip, limit } = view;
    let (sentinels, owners): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.sentinel);
    let mut rows = Vec::new();
    let mut other: Option<Group> = None;
    for mut part in [owners, sentinels] {
        part.sort_by(|a, b| order.compare(a, b));
        let mut behind = part.into_iter().skip(skip);
        rows.extend(behind.by_ref().take(limit));
        behind.for_each(|group| add_other(&mut other, width, &group.sums));
    }
    rows.sort_by(|a, b| order.compare(a, b));
    let next = other.is_some().then_some(skip.saturating_add(limit));
    rows.extend(other);
    Page { rows, next }
}

/// The rows of a step in the order of the `shown` ones of the whole; all that is not shown there is one row at the end.
pub(super) fn follow(groups: Vec<Group>, width: usize, shown: &[Group]) -> Vec<Group> {
    let kept: HashSet<(bool, &[String])> =
        shown.iter().map(|row| (row.sentinel, row.key.as_slice())).collect();
    let mut found = HashMap::new();
    let mut other: Option<Group> = None;
    for group in groups {
        if kept.contains(&(group.sentinel, group.key.as_slice())) {
            found.insert((group.sentinel, group.key.clone()), group);
        } else {
            add_other(&mut other, width, &group.sums);
        }
    }
    let mut rows: Vec<Group> =
        shown.iter().filter_map(|row| found.remove(&(row.sentinel, row.key.clone()))).collect();
    rows.extend(other);
    rows
}

fn add_other(other: &mut Option<Group>, width: usize, sums: &Sums) {
    let key = || vec![sentinel::OTHER.to_owned(); width];
    let other = other.get_or_insert_with(|| Group { key: key(), sentinel: true, sums: Sums::default() });
    other.sums.add(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(key: &str, cost: i128, sentinel: bool) -> Group {
        let sums = Sums { held_cost_nanos: cost, energy_uj: -cost, ..Sums::default() };
        Group { key: vec![key.to_owned()], sentinel, sums }
    }

    fn groups() -> Vec<Group> {
        vec![
            group("b", 3, false),
            group("a", 3, false),
            group("c", 2, false),
            group("d", 1, false),
            group("__idle__", 9, true),
        ]
    }

    fn shown(rows: &[Group]) -> Vec<(&str, i128)> {
        rows.iter().map(|g| (g.key[0].as_str(), g.sums.held_cost_nanos)).collect()
    }

    const VIEW: View = View { order: Order::Cost, skip: 0, limit: 2 };

    #[test]
    fn rows_beyond_the_limit_are_one_row_so_that_the_sum_still_holds() {
        let page = arrange(groups(), 1, VIEW);
        assert_eq!(shown(&page.rows), [("__idle__", 9), ("a", 3), ("b", 3), ("__other__", 3)]);
        assert_eq!(page.next, Some(2));
    }

    #[test]
    fn pages_show_each_row_once_and_end() {
        let second = arrange(groups(), 1, View { skip: 2, ..VIEW });
        assert_eq!(shown(&second.rows), [("c", 2), ("d", 1)]);
        assert_eq!(second.next, None);
        assert_eq!(arrange(groups(), 1, View { skip: 9, ..VIEW }).rows, []);
    }

    #[test]
    fn an_order_has_the_most_first_and_names_from_a_on() {
        let by = |order| {
            let page = arrange(groups(), 1, View { order, skip: 0, limit: 9 });
            page.rows.into_iter().map(|row| row.key[0].clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(by(Order::parse("cost").unwrap()), "__idle__ a b c d");
        assert_eq!(by(Order::parse("energy_joules").unwrap()), "d c a b __idle__");
        assert_eq!(by(Order::parse("name").unwrap()), "__idle__ a b c d");
        let error = Order::parse("price").unwrap_err().answer("x").error;
        assert!(error.message.contains("\"price\" is not known; use cost, held_cost"), "{}", error.message);
    }

    #[test]
    fn a_step_has_the_rows_of_the_whole_and_the_rest_in_one() {
        let page = arrange(groups(), 1, VIEW);
        let step = vec![group("d", 7, false), group("b", 5, false), group("__idle__", 1, false)];
        // An owner of that name is not what nobody held.
        assert_eq!(shown(&follow(step, 1, &page.rows)), [("b", 5), ("__other__", 8)]);
    }
}
