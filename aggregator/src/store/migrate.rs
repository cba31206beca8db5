//! Brings the ledger of an earlier version to this program's schema.
//!
//! Constraints: one transaction, so that whatever happens the ledger is wholly as it was or wholly as it is to be;
//! nothing is lost, and no number that other rows or hashes name changes. Non-goal: the way back.

use super::sql::{OptionalExtension as _, params};
use super::{Connection, StoreError, facts, rollup, schema};

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

/// Rows got the MIG instance that they are of, and a device's slices became those of its tenure. What is there was of
/// whole devices. Balances outgrew 64 bits, and what the ledger keeps of itself became text.
const FROM_3: &str = "
CREATE TABLE instance (
    id               INTEGER PRIMARY KEY,
    device           INTEGER NOT NULL,
    generation       INTEGER NOT NULL,
    gpu_instance     INTEGER NOT NULL,
    compute_instance INTEGER NOT NULL,
    slices           INTEGER NOT NULL,
    uuid             TEXT NOT NULL,
    profile          TEXT NOT NULL,
    memory_bytes     INTEGER NOT NULL,
    UNIQUE (device, uuid, generation, gpu_instance, compute_instance, slices, profile, memory_bytes)
);

CREATE TABLE tenure_4 (
    id               INTEGER PRIMARY KEY,
    device           INTEGER NOT NULL,
    node             INTEGER NOT NULL,
    life             TEXT NOT NULL,
    slices           INTEGER NOT NULL,
    claimed_ns       INTEGER NOT NULL,
    from_ns          INTEGER NOT NULL DEFAULT 0,
    to_ns            INTEGER NOT NULL DEFAULT 0,
    covered_until_ns INTEGER NOT NULL DEFAULT 0,
    facts            INTEGER NOT NULL DEFAULT 0,
    facts_ns         INTEGER NOT NULL DEFAULT 0,
    UNIQUE (device, node, life, slices)
);
INSERT INTO tenure_4 SELECT t.id, t.device, t.node, t.life, d.slices, t.claimed_ns, t.from_ns, t.to_ns,
    t.covered_until_ns, t.facts, t.facts_ns FROM tenure t JOIN device d ON d.id = t.device;
DROP TABLE tenure;
ALTER TABLE tenure_4 RENAME TO tenure;
CREATE INDEX tenure_device ON tenure (device, to_ns);
ALTER TABLE device DROP COLUMN slices;

ALTER TABLE entry RENAME TO entry_3;
DROP INDEX entry_key;
CREATE TABLE entry (
    id                  INTEGER PRIMARY KEY,
    checkpoint          INTEGER NOT NULL,
    start               INTEGER NOT NULL,
    tenure              INTEGER NOT NULL,
    instance            INTEGER NOT NULL,
    owner               INTEGER NOT NULL,
    kind                INTEGER NOT NULL,
    time_ns             INTEGER NOT NULL,
    busy_ns             INTEGER NOT NULL,
    memory_byte_seconds INTEGER NOT NULL,
    energy_uj           INTEGER NOT NULL,
    cost_nanos          INTEGER NOT NULL,
    unpriced_ns         INTEGER NOT NULL,
    corrects            INTEGER NOT NULL
);
INSERT INTO entry SELECT id, checkpoint, start, tenure, 0, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj,
    cost_nanos, unpriced_ns, corrects FROM entry_3;
DROP TABLE entry_3;
CREATE INDEX entry_key ON entry (start, tenure, instance, owner, kind);

CREATE TABLE balance_4 (
    owner       INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    time_ns     TEXT NOT NULL,
    cost_nanos  TEXT NOT NULL,
    unpriced_ns TEXT NOT NULL,
    PRIMARY KEY (owner, kind)
) WITHOUT ROWID;
INSERT INTO balance_4 SELECT owner, kind, time_ns, cost_nanos, unpriced_ns FROM balance;
DROP TABLE balance;
ALTER TABLE balance_4 RENAME TO balance;

