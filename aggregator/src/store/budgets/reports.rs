//! What was reported of jobs, as it is stored: the newest [`KEPT`]. No part of the ledger, and `verify` does not look at it.

use super::{Result, read, written};
use crate::budgets::{Outcome, Report};
use crate::store::sql::{self, Connection, params};

/// Reports that are kept.
pub const KEPT: i64 = 10_000;

/// A report that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub at_ns: i64,
    pub outcome: Outcome,
    pub report: Report,
}

/// Keeps a report. One that settled a hold stays as it is, however often it comes again.
///
/// # Errors
/// If SQL fails.
pub fn put(db: &Connection, key: &str, at_ns: i64, outcome: Outcome, report: &Report) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO report (key, at_ns, outcome, json) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET at_ns = excluded.at_ns, outcome = excluded.outcome, json = excluded.json
         WHERE report.outcome <> 1",
    )?
    .execute(params![key, at_ns, outcome as u8, written("report", report)?])?;
    db.prepare_cached("DELETE FROM report WHERE id <= (SELECT MAX(r.id) FROM report r) - ?1")?
        .execute([KEPT])?;
    Ok(())
}

/// # Errors
/// If SQL fails.
pub fn forget(db: &Connection, key: &str) -> Result<()> {
    db.prepare_cached("DELETE FROM report WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// All of them, the oldest first.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn all(db: &Connection) -> Result<Vec<Kept>> {
    let mut statement = db.prepare_cached("SELECT at_ns, outcome, json FROM report ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        let (at_ns, outcome, json): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((at_ns, Outcome::from_number(outcome).ok_or(sql::Error::out_of_range(1, outcome))?, json))
    })?;
    rows.map(|row| {
        let (at_ns, outcome, json) = row?;
        Ok(Kept { at_ns, outcome, report: read("report", &json)? })
    })
    .collect()
}
