//! How fast limits are spent, read of the ledger for the rules that ask.
//!
//! Windows end with the last slot that is over: that of now would make each look slower than it is. Limit: so many sums over the
//! ledger for one look; windows and days of limits beyond that are left out.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tonnage_proto::limits::{DAY_NS, HOUR_NS, slot_start};

use crate::alerts::judge::pace::{Pace, Wanted};
use crate::budgets::available::Sums;
use crate::budgets::period::Period;
use crate::budgets::{Tree, burn};
use crate::metrics::budgets::Balance;
use crate::store::{Connection, StoreError, budgets};

/// Periods and accounts that begin in different slots have sums of their own.
const SUMS_MAX: usize = 200;
/// Whole days that a forecast is made from, as `tonnage forecast` shows it unless told otherwise.
const DAYS: i64 = 30;

/// Sums as they are asked for, each read once.
pub(super) struct Paces<'a> {
    db: &'a Connection,
    tree: &'a Tree,
    usages: &'a mut budgets::Usages,
    now_ns: i64,
    sums: HashMap<(i64, i64), Sums>,
    /// Sums that were one too many.
    left_out: usize,
}

impl<'a> Paces<'a> {
    pub(super) fn new(
        db: &'a Connection,
        tree: &'a Tree,
        usages: &'a mut budgets::Usages,
        now_ns: i64,
    ) -> Self {
        Self { db, tree, usages, now_ns, sums: HashMap::new(), left_out: 0 }
    }

    /// Of the limit of a balance; `None` if it is not there.
    pub(super) fn of(&mut self, balance: &Balance, wanted: &Wanted) -> Result<Option<Pace>, StoreError> {
        let (tree, now_ns) = (self.tree, self.now_ns);
        let (id, index) = balance.of;
        let Some(account) = tree.by_id(id).filter(|_| !wanted.nothing()) else { return Ok(None) };
        let Some(limit) = account.spec.limits.get(index) else { return Ok(None) };
        let (start_ns, length_ns, end_ns) = match limit.period {
            // It has no beginning and no end, but a rate.
            Period::Rolling { days } => (0, Some(i64::from(days) * DAY_NS), None),
            Period::Calendar { .. } | Period::Lifetime => {
                let (start_ns, end_ns) = burn::term(account, limit, now_ns);
                (start_ns.max(0), end_ns.and_then(|end_ns| end_ns.checked_sub(start_ns)), end_ns)
            }
        };
        let mut sum = |span_ns| {
            let sums = self.sums(span_ns)?;
            Ok::<_, StoreError>(
                sums.map(|sums| sums.of(id, |partition, model| limit.counts(partition, model))),
            )
        };
        let mut windows_nanos = BTreeMap::new();
        let until_ns = slot_start(now_ns);
        for hours in wanted.windows_hours.iter().copied().filter(|_| length_ns.is_some()) {
            // What was charged before the period began is not of this limit.
            let from_ns = (until_ns - hours * HOUR_NS).max(slot_start(start_ns));
            if let Some(nanos) = sum((from_ns, until_ns))? {
                windows_nanos.insert(hours, nanos);
            }
        }
        let today_ns = now_ns - now_ns.rem_euclid(DAY_NS);
        let first_ns = burn::first_day_ns(account, now_ns, DAYS);
        let is_forecast = wanted.days && !matches!(limit.period, Period::Rolling { .. });
        let day_nanos = match i128::from((today_ns - first_ns) / DAY_NS) {
            count @ 1.. if is_forecast => sum((first_ns, today_ns))?.map(|nanos| nanos.div_euclid(count)),
            _ => None,
        };
        let parts = account.spec.coming(limit, (now_ns, burn::horizon_ns(now_ns, end_ns)));
        Ok(Some(Pace { length_ns, end_ns, windows_nanos, parts, day_nanos }))
    }

    /// Says in the log what was left out.
    pub(super) fn end(self) {
        if self.left_out > 0 {
            let (left_out, most) = (self.left_out, SUMS_MAX);
            tracing::warn!(
                left_out,
                most,
                "Rules of how fast limits are spent left some out: they began at too many times."
            );
        }
    }

    /// `None` if it is one too many.
    fn sums(&mut self, span_ns: (i64, i64)) -> Result<Option<&Sums>, StoreError> {
        let count = self.sums.len();
        Ok(match self.sums.entry(span_ns) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if count >= SUMS_MAX => {
                self.left_out += 1;
                None
            }
            Entry::Vacant(free) => {
                Some(free.insert(budgets::spent(self.db, self.tree, self.usages, span_ns, self.now_ns)?))
            }
        })
    }
}
