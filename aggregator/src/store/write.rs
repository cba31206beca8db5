//! What the commit thread reads and writes, one typed function per statement. All within its transaction.

use super::{StoreError, meta, server};
use crate::ledger::rows::{Key, Row, Rows};
use crate::ledger::settle::Extent;
use crate::model::{Device, Id, NodeName, Owner, RowKind};
use crate::store::sql::{self, Connection, OptionalExtension, Row as SqlRow, params};

mod marks;

pub use marks::{Mark, mark, set_mark};

/// Kinds of journal entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JournalKind {
    Batch = 1,
    PriceBook = 2,
    /// Batches that an agent no longer had; `seq` is the last of them.
    Hole = 3,
    /// Existence of silent devices goes on until `to_ns`.
    Existence = 4,
    /// A device was taken out of service: JSON of `model::Order`.
    Retire = 5,
    /// Quarantined windows are to be counted after all: JSON of `model::Order`.
    Release = 6,
    /// What lies before `to_ns` is frozen; `detail` names its checkpoint.
    Purge = 7,
    /// The ledger goes on from a backup.
    Restore = 8,
    /// How pods and namespaces are from some slot on: JSON of `model::Described`.
    Described = 9,
    /// Accounts were changed: JSON of `budgets::Change`.
    Account = 10,
    /// What became of a hold, which `epoch` names: JSON of `budgets::hold::Event`.
    Hold = 11,
    /// Grants were changed: JSON of `budgets::GrantChange`.
    Grant = 12,
    /// What jobs without GPUs ran for: JSON of `budgets::run::Stated`.
    Jobs = 13,
}

impl JournalKind {
    /// The name of a kind by its number in the store.
    #[must_use]
    pub fn name(kind: i64) -> &'static str {
        let names = [
            "",
            "batch",
            "price_book",
            "hole",
            "existence",
            "retire",
            "release",
            "purge",
            "restore",
            "described",
            "account",
            "hold",
            "grant",
            "jobs",
        ];
        names.get(usize::try_from(kind).unwrap_or(0)).copied().unwrap_or_default()
    }
}

/// An entry of the journal; `payload` is stored compressed.
#[derive(Debug, Clone, Copy)]
pub struct JournalEntry<'a> {
    pub at_ns: i64,
    pub kind: JournalKind,
    /// 0 for inputs of no node.
    pub node: i64,
    pub epoch: &'a [u8],
    pub seq: u64,
    pub sha256: &'a [u8],
    pub outcome: i32,
    pub detail: &'a str,
    /// Of a batch: start of its first window, end of its last.
    pub from_ns: i64,
    pub to_ns: i64,
    /// Of a batch: the agent's clock minus ours, 0 if it did not say.
    pub skew_ns: i64,
    pub payload: &'a [u8],
}

impl JournalEntry<'_> {
    /// An input of no node, without payload.
    #[must_use]
    pub fn of(at_ns: i64, kind: JournalKind) -> Self {
        Self {
            at_ns,
            kind,
            node: 0,
            epoch: &[],
            seq: 0,
            sha256: &[],
            outcome: 0,
            detail: "",
            from_ns: 0,
            to_ns: 0,
            skew_ns: 0,
            payload: &[],
        }
    }
}

/// The sums that are kept beside the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rollup {
    Hour,
    Day,
}

/// A (slot, tenure) as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotState {
    pub extent: Extent,
    pub facts: i64,
    /// Start of the window that the facts are from.
    pub facts_ns: i64,
    pub price_nanos: Option<i64>,
    pub rows: Rows,
}

/// Counters of a node's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchCount {
    Accepted,
    Refused,
    Quarantined,
}

type Result<T> = std::result::Result<T, StoreError>;

/// A row of a slot, an hour or a day, as the tables have it.
pub type TableRow = [Option<i64>; 12];

/// The same of a start, a tenure, a key and figures.
#[must_use]
pub fn table_row(start_ns: i64, tenure: i64, (instance, owner, kind): Key, row: &Row) -> TableRow {
    [
        start_ns,
        tenure,
        instance,
        owner,
        i64::from(kind as u8),
        row.time_ns,
        row.busy_ns,
        row.memory_byte_seconds,
        row.energy_uj,
        i64::from(row.method),
        row.cost_nanos,
        row.unpriced_ns,
    ]
    .map(Some)
}

