//! Brings the ledger of an earlier version to this program's schema.
//!
//! Constraints: one transaction, so that whatever happens the ledger is wholly as it was or wholly as it is to be;
//! nothing is lost, and no number that other rows or hashes name changes. Non-goal: the way back.

use rusqlite::{Connection, TransactionBehavior};

use super::schema;

/// The first version that can be brought up; those before were in no release.
pub(super) const OLDEST: i64 = 2;

/// Owners got Slurm's account and partition. A table's UNIQUE can only be changed by making the table anew; `id` stays.
const FROM_2: &str = "
CREATE TABLE owner_3 (
    id           INTEGER PRIMARY KEY,
    kind         INTEGER NOT NULL,
    namespace    TEXT NOT NULL,
    pod          TEXT NOT NULL,
    pod_uid      TEXT NOT NULL,
    container    TEXT NOT NULL,
    container_id TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    step         TEXT NOT NULL,
    unit         TEXT NOT NULL,
    user         TEXT NOT NULL,
    account      TEXT NOT NULL,
    partition    TEXT NOT NULL,
    UNIQUE (kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit, user, account, partition)
);
INSERT INTO owner_3 SELECT id, kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit, user, '', ''
    FROM owner;
DROP TABLE owner;
ALTER TABLE owner_3 RENAME TO owner;
";

/// Brings a ledger of version [`OLDEST`] or later to [`schema::VERSION`]. Nobody else may write it meanwhile.
///
/// # Errors
/// If SQL fails; then nothing has changed.
pub(super) fn up(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == 2 {
        transaction.execute_batch(FROM_2)?;
    }
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod tests;
