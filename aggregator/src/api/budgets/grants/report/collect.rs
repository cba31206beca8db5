//! What a grant's account and all below it used in a window, in the groups of a report. Read piece by piece: pieces end where
//! months, periods and closed slots do, so that each lies in one of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::ToSpan as _;
use jiff::tz::TimeZone;

use super::Wanted;
use crate::api::cost::ranges;
use crate::budgets::{Award, Tree};
use crate::model::Teams;
use crate::store::query::{self, CostQuery, Described, Dimension, Kept, QueryError, Sums};
use crate::store::{Connection, audit, budgets as stored};

/// By what a group is told, in the order of its key.
const BY: [Dimension; 5] =
    [Dimension::Budget, Dimension::User, Dimension::Partition, Dimension::Model, Dimension::Kind];

/// Sums, and what of their cost is of slots that are not closed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) sums: Sums,
    pub(super) open_nanos: i128,
}

impl Spent {
    fn add(&mut self, sums: &Sums, is_open: bool) {
        self.sums.add(sums);
        self.open_nanos += if is_open { sums.charged_nanos() } else { 0 };
    }
}

/// All groups, by their names.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) totals: Spent,
    /// Of all GPUs of the ledger, whoever had them.
    pub(super) devices: Sums,
    pub(super) periods: BTreeMap<i64, Spent>,
    /// By year and month.
    pub(super) months: BTreeMap<(i16, i8), Spent>,
    pub(super) accounts: BTreeMap<String, Spent>,
    pub(super) users: BTreeMap<String, Spent>,
    /// By partition and model.
    pub(super) resources: BTreeMap<(String, String), Spent>,
    /// By what kind of owner held them.
    pub(super) evidence: BTreeMap<String, Spent>,
    pub(super) closed_until_ns: i64,
}

pub(super) fn collect(
    db: &Connection,
    award: &Award,
    wanted: &Wanted,
    kept: &Kept,
    expired: &dyn Fn() -> bool,
) -> Result<Found, QueryError> {
    let tree = Arc::new(stored::tree(db)?);
    let below = below(&tree, &award.grant.account);
    let closed_until_ns = audit::closed_until(db)?;
    let mut found = Found { closed_until_ns, ..Found::default() };
    let periods = award.grant.periods();
    let pays = award.pays_ns();
    // Whose a pod's usage is, where labels bind.
    let described = match tree.is_by_labels() {
        true => query::described(db, wanted.window_ns, &Teams::default(), expired)?,
        false => Described::default(),
    };
    for (from_ns, to_ns) in pieces(award, wanted, closed_until_ns) {
        let (tree, described) = (Arc::clone(&tree), described.clone());
        let mut query = CostQuery { by: BY.to_vec(), tree, described, ..CostQuery::default() };
        query.ranges = ranges(&query, (from_ns, to_ns), kept);
        let groups = query::cost(db, &query, expired)?;
        found.devices.add(&groups.totals);
        let is_open = from_ns >= closed_until_ns;
        let period = periods.iter().find(|period| period.has(from_ns)).map_or(0, |period| period.number);
        let month = month(from_ns);
        let paid = (pays.0..pays.1).contains(&from_ns);
        for group in groups.groups {
            let [account, user, partition, model, kind] = match <[String; 5]>::try_from(group.key) {
                Ok(key) if paid && below.contains(&key[0]) => key,
                _ => continue,
            };
            let sums = &group.sums;
            found.totals.add(sums, is_open);
            found.periods.entry(period).or_default().add(sums, is_open);
            found.months.entry(month).or_default().add(sums, is_open);
            found.accounts.entry(account).or_default().add(sums, is_open);
            found.users.entry(user).or_default().add(sums, is_open);
            found.resources.entry((partition, model)).or_default().add(sums, is_open);
            found.evidence.entry(kind).or_default().add(sums, is_open);
        }
    }
    Ok(found)
}

/// An account and all below it, by name.
fn below(tree: &Tree, account: &str) -> BTreeSet<String> {
    let is_below = |of: &&crate::budgets::Account| tree.path(of.id).any(|up| up.spec.name == account);
    tree.accounts().filter(is_below).map(|account| account.spec.name.clone()).collect()
}

fn pieces(award: &Award, wanted: &Wanted, closed_until_ns: i64) -> Vec<(i64, i64)> {
    let (from_ns, to_ns) = wanted.window_ns;
    let mut edges = BTreeSet::from([from_ns, to_ns, closed_until_ns, award.pays_ns().1]);
    edges.extend(award.grant.periods().iter().flat_map(|period| [period.start_ns, period.end_ns]));
    edges.extend(months(from_ns, to_ns));
    edges.retain(|edge_ns| (from_ns..=to_ns).contains(edge_ns));
    let edges: Vec<i64> = edges.into_iter().collect();
    edges.windows(2).map(|edge| (edge[0], edge[1])).collect()
}

/// Where months of UTC begin in a window.
fn months(from_ns: i64, to_ns: i64) -> Vec<i64> {
    let (year, of_year) = month(from_ns);
    let first = jiff::civil::Date::new(year, of_year, 1).ok();
    let begin = |count: i64| {
        let date = first?.checked_add(count.months()).ok()?;
        let at = date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_nanosecond();
        i64::try_from(at).ok()
    };
    (0..).map_while(begin).take_while(|at_ns| *at_ns < to_ns).collect()
}

/// The year and the month of a time in UTC.
pub(super) fn month(at_ns: i64) -> (i16, i8) {
    let date = crate::budgets::period::date(at_ns, "UTC");
    date.map_or((0, 0), |date| (date.year(), date.month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_in_a_window_where_the_calendar_has_them() {
        let ns =
            |text: &str| i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap();
        let found = months(ns("2026-11-15T00:00:00Z"), ns("2027-02-01T00:00:00Z"));
        let expected = ["2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"].map(ns);
        assert_eq!(found, expected);
        assert_eq!(month(ns("2026-12-31T23:59:59Z")), (2026, 12));
    }
}