/// The store's number of a node, made on first use.
pub fn node(db: &Connection, name: &NodeName) -> Result<i64> {
    db.prepare_cached("INSERT INTO node (cluster, name) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute([&name.cluster, &name.node])?;
    Ok(db
        .prepare_cached("SELECT id FROM node WHERE cluster = ?1 AND name = ?2")?
        .query_row([&name.cluster, &name.node], |row| row.get(0))?)
}

/// Notes what a node's agent said of itself.
pub fn node_hello(db: &Connection, node: i64, agent_version: &str, skew_ns: i64) -> Result<()> {
    db.prepare_cached("UPDATE node SET agent_version = ?2, skew_ns = ?3 WHERE id = ?1")?.execute(params![
        node,
        agent_version,
        skew_ns
    ])?;
    Ok(())
}

/// Counts batches of nodes: a node and how many, each.
pub fn node_counts(db: &Connection, count: BatchCount, nodes: &[[i64; 2]]) -> Result<()> {
    let sql = match count {
        BatchCount::Accepted => "UPDATE node SET accepted = accepted + ?2 WHERE id = ?1",
        BatchCount::Refused => "UPDATE node SET refused = refused + ?2 WHERE id = ?1",
        BatchCount::Quarantined => "UPDATE node SET quarantined = quarantined + ?2 WHERE id = ?1",
    };
    Ok(db.execute_all(sql, nodes)?)
}

/// A cursor as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub id: i64,
    /// Last committed seq of this spool life; 0 if none.
    pub seq: u64,
    /// Last seq that is in a finished backup.
    pub backed_up_seq: u64,
}

/// The cursor of a spool life, made on first use.
pub fn cursor(db: &Connection, node: i64, epoch: &Id) -> Result<Cursor> {
    let find = || {
        db.prepare_cached("SELECT id, seq, backed_up_seq FROM cursor WHERE node = ?1 AND epoch = ?2")?
            .query_row(params![node, &epoch[..]], |row| {
                let (seq, backed_up_seq): (i64, i64) = (row.get(1)?, row.get(2)?);
                let (seq, backed_up_seq) = (seq.unsigned_abs(), backed_up_seq.unsigned_abs());
                Ok(Cursor { id: row.get(0)?, seq, backed_up_seq })
            })
            .optional()
    };
    if let Some(known) = find()? {
        return Ok(known);
    }
    let id = db
        .prepare_cached("INSERT INTO cursor (node, epoch, seq) VALUES (?1, ?2, 0) RETURNING id")?
        .query_row(params![node, &epoch[..]], |row| row.get(0))?;
    Ok(Cursor { id, seq: 0, backed_up_seq: 0 })
}

/// Moves the cursor from `from` to `to`. False if it did not stand at `from`: then nothing has changed.
pub fn move_cursor(db: &Connection, cursor: i64, from: u64, to: u64) -> Result<bool> {
    let moved = db
        .prepare_cached("UPDATE cursor SET seq = ?3 WHERE id = ?1 AND seq = ?2")?
        .execute(params![cursor, sql_u64(from)?, sql_u64(to)?])?;
    Ok(moved == 1)
}

/// Notes that all up to `seq` is in a finished backup.
pub fn backed_up(db: &Connection, cursor: i64, seq: i64) -> Result<()> {
    db.prepare_cached("UPDATE cursor SET backed_up_seq = ?2 WHERE id = ?1 AND backed_up_seq < ?2")?
        .execute([cursor, seq])?;
    Ok(())
}

/// Writes to the journal; returns the entry's number.
pub fn journal(db: &Connection, entry: &JournalEntry<'_>) -> Result<i64> {
    let payload = zstd::bulk::compress(entry.payload, 3)
        .map_err(|e| StoreError::Damaged { what: "zstd", detail: e.to_string() })?;
    let mut insert = db.prepare_cached(
        "INSERT INTO journal (at_ns, kind, node, epoch, seq, sha256, outcome, detail, payload, from_ns, to_ns,
         skew_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) RETURNING id",
    )?;
    let values = params![
        entry.at_ns,
        entry.kind as u8,
        entry.node,
        entry.epoch,
        sql_u64(entry.seq)?,
        entry.sha256,
        entry.outcome,
        entry.detail,
        payload,
        entry.from_ns,
        entry.to_ns,
        entry.skew_ns
    ];
    Ok(insert.query_row(values, |row| row.get(0))?)
}

/// Completes an entry of this transaction with what became of its batch.
pub fn set_outcome(db: &Connection, entry: i64, outcome: i32, detail: &str) -> Result<()> {
    db.prepare_cached("UPDATE journal SET outcome = ?2, detail = ?3 WHERE id = ?1")?
        .execute(params![entry, outcome, detail])?;
    Ok(())
}

