//! Numbers that the ledger keeps of itself: how far it has got.

use super::Result;
use crate::store::{Connection, StoreError, meta};

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
    /// Number of the newest entry that was ever posted, be it purged.
    LastEntry,
    /// Entry of the journal up to which a program folded that knew nothing of memory slices: what batches up to it say of them does not
    /// count.
    MemoryToldAfter,
    /// Roll-ups that end at or before this are built (`store::rollup`).
    RolledUntil,
    /// Pods that ended before this and never held a GPU are let go of.
    ForgottenUntil,
}

impl Mark {
    fn key(self) -> &'static str {
        match self {
            Self::ExistenceUntil => "existence_until_ns",
            Self::ClosedUntil => "closed_until_ns",
            Self::PurgedUntil => "purged_until_ns",
            Self::HoursFrom => "hours_from_ns",
            Self::DaysFrom => "days_from_ns",
            Self::LastEntry => "last_entry",
            Self::MemoryToldAfter => "memory_told_after",
            Self::RolledUntil => "rolled_until_ns",
            Self::ForgottenUntil => "forgotten_until_ns",
        }
    }
}

/// Reads a mark.
pub fn mark(db: &Connection, mark: Mark) -> Result<i64> {
    let Some(text) = meta::get(db, mark.key())? else { return Ok(0) };
    let damaged = |_| StoreError::Damaged { what: "meta", detail: format!("{} is {text:?}", mark.key()) };
    text.parse().map_err(damaged)
}

/// Sets a mark.
pub fn set_mark(db: &Connection, mark: Mark, value: i64) -> Result<()> {
    meta::set(db, mark.key(), &value.to_string())
}
