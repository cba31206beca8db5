//! What there is: nodes, devices, and how new the newest usage is.

use tonnage_proto::limits::slot_start;
use tonnage_proto::metering::ack::Outcome;

use super::ranges::Kept;
use crate::model::{Id, Instance, NodeFacts, NodeName};
use crate::store::StoreError;
use crate::store::instances::{self, COLUMNS};
use crate::store::sql::{self, Connection, OptionalExtension, Row, params};
use crate::store::write::{self, Mark};

/// A node as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: NodeName,
    /// Devices whose newest tenure is here.
    pub devices: u32,
    /// Empty before the first Hello.
    pub agent_version: String,
    /// Agent's clock minus ours at its last Hello.
    pub skew_ns: Option<i64>,
    pub accepted: u64,
    pub refused: u64,
    pub quarantined: u64,
    /// End of the newest usage from here.
    pub observed_until_ns: Option<i64>,
}

/// A device with its newest tenure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    pub uuid: String,
    pub model: String,
    pub memory_bytes: u64,
    pub slices: u32,
    pub node: NodeName,
    pub from_ns: i64,
    pub observed_until_ns: i64,
    /// Taken out of service, and not observed since.
    pub retired: bool,
    /// MIG instances in the newest slot that was observed, and whether anybody held them.
    pub instances: Vec<(Instance, bool)>,
    /// As in the newest slot that was observed.
    pub facts: NodeFacts,
}

/// All nodes, by cluster and name.
///
/// # Errors
/// If the store fails.
pub fn nodes(connection: &Connection) -> Result<Vec<NodeRecord>, StoreError> {
    let mut statement = connection.prepare_cached(
        "WITH newest AS (
            SELECT d.id AS device, (SELECT t.node FROM tenure t WHERE t.device = d.id AND t.to_ns > 0
                ORDER BY t.to_ns DESC, t.id DESC LIMIT 1) AS node
            FROM device d),
         here AS (SELECT node, COUNT(*) AS devices FROM newest GROUP BY node),
         seen AS (SELECT node, MAX(covered_until_ns) AS until FROM tenure WHERE to_ns > 0 GROUP BY node)
         SELECT n.cluster, n.name, COALESCE(here.devices, 0), n.agent_version, n.skew_ns,
                n.accepted, n.refused, n.quarantined, seen.until
         FROM node n LEFT JOIN here ON here.node = n.id LEFT JOIN seen ON seen.node = n.id
         WHERE n.name <> '' ORDER BY n.cluster, n.name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(NodeRecord {
            node: NodeName { cluster: row.get(0)?, node: row.get(1)? },
            devices: row.get(2)?,
            agent_version: row.get(3)?,
            skew_ns: row.get(4)?,
            accepted: count(row, 5)?,
            refused: count(row, 6)?,
            quarantined: count(row, 7)?,
            observed_until_ns: row.get(8)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// All devices that ever had a tenure, by cluster, node and UUID.
///
/// # Errors
/// If the store fails, or a node's facts in it are not readable.
pub fn devices(connection: &Connection) -> Result<Vec<DeviceRecord>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT d.uuid, d.model, d.memory_bytes, t.slices, n.cluster, n.name, t.from_ns, t.to_ns, t.id,
             t.covered_until_ns, EXISTS (SELECT 1 FROM retired r
                 WHERE r.device = d.id AND r.at_ns >= t.covered_until_ns)
         FROM device d
         JOIN tenure t ON t.id = (SELECT id FROM tenure WHERE device = d.id AND to_ns > 0
             ORDER BY to_ns DESC, id DESC LIMIT 1)
         JOIN node n ON n.id = t.node
         ORDER BY n.cluster, n.name, d.uuid",
    )?;
    let mut facts = connection.prepare_cached(
        "SELECT f.json FROM slot_state s JOIN facts f ON f.id = s.facts WHERE s.start = ?1 AND s.tenure = ?2",
    )?;
    let mut there = connection.prepare_cached(&format!(
        "SELECT MAX(CASE s.kind WHEN 0 THEN 1 ELSE 0 END), {COLUMNS}
         FROM slot s JOIN instance i ON i.id = s.instance WHERE s.start = ?1 AND s.tenure = ?2
         GROUP BY i.id ORDER BY i.gpu_instance, i.compute_instance, i.generation, i.id"
    ))?;
    let mut rows = statement.query([])?;
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        let (to_ns, tenure): (i64, i64) = (row.get(7)?, row.get(8)?);
        // The slot in which the tenure's last nanosecond lies: its row is found by the key.
        let newest_slot = slot_start(to_ns.saturating_sub(1));
        let json: Option<String> = facts.query_row([newest_slot, tenure], |row| row.get(0)).optional()?;
        let (uuid, observed_until_ns): (String, i64) = (row.get(0)?, row.get(9)?);
        let observed_slot = slot_start(observed_until_ns.saturating_sub(1));
        let instances = there.query_map([observed_slot, tenure], |row| instance(row, &uuid))?;
        devices.push(DeviceRecord {
            instances: instances.collect::<Result<_, _>>()?,
            uuid,
            model: row.get(1)?,
            memory_bytes: count(&row, 2)?,
            slices: row.get(3)?,
            node: NodeName { cluster: row.get(4)?, node: row.get(5)? },
            from_ns: row.get(6)?,
            observed_until_ns,
            retired: row.get(10)?,
            facts: json.map_or(Ok(NodeFacts::default()), |json| parse(&json))?,
        });
    }
    Ok(devices)
}