/// SHA-256 of the batch that was committed under this cursor.
pub fn journalled_hash(db: &Connection, node: i64, epoch: &Id, seq: u64) -> Result<Option<Vec<u8>>> {
    Ok(db
        .prepare_cached(
            "SELECT sha256 FROM journal WHERE kind = 1 AND node = ?1 AND epoch = ?2 AND seq = ?3",
        )?
        .query_row(params![node, &epoch[..], sql_u64(seq)?], |row| row.get(0))
        .optional()?)
}

/// The store's number of a device; description brought up to date.
pub fn device(db: &Connection, device: &Device) -> Result<i64> {
    db.prepare_cached(
        "INSERT INTO device (uuid, model, memory_bytes, minor, pci_bus_id, driver_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (uuid) DO UPDATE SET minor = excluded.minor, pci_bus_id = excluded.pci_bus_id,
             driver_version = excluded.driver_version, memory_bytes = excluded.memory_bytes",
    )?
    .execute(params![
        device.uuid,
        device.model,
        sql_u64(device.memory_bytes)?,
        device.minor,
        device.pci_bus_id,
        device.driver_version
    ])?;
    Ok(db
        .prepare_cached("SELECT id FROM device WHERE uuid = ?1")?
        .query_row([&device.uuid], |row| row.get(0))?)
}

/// The store's number of an owner.
pub fn owner(db: &Connection, owner: &Owner) -> Result<i64> {
    let values = params![
        owner.kind as u8,
        owner.namespace,
        owner.pod,
        owner.pod_uid,
        owner.container,
        owner.container_id,
        owner.job_id,
        owner.step,
        owner.unit,
        owner.user,
        owner.account,
        owner.partition
    ];
    let known = db
        .prepare_cached(
            "SELECT id FROM owner WHERE kind = ?1 AND namespace = ?2 AND pod = ?3 AND pod_uid = ?4
             AND container = ?5 AND container_id = ?6 AND job_id = ?7 AND step = ?8 AND unit = ?9
             AND \"user\" = ?10 AND account = ?11 AND partition = ?12",
        )?
        .query_row(values, |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let mut insert = db.prepare_cached(
        "INSERT INTO owner (kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit,
         \"user\", account, partition) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) RETURNING id",
    )?;
    Ok(insert.query_row(values, |row| row.get(0))?)
}

/// A (slot, tenure) as stored; empty if it is new.
pub fn slot(db: &Connection, start_ns: i64, tenure: i64) -> Result<SlotState> {
    let state = db
        .prepare_cached(
            "SELECT existence_ns, covered_ns, facts, facts_ns, price_nanos FROM slot_state
             WHERE start = ?1 AND tenure = ?2",
        )?
        .query_row([start_ns, tenure], |row| {
            let extent = Extent { existence_ns: row.get(0)?, covered_ns: row.get(1)? };
            let (facts, facts_ns, price_nanos) = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok(SlotState { extent, facts, facts_ns, price_nanos, rows: Rows::new() })
        })
        .optional()?;
    let Some(mut state) = state else { return Ok(SlotState::default()) };
    let mut statement = db.prepare_cached(
        "SELECT instance, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj, method, cost_nanos,
         unpriced_ns FROM slot WHERE start = ?1 AND tenure = ?2",
    )?;
    for row in statement.query_map([start_ns, tenure], slot_row)? {
        let (key, row) = row?;
        *state.rows.row(key) = row;
    }
    Ok(state)
}

fn slot_row(row: &SqlRow<'_>) -> sql::Result<(Key, Row)> {
    let kind: i64 = row.get(2)?;
    let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(2, kind))?;
    let figures = Row {
        time_ns: row.get(3)?,
        busy_ns: row.get(4)?,
        memory_byte_seconds: row.get(5)?,
        energy_uj: row.get(6)?,
        method: row.get(7)?,
        cost_nanos: row.get(8)?,
        unpriced_ns: row.get(9)?,
    };
    Ok(((row.get(0)?, row.get(1)?, kind), figures))
}

/// Stores the states of (slot, tenure)s but for their rows. One without existence and rows of jobs is not kept.
pub fn put_slot_states<'a>(
    db: &Connection,
    states: impl Iterator<Item = (i64, i64, &'a SlotState)>,
) -> Result<()> {
    let mut rows = Vec::new();
    for (start_ns, tenure, state) in states {
        let Extent { existence_ns, covered_ns } = state.extent;
        // What jobs without GPUs ran for has rows and no existence.
        let of_jobs = || state.rows.keys().any(|(_, _, kind)| kind.is_of_job());
        if state.extent == Extent::default() && !of_jobs() {
            db.prepare_cached("DELETE FROM slot_state WHERE start = ?1 AND tenure = ?2")?
                .execute([start_ns, tenure])?;
            continue;
        }
        let [start_ns, tenure, existence_ns, covered_ns, facts, facts_ns] =
            [start_ns, tenure, existence_ns, covered_ns, state.facts, state.facts_ns].map(Some);
        rows.push([start_ns, tenure, existence_ns, covered_ns, facts, facts_ns, state.price_nanos]);
    }
    let conflict = "ON CONFLICT (start, tenure) DO UPDATE SET existence_ns = excluded.existence_ns,
        covered_ns = excluded.covered_ns, facts = excluded.facts, facts_ns = excluded.facts_ns,
        price_nanos = excluded.price_nanos";
    server::make_room(db, "slot_state", rows.iter().filter_map(|row| row[0]))?;
    Ok(db.insert_all("slot_state", conflict, &rows)?)
}

