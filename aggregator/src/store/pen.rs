//! Who wrote last, and whether the ledger is still the one that this process wrote: what it remembers of a ledger is good
//! only if nobody else wrote since, and only of that very ledger.
//!
//! A database may be replaced under a process that runs: by a standby that lacks the last seconds, by a backup of a
//! machine. So each transaction counts, and a ledger that counts less than this process has committed was set back; so
//! was, as far as anybody can tell, one that lies in another cluster, on another timeline or in another database than it
//! did when it was written last. A file is locked for as long as the process lives: there the name is enough.

use super::sql::OptionalExtension;
use super::{Connection, StoreError, identity, meta, write};

/// What the ledger says of what this process remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pen {
    /// Nobody wrote since this process did.
    Kept,
    /// Another did.
    Passed,
    /// The ledger is, or may be, older than what was committed; in words how that is known.
    SetBack(String),
}

/// A name for a process that writes.
///
/// # Errors
/// If the system has no random numbers.
pub fn holder() -> Result<String, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| StoreError::Damaged { what: "random numbers", detail: e.to_string() })?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// Takes the pen for one transaction of `holder`, which saw the ledger count `known` transactions when it last committed.
/// With the count of this one.
///
/// # Errors
/// If the store fails.
pub fn take(db: &Connection, holder: &str, known: Option<i64>) -> Result<(Pen, i64), StoreError> {
    let last = meta::get(db, "writer")?.unwrap_or_default();
    let (writer, count) = last.split_once(' ').unwrap_or((&last, ""));
    let count = count.parse::<i64>().unwrap_or(0);
    if !db.is_server() {
        if writer == holder {
            return Ok((Pen::Kept, 0));
        }
        meta::set(db, "writer", holder)?;
        return Ok((Pen::Passed, 0));
    }
    meta::set(db, "writer", &format!("{holder} {}", count + 1))?;
    let pen = match known {
        Some(known) if known == count && writer == holder => Pen::Kept,
        Some(known) if known > count => {
            Pen::SetBack(format!("it counts {count} transactions, and this aggregator has seen {known}"))
        }
        _ => moved(db)?.map_or(Pen::Passed, Pen::SetBack),
    };
    Ok((pen, count + 1))
}

/// Notes where a database lies; in words from where to where it went since somebody last did.
fn moved(db: &Connection) -> Result<Option<String>, StoreError> {
    // Not everybody may ask a server for its identity.
    let may = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')";
    if db.query_row(may, [], |row| row.get::<i64>(0)).optional()? != Some(1) {
        return Ok(None);
    }
    let here = "SELECT CAST(system_identifier AS TEXT) || '/'
            || SUBSTR(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/'
            || (SELECT CAST(oid AS TEXT) FROM pg_database WHERE datname = current_database())
        FROM pg_control_system()";
    let here: String = db.query_row(here, [], |row| row.get(0))?;
    let there = meta::get(db, "place")?;
    if there.as_ref() == Some(&here) {
        return Ok(None);
    }
    meta::set(db, "place", &here)?;
    Ok(there.map(|there| format!("it was in {there} (cluster, timeline, database), and is in {here} now")))
}

/// Gives a ledger that was set back another incarnation, so that agents send again whatever they still have. With it.
///
/// # Errors
/// If the store fails.
pub fn renew(db: &Connection, now_ns: i64, why: &str) -> Result<u64, StoreError> {
    let incarnation = i64::try_from(identity(db)?.incarnation).unwrap_or(i64::MAX - 1);
    // Two restores of one backup are two incarnations.
    let incarnation = (incarnation + 1).max(now_ns / 1_000_000);
    meta::set(db, "incarnation", &incarnation.to_string())?;
    let detail = format!("incarnation {incarnation}{}{why}", if why.is_empty() { "" } else { ": " });
    let entry = write::JournalEntry {
        detail: &detail,
        ..write::JournalEntry::of(now_ns, write::JournalKind::Restore)
    };
    write::journal(db, &entry)?;
    Ok(incarnation.unsigned_abs())
}
