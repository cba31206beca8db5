//! Jobs that a hold is also of: tasks of its array, as Slurm numbers them. Written within the commit thread's transaction.

use crate::store::StoreError;
use crate::store::sql::{self, Connection, params};

type Result<T> = std::result::Result<T, StoreError>;

/// Those of open holds, each with its hold's number.
///
/// # Errors
/// If SQL fails.
pub fn of_open_holds(db: &Connection) -> Result<Vec<(i64, String)>> {
    listed(db, "SELECT hold, job_id FROM hold_task WHERE hold IN (SELECT id FROM hold WHERE state = 0)")
}

/// All that are kept, each with its hold's number.
///
/// # Errors
/// If SQL fails.
pub fn all(db: &Connection) -> Result<Vec<(i64, String)>> {
    listed(db, "SELECT hold, job_id FROM hold_task")
}

/// One more.
///
/// # Errors
/// If SQL fails.
pub fn insert(db: &Connection, hold: i64, job_id: &str) -> Result<()> {
    db.prepare_cached("INSERT INTO hold_task (hold, job_id) VALUES (?1, ?2)")?
        .execute(params![hold, job_id])?;
    Ok(())
}

fn listed(db: &Connection, sql: &str) -> Result<Vec<(i64, String)>> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}
