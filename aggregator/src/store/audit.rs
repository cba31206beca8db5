//! What verification reads: the journal in its order, and every bucket under natural keys instead of the store's
//! numbers, so that nothing of the store's own bookkeeping is taken on trust.

use rusqlite::{Connection, Row as SqlRow};

use super::StoreError;
use crate::model::{NodeName, Owner, OwnerKind, RowKind};

/// An entry of the journal.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: i64,
    pub at_ns: i64,
    pub kind: i64,
    pub outcome: i32,
    /// Empty for inputs of no node.
    pub node: NodeName,
    pub sha256: Vec<u8>,
    pub payload: Vec<u8>,
}

/// A bucket's key without the store's numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    pub start_ns: i64,
    pub device: String,
    pub node: NodeName,
    pub tenure_from_ns: i64,
    /// `None` for rows that have no owner.
    pub owner: Option<Owner>,
    pub kind: RowKind,
}

/// A bucket's figures. Method bits are left out: a roll-up keeps every bit that a slot ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    pub time_ns: i128,
    pub busy_ns: i128,
    pub memory_byte_seconds: i128,
    pub energy_uj: i128,
    pub cost_nanos: i128,
    pub unpriced_ns: i128,
}

impl std::ops::AddAssign for Bucket {
    fn add_assign(&mut self, more: Self) {
        self.time_ns += more.time_ns;
        self.busy_ns += more.busy_ns;
        self.memory_byte_seconds += more.memory_byte_seconds;
        self.energy_uj += more.energy_uj;
        self.cost_nanos += more.cost_nanos;
        self.unpriced_ns += more.unpriced_ns;
    }
}

/// Which buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    Slot,
    Hour,
    Day,
}

/// Hands every entry of the journal to `each`, in order.
///
/// # Errors
/// If the store cannot be read, an entry is damaged, or `each` fails.
pub fn journal(
    db: &Connection,
    mut each: impl FnMut(Entry) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = db.prepare(
        "SELECT j.id, j.at_ns, j.kind, j.outcome, COALESCE(n.cluster, ''), COALESCE(n.name, ''), j.sha256,
         j.payload FROM journal j LEFT JOIN node n ON n.id = j.node ORDER BY j.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let stored: Vec<u8> = row.get(7)?;
        let payload = zstd::bulk::decompress(&stored, 2 * tonnage_proto::limits::BATCH_BYTES_MAX)
            .map_err(|e| StoreError::Damaged { what: "journal", detail: format!("entry {id}: {e}") })?;
        each(Entry {
            id,
            at_ns: row.get(1)?,
            kind: row.get(2)?,
            outcome: row.get(3)?,
            node: NodeName { cluster: row.get(4)?, node: row.get(5)? },
            sha256: row.get(6)?,
            payload,
        })?;
    }
    Ok(())
}

/// Hands every bucket to `each`.
///
/// # Errors
/// If the store cannot be read, or a bucket is damaged.
pub fn buckets(
    db: &Connection,
    which: Buckets,
    mut each: impl FnMut(BucketKey, Bucket),
) -> Result<(), StoreError> {
    let table = match which {
        Buckets::Slot => "slot",
        Buckets::Hour => "hour",
        Buckets::Day => "day",
    };
    let mut statement = db.prepare(&format!(
        "SELECT b.start, d.uuid, n.cluster, n.name, t.from_ns, b.owner, b.kind,
         o.kind, o.namespace, o.pod, o.pod_uid, o.container, o.container_id, o.job_id, o.step, o.unit, o.user,
         b.time_ns, b.busy_ns, b.memory_byte_seconds, b.energy_uj, b.cost_nanos, b.unpriced_ns
         FROM {table} b JOIN tenure t ON t.id = b.tenure JOIN device d ON d.id = t.device
         JOIN node n ON n.id = t.node LEFT JOIN owner o ON o.id = b.owner"
    ))?;
    let mut rows = statement.query([])?;
    let mut count = 0_i64;
    while let Some(row) = rows.next()? {
        each(key(row)?, figures(row)?);
        count += 1;
    }
    // A row whose tenure or device is gone would fall out of the join unseen.
    let all: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
    if all == count {
        Ok(())
    } else {
        let detail = format!("{} of {all} rows have no tenure", all - count);
        Err(StoreError::Damaged { what: table, detail })
    }
}

fn key(row: &SqlRow<'_>) -> rusqlite::Result<BucketKey> {
    let kind: i64 = row.get(6)?;
    let owner: i64 = row.get(5)?;
    Ok(BucketKey {
        start_ns: row.get(0)?,
        device: row.get(1)?,
        node: NodeName { cluster: row.get(2)?, node: row.get(3)? },
        tenure_from_ns: row.get(4)?,
        owner: if owner == 0 { None } else { Some(owner_of(row)?) },
        kind: RowKind::from_number(kind).ok_or(rusqlite::Error::IntegralValueOutOfRange(6, kind))?,
    })
}

fn owner_of(row: &SqlRow<'_>) -> rusqlite::Result<Owner> {
    let kind: i64 = row.get(7)?;
    Ok(Owner {
        kind: OwnerKind::from_number(kind).ok_or(rusqlite::Error::IntegralValueOutOfRange(7, kind))?,
        namespace: row.get(8)?,
        pod: row.get(9)?,
        pod_uid: row.get(10)?,
        container: row.get(11)?,
        container_id: row.get(12)?,
        job_id: row.get(13)?,
        step: row.get(14)?,
        unit: row.get(15)?,
        user: row.get(16)?,
    })
}

fn figures(row: &SqlRow<'_>) -> rusqlite::Result<Bucket> {
    let at = |index: usize| row.get::<_, i64>(index).map(i128::from);
    Ok(Bucket {
        time_ns: at(17)?,
        busy_ns: at(18)?,
        memory_byte_seconds: at(19)?,
        energy_uj: at(20)?,
        cost_nanos: at(21)?,
        unpriced_ns: at(22)?,
    })
}
