//! What is posted when slots close: entries, checkpoints over them, balances; and who may close.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::write::{Mark, mark, set_mark};
use super::{StoreError, jobs, server, wide};
use crate::ledger::rows::{Key, Row, WHOLE};
use crate::model::RowKind;
use crate::store::sql::{self, Connection, OptionalExtension, params};

type Result<T> = std::result::Result<T, StoreError>;

/// Owner and kind; time, cost and unpriced time.
pub type Balance = ((i64, RowKind), [i128; 3]);

/// A checkpoint: the hash over the one before and all entries that name this one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub id: i64,
    pub at_ns: i64,
    pub closed_until_ns: i64,
    /// Last entry of the journal when it was made.
    pub journal: i64,
    pub entries: i64,
    pub hash: Vec<u8>,
}

/// A posted entry: never changed, corrected by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    pub id: i64,
    pub checkpoint: i64,
    pub start_ns: i64,
    pub tenure: i64,
    pub key: Key,
    /// Without method bits.
    pub row: Row,
    /// First entry of the same key; 0 for that one itself.
    pub corrects: i64,
}

impl Posted {
    /// As the table has it.
    fn columns(&self) -> [Option<i64>; 14] {
        let Row { time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns, .. } = self.row;
        let (instance, owner, kind) = self.key;
        let place =
            [self.id, self.checkpoint, self.start_ns, self.tenure, instance, owner, i64::from(kind as u8)];
        let figures =
            [time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns, self.corrects];
        let mut columns = place.into_iter().chain(figures);
        std::array::from_fn(|_| columns.next())
    }

    /// What a checkpoint hashes: every field, eight bytes each, least significant first. An entry of an instance says so in
    /// its kind, and the instance follows: so those of whole devices hash as they did before there were instances.
    fn hash_into(&self, hash: &mut Sha256) {
        let Row { time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns, .. } = self.row;
        let (instance, owner, kind) = self.key;
        let kind = i64::from(kind as u8);
        let kind = if instance == WHOLE { vec![kind] } else { vec![kind | 1 << 32, instance] };
        let before = [self.id, self.start_ns, self.tenure, owner];
        let behind =
            [time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns, self.corrects];
        for field in before.into_iter().chain(kind).chain(behind) {
            hash.update(field.to_le_bytes());
        }
    }
}

/// The hash of a checkpoint: over the hash before it, its own figures, and its entries in the order of their numbers.
#[must_use]
pub fn checkpoint_hash(before: &[u8], checkpoint: &Checkpoint, entries: &[Posted]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(before);
    for field in [checkpoint.id, checkpoint.at_ns, checkpoint.closed_until_ns, checkpoint.journal] {
        hash.update(field.to_le_bytes());
    }
    entries.iter().for_each(|entry| entry.hash_into(&mut hash));
    hash.finalize().to_vec()
}

/// Notes that the rows of closed (slot, tenure)s may not be what is posted.
pub fn mark_unposted(db: &Connection, slots: &[[i64; 2]]) -> Result<()> {
    let rows: Vec<_> = slots.iter().map(|slot| slot.map(Some)).collect();
    Ok(db.insert_all("unposted", "ON CONFLICT DO NOTHING", &rows)?)
}

/// Notes the same for every tenure in the slots of `[from_ns, to_ns)`, which close.
pub fn mark_closing(db: &Connection, from_ns: i64, to_ns: i64) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO unposted SELECT start, tenure FROM slot_state WHERE start >= ?1 AND start < ?2
         ON CONFLICT DO NOTHING",
    )?
    .execute([from_ns, to_ns])?;
    Ok(())
}

