//! What was posted when slots closed, and since: against the slots, the checkpoints and the balances.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use crate::model::RowKind;
use crate::store::Connection;
use crate::store::StoreError;
use crate::store::audit;
use crate::store::closing::{self, Posted};
use crate::store::opening::Opening;

/// Start, tenure; instance, owner and kind.
type SlotKey = (i64, i64, (i64, i64, RowKind));

/// Checks everything that is posted behind checkpoint `after`.
pub(super) fn check(
    db: &Connection,
    after: i64,
    opening: Option<&Opening>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let horizon_ns = opening.map_or(i64::MIN, |opening| opening.horizon_ns);
    let entries = closing::entries_from(db, horizon_ns)?;
    report.entries = entries.len();
    against_slots(db, horizon_ns, &entries, report)?;
    corrections(&entries, report);
    checkpoints(db, after, report)?;
    balances(db, &entries, opening, report)
}

/// Entries of closed slots sum to their rows, but for those that wait to be posted.
fn against_slots(
    db: &Connection,
    horizon_ns: i64,
    entries: &[Posted],
    report: &mut Report,
) -> Result<(), StoreError> {
    let closed_until_ns = audit::closed_until(db)?;
    let waiting: BTreeSet<(i64, i64)> = closing::unposted(db, u32::MAX)?.into_iter().collect();
    let mut sums: BTreeMap<SlotKey, [i128; 6]> = BTreeMap::new();
    for entry in entries {
        let sum = sums.entry((entry.start_ns, entry.tenure, entry.key)).or_default();
        for (sum, figure) in sum.iter_mut().zip(figures(entry)) {
            *sum += figure;
        }
        if entry.start_ns >= closed_until_ns {
            report.note(|| format!("entry {} is of slot {}, which is not closed", entry.id, entry.start_ns));
        }
    }
    audit::closed_rows(db, horizon_ns, closed_until_ns, |key, figures| {
        let posted = sums.remove(&key).unwrap_or_default();
        if posted != figures && !waiting.contains(&(key.0, key.1)) {
            report.difference_ns += (posted[0] - figures[0]).abs();
            report.difference_nanos += (posted[4] - figures[4]).abs();
            report.note(|| format!("slot {key:?} is {figures:?}, posted is {posted:?}"));
        }
    })?;
    for (key, posted) in sums.into_iter().filter(|(_, posted)| *posted != [0; 6]) {
        if !waiting.contains(&(key.0, key.1)) {
            report.difference_ns += posted[0].abs();
            report.difference_nanos += posted[4].abs();
            report.note(|| format!("slot {key:?} has no row, posted is {posted:?}"));
        }
    }
    Ok(())
}

fn figures(entry: &Posted) -> [i128; 6] {
    let row = entry.row;
    [row.time_ns, row.busy_ns, row.memory_byte_seconds, row.energy_uj, row.cost_nanos, row.unpriced_ns]
        .map(i128::from)
}

/// Every correction names the first entry of its key.
fn corrections(entries: &[Posted], report: &mut Report) {
    let mut firsts: BTreeMap<SlotKey, i64> = BTreeMap::new();
    for entry in entries {
        let first = *firsts.entry((entry.start_ns, entry.tenure, entry.key)).or_insert(entry.id);
        let expected = if first == entry.id { 0 } else { first };
        if entry.corrects != expected {
            report.note(|| format!("entry {} corrects {}, not {expected}", entry.id, entry.corrects));
        }
    }
}

/// Every checkpoint is the hash of the one before and of its entries.
fn checkpoints(db: &Connection, after: i64, report: &mut Report) -> Result<(), StoreError> {
    let all = closing::checkpoints(db, after.saturating_sub(1))?;
    report.checkpoints = all.len();
    let mut before = Vec::new();
    let mut id = after.max(1);
    for checkpoint in all {
        if checkpoint.id != id {
            report.note(|| format!("checkpoint {id} is missing"));
        }
        id = checkpoint.id + 1;
        // The one of the opening is where the chain is taken up.
        if checkpoint.id > after {
            let entries = closing::entries_of(db, checkpoint.id)?;
            if closing::checkpoint_hash(&before, &checkpoint, &entries) != checkpoint.hash {
                report.note(|| format!("checkpoint {} is not the hash of its entries", checkpoint.id));
            }
        }
        before = checkpoint.hash;
    }
    Ok(())
}

fn balances(
    db: &Connection,
    entries: &[Posted],
    opening: Option<&Opening>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut sums: BTreeMap<(i64, RowKind), [i128; 3]> = BTreeMap::new();
    for (owner, kind, figures) in opening.iter().flat_map(|opening| &opening.balances) {
        if let Some(kind) = RowKind::from_number(i64::from(*kind)) {
            sums.insert((*owner, kind), *figures);
        }
    }
    for entry in entries {
        let sum = sums.entry((entry.key.1, entry.key.2)).or_default();
        for (sum, figure) in
            sum.iter_mut().zip([entry.row.time_ns, entry.row.cost_nanos, entry.row.unpriced_ns])
        {
            *sum += i128::from(figure);
        }
    }
    for (key, stored) in closing::balances(db)? {
        let expected = sums.remove(&key).unwrap_or_default();
        if stored != expected {
            report.difference_ns += (stored[0] - expected[0]).abs();
            report.difference_nanos += (stored[1] - expected[1]).abs();
            report.note(|| format!("balance {key:?} is {stored:?}, its entries sum to {expected:?}"));
        }
    }
    for (key, expected) in sums.into_iter().filter(|(_, expected)| *expected != [0; 3]) {
        report.difference_ns += expected[0].abs();
        report.difference_nanos += expected[1].abs();
        report.note(|| format!("balance {key:?} is not stored, its entries sum to {expected:?}"));
    }
    Ok(())
}
