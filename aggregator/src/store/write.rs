//! What the commit thread reads and writes, one typed function per statement. All within its transaction.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::StoreError;
use crate::ledger::coverage::{Coverage, Interval};
use crate::ledger::settle::{Extent, Key, Row, Rows};
use crate::ledger::tenure::{Place, Tenure};
use crate::model::{Device, Id, NodeFacts, NodeName, Owner, RowKind};

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
    pub payload: &'a [u8],
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
    pub price_nanos: Option<i64>,
    pub rows: Rows,
}

/// Counters of a node's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchCount {
    Accepted,
    Refused,
    Quarantined,
}

type Result<T> = std::result::Result<T, StoreError>;

macro_rules! row_params {
    ($start:expr, $tenure:expr, $key:expr, $row:expr) => {
        params![
            $start,
            $tenure,
            $key.0,
            $key.1 as u8,
            $row.time_ns,
            $row.busy_ns,
            $row.memory_byte_seconds,
            $row.energy_uj,
            $row.method,
            $row.cost_nanos,
            $row.unpriced_ns
        ]
    };
}

macro_rules! add_sql {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO UPDATE SET
             time_ns = time_ns + excluded.time_ns, busy_ns = busy_ns + excluded.busy_ns,
             memory_byte_seconds = memory_byte_seconds + excluded.memory_byte_seconds,
             energy_uj = energy_uj + excluded.energy_uj, method = method | excluded.method,
             cost_nanos = cost_nanos + excluded.cost_nanos, unpriced_ns = unpriced_ns + excluded.unpriced_ns"
        )
    };
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

/// Counts a batch of a node.
pub fn node_count(db: &Connection, node: i64, count: BatchCount) -> Result<()> {
    let sql = match count {
        BatchCount::Accepted => "UPDATE node SET accepted = accepted + 1 WHERE id = ?1",
        BatchCount::Refused => "UPDATE node SET refused = refused + 1 WHERE id = ?1",
        BatchCount::Quarantined => "UPDATE node SET quarantined = quarantined + 1 WHERE id = ?1",
    };
    db.prepare_cached(sql)?.execute([node])?;
    Ok(())
}

/// Last committed seq of this spool life; 0 if none.
pub fn cursor(db: &Connection, node: i64, epoch: &Id) -> Result<u64> {
    let seq: Option<i64> = db
        .prepare_cached("SELECT seq FROM cursor WHERE node = ?1 AND epoch = ?2")?
        .query_row(params![node, &epoch[..]], |row| row.get(0))
        .optional()?;
    Ok(seq.map_or(0, i64::unsigned_abs))
}

/// Moves the cursor from `from` to `to`. False if it did not stand at `from`: then nothing has changed.
pub fn move_cursor(db: &Connection, node: i64, epoch: &Id, from: u64, to: u64) -> Result<bool> {
    if from == 0 {
        db.prepare_cached("INSERT INTO cursor (node, epoch, seq) VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING")?
            .execute(params![node, &epoch[..]])?;
    }
    let moved = db
        .prepare_cached("UPDATE cursor SET seq = ?4 WHERE node = ?1 AND epoch = ?2 AND seq = ?3")?
        .execute(params![node, &epoch[..], sql_u64(from)?, sql_u64(to)?])?;
    Ok(moved == 1)
}

/// Writes to the journal; returns the entry's number.
pub fn journal(db: &Connection, entry: &JournalEntry<'_>) -> Result<i64> {
    let payload = zstd::bulk::compress(entry.payload, 3)
        .map_err(|e| StoreError::Damaged { what: "zstd", detail: e.to_string() })?;
    db.prepare_cached(
        "INSERT INTO journal (at_ns, kind, node, epoch, seq, sha256, outcome, detail, payload, from_ns, to_ns)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
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
        entry.to_ns
    ])?;
    Ok(db.last_insert_rowid())
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