/// Up to `limit` (slot, tenure) whose rows may differ from what is posted.
pub fn unposted(db: &Connection, limit: u32) -> Result<Vec<(i64, i64)>> {
    let mut statement =
        db.prepare_cached("SELECT start, tenure FROM unposted ORDER BY start, tenure LIMIT ?1")?;
    let rows = statement.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// How many wait to be posted.
pub fn unposted_count(db: &Connection) -> Result<i64> {
    Ok(db.prepare_cached("SELECT COUNT(*) FROM unposted")?.query_row([], |row| row.get(0))?)
}

/// Start of the first slot at or behind `from_ns` in which anything existed.
pub fn first_slot(db: &Connection, from_ns: i64) -> Result<Option<i64>> {
    Ok(db
        .prepare_cached("SELECT MIN(start) FROM slot_state WHERE start >= ?1")?
        .query_row([from_ns], |row| row.get(0))?)
}

/// True if a device that may yet be heard of is not covered up to `until_ns`, though it existed before, or more is to come of jobs
/// without GPUs.
pub fn is_incomplete(db: &Connection, until_ns: i64) -> Result<bool> {
    let found = db
        .prepare_cached(
            // Stays of a device do not overlap: the last to begin is covered for the longest.
            "SELECT 1 FROM (SELECT device, MAX(from_ns) AS from_ns, MAX(covered_ns) AS covered_ns FROM stay GROUP BY device) s
             WHERE s.from_ns < ?1 AND s.covered_ns < ?1 AND NOT EXISTS
               (SELECT 1 FROM retired r WHERE r.device = s.device AND r.at_ns >= s.covered_ns) LIMIT 1",
        )?
        .query_row([until_ns], |_| Ok(()))
        .optional()?;
    Ok(found.is_some() || jobs::is_awaited(db, until_ns)?)
}

/// Posts what the rows of some (slot, tenure), in order, differ by from all that is posted of them, under `checkpoint`.
pub fn post(db: &Connection, waiting: &[(i64, i64)], checkpoint: i64) -> Result<Vec<Posted>> {
    let mut posted = Vec::new();
    for slot in waiting.chunk_by(|a, b| a.0 == b.0) {
        let tenures: Vec<String> = slot.iter().map(|(_, tenure)| tenure.to_string()).collect();
        let tenures = format!("[{}]", tenures.join(","));
        differences(db, slot[0].0, &tenures, checkpoint, &mut posted)?;
        db.prepare_cached(
            "DELETE FROM unposted
             WHERE start = ?1 AND tenure IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))",
        )?
        .execute(params![slot[0].0, tenures])?;
    }
    if posted.is_empty() {
        return Ok(posted);
    }
    // A number is never given again, not even that of an entry that was purged.
    let newest: Option<i64> =
        db.prepare_cached("SELECT MAX(id) FROM entry")?.query_row([], |row| row.get(0))?;
    let mut id = newest.unwrap_or(0).max(mark(db, Mark::LastEntry)?);
    for entry in &mut posted {
        id += 1;
        entry.id = id;
    }
    set_mark(db, Mark::LastEntry, id)?;
    server::make_room(db, "entry", posted.iter().map(|entry| entry.start_ns))?;
    let rows: Vec<[Option<i64>; 14]> = posted.iter().map(Posted::columns).collect();
    db.insert_all("entry", "", &rows)?;
    add_to_balances(db, &posted)?;
    Ok(posted)
}