CREATE TABLE meta_4 (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO meta_4 SELECT key, CASE typeof(value) WHEN 'blob' THEN lower(hex(value)) ELSE value END FROM meta;
DROP TABLE meta;
ALTER TABLE meta_4 RENAME TO meta;
";

/// The tables of sums; each of them anew, since the key of a table without row ids cannot be changed.
const SUMS_FROM_3: [&str; 3] = ["slot", "hour", "day"];

fn sums_from_3(table: &str) -> String {
    format!(
        "ALTER TABLE {table} RENAME TO {table}_3;
         CREATE TABLE {table} (
             start INTEGER NOT NULL, tenure INTEGER NOT NULL, instance INTEGER NOT NULL, owner INTEGER NOT NULL,
             kind INTEGER NOT NULL, time_ns INTEGER NOT NULL, busy_ns INTEGER NOT NULL,
             memory_byte_seconds INTEGER NOT NULL, energy_uj INTEGER NOT NULL, method INTEGER NOT NULL,
             cost_nanos INTEGER NOT NULL, unpriced_ns INTEGER NOT NULL,
             PRIMARY KEY (start, tenure, instance, owner, kind)
         ) WITHOUT ROWID;
         INSERT INTO {table} SELECT start, tenure, 0, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj,
             method, cost_nanos, unpriced_ns FROM {table}_3;
         DROP TABLE {table}_3;"
    )
}

/// Sums over devices and pods came to be kept, so that large ledgers answer at once.
pub(super) const FROM_4: &str = "
CREATE TABLE rollup_key (
    id         INTEGER PRIMARY KEY,
    cluster    TEXT NOT NULL,
    model      TEXT NOT NULL,
    slices     INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    profile    TEXT NOT NULL,
    owner_kind INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    \"user\"     TEXT NOT NULL,
    account    TEXT NOT NULL,
    partition  TEXT NOT NULL,
    UNIQUE (cluster, model, slices, kind, profile, owner_kind, namespace, \"user\", account, partition)
);
CREATE TABLE rollup (
    width_ns INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    sums     BLOB NOT NULL,
    PRIMARY KEY (width_ns, start, part)
);
";

/// Labels and controllers of pods came to be kept, with the time since when they are so.
pub(super) const FROM_5: &str = "
CREATE INDEX owner_pod ON owner (pod_uid);
CREATE TABLE subject (
    id        INTEGER PRIMARY KEY,
    cluster   TEXT NOT NULL,
    kind      INTEGER NOT NULL,
    name      TEXT NOT NULL,
    namespace TEXT NOT NULL,
    pod       TEXT NOT NULL,
    ended_ns  INTEGER NOT NULL DEFAULT 0,
    day_ns    INTEGER NOT NULL DEFAULT 0,
    changes   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (cluster, kind, name)
);
CREATE INDEX subject_ended ON subject (ended_ns);
CREATE TABLE description (
    id     INTEGER PRIMARY KEY,
    sha256 BLOB NOT NULL UNIQUE,
    json   TEXT NOT NULL
);
CREATE TABLE described (
    subject     INTEGER NOT NULL,
    from_ns     INTEGER NOT NULL,
    description INTEGER NOT NULL,
    PRIMARY KEY (subject, from_ns)
) WITHOUT ROWID;
CREATE INDEX described_description ON described (description);
";

/// Accounts, what is bound to them, and holds came to be.
pub(super) const FROM_6: &str = "
CREATE TABLE account (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    json       TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    closed_ns  INTEGER
);
CREATE TABLE binding (
    id      INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    json    TEXT NOT NULL,
    from_ns INTEGER NOT NULL,
    to_ns   INTEGER NOT NULL
);
CREATE INDEX binding_account ON binding (account);
CREATE TABLE hold (
    id              INTEGER PRIMARY KEY,
    transaction_id  BLOB NOT NULL UNIQUE,
    key             TEXT NOT NULL,
    account         INTEGER NOT NULL,
    ask             TEXT NOT NULL,
    cluster         TEXT NOT NULL,
    subject_kind    INTEGER NOT NULL,
    subject         TEXT NOT NULL,
    cost_nanos      INTEGER,
    amount_nanos    INTEGER NOT NULL,
    charged_nanos   INTEGER NOT NULL,
    from_ns         INTEGER NOT NULL,
    until_ns        INTEGER NOT NULL,
    state           INTEGER NOT NULL,
    refusal         TEXT NOT NULL,
    available_nanos INTEGER,
    created_ns      INTEGER NOT NULL,
    ended_ns        INTEGER NOT NULL
);
CREATE UNIQUE INDEX hold_key ON hold (key) WHERE key <> '';
CREATE UNIQUE INDEX hold_subject ON hold (cluster, subject_kind, subject) WHERE state = 0 AND subject_kind <> 0;
CREATE INDEX hold_of ON hold (subject, id);
CREATE INDEX hold_state ON hold (state, id);
";

/// Nodes' facts came to be told apart by their hash: with many labels they are more than PostgreSQL takes in an index.
/// [`facts_from_7`] fills it.
pub(super) const FROM_7: &str = "
CREATE TABLE facts_8 (
    id     INTEGER PRIMARY KEY,
    sha256 BLOB NOT NULL UNIQUE,
    json   TEXT NOT NULL
);
";

/// Puts the facts where [`FROM_7`] made room for them.
pub(super) fn facts_from_7(db: &Connection) -> Result<(), StoreError> {
    let mut last = 0;
    while let Some((id, json)) = db
        .prepare_cached("SELECT id, json FROM facts WHERE id > ?1 ORDER BY id LIMIT 1")?
        .query_row([last], |row| Ok((row.get::<i64>(0)?, row.get::<String>(1)?)))
        .optional()?
    {
        db.prepare_cached("INSERT INTO facts_8 VALUES (?1, ?2, ?3)")?.execute(params![
            id,
            &facts::hash(&json)[..],
            json
        ])?;
        last = id;
    }
    Ok(db.execute_batch("DROP TABLE facts; ALTER TABLE facts_8 RENAME TO facts;")?)
}

/// Alerts came to be.
pub(super) const FROM_8: &str = "
CREATE TABLE alert (
    id              INTEGER PRIMARY KEY,
    key             TEXT NOT NULL,
    account         TEXT NOT NULL,
    json            TEXT NOT NULL,
    state           INTEGER NOT NULL,
    triggered_ns    INTEGER NOT NULL,
    missing_ns      INTEGER NOT NULL,
    acknowledged_ns INTEGER NOT NULL,
    acknowledged_by TEXT NOT NULL,
    notes           TEXT NOT NULL,
    resolved_ns     INTEGER NOT NULL
);
CREATE UNIQUE INDEX alert_key ON alert (key) WHERE state <> 2;

CREATE TABLE delivery (
    id         INTEGER PRIMARY KEY,
    alert      INTEGER NOT NULL,
    event      INTEGER NOT NULL,
    channel    TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    next_ns    INTEGER NOT NULL,
    done_ns    INTEGER NOT NULL,
    error      TEXT NOT NULL
);
CREATE INDEX delivery_due ON delivery (next_ns) WHERE done_ns = 0;
CREATE INDEX delivery_alert ON delivery (alert, channel, id);
";

/// Grants came to be; holds came to tell what their checks found besides, and jobs to be reported by those who ran them; what jobs
/// without GPUs ran for came to be kept.
pub(super) const FROM_9: &str = "
CREATE TABLE award (
    id         INTEGER PRIMARY KEY,
    number     TEXT NOT NULL UNIQUE,
    json       TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    closed_ns  INTEGER
);
ALTER TABLE hold ADD COLUMN found TEXT NOT NULL DEFAULT '';
CREATE INDEX hold_ended ON hold (account, state, ended_ns);
CREATE TABLE report (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, at_ns INTEGER NOT NULL, outcome INTEGER NOT NULL, json TEXT NOT NULL
);
CREATE TABLE job_run (
    cluster TEXT NOT NULL, job_id TEXT NOT NULL, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
    ended INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (cluster, job_id, start_s)
) WITHOUT ROWID;
CREATE INDEX job_run_end ON job_run (cluster, ended, end_s);
CREATE TABLE job_report (cluster TEXT PRIMARY KEY, until_s INTEGER NOT NULL) WITHOUT ROWID;
";

/// Instances came to tell their memory slices, which are a part of what each is: `id` stays. What was in the journal by then was folded
/// without them, whatever it says (`Mark::MemoryToldAfter`).
///
/// Holds came to be of an array's tasks, too, and what a job was charged to be found by its id.
pub(super) const FROM_10: &str = "
CREATE TABLE instance_11 (
    id                  INTEGER PRIMARY KEY,
    device              INTEGER NOT NULL,
    generation          INTEGER NOT NULL,
    gpu_instance        INTEGER NOT NULL,
    compute_instance    INTEGER NOT NULL,
    slices              INTEGER NOT NULL,
    uuid                TEXT NOT NULL,
    profile             TEXT NOT NULL,
    memory_bytes        INTEGER NOT NULL,
    memory_slices       INTEGER NOT NULL,
    gpu_instance_slices INTEGER NOT NULL,
    gpu_memory_slices   INTEGER NOT NULL,
    UNIQUE (device, uuid, generation, gpu_instance, compute_instance, slices, profile, memory_bytes, memory_slices,
        gpu_instance_slices, gpu_memory_slices)
);
INSERT INTO instance_11 SELECT id, device, generation, gpu_instance, compute_instance, slices, uuid, profile, memory_bytes, 0, 0, 0
    FROM instance;
DROP TABLE instance;
ALTER TABLE instance_11 RENAME TO instance;
INSERT INTO meta SELECT 'memory_told_after', '' || COALESCE(MAX(id), 0) FROM journal;
CREATE TABLE hold_task (hold INTEGER NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (hold, job_id)) WITHOUT ROWID;
CREATE INDEX hold_task_job ON hold_task (job_id);
CREATE INDEX owner_job ON owner (job_id) WHERE job_id <> '';
";

/// Brings a ledger of version [`OLDEST`] or later to [`schema::VERSION`]. Nobody else may write it meanwhile.
///
/// # Errors
/// If SQL fails; then nothing has changed.
pub(super) fn up(db: &Connection) -> Result<(), StoreError> {
    let transaction = db.begin()?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == 2 {
        transaction.execute_batch(FROM_2)?;
    }
    if found <= 3 {
        transaction.execute_batch(FROM_3)?;
        for table in SUMS_FROM_3 {
            transaction.execute_batch(&sums_from_3(table))?;
        }
    }
    if found <= 4 {
        transaction.execute_batch(FROM_4)?;
        rollup::rebuild(&transaction)?;
    }
    if found <= 5 {
        transaction.execute_batch(FROM_5)?;
    }
    if found <= 6 {
        transaction.execute_batch(FROM_6)?;
    }
    if found <= 7 {
        transaction.execute_batch(FROM_7)?;
        facts_from_7(&transaction)?;
    }
    if found <= 8 {
        transaction.execute_batch(FROM_8)?;
    }
    if found <= 9 {
        transaction.execute_batch(FROM_9)?;
    }
    if found <= 10 {
        transaction.execute_batch(FROM_10)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {}", schema::VERSION))?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
