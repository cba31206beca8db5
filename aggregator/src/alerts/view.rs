//! The ledger as the rules see it, read of one moment.

use tonnage_proto::limits::{DAY_NS, SLOT_NS, slot_start};

use super::judge::pace::Wanted;
use super::judge::{GrantView, LimitView, View};
use crate::budgets::Award;
use crate::budgets::grant::Standing;
use crate::metrics::budgets::Balances;
use crate::store::query::{self, CostQuery, QueryError, cost};
use crate::store::{Connection, StoreError, budgets, grants as stored, quarantine};

mod paces;

use paces::Paces;

/// `balances`: as they are shown everywhere.
///
/// # Errors
/// If the store fails.
pub fn view(
    db: &Connection,
    balances: Balances,
    currency: String,
    (wanted, now_ns): (&Wanted, i64),
) -> Result<View, StoreError> {
    let slots = (slot_start(now_ns) + SLOT_NS - DAY_NS, slot_start(now_ns) + SLOT_NS);
    let tree = budgets::tree(db)?;
    let mut usages = budgets::Usages::default();
    let unassigned = budgets::unassigned(db, &tree, &mut usages, slots, now_ns)?;
    let all = CostQuery { ranges: query::ranges(slots.0, slots.1), ..CostQuery::default() };
    let totals = match cost(db, &all, || false) {
        Ok(found) => found.totals,
        Err(QueryError::Store(error)) => return Err(error),
        Err(QueryError::Expired | QueryError::TooManyGroups) => return Err(StoreError::Interrupted),
    };
    let held: i64 = quarantine::held_counts(db)?.iter().map(|(_, windows)| windows).sum();
    let mut paces = Paces::new(db, &tree, &mut usages, now_ns);
    let mut limits = Vec::new();
    for balance in balances.rows {
        let Some(limit_nanos) = balance.limit_nanos else { continue };
        limits.push(LimitView {
            pace: paces.of(&balance, wanted)?,
            account: balance.account,
            period: balance.period,
            partition: balance.partition,
            model: balance.model,
            start_ns: balance.start_ns.unwrap_or_default(),
            limit_nanos,
            charged_nanos: balance.charged_nanos,
            held_nanos: balance.held_nanos,
        });
    }
    paces.end();
    Ok(View {
        now_ns,
        limits,
        grants: grants(db, now_ns)?,
        unassigned_nanos: unassigned.values().sum(),
        unpriced: totals.unpriced,
        quarantined_windows: held,
        currency,
    })
}

fn grants(db: &Connection, now_ns: i64) -> Result<Vec<GrantView>, StoreError> {
    let awards = stored::awards(db)?;
    let go_on = awards
        .iter()
        .filter(|award| matches!(award.standing(now_ns), Standing::Active | Standing::Suspended));
    let view = |award: &Award| {
        let end_ns = award.grant.span_ns().1;
        let (number, account) = (award.grant.number.clone(), award.grant.account.clone());
        GrantView { number, account, end_ns, left_ns: end_ns - now_ns }
    };
    Ok(go_on.map(view).collect())
}