/// What the rows of some tenures in one slot differ by from what is posted of them.
fn differences(
    db: &Connection,
    start_ns: i64,
    tenures: &str,
    checkpoint: i64,
    posted: &mut Vec<Posted>,
) -> Result<()> {
    let mut statement = db.prepare_cached(
        "SELECT tenure, instance, owner, kind, CAST(SUM(time_ns) AS BIGINT), CAST(SUM(busy_ns) AS BIGINT),
         CAST(SUM(memory_byte_seconds) AS BIGINT), CAST(SUM(energy_uj) AS BIGINT), CAST(SUM(cost_nanos) AS BIGINT),
         CAST(SUM(unpriced_ns) AS BIGINT), MAX(first) FROM (
            SELECT tenure, instance, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos,
                unpriced_ns, 0 AS first FROM slot
                WHERE start = ?1 AND tenure IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))
            UNION ALL
            SELECT tenure, instance, owner, kind, -time_ns, -busy_ns, -memory_byte_seconds, -energy_uj, -cost_nanos,
                -unpriced_ns, CASE corrects WHEN 0 THEN id ELSE corrects END FROM entry
                WHERE start = ?1 AND tenure IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))) r
         GROUP BY tenure, instance, owner, kind ORDER BY tenure, instance, owner, kind",
    )?;
    let mut rows = statement.query(params![start_ns, tenures])?;
    while let Some(row) = rows.next()? {
        let kind: i64 = row.get(3)?;
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(3, kind))?;
        let difference = Row {
            time_ns: row.get(4)?,
            busy_ns: row.get(5)?,
            memory_byte_seconds: row.get(6)?,
            energy_uj: row.get(7)?,
            method: 0,
            cost_nanos: row.get(8)?,
            unpriced_ns: row.get(9)?,
        };
        if difference != Row::default() {
            let (tenure, corrects) = (row.get(0)?, row.get(10)?);
            let key = (row.get(1)?, row.get(2)?, kind);
            posted.push(Posted { id: 0, checkpoint, start_ns, tenure, key, row: difference, corrects });
        }
    }
    Ok(())
}

fn add_to_balances(db: &Connection, posted: &[Posted]) -> Result<()> {
    let mut sums: BTreeMap<(i64, RowKind), [i128; 3]> = BTreeMap::new();
    for Posted { key: (_, owner, kind), row, .. } in posted {
        let sum = sums.entry((*owner, *kind)).or_default();
        for (sum, figure) in sum.iter_mut().zip([row.time_ns, row.cost_nanos, row.unpriced_ns]) {
            *sum += i128::from(figure);
        }
    }
    let owners: BTreeSet<String> = sums.keys().map(|(owner, _)| owner.to_string()).collect();
    let owners = format!("[{}]", owners.into_iter().collect::<Vec<_>>().join(","));
    for (key, balance) in balances_where(
        db,
        "WHERE owner IN (SELECT CAST(value AS BIGINT) FROM json_each(?1))",
        params![owners],
    )? {
        if let Some(sum) = sums.get_mut(&key) {
            sum.iter_mut().zip(balance).for_each(|(sum, before)| *sum += before);
        }
    }
    let mut put = db.prepare_cached(
        "INSERT INTO balance VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (owner, kind) DO UPDATE SET
         time_ns = excluded.time_ns, cost_nanos = excluded.cost_nanos, unpriced_ns = excluded.unpriced_ns",
    )?;
    for ((owner, kind), sum) in sums {
        let [time_ns, cost_nanos, unpriced_ns] = sum.map(|sum| sum.to_string());
        put.execute(params![owner, kind as u8, time_ns, cost_nanos, unpriced_ns])?;
    }
    Ok(())
}

/// A balance whose columns begin at `first`.
fn sums(row: &sql::Row<'_>, first: usize) -> sql::Result<[i128; 3]> {
    Ok([wide::decimal(row, first)?, wide::decimal(row, first + 1)?, wide::decimal(row, first + 2)?])
}

