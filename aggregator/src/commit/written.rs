//! What a transaction changes of slots' rows, and the sums that change with them.

use std::collections::HashMap;

use tonnage_proto::limits::{DAY_NS, HOUR_NS};

use super::CommitError;
use super::working::Slot;
use crate::ledger::rows::{Key, NOBODY, Row};
use crate::store::Connection;
use crate::store::rollup::{self, Figures, Keys};
use crate::store::write::{self, Rollup, TableRow, table_row};

/// What owners' rows changed by in nano-dollars, by slot, tenure and owner; also where that is nothing.
pub(super) type Held = HashMap<(i64, i64, i64), i64>;

/// What a transaction changes of slots' rows, and what hours, days and roll-ups change by.
#[derive(Default)]
pub(super) struct Written {
    rows: Vec<TableRow>,
    rollups: HashMap<(Rollup, i64, i64, Key), Row>,
    /// By slot and the number of a roll-up's key.
    pub(super) figures: HashMap<(i64, i64), Figures>,
    pub(super) held: Held,
}

impl Written {
    /// Takes the rows that differ from the stored ones. True if any does.
    pub(super) fn take(
        &mut self,
        db: &Connection,
        rollup_keys: &mut Keys,
        (start_ns, tenure): (i64, i64),
        slot: &mut Slot,
    ) -> Result<bool, CommitError> {
        let Some(stored) = slot.stored.take() else { return Ok(false) };
        let gone = stored.keys().filter(|key| slot.state.rows.get(key).is_none()).copied();
        let keys: Vec<Key> = gone.chain(slot.state.rows.keys().copied()).collect();
        let mut changed = false;
        for key in keys {
            let before = stored.get(&key);
            let now = slot.state.rows.get(&key);
            if now == before {
                continue;
            }
            changed = true;
            match now {
                Some(row) => self.rows.push(table_row(start_ns, tenure, key, row)),
                None => write::remove_row(db, start_ns, tenure, key)?,
            }
            let difference = now.copied().unwrap_or_default().since(&before.copied().unwrap_or_default());
            for (rollup, length_ns) in [(Rollup::Hour, HOUR_NS), (Rollup::Day, DAY_NS)] {
                let start_ns = start_ns - start_ns.rem_euclid(length_ns);
                let sum = self.rollups.entry((rollup, start_ns, tenure, key)).or_default();
                sum.add(&difference);
            }
            let (_, owner, kind) = key;
            if kind.is_charge() && owner != NOBODY {
                *self.held.entry((start_ns, tenure, owner)).or_default() += difference.cost_nanos;
            }
            let number = rollup_keys.number(db, tenure, key)?;
            self.figures.entry((start_ns, number)).or_default().add(&difference.into());
        }
        Ok(changed)
    }

    /// Rows go in the order of their tables' key: neighbours lie on one page, which is then looked up and changed once.
    pub(super) fn write(&mut self, db: &Connection, rolled_until_ns: i64) -> Result<(), CommitError> {
        self.rows.sort_unstable();
        write::put_rows(db, &self.rows)?;
        for rollup in [Rollup::Hour, Rollup::Day] {
            let of_it = self.rollups.iter().filter(|((which, ..), _)| *which == rollup);
            let mut rows: Vec<TableRow> = of_it
                .map(|((_, start_ns, tenure, key), row)| table_row(*start_ns, *tenure, *key, row))
                .collect();
            rows.sort_unstable();
            write::add_to_rollup(db, rollup, &rows)?;
        }
        rollup::add(db, rolled_until_ns, &self.figures)?;
        Ok(())
    }
}
