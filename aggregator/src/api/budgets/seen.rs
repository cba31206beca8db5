//! The ledger as a question about accounts sees it: who is whose, what is reserved, and sums of periods as they are asked for.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tonnage_proto::limits::{SLOT_NS, slot_start};

use crate::budgets::allocation::Schedule;
use crate::budgets::available::Sums;
use crate::budgets::period::{Period, Unit};
use crate::budgets::{Account, Limit, Standing, Tree};
use crate::metrics::allocations::{ACCOUNTS_MAX, Allocated, Allocations};
use crate::metrics::budgets::{Balance, Balances};
use crate::store::{Connection, StoreError, budgets as stored};

type Span = (i64, i64);

/// See the module.
pub(super) struct Seen {
    pub(super) now_ns: i64,
    pub(super) tree: Tree,
    pub(super) reserved: Sums,
    pub(super) spent: Spent,
}

/// Sums of periods, each read once.
pub(super) struct Spent {
    now_ns: i64,
    sums: HashMap<Span, Sums>,
    usages: stored::Usages,
}

impl Seen {
    pub(super) fn read(db: &Connection, now_ns: i64) -> Result<Self, StoreError> {
        Self::with(db, now_ns, stored::tree(db)?).map(|(seen, _)| seen)
    }

    /// And how many holds are open.
    fn with(db: &Connection, now_ns: i64, tree: Tree) -> Result<(Self, usize), StoreError> {
        let mut reserved = Sums::default();
        let open = stored::open_holds(db)?;
        for hold in &open {
            let of = (hold.ask.partition.as_str(), hold.ask.model.as_str());
            reserved.add(&tree, hold.account, of, hold.reserved_nanos());
        }
        let spent = Spent { now_ns, sums: HashMap::new(), usages: stored::Usages::default() };
        Ok((Self { now_ns, tree, reserved, spent }, open.len()))
    }
}

impl Spent {
    pub(super) fn of(&mut self, db: &Connection, tree: &Tree, span_ns: Span) -> Result<&Sums, StoreError> {
        Ok(match self.sums.entry(span_ns) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                free.insert(stored::spent(db, tree, &mut self.usages, span_ns, self.now_ns)?)
            }
        })
    }
}

/// How all limits stand, for the metrics and for the rules of alerts; of accounts in the order in which they were made.
///
/// # Errors
/// If the store fails.
pub fn balances(db: &Connection, now_ns: i64) -> Result<Balances, StoreError> {
    let (mut seen, open_holds) = Seen::with(db, now_ns, stored::tree(db)?)?;
    let mut found = Balances { open_holds, ..Balances::default() };
    let Seen { tree, reserved, spent, .. } = &mut seen;
    let mut asked = Vec::new();
    for account in tree.accounts() {
        let standing = Tree::standing(account, now_ns);
        found.accounts[standing as usize] += 1;
        if standing != Standing::Closed {
            add((&mut found, &mut asked), account, reserved, now_ns);
            allocated(&mut found.allocations, account, now_ns);
        }
    }
    charge(db, &mut found, asked, (tree, &mut spent.usages, now_ns))?;
    let all = stored::unassigned(db, tree, &mut spent.usages, (0, i64::MAX), now_ns)?;
    found.unassigned_nanos = all.values().sum();
    Ok(found)
}

/// A row whose charges are asked for: its place, and its period.
struct Row {
    at: usize,
    span_ns: Span,
    limit: Limit,
}

/// Adds an account's own limits, or what it holds if it has none. What they spent is asked for.
fn add((found, asked): (&mut Balances, &mut Vec<Row>), account: &Account, reserved: &Sums, now_ns: i64) {
    let life = [Limit { amount_nanos: 0, period: Period::Lifetime, partition: None, model: None }];
    let limited = !account.spec.limits.is_empty();
    let limits = if limited { &account.spec.limits[..] } else { &life[..] };
    for (index, limit) in limits.iter().enumerate() {
        let span_ns = limit.period.span(now_ns, account.spec.starts_ns);
        asked.push(Row { at: found.rows.len(), span_ns, limit: limit.clone() });
        found.rows.push(Balance {
            of: (account.id, index),
            account: account.spec.name.clone(),
            period: period(&limit.period),
            start_ns: matches!(limit.period, Period::Calendar { .. }).then_some(span_ns.0),
            partition: limit.partition.clone().unwrap_or_default(),
            model: limit.model.clone().unwrap_or_default(),
            limit_nanos: limited.then(|| account.spec.amount_nanos(limit, now_ns)),
            charged_nanos: 0,
            held_nanos: reserved.of(account.id, |partition, model| limit.reserves(partition, model)),
        });
    }
}

/// What was charged in the period of each row. The ledger is gone through once, backwards, however many periods there are: that of a
/// period which began earlier is that of a later one and what lies between their starts.
fn charge(
    db: &Connection,
    found: &mut Balances,
    asked: Vec<Row>,
    (tree, usages, now_ns): (&Tree, &mut stored::Usages, i64),
) -> Result<(), StoreError> {
    // Nothing is charged later than that, so that only periods about to end have ends of their own.
    let latest_ns = slot_start(now_ns) + 2 * SLOT_NS;
    let mut by_end: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    for row in asked {
        by_end.entry(row.span_ns.1.min(latest_ns)).or_default().push(row);
    }
    for (end_ns, mut rows) in by_end {
        rows.sort_by_key(|row| Reverse(row.span_ns.0));
        let (mut sums, mut from_ns) = (Sums::default(), end_ns);
        for Row { at, span_ns, limit } in rows {
            if span_ns.0 < from_ns {
                sums.merge(stored::spent(db, tree, usages, (span_ns.0, from_ns), now_ns)?);
                from_ns = span_ns.0;
            }
            let row = &mut found.rows[at];
            row.charged_nanos = sums.of(row.of.0, |partition, model| limit.counts(partition, model));
        }
    }
    Ok(())
}

/// Adds what has come by an account's schedules.
fn allocated(found: &mut Allocations, account: &Account, now_ns: i64) {
    let schedules = &account.spec.schedules;
    for schedule in schedules {
        found.schedules[schedule.standing(now_ns) as usize] += 1;
        found.parts[usize::from(!schedule.automatic)] += schedule.parts_come(now_ns);
    }
    if schedules.is_empty() {
        return;
    }
    if found.rows.len() >= ACCOUNTS_MAX {
        found.hidden += 1;
        return;
    }
    let sum =
        |nanos: fn(&Schedule, i64) -> i64| schedules.iter().map(|of| i128::from(nanos(of, now_ns))).sum();
    found.rows.push(Allocated {
        account: account.spec.name.clone(),
        allocated_nanos: sum(Schedule::allocated_nanos),
        due_nanos: sum(Schedule::due_nanos),
        next_ns: schedules.iter().filter_map(|of| of.next_ns(now_ns)).min(),
    });
}

fn period(period: &Period) -> String {
    match period {
        Period::Calendar { unit, .. } => match unit {
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
            Unit::Quarter => "quarter",
            Unit::Year => "year",
        }
        .to_owned(),
        Period::Rolling { days } => format!("rolling_{days}d"),
        Period::Lifetime => "lifetime".to_owned(),
    }
}
