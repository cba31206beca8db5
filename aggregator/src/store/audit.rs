//! What verification reads: the journal in its order, and every bucket under natural keys instead of the store's
//! numbers, so that nothing of the store's own bookkeeping is taken on trust.

use super::{StoreError, wide};
use crate::ledger::rows::Key;
use crate::model::{Instance, NodeName, Owner, OwnerKind, RowKind};
use crate::store::instances::{self, COLUMNS};
use crate::store::sql::{self, Connection, Row as SqlRow};

mod described;
mod rolled;
mod unobserved;

pub use described::{VersionKey, described, described_hash, ever_held};
pub use rolled::{Rolled, RolledKey, rolled};
pub use unobserved::{Piece, REASONS, unobserved};

/// An entry of the journal.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: i64,
    pub at_ns: i64,
    pub kind: i64,
    pub outcome: i32,
    pub detail: String,
    /// Empty for inputs of no node.
    pub node: NodeName,
    pub epoch: Vec<u8>,
    pub seq: i64,
    /// Of a batch: end of its last window. Of existence and purges: until when.
    pub to_ns: i64,
    pub skew_ns: i64,
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
    /// `None` for rows that are of the device itself.
    pub instance: Option<Instance>,
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

impl Buckets {
    fn table(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Hands every entry of the journal to `each`, in order.
///
/// # Errors
/// If the store cannot be read, an entry is damaged, or `each` fails.
pub fn journal(
    db: &Connection,
    mut each: impl FnMut(Entry) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT j.id, j.at_ns, j.kind, j.outcome, COALESCE(n.cluster, ''), COALESCE(n.name, ''), j.sha256,
         j.payload, j.epoch, j.seq, j.to_ns, j.detail, j.skew_ns
         FROM journal j LEFT JOIN node n ON n.id = j.node ORDER BY j.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let stored: Vec<u8> = row.get(7)?;
        let payload = super::decompress(id, &stored)?;
        each(Entry {
            id,
            at_ns: row.get(1)?,
            kind: row.get(2)?,
            outcome: row.get(3)?,
            node: NodeName { cluster: row.get(4)?, node: row.get(5)? },
            sha256: row.get(6)?,
            payload,
            epoch: row.get(8)?,
            seq: row.get(9)?,
            to_ns: row.get(10)?,
            detail: row.get(11)?,
            skew_ns: row.get(12)?,
        })?;
    }
    Ok(())
}

/// Hands every bucket that starts at `from_ns` or later to `each`.
///
/// # Errors
/// If the store cannot be read, or a bucket is damaged.
pub fn buckets_from(
    db: &Connection,
    which: Buckets,
    from_ns: i64,
    mut each: impl FnMut(BucketKey, Bucket),
) -> Result<(), StoreError> {
    let table = which.table();
    let mut statement = db.prepare_cached(&format!(
        "SELECT b.start, d.uuid, n.cluster, n.name, t.from_ns, b.owner, b.kind,
         o.kind, o.namespace, o.pod, o.pod_uid, o.container, o.container_id, o.job_id, o.step, o.unit, o.user,
         o.account, o.partition,
         b.time_ns, b.busy_ns, b.memory_byte_seconds, b.energy_uj, b.cost_nanos, b.unpriced_ns, b.instance,
         {COLUMNS}
         FROM {table} b JOIN tenure t ON t.id = b.tenure JOIN device d ON d.id = t.device
         JOIN node n ON n.id = t.node LEFT JOIN owner o ON o.id = b.owner
         LEFT JOIN instance i ON i.id = b.instance AND i.device = t.device WHERE b.start >= ?1"
    ))?;
    let mut rows = statement.query([from_ns])?;
    let mut count = 0_i64;
    while let Some(row) = rows.next()? {
        each(key(&row)?, figures(&row)?);
        count += 1;
    }
    // A row whose tenure or device is gone would fall out of the join unseen.
    let all: i64 =
        db.query_row(&format!("SELECT count(*) FROM {table} WHERE start >= ?1"), [from_ns], |row| {
            row.get(0)
        })?;
    if all == count {
        Ok(())
    } else {
        let detail = format!("{} of {all} rows have no tenure", all - count);
        Err(StoreError::Damaged { what: table, detail })
    }
}

/// Hands every bucket to `each`.
///
/// # Errors
/// If the store cannot be read, or a bucket is damaged.
pub fn buckets(
    db: &Connection,
    which: Buckets,
    each: impl FnMut(BucketKey, Bucket),
) -> Result<(), StoreError> {
    buckets_from(db, which, i64::MIN, each)
}

/// Sums over all buckets that start before `until_ns`: time and cost.
///
/// # Errors
/// If the store cannot be read.
pub fn sums_before(db: &Connection, which: Buckets, until_ns: i64) -> Result<[i128; 2], StoreError> {
    let [time, cost] = ["time_ns", "cost_nanos"].map(wide::sum);
    let sql = format!("SELECT {time}, {cost} FROM {} WHERE start < ?1", which.table());
    Ok(db.query_row(&sql, [until_ns], |row| Ok([wide::read(row, 0)?, wide::read(row, 2)?]))?)
}

/// Windows that are quarantined and not counted, at or behind `from_ns`: entry of the journal, and position.
///
/// # Errors
/// If the store cannot be read.
pub fn held_back(
    db: &Connection,
    from_ns: i64,
) -> Result<std::collections::BTreeSet<(i64, usize)>, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT q.journal, q.window FROM quarantine q WHERE state = 0 AND start_ns >= ?1")?;
    let rows = statement.query_map([from_ns], |row| {
        Ok((row.get(0)?, usize::try_from(row.get::<i64>(1)?).unwrap_or(usize::MAX)))
    })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

fn key(row: &SqlRow<'_>) -> sql::Result<BucketKey> {
    let kind: i64 = row.get(6)?;
    let owner: i64 = row.get(5)?;
    Ok(BucketKey {
        start_ns: row.get(0)?,
        device: row.get(1)?,
        node: NodeName { cluster: row.get(2)?, node: row.get(3)? },
        tenure_from_ns: row.get(4)?,
        instance: match row.get::<i64>(25)? {
            0 => None,
            _ => Some(instances::read(row, 26, &row.get::<String>(1)?)?),
        },
        owner: if owner == 0 { None } else { Some(owner_of(row, 7)?) },
        kind: RowKind::from_number(kind).ok_or(sql::Error::out_of_range(6, kind))?,
    })
}

/// An owner whose columns begin at `first`, in the order of the table.
pub(super) fn owner_of(row: &SqlRow<'_>, first: usize) -> sql::Result<Owner> {
    let kind: i64 = row.get(first)?;
    Ok(Owner {
        kind: OwnerKind::from_number(kind).ok_or(sql::Error::out_of_range(first, kind))?,
        namespace: row.get(first + 1)?,
        pod: row.get(first + 2)?,
        pod_uid: row.get(first + 3)?,
        container: row.get(first + 4)?,
        container_id: row.get(first + 5)?,
        job_id: row.get(first + 6)?,
        step: row.get(first + 7)?,
        unit: row.get(first + 8)?,
        user: row.get(first + 9)?,
        account: row.get(first + 10)?,
        partition: row.get(first + 11)?,
    })
}

fn figures(row: &SqlRow<'_>) -> sql::Result<Bucket> {
    let at = |index: usize| row.get::<i64>(index).map(i128::from);
    Ok(Bucket {
        time_ns: at(19)?,
        busy_ns: at(20)?,
        memory_byte_seconds: at(21)?,
        energy_uj: at(22)?,
        cost_nanos: at(23)?,
        unpriced_ns: at(24)?,
    })
}

/// Slots before this are closed.
///
/// # Errors
/// If the store cannot be read.
pub fn closed_until(db: &Connection) -> Result<i64, StoreError> {
    super::write::mark(db, super::write::Mark::ClosedUntil)
}

/// Hands every row of the slots in `[from_ns, to_ns)` to `each`: start, tenure, and the row's key; time, busy, memory,
/// energy, cost and unpriced time.
///
/// # Errors
/// If the store cannot be read.
pub fn closed_rows(
    db: &Connection,
    from_ns: i64,
    to_ns: i64,
    mut each: impl FnMut((i64, i64, Key), [i128; 6]),
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT start, tenure, instance, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos,
         unpriced_ns FROM slot WHERE start >= ?1 AND start < ?2",
    )?;
    let mut rows = statement.query([from_ns, to_ns])?;
    while let Some(row) = rows.next()? {
        let kind: i64 = row.get(4)?;
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(4, kind))?;
        let mut figures = [0; 6];
        for (at, figure) in figures.iter_mut().enumerate() {
            *figure = i128::from(row.get::<i64>(5 + at)?);
        }
        each((row.get(0)?, row.get(1)?, (row.get(2)?, row.get(3)?, kind)), figures);
    }
    Ok(())
}

