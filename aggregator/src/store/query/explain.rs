//! What one slot of the ledger holds of a device, an instance, a pod or a job, row by row.
//!
//! Reads only. Whoever is asked about becomes the store's numbers ([`find`]), then the tenures of the slot ([`tenures`]),
//! then each one's rows ([`slot`]). Limits are the caller's: every list takes how many of it are wanted.

use tonnage_proto::limits::{DAY_NS, SLOT_NS};

use crate::ledger::rows::{Key, Row};
use crate::ledger::settle::Extent;
use crate::model::{Instance, NodeFacts, Owner, RowKind};
use crate::store::audit::owner_of;
use crate::store::existence::{self, TenureRecord};
use crate::store::instances::{self, COLUMNS};
use crate::store::sql::{self, Connection, OptionalExtension, params};
use crate::store::{StoreError, facts, write};

type Result<T> = std::result::Result<T, StoreError>;

/// Whom or what a person names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// By its UUID.
    Device(String),
    /// A MIG instance, by its UUID.
    Instance(String),
    /// `namespace/name`, a name, or a UID.
    Pod(String),
    /// By its number.
    Job(String),
}

/// The same by the store's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Device(i64),
    Instances(Vec<i64>),
    Owners(Vec<i64>),
}

impl Who {
    /// Is a row theirs?
    #[must_use]
    pub fn has(&self, (instance, owner, _): Key) -> bool {
        match self {
            Self::Device(_) => true,
            Self::Instances(ids) => ids.contains(&instance),
            Self::Owners(ids) => ids.contains(&owner),
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Device(id) => format!("[{id}]"),
            Self::Instances(ids) | Self::Owners(ids) => format!("{ids:?}"),
        }
    }
}

/// How far [`nearest`] looks, in days.
pub const NEAREST_DAYS: i64 = 92;

/// The columns of an owner, as [`owner_of`] reads them.
const OWNER: &str =
    "o.kind, o.namespace, o.pod, o.pod_uid, o.container, o.container_id, o.job_id, o.step, o.unit, o.user,
    o.account, o.partition";

/// The store's numbers of a subject; `None` if the ledger never heard of it.
///
/// # Errors
/// If the store fails.
pub fn find(db: &Connection, subject: &Subject) -> Result<Option<Who>> {
    let ids = |sql: &str, text: &str| -> Result<Vec<i64>> {
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map([text], |row| row.get(0))?;
        Ok(rows.collect::<sql::Result<_>>()?)
    };
    Ok(match subject {
        Subject::Device(uuid) => existence::device_by_uuid(db, uuid)?.map(Who::Device),
        Subject::Instance(uuid) => some(ids("SELECT id FROM instance WHERE uuid = ?1", uuid)?).map(Who::Instances),
        Subject::Pod(name) => some(ids(
            "SELECT id FROM owner WHERE kind = 2 AND ?1 IN (pod, pod_uid, namespace || '/' || pod, namespace || '/' || pod_uid)",
            name,
        )?)
        .map(Who::Owners),
        Subject::Job(number) => some(ids("SELECT id FROM owner WHERE kind = 3 AND job_id = ?1", number)?).map(Who::Owners),
    })
}

fn some(ids: Vec<i64>) -> Option<Vec<i64>> {
    (!ids.is_empty()).then_some(ids)
}

