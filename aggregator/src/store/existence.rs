//! Tenures and stays, who covers what, and what agents say of the rest. Written within the commit thread's
//! transaction.

use super::StoreError;
use crate::ledger::coverage::{Coverage, Covered, Interval};
use crate::ledger::seniority::Seniority;
use crate::ledger::stay::Stay;
use crate::model::{Id, NodeName};
use crate::store::sql::{self, Connection, OptionalExtension, params};

type Result<T> = std::result::Result<T, StoreError>;

/// A tenure and what does not change about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenureRecord {
    pub id: i64,
    pub device: i64,
    pub uuid: String,
    pub model: String,
    pub slices: u32,
    pub node_id: i64,
    pub node: NodeName,
    /// The cloud's instance id, else the boot id.
    pub life: String,
}

impl TenureRecord {
    /// Is it where jobs without GPUs ran, and no GPU's? Nodes have names; then its life is their partition.
    #[must_use]
    pub fn is_of_jobs(&self) -> bool {
        self.node.node.is_empty()
    }
}

/// The store's number of a tenure, made at the first window that it is offered. One that begins because MIG was switched is
/// as old as the one before it in that life.
pub fn tenure(
    db: &Connection,
    (device, node, life, slices): (i64, i64, &str, u32),
    claimed_ns: i64,
) -> Result<i64> {
    let eldest: Option<i64> = db
        .prepare_cached("SELECT MIN(claimed_ns) FROM tenure WHERE device = ?1 AND node = ?2 AND life = ?3")?
        .query_row(params![device, node, life], |row| row.get(0))?;
    let claimed_ns = eldest.unwrap_or(claimed_ns).min(claimed_ns);
    db.prepare_cached(
        "INSERT INTO tenure (device, node, life, slices, claimed_ns) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![device, node, life, slices, claimed_ns])?;
    Ok(db
        .prepare_cached(
            "SELECT id FROM tenure WHERE device = ?1 AND node = ?2 AND life = ?3 AND slices = ?4",
        )?
        .query_row(params![device, node, life, slices], |row| row.get(0))?)
}

/// A tenure by its number.
pub fn tenure_by_id(db: &Connection, tenure: i64) -> Result<TenureRecord> {
    Ok(db
        .prepare_cached(
            "SELECT t.device, d.uuid, d.model, t.slices, t.node, n.cluster, n.name, t.life FROM tenure t
             JOIN device d ON d.id = t.device JOIN node n ON n.id = t.node WHERE t.id = ?1",
        )?
        .query_row([tenure], |row| {
            Ok(TenureRecord {
                id: tenure,
                device: row.get(0)?,
                uuid: row.get(1)?,
                model: row.get(2)?,
                slices: row.get(3)?,
                node_id: row.get(4)?,
                node: NodeName { cluster: row.get(5)?, node: row.get(6)? },
                life: row.get(7)?,
            })
        })?)
}

/// Notes when a cursor first offered a window in a tenure, or in another of the same device and life.
pub fn claim(db: &Connection, tenure: i64, cursor: i64, first_ns: i64) -> Result<()> {
    let eldest: Option<i64> = db
        .prepare_cached(
            "SELECT MIN(l.first_ns) FROM tenure own
             JOIN tenure t ON t.device = own.device AND t.node = own.node AND t.life = own.life
             JOIN claim l ON l.tenure = t.id WHERE own.id = ?1 AND l.cursor = ?2",
        )?
        .query_row([tenure, cursor], |row| row.get(0))?;
    let first_ns = eldest.unwrap_or(first_ns).min(first_ns);
    db.prepare_cached("INSERT INTO claim VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute([tenure, cursor, first_ns])?;
    Ok(())
}

/// How senior a cursor is in a tenure; cursor 0 is a person's order.
pub fn seniority(db: &Connection, tenure: i64, cursor: i64) -> Result<Seniority> {
    if cursor == 0 {
        return Ok(Seniority::Ordered);
    }
    Ok(db
        .prepare_cached(
            "SELECT t.claimed_ns, n.cluster, n.name, t.life, t.slices, l.first_ns, c.epoch FROM claim l
             JOIN tenure t ON t.id = l.tenure JOIN node n ON n.id = t.node JOIN cursor c ON c.id = l.cursor
             WHERE l.tenure = ?1 AND l.cursor = ?2",
        )?
        .query_row([tenure, cursor], |row| {
            Ok(Seniority::Claimed {
                tenure_ns: row.get(0)?,
                node: NodeName { cluster: row.get(1)?, node: row.get(2)? },
                life: row.get(3)?,
                slices: row.get(4)?,
                cursor_ns: row.get(5)?,
                epoch: row.get::<[u8; 16]>(6)?,
            })
        })?)
}

/// Node and epoch of a cursor.
pub fn cursor_by_id(db: &Connection, cursor: i64) -> Result<(i64, Id)> {
    Ok(db
        .prepare_cached("SELECT node, epoch FROM cursor WHERE id = ?1")?
        .query_row([cursor], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// The stays of a device, sorted.
pub fn stays(db: &Connection, device: i64) -> Result<Vec<Stay>> {
    let mut statement = db.prepare_cached(
        "SELECT tenure, from_ns, covered_ns, to_ns FROM stay WHERE device = ?1 ORDER BY from_ns",
    )?;
    let rows = statement.query_map([device], |row| {
        Ok(Stay { tenure: row.get(0)?, from_ns: row.get(1)?, covered_ns: row.get(2)?, to_ns: row.get(3)? })
    })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// The stays of a device, as they are stored and as they are to be.
#[derive(Debug, Clone, Copy)]
pub struct Stayed<'a> {
    pub device: i64,
    pub stored: &'a [Stay],
    pub new: &'a [Stay],
}

/// Replaces the stays of devices, each once, where they differ, and brings their tenures up to date.
pub fn put_stays(db: &Connection, devices: &[Stayed<'_>]) -> Result<()> {
    let (mut gone, mut rows, mut tenures) = (Vec::new(), Vec::new(), Vec::new());
    for Stayed { device, stored, new } in devices {
        let old = stored.iter().filter(|old| !new.contains(old));
        let now = new.iter().filter(|stay| !stored.contains(stay));
        let mut touched: Vec<i64> = old.clone().chain(now.clone()).map(|stay| stay.tenure).collect();
        gone.extend(old.map(|old| [*device, old.from_ns]));
        rows.extend(
            now.map(|stay| [*device, stay.from_ns, stay.covered_ns, stay.to_ns, stay.tenure].map(Some)),
        );
        touched.sort_unstable();
        touched.dedup();
        tenures.extend(touched.into_iter().map(|tenure| {
            let own = || new.iter().filter(|stay| stay.tenure == tenure);
            [
                tenure,
                own().map(|stay| stay.from_ns).min().unwrap_or(0),
                own().map(|stay| stay.to_ns).max().unwrap_or(0),
                own().map(|stay| stay.covered_ns).max().unwrap_or(0),
            ]
        }));
    }
    db.execute_all("DELETE FROM stay WHERE device = ?1 AND from_ns = ?2", &gone)?;
    db.insert_all("stay", "", &rows)?;
    let sql = "UPDATE tenure SET from_ns = ?2, to_ns = ?3, covered_until_ns = ?4 WHERE id = ?1";
    Ok(db.execute_all(sql, &tenures)?)
}

/// Devices whose existence ends before `until_ns`.
pub fn silent_devices(db: &Connection, until_ns: i64) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached(
        // Stays of a device do not overlap: the last to begin is the last to end.
        "SELECT device FROM stay GROUP BY device HAVING MAX(to_ns) < ?1",
    )?;
    let rows = statement.query_map([until_ns], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Every device that has a stay.
pub fn devices(db: &Connection) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached("SELECT DISTINCT device FROM stay")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// When a device was taken out of service, sorted.
pub fn retired(db: &Connection, device: i64) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached("SELECT at_ns FROM retired WHERE device = ?1 ORDER BY at_ns")?;
    let rows = statement.query_map([device], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Notes that a device was taken out of service.
pub fn retire(db: &Connection, device: i64, at_ns: i64) -> Result<()> {
    db.prepare_cached("INSERT INTO retired VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute([device, at_ns])?;
    Ok(())
}

/// The covered intervals of a device that start within `[from_ns, to_ns)`.
pub fn coverage(db: &Connection, device: i64, from_ns: i64, to_ns: i64) -> Result<Coverage> {
    let mut statement = db.prepare_cached(
        "SELECT start_ns, end_ns, cursor, tenure FROM covered
         WHERE device = ?1 AND start_ns >= ?2 AND start_ns < ?3 ORDER BY start_ns",
    )?;
    let rows = statement.query_map([device, from_ns, to_ns], |row| {
        let span = Interval { start_ns: row.get(0)?, end_ns: row.get(1)? };
        Ok(Covered { span, cursor: row.get(2)?, tenure: row.get(3)? })
    })?;
    Ok(Coverage::from_sorted(rows.collect::<sql::Result<_>>()?))
}

/// Replaces the covered intervals of devices, each of a device and from and until when they start.
pub fn put_coverage(db: &Connection, devices: &[([i64; 3], &Coverage)]) -> Result<()> {
    let spans: Vec<[i64; 3]> = devices.iter().map(|(span, _)| *span).collect();
    db.execute_all("DELETE FROM covered WHERE device = ?1 AND start_ns >= ?2 AND start_ns < ?3", &spans)?;
    let of_device = |([device, ..], new): &([i64; 3], &Coverage)| {
        let device = *device;
        let row = move |Covered { span, cursor, tenure }: &Covered| {
            [device, span.start_ns, span.end_ns, *cursor, *tenure].map(Some)
        };
        new.intervals().iter().map(row).collect::<Vec<_>>()
    };
    let rows: Vec<_> = devices.iter().flat_map(of_device).collect();
    Ok(db.insert_all("covered", "", &rows)?)
}

/// Notes time that an agent says it did not cover; device 0 stands for every device of the node.
pub fn gap(db: &Connection, node: i64, device: i64, span: Interval, reason: u8) -> Result<()> {
    db.prepare_cached("INSERT INTO gap VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING")?
        .execute(params![node, device, span.start_ns, span.end_ns, reason])?;
    Ok(())
}

/// The last covered interval of a tenure that starts before `until_ns`.
pub fn last_covered(db: &Connection, device: i64, tenure: i64, until_ns: i64) -> Result<Option<Covered>> {
    Ok(db
        .prepare_cached(
            "SELECT start_ns, end_ns, cursor FROM covered
             WHERE device = ?1 AND start_ns < ?3 AND tenure = ?2 ORDER BY start_ns DESC LIMIT 1",
        )?
        .query_row([device, tenure, until_ns], |row| {
            let span = Interval { start_ns: row.get(0)?, end_ns: row.get(1)? };
            Ok(Covered { span, cursor: row.get(2)?, tenure })
        })
        .optional()?)
}

/// A tenure's facts at the purge horizon, and the start of the window that they are from; zeros if it has none.
pub fn frozen_facts(db: &Connection, tenure: i64) -> Result<(i64, i64)> {
    Ok(db
        .prepare_cached("SELECT facts, facts_ns FROM tenure WHERE id = ?1")?
        .query_row([tenure], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// The store's number of a device that is known.
pub fn device_by_uuid(db: &Connection, uuid: &str) -> Result<Option<i64>> {
    Ok(db
        .prepare_cached("SELECT id FROM device WHERE uuid = ?1")?
        .query_row([uuid], |row| row.get(0))
        .optional()?)
}