/// An entry of the journal as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub id: i64,
    pub at_ns: i64,
    pub kind: &'static str,
    pub node: NodeName,
    pub seq: u64,
    pub outcome: &'static str,
    pub detail: String,
    pub sha256: Vec<u8>,
}

/// Entries of the journal behind number `after`, in their order.
///
/// # Errors
/// If the store cannot be read.
pub fn log(db: &Connection, after: i64, limit: usize) -> Result<Vec<LogRecord>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT j.id, j.at_ns, j.kind, COALESCE(n.cluster, ''), COALESCE(n.name, ''), j.seq, j.outcome, j.detail,
         j.sha256 FROM journal j LEFT JOIN node n ON n.id = j.node WHERE j.id > ?1 ORDER BY j.id LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([after, limit], |row| {
        let (kind, outcome): (i64, i64) = (row.get(2)?, row.get(6)?);
        Ok(LogRecord {
            id: row.get(0)?,
            at_ns: row.get(1)?,
            kind: super::write::JournalKind::name(kind),
            node: NodeName { cluster: row.get(3)?, node: row.get(4)? },
            seq: row.get::<i64>(5)?.unsigned_abs(),
            outcome: ["", "accepted", "duplicate", "refused", "quarantined"]
                .get(usize::try_from(outcome).unwrap_or(0))
                .copied()
                .unwrap_or_default(),
            detail: row.get(7)?,
            sha256: row.get(8)?,
        })
    })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Windows that a ledger of version 3 held back since they counted other slices than the device had there: such time is
/// counted by now, but what was decided then stands.
///
/// # Errors
/// If the store cannot be read.
pub fn held_for_slices(db: &Connection) -> Result<std::collections::BTreeSet<(i64, usize)>, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT q.journal, q.window FROM quarantine q WHERE kind = 'slices'")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, usize::try_from(row.get::<i64>(1)?).unwrap_or(usize::MAX))))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Text of the price book by which every slot was priced last.
///
/// # Errors
/// If the store cannot be read.
pub fn applied_book(db: &Connection) -> Result<Option<String>, StoreError> {
    super::write::applied_book(db)
}