/// Owners of a [`Who`] that have rows in a slot, and the cluster that they are in: more than one may have the name.
///
/// # Errors
/// If the store fails.
pub fn owners_in(db: &Connection, who: &Who, start_ns: i64) -> Result<Vec<(i64, String, Owner)>> {
    let Who::Owners(_) = who else { return Ok(Vec::new()) };
    let mut statement = db.prepare_cached(&format!(
        "SELECT DISTINCT o.id, n.cluster, {OWNER} FROM slot s JOIN owner o ON o.id = s.owner
         JOIN tenure t ON t.id = s.tenure JOIN node n ON n.id = t.node
         WHERE s.start = ?1 AND s.owner IN (SELECT CAST(value AS BIGINT) FROM json_each(?2)) ORDER BY o.id, n.cluster"
    ))?;
    let rows = statement
        .query_map(params![start_ns, who.json()], |row| Ok((row.get(0)?, row.get(1)?, owner_of(row, 2)?)))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Tenures that have rows of a [`Who`] in a slot, by device; of one cluster, or of all.
///
/// # Errors
/// If the store fails.
pub fn tenures(db: &Connection, who: &Who, start_ns: i64, cluster: Option<&str>) -> Result<Vec<i64>> {
    let found = match who {
        Who::Device(_) => {
            "SELECT s.tenure FROM slot_state s JOIN tenure t ON t.id = s.tenure
            WHERE s.start = ?1 AND t.device IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))"
        }
        Who::Instances(_) => {
            "SELECT tenure FROM slot WHERE start = ?1 AND instance IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))"
        }
        Who::Owners(_) => {
            "SELECT tenure FROM slot WHERE start = ?1 AND owner IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))"
        }
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT t.id FROM tenure t JOIN node n ON n.id = t.node JOIN device d ON d.id = t.device
         WHERE t.id IN ({found}) AND (CAST(?3 AS TEXT) IS NULL OR n.cluster = ?3) ORDER BY n.cluster, n.name, d.uuid, t.id"
    ))?;
    let rows = statement.query_map(params![start_ns, who.json(), cluster], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Start of the slot nearest to the one at `start_ns` that has rows of a [`Who`] in one cluster, or in any, and that is at
/// or behind `from_ns`; looked for some days around, and then some weeks.
///
/// # Errors
/// If the store fails.
pub fn nearest(
    db: &Connection,
    who: &Who,
    cluster: Option<&str>,
    start_ns: i64,
    from_ns: i64,
) -> Result<Option<i64>> {
    let column = match who {
        Who::Device(_) => "t.device",
        Who::Instances(_) => "r.instance",
        Who::Owners(_) => "r.owner",
    };
    let one = |table: &str, days: i64| -> Result<Option<i64>> {
        let sql = format!(
            "SELECT r.start FROM {table} r JOIN tenure t ON t.id = r.tenure JOIN node n ON n.id = t.node
             WHERE {column} IN (SELECT CAST(value AS BIGINT) FROM json_each(?2)) AND r.start >= ?3 AND r.start < ?4
             AND (CAST(?5 AS TEXT) IS NULL OR n.cluster = ?5) ORDER BY abs(r.start - ?1) LIMIT 1"
        );
        let first_ns = start_ns.saturating_sub(days * DAY_NS).max(from_ns);
        let end_ns = start_ns.saturating_add(days * DAY_NS);
        let mut statement = db.prepare_cached(&sql)?;
        Ok(statement
            .query_row(params![start_ns, who.json(), first_ns, end_ns, cluster], |row| row.get(0))
            .optional()?)
    };
    if let Some(found_ns) = one("slot", 1)? {
        return Ok(Some(found_ns));
    }
    // A day's rows say that it has some, not in which slots.
    let Some(day_ns) = one("day", NEAREST_DAYS)? else { return Ok(None) };
    let days = (day_ns - start_ns).abs() / DAY_NS + 2;
    one("slot", days)
}

/// Sums over all rows of a [`Who`] in a tenure's slot: time and cost, and the slices by which the time counts.
///
/// # Errors
/// If the store fails.
pub fn asked(db: &Connection, who: &Who, start_ns: i64, tenure: i64) -> Result<(i64, i64, u32)> {
    let theirs = match who {
        Who::Device(_) => "CAST(?3 AS TEXT) IS NOT NULL",
        Who::Instances(_) => "s.instance IN (SELECT CAST(value AS BIGINT) FROM json_each(?3))",
        Who::Owners(_) => "s.owner IN (SELECT CAST(value AS BIGINT) FROM json_each(?3))",
    };
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(s.time_ns), 0) AS BIGINT), CAST(COALESCE(SUM(s.cost_nanos), 0) AS BIGINT), t.slices
         FROM tenure t
         LEFT JOIN slot s ON s.tenure = t.id AND s.start = ?1 AND {theirs} WHERE t.id = ?2 GROUP BY t.id"
    );
    let read = |row: &sql::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    Ok(db.prepare_cached(&sql)?.query_row(params![start_ns, tenure, who.json()], read)?)
}

