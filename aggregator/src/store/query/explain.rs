//! What one slot of the ledger holds of a device, an instance, a pod or a job, row by row.
//!
//! Reads only. Whoever is asked about becomes the store's numbers ([`find`]), then the tenures of the slot ([`tenures`]),
//! then each one's rows ([`slot`]). Limits are the caller's: every list takes how many of it are wanted.

use rusqlite::{Connection, OptionalExtension, params};
use tonnage_proto::limits::{DAY_NS, SLOT_NS, slot_start};

use crate::ledger::settle::{Extent, Key, Row};
use crate::model::{Instance, NodeFacts, Owner, RowKind};
use crate::store::audit::owner_of;
use crate::store::existence::{self, TenureRecord};
use crate::store::{StoreError, write};

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

/// The columns of an owner, as [`owner_of`] reads them.
const OWNER: &str =
    "kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit, user, account, partition";

/// The store's numbers of a subject; `None` if the ledger never heard of it.
///
/// # Errors
/// If the store fails.
pub fn find(db: &Connection, subject: &Subject) -> Result<Option<Who>> {
    let ids = |sql: &str, text: &str| -> Result<Vec<i64>> {
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map([text], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
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
         WHERE s.start = ?1 AND s.owner IN (SELECT value FROM json_each(?2)) ORDER BY o.id, n.cluster",
        OWNER = OWNER.split(", ").map(|column| format!("o.{column}")).collect::<Vec<_>>().join(", ")
    ))?;
    let rows = statement
        .query_map(params![start_ns, who.json()], |row| Ok((row.get(0)?, row.get(1)?, owner_of(row, 2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Tenures that have rows of a [`Who`] in a slot, by device; of one cluster, or of all.
///
/// # Errors
/// If the store fails.
pub fn tenures(db: &Connection, who: &Who, start_ns: i64, cluster: Option<&str>) -> Result<Vec<i64>> {
    let found = match who {
        Who::Device(_) => {
            "SELECT s.tenure FROM slot_state s JOIN tenure t ON t.id = s.tenure
            WHERE s.start = ?1 AND t.device IN (SELECT value FROM json_each(?2))"
        }
        Who::Instances(_) => {
            "SELECT tenure FROM slot WHERE start = ?1 AND instance IN (SELECT value FROM json_each(?2))"
        }
        Who::Owners(_) => {
            "SELECT tenure FROM slot WHERE start = ?1 AND owner IN (SELECT value FROM json_each(?2))"
        }
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT t.id FROM tenure t JOIN node n ON n.id = t.node JOIN device d ON d.id = t.device
         WHERE t.id IN ({found}) AND (?3 IS NULL OR n.cluster = ?3) ORDER BY n.cluster, n.name, d.uuid, t.id"
    ))?;
    let rows = statement.query_map(params![start_ns, who.json(), cluster], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Start of the slot nearest to the one at `start_ns` that has rows; looked for in the day of it and the nearest day.
///
/// # Errors
/// If the store fails.
pub fn nearest(db: &Connection, who: &Who, start_ns: i64) -> Result<Option<i64>> {
    let one = |sql: &str, span: [i64; 3]| -> Result<Option<i64>> {
        let [at_ns, from_ns, to_ns] = span;
        let found =
            db.prepare_cached(sql)?.query_row(params![at_ns, who.json(), from_ns, to_ns], |row| row.get(0));
        Ok(found.optional()?)
    };
    let column = match who {
        Who::Device(_) => {
            // Nearest existence: a slot that has none has no rows either.
            return one(
                "SELECT CASE WHEN from_ns > ?1 THEN from_ns ELSE to_ns - 1 END FROM stay
                 WHERE device IN (SELECT value FROM json_each(?2)) AND from_ns >= ?3 AND from_ns < ?4
                 ORDER BY max(from_ns - ?1, ?1 - to_ns) LIMIT 1",
                [start_ns, i64::MIN, i64::MAX],
            )
            .map(|found| found.map(slot_start));
        }
        Who::Instances(_) => "instance",
        Who::Owners(_) => "owner",
    };
    let nearest = |table: &str| {
        format!(
            "SELECT start FROM {table} WHERE {column} IN (SELECT value FROM json_each(?2))
             AND start >= ?3 AND start < ?4 ORDER BY abs(start - ?1) LIMIT 1"
        )
    };
    let day_ns = start_ns - start_ns.rem_euclid(DAY_NS);
    let Some(found) = one(&nearest("day"), [day_ns, i64::MIN, i64::MAX])? else { return Ok(None) };
    one(&nearest("slot"), [start_ns, found.saturating_sub(DAY_NS), found.saturating_add(2 * DAY_NS)])
}

/// Sums over all rows of a [`Who`] in a tenure's slot: time and cost, and the slices by which the time counts.
///
/// # Errors
/// If the store fails.
pub fn asked(db: &Connection, who: &Who, start_ns: i64, tenure: i64) -> Result<(i64, i64, u32)> {
    let theirs = match who {
        Who::Device(_) => "?3 IS NOT NULL",
        Who::Instances(_) => "s.instance IN (SELECT value FROM json_each(?3))",
        Who::Owners(_) => "s.owner IN (SELECT value FROM json_each(?3))",
    };
    let sql = format!(
        "SELECT COALESCE(SUM(s.time_ns), 0), COALESCE(SUM(s.cost_nanos), 0), t.slices FROM tenure t
         LEFT JOIN slot s ON s.tenure = t.id AND s.start = ?1 AND {theirs} WHERE t.id = ?2 GROUP BY t.id"
    );
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
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
    let facts = if state.facts == 0 { NodeFacts::default() } else { write::facts_by_id(db, state.facts)? };
    let mut rows = Vec::with_capacity(state.rows.len());
    for (key, row) in state.rows {
        let (instance, owner, _) = key;
        rows.push(RowRecord {
            key,
            owner: self::owner(db, owner)?,
            instance: self::instance(db, &tenure, instance)?,
            row,
        });
    }
    Ok(SlotRecord { tenure, extent: state.extent, facts, price_nanos: state.price_nanos, rows })
}

pub(super) fn owner(db: &Connection, id: i64) -> Result<Option<Owner>> {
    let sql = format!("SELECT {OWNER} FROM owner WHERE id = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id], |row| owner_of(row, 0)).optional()?)
}

pub(super) fn instance(db: &Connection, tenure: &TenureRecord, id: i64) -> Result<Option<Instance>> {
    let found = db
        .prepare_cached(
            "SELECT generation, gpu_instance, compute_instance, slices, uuid, profile, memory_bytes FROM instance
             WHERE id = ?1",
        )?
        .query_row([id], |row| {
            Ok(Instance {
                device: tenure.uuid.clone(),
                generation: row.get(0)?,
                gpu_instance: row.get(1)?,
                compute_instance: row.get(2)?,
                slices: row.get(3)?,
                uuid: row.get(4)?,
                profile: row.get(5)?,
                memory_bytes: row.get::<_, i64>(6)?.unsigned_abs(),
            })
        })
        .optional()?;
    Ok(found)
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
    pub key: Key,
    pub time_ns: i64,
    pub cost_nanos: i64,
}

/// The first `limit` entries that were posted of a (slot, tenure), in their order.
///
/// # Errors
/// If the store fails, or an entry is damaged.
pub fn entries(
    db: &Connection,
    start_ns: i64,
    tenure: &TenureRecord,
    limit: usize,
) -> Result<Vec<EntryRecord>> {
    let mut statement = db.prepare_cached(
        "SELECT id, checkpoint, corrects, instance, owner, kind, time_ns, cost_nanos FROM entry
         WHERE start = ?1 AND tenure = ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![start_ns, tenure.id, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (instance, owner, kind): (i64, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let kind = RowKind::from_number(kind).ok_or(rusqlite::Error::IntegralValueOutOfRange(5, kind))?;
        found.push(EntryRecord {
            id: row.get(0)?,
            checkpoint: row.get(1)?,
            corrects: row.get(2)?,
            kind,
            owner: self::owner(db, owner)?,
            instance: self::instance(db, tenure, instance)?,
            key: (instance, owner, kind),
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
        "SELECT DISTINCT c.node, c.epoch FROM covered v JOIN cursor c ON c.id = v.cursor
         WHERE v.device = ?1 AND v.start_ns >= ?2 AND v.start_ns < ?3 AND v.tenure = ?4 ORDER BY c.id",
    )?;
    let rows = statement
        .query_map(params![tenure.device, start_ns, start_ns + SLOT_NS, tenure.id], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
