//! What pods were charged in a window, with the labels by which a budget may be bound: row by row, since roll-ups do not tell pods apart.

use super::cost::{QueryError, figures, summed};
use super::described::{Described, OwnerNames};
use super::inventory;
use super::ranges::ranges;
use crate::budgets::{Labels, Tree, Usage};
use crate::model::{OwnerKind, RowKind};
use crate::store::sql::Connection;

/// Where the cost stands among what is summed.
const COST: usize = 4;

/// Gives what pods were charged in a window on edges of what is kept: whose it is, the GPU's model, labels, as of when, and how
/// much. Whose it is by `tree` changes in none of what is given at once.
///
/// # Errors
/// If the store fails.
pub fn pod_charges(
    db: &Connection,
    (tree, described): (&Tree, &Described),
    window: (i64, i64),
    mut with: impl FnMut(&Usage, &str, Labels<'_>, i64, i128),
) -> Result<(), QueryError> {
    let kept = inventory::kept(db)?;
    for (start_ns, end_ns) in described.pieces(window, &tree.edges(window), &kept) {
        for range in ranges(start_ns, end_ns) {
            let (sums, read) = summed();
            let table = range.table.name();
            let sql = format!(
                "SELECT n.cluster, o.namespace, o.\"user\", o.account, o.partition, o.pod, o.pod_uid, d.model, {read}
                 FROM (SELECT tenure, owner, {sums} FROM {table} WHERE start >= ?1 AND start < ?2
                       AND kind = ?4 GROUP BY tenure, owner) r
                 JOIN tenure t ON t.id = r.tenure JOIN node n ON n.id = t.node JOIN device d ON d.id = t.device
                 JOIN owner o ON o.id = r.owner WHERE o.kind = ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query([
                range.start_ns,
                range.end_ns,
                OwnerKind::Pod as i64,
                RowKind::Held as i64,
            ])?;
            while let Some(row) = rows.next()? {
                let usage = Usage {
                    cluster: row.get(0)?,
                    namespace: row.get(1)?,
                    user: row.get(2)?,
                    account: row.get(3)?,
                    partition: row.get(4)?,
                };
                let (pod, pod_uid, model): (String, String, String) = (row.get(5)?, row.get(6)?, row.get(7)?);
                let Usage { cluster, namespace, account, .. } = &usage;
                let owner = OwnerNames { cluster, namespace, pod: &pod, pod_uid: &pod_uid, account };
                // What a range is like is as its end was.
                let at_ns = range.end_ns - 1;
                with(&usage, &model, described.labels(&owner, at_ns), at_ns, figures(&row, 8)?[COST]);
            }
        }
    }
    Ok(())
}