fn instance(row: &Row<'_>, device: &str) -> Result<(Instance, bool), sql::Error> {
    Ok((instances::read(row, 1, device)?, row.get(0)?))
}

/// From when on which rows are kept.
///
/// # Errors
/// If the store fails.
pub fn kept(connection: &Connection) -> Result<Kept, StoreError> {
    Ok(Kept {
        slots_from_ns: write::mark(connection, Mark::PurgedUntil)?,
        hours_from_ns: write::mark(connection, Mark::HoursFrom)?,
        days_from_ns: write::mark(connection, Mark::DaysFrom)?,
    })
}

/// End of the newest usage in the ledger, in nanoseconds since the Unix epoch.
///
/// # Errors
/// If the store fails.
pub fn newest_usage_ns(connection: &Connection) -> Result<Option<i64>, StoreError> {
    Ok(connection
        .query_row("SELECT MAX(covered_until_ns) FROM tenure WHERE to_ns > 0", [], |row| row.get(0))?)
}

fn count(row: &Row<'_>, column: usize) -> Result<u64, sql::Error> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| sql::Error::out_of_range(column, number))
}

pub(super) fn parse(json: &str) -> Result<NodeFacts, StoreError> {
    serde_json::from_str(json).map_err(|e| StoreError::Damaged { what: "facts", detail: e.to_string() })
}

/// An accepted batch in the journal.
#[derive(Debug)]
pub struct Taken {
    /// Its place there.
    pub id: i64,
    pub node: NodeName,
    pub epoch: Id,
    pub seq: u64,
    /// As it was sealed.
    pub payload: Vec<u8>,
}

/// The last place in the journal; 0 if there is nothing in it.
///
/// # Errors
/// If the store fails.
pub fn journal_end(db: &Connection) -> Result<i64, StoreError> {
    Ok(db.query_row("SELECT COALESCE(MAX(id), 0) FROM journal", [], |row| row.get(0))?)
}

/// Accepted batches behind a place in the journal with windows that end after `from_ns`, in the journal's order.
///
/// # Errors
/// If the store fails.
pub fn taken_after(db: &Connection, place: i64, from_ns: i64, most: usize) -> Result<Vec<Taken>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT j.id, n.cluster, n.name, j.epoch, j.seq, j.payload FROM journal j JOIN node n ON n.id = j.node
         WHERE j.kind = 1 AND j.id > ?1 AND j.to_ns > ?2 AND j.outcome = ?3 ORDER BY j.id LIMIT ?4",
    )?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let accepted = i64::from(Outcome::Accepted as i32);
    let mut rows = statement.query(params![place, from_ns, accepted, most])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, epoch): (i64, Vec<u8>) = (row.get(0)?, row.get(3)?);
        let damaged = |detail: String| StoreError::Damaged { what: "journal", detail };
        all.push(Taken {
            id,
            node: NodeName { cluster: row.get(1)?, node: row.get(2)? },
            epoch: epoch.try_into().map_err(|_| damaged(format!("entry {id} has no epoch")))?,
            seq: row.get::<i64>(4)?.unsigned_abs(),
            payload: crate::store::decompress(id, &row.get::<Vec<u8>>(5)?)?,
        });
    }
    Ok(all)
}