/// The store's number of a device and its slices as first seen; description brought up to date.
pub fn device(db: &Connection, device: &Device) -> Result<(i64, u32)> {
    db.prepare_cached(
        "INSERT INTO device (uuid, model, memory_bytes, slices, minor, pci_bus_id, driver_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (uuid) DO UPDATE SET minor = excluded.minor, pci_bus_id = excluded.pci_bus_id,
             driver_version = excluded.driver_version, memory_bytes = excluded.memory_bytes",
    )?
    .execute(params![
        device.uuid,
        device.model,
        sql_u64(device.memory_bytes)?,
        device.slices,
        device.minor,
        device.pci_bus_id,
        device.driver_version
    ])?;
    Ok(db
        .prepare_cached("SELECT id, slices FROM device WHERE uuid = ?1")?
        .query_row([&device.uuid], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// The newest tenures of a device, at most 64, sorted by time.
pub fn tenures(db: &Connection, device: i64) -> Result<Vec<Tenure>> {
    let mut statement = db.prepare_cached(
        "SELECT id, node, life, from_ns, to_ns FROM tenure
         WHERE device = ?1 ORDER BY to_ns DESC LIMIT 64",
    )?;
    let rows = statement.query_map([device], |row| {
        Ok(Tenure {
            id: row.get(0)?,
            place: Place { node: row.get(1)?, life: row.get(2)? },
            span: Interval { start_ns: row.get(3)?, end_ns: row.get(4)? },
        })
    })?;
    let mut tenures = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    tenures.reverse();
    Ok(tenures)
}

/// Begins a tenure; returns its number.
pub fn insert_tenure(db: &Connection, device: i64, place: &Place, span: Interval) -> Result<i64> {
    db.prepare_cached(
        "INSERT INTO tenure (device, node, life, from_ns, to_ns, covered_until_ns)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    )?
    .execute(params![device, place.node, place.life, span.start_ns, span.end_ns])?;
    Ok(db.last_insert_rowid())
}

/// Moves a tenure's end.
pub fn extend_tenure(db: &Connection, tenure: i64, to_ns: i64) -> Result<()> {
    db.prepare_cached("UPDATE tenure SET to_ns = ?2, covered_until_ns = ?2 WHERE id = ?1")?
        .execute([tenure, to_ns])?;
    Ok(())
}

/// The covered intervals of a device that start within `[from_ns, to_ns)`.
pub fn coverage(db: &Connection, device: i64, from_ns: i64, to_ns: i64) -> Result<Coverage> {
    let mut statement = db.prepare_cached(
        "SELECT start_ns, end_ns FROM covered WHERE device = ?1 AND start_ns >= ?2 AND start_ns < ?3
         ORDER BY start_ns",
    )?;
    let rows = statement.query_map([device, from_ns, to_ns], |row| {
        Ok(Interval { start_ns: row.get(0)?, end_ns: row.get(1)? })
    })?;
    Ok(Coverage::from_sorted(rows.collect::<rusqlite::Result<_>>()?))
}

/// Replaces the covered intervals of a device that start within `[from_ns, to_ns)`.
pub fn put_coverage(db: &Connection, device: i64, from_ns: i64, to_ns: i64, new: &Coverage) -> Result<()> {
    db.prepare_cached("DELETE FROM covered WHERE device = ?1 AND start_ns >= ?2 AND start_ns < ?3")?
        .execute([device, from_ns, to_ns])?;
    let mut insert = db.prepare_cached("INSERT INTO covered VALUES (?1, ?2, ?3, 0, 0)")?;
    for interval in new.intervals() {
        insert.execute([device, interval.start_ns, interval.end_ns])?;
    }
    Ok(())
}

/// The store's number of a node's facts.
pub fn facts(db: &Connection, facts: &NodeFacts) -> Result<i64> {
    let json = serde_json::to_string(facts)
        .map_err(|e| StoreError::Damaged { what: "facts", detail: e.to_string() })?;
    db.prepare_cached("INSERT INTO facts (json) VALUES (?1) ON CONFLICT DO NOTHING")?.execute([&json])?;
    Ok(db.prepare_cached("SELECT id FROM facts WHERE json = ?1")?.query_row([&json], |row| row.get(0))?)
}

/// Facts by their number.
pub fn facts_by_id(db: &Connection, id: i64) -> Result<NodeFacts> {
    let json: String =
        db.prepare_cached("SELECT json FROM facts WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    serde_json::from_str(&json).map_err(|e| StoreError::Damaged { what: "facts", detail: e.to_string() })
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
        owner.user
    ];
    let known = db
        .prepare_cached(
            "SELECT id FROM owner WHERE kind = ?1 AND namespace = ?2 AND pod = ?3 AND pod_uid = ?4
             AND container = ?5 AND container_id = ?6 AND job_id = ?7 AND step = ?8 AND unit = ?9
             AND user = ?10",
        )?
        .query_row(values, |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    db.prepare_cached(
        "INSERT INTO owner (kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit,
         user) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(values)?;
    Ok(db.last_insert_rowid())
}

/// A (slot, tenure) as stored; empty if it is new.
pub fn slot(db: &Connection, start_ns: i64, tenure: i64) -> Result<SlotState> {
    let state = db
        .prepare_cached(
            "SELECT existence_ns, covered_ns, facts, price_nanos FROM slot_state
             WHERE start = ?1 AND tenure = ?2",
        )?
        .query_row([start_ns, tenure], |row| {
            let extent = Extent { existence_ns: row.get(0)?, covered_ns: row.get(1)? };
            let (facts, price_nanos) = (row.get(2)?, row.get(3)?);
            Ok(SlotState { extent, facts, price_nanos, rows: Rows::new() })
        })
        .optional()?;
    let Some(mut state) = state else { return Ok(SlotState::default()) };
    let mut statement = db.prepare_cached(
        "SELECT owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj, method, cost_nanos,
         unpriced_ns FROM slot WHERE start = ?1 AND tenure = ?2",
    )?;
    for row in statement.query_map([start_ns, tenure], slot_row)? {
        let (key, row) = row?;
        state.rows.insert(key, row);
    }
    Ok(state)
}

fn slot_row(row: &SqlRow<'_>) -> rusqlite::Result<(Key, Row)> {
    let kind: i64 = row.get(1)?;
    let kind = RowKind::from_number(kind).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, kind))?;
    let figures = Row {
        time_ns: row.get(2)?,
        busy_ns: row.get(3)?,
        memory_byte_seconds: row.get(4)?,
        energy_uj: row.get(5)?,
        method: row.get(6)?,
        cost_nanos: row.get(7)?,
        unpriced_ns: row.get(8)?,
    };
    Ok(((row.get(0)?, kind), figures))
}

/// Stores the state of a (slot, tenure) but for its rows.
pub fn put_slot_state(db: &Connection, start_ns: i64, tenure: i64, state: &SlotState) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO slot_state VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
        params![
            start_ns,
            tenure,
            state.extent.existence_ns,
            state.extent.covered_ns,
            state.facts,
            state.price_nanos
        ],
    )?;
    Ok(())
}

/// Stores one row of a slot as it is now.
pub fn put_row(db: &Connection, start_ns: i64, tenure: i64, key: Key, row: &Row) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO slot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?
        .execute(row_params!(start_ns, tenure, key, row))?;
    Ok(())
}

