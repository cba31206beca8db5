//! Roll-ups of a ledger that has none, from its slots, hours and days.

use std::collections::BTreeMap;

use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

use super::{Figures, Keys, Parts, Result, WIDTHS, build_between, packed, put};
use crate::model::RowKind;
use crate::store::sql::{self, Connection};
use crate::store::write::{self, Mark};

/// Makes all blocks anew, one after the other: few figures are in memory, however large the ledger is.
///
/// # Errors
/// If SQL fails.
pub fn rebuild(db: &Connection) -> Result<()> {
    db.execute("DELETE FROM rollup", [])?;
    let newest: Option<i64> = db.query_row("SELECT MAX(start) FROM slot", [], |row| row.get(0))?;
    let until_ns = newest.map_or(0, |start_ns| start_ns + SLOT_NS).max(write::mark(db, Mark::PurgedUntil)?);
    let mut keys = Keys::default();
    for (table, width_ns) in [("slot", SLOT_NS), ("hour", HOUR_NS), ("day", DAY_NS)] {
        sum_table(db, &mut keys, (table, width_ns), until_ns)?;
    }
    // Widths between and beyond these are sums of them, where they are kept.
    for (widths, mark) in [(&WIDTHS[1..3], Mark::HoursFrom), (&WIDTHS[3..], Mark::DaysFrom)] {
        let sql = "SELECT MIN(start) FROM rollup WHERE width_ns = ?1";
        let first: Option<i64> = db.query_row(sql, [widths[0]], |row| row.get(0))?;
        let kept_ns = write::mark(db, mark)?;
        if let Some(first_ns) = first.filter(|first_ns| *first_ns < until_ns) {
            build_between(db, widths, first_ns.max(kept_ns), until_ns)?;
        }
    }
    write::set_mark(db, Mark::RolledUntil, until_ns)
}

/// The blocks of one table's rows, but for those that are not over.
fn sum_table(db: &Connection, keys: &mut Keys, (table, width_ns): (&str, i64), until_ns: i64) -> Result<()> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT start, tenure, instance, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos,
         unpriced_ns, method FROM {table} WHERE start <= ?1 ORDER BY start"
    ))?;
    let mut rows = statement.query([until_ns - width_ns])?;
    let (mut at_ns, mut parts) = (i64::MIN, Parts::new());
    while let Some(row) = rows.next()? {
        let start_ns: i64 = row.get(0)?;
        if start_ns != at_ns {
            put(db, (width_ns, at_ns), &std::mem::take(&mut parts))?;
            at_ns = start_ns;
        }
        let kind: i64 = row.get(4)?;
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(4, kind))?;
        let key = keys.number(db, row.get(1)?, (row.get(2)?, row.get(3)?, kind))?;
        let mut figures = Figures { sums: [0; 6], method: row.get(11)? };
        for (at, sum) in figures.sums.iter_mut().enumerate() {
            *sum = i128::from(row.get::<i64>(5 + at)?);
        }
        let part: &mut BTreeMap<i64, Figures> = parts.entry(key.div_euclid(packed::KEYS)).or_default();
        part.entry(key).or_default().add(&figures);
    }
    put(db, (width_ns, at_ns), &parts)
}