/// Stores rows of slots as they are now; each key once.
pub fn put_rows(db: &Connection, rows: &[TableRow]) -> Result<()> {
    let conflict = "ON CONFLICT (start, tenure, instance, owner, kind) DO UPDATE SET
        time_ns = excluded.time_ns, busy_ns = excluded.busy_ns, memory_byte_seconds = excluded.memory_byte_seconds,
        energy_uj = excluded.energy_uj, method = excluded.method, cost_nanos = excluded.cost_nanos,
        unpriced_ns = excluded.unpriced_ns";
    server::make_room(db, "slot", rows.iter().filter_map(|row| row[0]))?;
    Ok(db.insert_all("slot", conflict, rows)?)
}

/// Removes a row that is nothing any more.
pub fn remove_row(db: &Connection, start_ns: i64, tenure: i64, key: Key) -> Result<()> {
    db.prepare_cached(
        "DELETE FROM slot WHERE start = ?1 AND tenure = ?2 AND instance = ?3 AND owner = ?4 AND kind = ?5",
    )?
    .execute(params![start_ns, tenure, key.0, key.1, key.2 as u8])?;
    Ok(())
}

/// Adds differences to the rows of hours or days; each key once.
pub fn add_to_rollup(db: &Connection, rollup: Rollup, differences: &[TableRow]) -> Result<()> {
    let table = match rollup {
        Rollup::Hour => "hour",
        Rollup::Day => "day",
    };
    let conflict = format!(
        "ON CONFLICT (start, tenure, instance, owner, kind) DO UPDATE SET
         time_ns = {table}.time_ns + excluded.time_ns, busy_ns = {table}.busy_ns + excluded.busy_ns,
         memory_byte_seconds = {table}.memory_byte_seconds + excluded.memory_byte_seconds,
         energy_uj = {table}.energy_uj + excluded.energy_uj, method = {table}.method | excluded.method,
         cost_nanos = {table}.cost_nanos + excluded.cost_nanos,
         unpriced_ns = {table}.unpriced_ns + excluded.unpriced_ns"
    );
    server::make_room(db, table, differences.iter().filter_map(|row| row[0]))?;
    Ok(db.insert_all(table, &conflict, differences)?)
}

/// Keys of up to `limit` slots behind `after`, in their order.
pub fn slots_after(db: &Connection, after: (i64, i64), limit: u32) -> Result<Vec<(i64, i64)>> {
    let mut statement = db.prepare_cached(
        "SELECT start, tenure FROM slot_state WHERE (start, tenure) > (?1, ?2) ORDER BY start, tenure LIMIT ?3",
    )?;
    let rows = statement.query_map(params![after.0, after.1, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Text of the newest price book in the journal; `None` before the first.
pub fn newest_book(db: &Connection) -> Result<Option<String>> {
    let mut statement =
        db.prepare_cached("SELECT id, payload FROM journal WHERE kind = 2 ORDER BY id DESC LIMIT 1")?;
    let stored =
        statement.query_row([], |row| Ok((row.get::<i64>(0)?, row.get::<Vec<u8>>(1)?))).optional()?;
    let Some((id, stored)) = stored else { return Ok(None) };
    let text = String::from_utf8(super::decompress(id, &stored)?)
        .map_err(|e| StoreError::Damaged { what: "price book in the journal", detail: e.to_string() })?;
    Ok(Some(text))
}

/// Text of the price book by which every slot was priced last; `None` before the first.
pub fn applied_book(db: &Connection) -> Result<Option<String>> {
    meta::get(db, "price_book")
}

/// Notes that every slot is priced by this book.
pub fn set_applied_book(db: &Connection, text: &str) -> Result<()> {
    meta::set(db, "price_book", text)
}

pub(super) fn sql_u64(value: u64) -> Result<i64> {
    i64::try_from(value)
        .map_err(|_| StoreError::Damaged { what: "number", detail: format!("{value} is over 2^63") })
}
