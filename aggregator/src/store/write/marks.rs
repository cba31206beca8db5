//! Numbers that the ledger keeps of itself: how far it has got.

use rusqlite::{Connection, OptionalExtension, params};

use super::Result;

/// A number that the ledger keeps of itself; 0 before it was first set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Until then silence has been taken note of.
    ExistenceUntil,
    /// Slots before this are closed.
    ClosedUntil,
    /// Slots before this are frozen, and their detail is purged.
    PurgedUntil,
    /// Hours, and days, before this are purged.
    HoursFrom,
    DaysFrom,
}

impl Mark {
    fn key(self) -> &'static str {
        match self {
            Self::ExistenceUntil => "existence_until_ns",
            Self::ClosedUntil => "closed_until_ns",
            Self::PurgedUntil => "purged_until_ns",
            Self::HoursFrom => "hours_from_ns",
            Self::DaysFrom => "days_from_ns",
        }
    }
}

/// Reads a mark.
pub fn mark(db: &Connection, mark: Mark) -> Result<i64> {
    let value = db
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([mark.key()], |row| row.get(0))
        .optional()?;
    Ok(value.unwrap_or(0))
}

/// Sets a mark.
pub fn set_mark(db: &Connection, mark: Mark, at_ns: i64) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute(params![mark.key(), at_ns])?;
    Ok(())
}