/// A row with the names behind its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRecord {
    pub key: Key,
    pub owner: Option<Owner>,
    pub instance: Option<Instance>,
    pub row: Row,
}

/// A (slot, tenure) as the ledger has it.
#[derive(Debug, Clone)]
pub struct SlotRecord {
    pub start_ns: i64,
    pub tenure: TenureRecord,
    pub extent: Extent,
    pub facts: NodeFacts,
    pub price_nanos: Option<i64>,
    pub rows: Vec<RowRecord>,
}

/// One (slot, tenure), with all its rows.
///
/// # Errors
/// If the store fails.
pub fn slot(db: &Connection, start_ns: i64, tenure: i64) -> Result<SlotRecord> {
    let tenure = existence::tenure_by_id(db, tenure)?;
    let state = write::slot(db, start_ns, tenure.id)?;
    let facts = if state.facts == 0 { NodeFacts::default() } else { facts::by_number(db, state.facts)? };
    let mut rows = Vec::with_capacity(state.rows.len());
    for (&key, &row) in state.rows.iter() {
        let (instance, owner, _) = key;
        rows.push(RowRecord {
            key,
            owner: self::owner(db, owner)?,
            instance: self::instance(db, &tenure, instance)?,
            row,
        });
    }
    Ok(SlotRecord { start_ns, tenure, extent: state.extent, facts, price_nanos: state.price_nanos, rows })
}

pub fn owner(db: &Connection, id: i64) -> Result<Option<Owner>> {
    let sql = format!("SELECT {OWNER} FROM owner o WHERE o.id = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id], |row| owner_of(row, 0)).optional()?)
}

pub(super) fn instance(db: &Connection, tenure: &TenureRecord, id: i64) -> Result<Option<Instance>> {
    let sql = format!("SELECT {COLUMNS} FROM instance i WHERE i.id = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id], |row| instances::read(row, 0, &tenure.uuid)).optional()?)
}

/// An entry that was posted of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    pub id: i64,
    pub checkpoint: i64,
    pub corrects: i64,
    pub kind: RowKind,
    pub owner: Option<Owner>,
    pub instance: Option<Instance>,
    pub time_ns: i64,
    pub cost_nanos: i64,
}

/// The first `limit` entries that were posted of a [`Who`] in a (slot, tenure), in their order.
///
/// # Errors
/// If the store fails, or an entry is damaged.
pub fn entries(
    db: &Connection,
    who: &Who,
    start_ns: i64,
    tenure: &TenureRecord,
    limit: usize,
) -> Result<Vec<EntryRecord>> {
    let theirs = match who {
        Who::Device(_) => "CAST(?4 AS TEXT) IS NOT NULL",
        Who::Instances(_) => "instance IN (SELECT CAST(value AS BIGINT) FROM json_each(?4))",
        Who::Owners(_) => "owner IN (SELECT CAST(value AS BIGINT) FROM json_each(?4))",
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, checkpoint, corrects, instance, owner, kind, time_ns, cost_nanos FROM entry
         WHERE start = ?1 AND tenure = ?2 AND {theirs} ORDER BY id LIMIT ?3"
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![start_ns, tenure.id, limit, who.json()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (instance, owner, kind): (i64, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(5, kind))?;
        found.push(EntryRecord {
            id: row.get(0)?,
            checkpoint: row.get(1)?,
            corrects: row.get(2)?,
            kind,
            owner: self::owner(db, owner)?,
            instance: self::instance(db, tenure, instance)?,
            time_ns: row.get(6)?,
            cost_nanos: row.get(7)?,
        });
    }
    Ok(found)
}

/// Cursors that cover a tenure in a slot: node and epoch; what a person ordered to be counted has none.
///
/// # Errors
/// If the store fails.
pub fn cursors(db: &Connection, start_ns: i64, tenure: &TenureRecord) -> Result<Vec<(i64, [u8; 16])>> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT c.node, c.epoch, c.id FROM covered v JOIN cursor c ON c.id = v.cursor
         WHERE v.device = ?1 AND v.start_ns >= ?2 AND v.start_ns < ?3 AND v.tenure = ?4 ORDER BY c.id",
    )?;
    let rows = statement
        .query_map(params![tenure.device, start_ns, start_ns + SLOT_NS, tenure.id], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}