/// Removes a row that is nothing any more.
pub fn remove_row(db: &Connection, start_ns: i64, tenure: i64, key: Key) -> Result<()> {
    db.prepare_cached("DELETE FROM slot WHERE start = ?1 AND tenure = ?2 AND owner = ?3 AND kind = ?4")?
        .execute(params![start_ns, tenure, key.0, key.1 as u8])?;
    Ok(())
}

/// Adds a difference to the hour's or the day's row.
pub fn add_to_rollup(
    db: &Connection,
    rollup: Rollup,
    start_ns: i64,
    tenure: i64,
    key: Key,
    difference: &Row,
) -> Result<()> {
    let sql = match rollup {
        Rollup::Hour => add_sql!("hour"),
        Rollup::Day => add_sql!("day"),
    };
    db.prepare_cached(sql)?.execute(row_params!(start_ns, tenure, key, difference))?;
    Ok(())
}

/// Notes a window that was not folded.
pub fn quarantine(
    db: &Connection,
    (journal, window): (i64, usize),
    device: &str,
    span: Interval,
    (kind, reason): (&str, &str),
) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO quarantine (journal, window, device, start_ns, end_ns, kind, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        journal,
        i64::try_from(window).unwrap_or(i64::MAX),
        device,
        span.start_ns,
        span.end_ns,
        kind,
        reason
    ])?;
    Ok(())
}

/// What pricing a slot again needs: its key, its tenure's node, its device's model and slices.
#[derive(Debug, Clone)]
pub struct PricedSlot {
    pub start_ns: i64,
    pub tenure: i64,
    pub node: NodeName,
    pub model: String,
    pub slices: u32,
}

/// Up to `limit` slots behind `after` in the order of their keys.
pub fn slots_after(db: &Connection, after: (i64, i64), limit: u32) -> Result<Vec<PricedSlot>> {
    let mut statement = db.prepare_cached(
        "SELECT s.start, s.tenure, n.cluster, n.name, d.model, d.slices
         FROM slot_state s JOIN tenure t ON t.id = s.tenure JOIN node n ON n.id = t.node
         JOIN device d ON d.id = t.device
         WHERE (s.start, s.tenure) > (?1, ?2) ORDER BY s.start, s.tenure LIMIT ?3",
    )?;
    let rows = statement.query_map(params![after.0, after.1, limit], |row| {
        Ok(PricedSlot {
            start_ns: row.get(0)?,
            tenure: row.get(1)?,
            node: NodeName { cluster: row.get(2)?, node: row.get(3)? },
            model: row.get(4)?,
            slices: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Text of the price book by which every slot was priced last; `None` before the first.
pub fn applied_book(db: &Connection) -> Result<Option<String>> {
    meta_text(db, "price_book")
}

/// Notes that every slot is priced by this book.
pub fn set_applied_book(db: &Connection, text: &str) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('price_book', ?1)")?.execute([text])?;
    Ok(())
}

fn meta_text(db: &Connection, key: &str) -> Result<Option<String>> {
    Ok(db
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?)
}

fn sql_u64(value: u64) -> Result<i64> {
    i64::try_from(value)
        .map_err(|_| StoreError::Damaged { what: "number", detail: format!("{value} is over 2^63") })
}
