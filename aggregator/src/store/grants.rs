//! Grants, as they are stored. Written within the commit thread's transaction.

use crate::budgets::{Award, Awards};
use crate::store::StoreError;
use crate::store::sql::{Connection, params};

/// All of them.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn awards(db: &Connection) -> Result<Awards, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT id, json, created_ns, updated_ns, closed_ns FROM award ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut awards = Vec::new();
    while let Some(row) = rows.next()? {
        let json: String = row.get(1)?;
        let grant = serde_json::from_str(&json)
            .map_err(|e| StoreError::Damaged { what: "award", detail: e.to_string() })?;
        let (created_ns, updated_ns, closed_ns) = (row.get(2)?, row.get(3)?, row.get(4)?);
        awards.push(Award { id: row.get(0)?, grant, created_ns, updated_ns, closed_ns });
    }
    Ok(Awards::new(awards))
}

/// Stores a grant as it is now.
///
/// # Errors
/// If SQL fails.
pub fn put(db: &Connection, award: &Award) -> Result<(), StoreError> {
    let Award { id, grant, created_ns, updated_ns, closed_ns } = award;
    let json = serde_json::to_string(grant)
        .map_err(|e| StoreError::Damaged { what: "award", detail: e.to_string() })?;
    db.prepare_cached(
        "INSERT INTO award (id, number, json, created_ns, updated_ns, closed_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO UPDATE SET json = excluded.json, updated_ns = excluded.updated_ns,
             closed_ns = excluded.closed_ns",
    )?
    .execute(params![id, grant.number, json, created_ns, updated_ns, closed_ns])?;
    Ok(())
}
