//! What pods were charged in a window, with the labels by which a budget may be bound: row by row, since roll-ups do not tell pods apart.

use super::cost::{QueryError, figures, summed};
use super::described::{Described, OwnerNames};
use super::inventory;
use super::ranges::{Range, ranges};
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
    let pieces = described.pieces(window, &tree.edges(window), &inventory::kept(db)?);
    for range in runs(&pieces) {
        let ((sums, read), table) = (summed(), range.table.name());
        let sql = format!(
            "SELECT n.cluster, o.namespace, o.\"user\", o.account, o.partition, o.pod, o.pod_uid, d.model, r.start, {read}
             FROM (SELECT start, tenure, owner, {sums} FROM {table} WHERE start >= ?1 AND start < ?2
                   AND kind = ?4 GROUP BY start, tenure, owner) r
             JOIN tenure t ON t.id = r.tenure JOIN node n ON n.id = t.node JOIN device d ON d.id = t.device
             JOIN owner o ON o.id = r.owner WHERE o.kind = ?3"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows =
            statement.query([range.start_ns, range.end_ns, OwnerKind::Pod as i64, RowKind::Held as i64])?;
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
            // What a row is like is as its end was.
            let at_ns = row.get::<i64>(8)? + range.table.width_ns() - 1;
            with(&usage, &model, described.labels(&owner, at_ns), at_ns, figures(&row, 9)?[COST]);
        }
    }
    Ok(())
}

/// The widest rows of each piece, in as few ranges as there are changes of width: a row lies in one piece, and is asked for by its own time,
/// so that many pieces need not be many statements.
fn runs(pieces: &[(i64, i64)]) -> Vec<Range> {
    let mut runs: Vec<Range> = Vec::new();
    for range in pieces.iter().flat_map(|(start_ns, end_ns)| ranges(*start_ns, *end_ns)) {
        match runs.last_mut() {
            Some(last) if last.table == range.table && last.end_ns == range.start_ns => {
                last.end_ns = range.end_ns;
            }
            _ => runs.push(range),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

    use super::*;
    use crate::store::query::Table;

    #[test]
    fn pieces_that_meet_are_read_at_once_where_their_rows_are_as_wide() {
        let day = 100 * DAY_NS;
        let slots: Vec<(i64, i64)> =
            (0..4).map(|at| (day + at * SLOT_NS, day + (at + 1) * SLOT_NS)).collect();
        let found = runs(&slots);
        assert_eq!(found, [Range { table: Table::Slot, start_ns: day, end_ns: day + HOUR_NS }]);
        let days = [
            (day, day + DAY_NS),
            (day + DAY_NS, day + 3 * DAY_NS),
            (day + 3 * DAY_NS, day + 3 * DAY_NS + HOUR_NS),
        ];
        let widths: Vec<Table> = runs(&days).into_iter().map(|range| range.table).collect();
        assert_eq!(widths, [Table::Day, Table::Hour]);
    }
}
