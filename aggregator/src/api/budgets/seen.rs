//! The ledger as a question about accounts sees it: who is whose, what is reserved, and sums of periods as they are asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::budgets::allocation::Schedule;
use crate::budgets::available::Sums;
use crate::budgets::period::{Period, Unit};
use crate::budgets::{Account, Limit, Standing, Tree};
use crate::metrics::allocations::{ACCOUNTS_MAX, Allocated, Allocations};
use crate::metrics::budgets::{Balance, Balances, LIMITS_MAX, PERIODS_MAX};
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
        let spent = Spent { now_ns, sums: HashMap::new(), usages: stored::Usages::new() };
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

/// Balances for the metrics, of accounts in the order in which they were made.
///
/// # Errors
/// If the store fails.
pub fn balances(db: &Connection, now_ns: i64) -> Result<Balances, StoreError> {
    let (mut seen, open_holds) = Seen::with(db, now_ns, stored::tree(db)?)?;
    let mut found = Balances { open_holds, ..Balances::default() };
    let Seen { tree, reserved, spent, .. } = &mut seen;
    for account in tree.accounts() {
        let standing = Tree::standing(account, now_ns);
        found.accounts[standing as usize] += 1;
        if standing != Standing::Closed {
            add(db, &mut found, account, (tree, reserved, spent))?;
            allocated(&mut found.allocations, account, now_ns);
        }
    }
    let all = stored::unassigned(db, tree, &mut spent.usages, (0, i64::MAX), now_ns)?;
    found.unassigned_nanos = all.values().sum();
    Ok(found)
}

/// Adds an account's own limits, or what it spent and holds if it has none.
fn add(
    db: &Connection,
    found: &mut Balances,
    account: &Account,
    (tree, reserved, spent): (&Tree, &Sums, &mut Spent),
) -> Result<(), StoreError> {
    let life = [Limit { amount_nanos: 0, period: Period::Lifetime, partition: None, model: None }];
    let limited = !account.spec.limits.is_empty();
    let limits = if limited { &account.spec.limits[..] } else { &life[..] };
    for (index, limit) in limits.iter().enumerate() {
        let now_ns = spent.now_ns;
        let span_ns = limit.period.span(now_ns, account.spec.starts_ns);
        let known = spent.sums.contains_key(&span_ns) || spent.sums.len() < PERIODS_MAX;
        if found.rows.len() >= LIMITS_MAX || !known {
            found.hidden += 1;
            continue;
        }
        let sums = spent.of(db, tree, span_ns)?;
        found.rows.push(Balance {
            of: (account.id, index),
            account: account.spec.name.clone(),
            period: period(&limit.period),
            start_ns: matches!(limit.period, Period::Calendar { .. }).then_some(span_ns.0),
            partition: limit.partition.clone().unwrap_or_default(),
            model: limit.model.clone().unwrap_or_default(),
            limit_nanos: limited.then(|| account.spec.amount_nanos(limit, now_ns)),
            charged_nanos: sums.of(account.id, |partition, model| limit.counts(partition, model)),
            held_nanos: reserved.of(account.id, |partition, model| limit.reserves(partition, model)),
        });
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