/// The newest checkpoint; of nothing before the first.
pub fn last_checkpoint(db: &Connection) -> Result<Checkpoint> {
    let found = db
        .prepare_cached(&format!("{CHECKPOINT} ORDER BY id DESC LIMIT 1"))?
        .query_row([], checkpoint)
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// All checkpoints behind number `after`, in their order.
pub fn checkpoints(db: &Connection, after: i64) -> Result<Vec<Checkpoint>> {
    let mut statement = db.prepare_cached(&format!("{CHECKPOINT} WHERE id > ?1 ORDER BY id"))?;
    let rows = statement.query_map([after], checkpoint)?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

const CHECKPOINT: &str = "SELECT id, at_ns, closed_until_ns, journal, entries, hash FROM checkpoint";

fn checkpoint(row: &sql::Row<'_>) -> sql::Result<Checkpoint> {
    Ok(Checkpoint {
        id: row.get(0)?,
        at_ns: row.get(1)?,
        closed_until_ns: row.get(2)?,
        journal: row.get(3)?,
        entries: row.get(4)?,
        hash: row.get(5)?,
    })
}

/// Writes a checkpoint.
pub fn put_checkpoint(db: &Connection, checkpoint: &Checkpoint) -> Result<()> {
    db.prepare_cached("INSERT INTO checkpoint VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        checkpoint.id,
        checkpoint.at_ns,
        checkpoint.closed_until_ns,
        checkpoint.journal,
        checkpoint.entries,
        checkpoint.hash
    ])?;
    Ok(())
}

/// Number of the journal's last entry.
pub fn last_journal(db: &Connection) -> Result<i64> {
    let last: Option<i64> =
        db.prepare_cached("SELECT MAX(id) FROM journal")?.query_row([], |row| row.get(0))?;
    Ok(last.unwrap_or(0))
}

/// The entries of one checkpoint, in the order of their numbers.
pub fn entries_of(db: &Connection, checkpoint: i64) -> Result<Vec<Posted>> {
    entries(db, "WHERE checkpoint = ?1 ORDER BY id", checkpoint)
}

/// All entries of slots at or behind `from_ns`, in the order of their numbers.
pub fn entries_from(db: &Connection, from_ns: i64) -> Result<Vec<Posted>> {
    entries(db, "WHERE start >= ?1 ORDER BY id", from_ns)
}

fn entries(db: &Connection, which: &str, parameter: i64) -> Result<Vec<Posted>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, checkpoint, start, tenure, instance, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj,
         cost_nanos, unpriced_ns, corrects FROM entry {which}"
    ))?;
    let rows = statement.query_map([parameter], |row| {
        let kind: i64 = row.get(6)?;
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(6, kind))?;
        Ok(Posted {
            id: row.get(0)?,
            checkpoint: row.get(1)?,
            start_ns: row.get(2)?,
            tenure: row.get(3)?,
            key: (row.get(4)?, row.get(5)?, kind),
            row: Row {
                time_ns: row.get(7)?,
                busy_ns: row.get(8)?,
                memory_byte_seconds: row.get(9)?,
                energy_uj: row.get(10)?,
                method: 0,
                cost_nanos: row.get(11)?,
                unpriced_ns: row.get(12)?,
            },
            corrects: row.get(13)?,
        })
    })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Sums of all entries ever posted: by owner and kind, time, cost and unpriced time.
pub fn balances(db: &Connection) -> Result<Vec<Balance>> {
    balances_where(db, "", params![])
}

fn balances_where(db: &Connection, which: &str, values: &[&dyn sql::ToSql]) -> Result<Vec<Balance>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT owner, kind, time_ns, cost_nanos, unpriced_ns FROM balance {which} ORDER BY owner, kind"
    ))?;
    let rows = statement.query_map(values, |row| {
        let kind: i64 = row.get(1)?;
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(1, kind))?;
        Ok(((row.get(0)?, kind), sums(row, 2)?))
    })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Takes or renews a lease. False if another holds it. The fence goes up with every change of hands.
pub fn lease(db: &Connection, name: &str, holder: &str, now_ns: i64, until_ns: i64) -> Result<bool> {
    // A lease that ends so late was taken by a clock that is wrong.
    let nonsense_ns = now_ns.saturating_add(2 * until_ns.saturating_sub(now_ns));
    db.prepare_cached(
        "INSERT INTO lease VALUES (?1, ?2, 1, ?4) ON CONFLICT (name) DO UPDATE SET
         fence = lease.fence + CASE lease.holder WHEN excluded.holder THEN 0 ELSE 1 END,
         holder = excluded.holder, until_ns = excluded.until_ns
         WHERE lease.holder = excluded.holder OR lease.until_ns <= ?3 OR lease.until_ns > ?5",
    )?
    .execute(params![name, holder, now_ns, until_ns, nonsense_ns])?;
    let held_by: String =
        db.prepare_cached("SELECT holder FROM lease WHERE name = ?1")?.query_row([name], |row| row.get(0))?;
    Ok(held_by == holder)
}
