//! What the ledger keeps of itself, by name: text, numbers in decimal, bytes in hexadecimal.

use super::sql::OptionalExtension;
use super::{Connection, StoreError};

/// `None` if it was never set.
pub(super) fn get(db: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let mut statement = db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

pub(super) fn set(db: &Connection, key: &str, value: &str) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([key, value])?;
    Ok(())
}

/// Gives a new ledger its identity.
pub(super) fn mint(db: &Connection) -> Result<(), StoreError> {
    let mut id = [0_u8; 16];
    getrandom::fill(&mut id)
        .map_err(|e| StoreError::Damaged { what: "random numbers", detail: e.to_string() })?;
    set(db, "ledger_id", &hex(&id))?;
    set(db, "incarnation", "1")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` if it is no hexadecimal.
pub(super) fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    if hex.len().is_multiple_of(2) { (0..hex.len()).step_by(2).map(digits).collect() } else { None }
}
