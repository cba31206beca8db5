//! What jobs without GPUs ran for, as last stated, and the place in the ledger of their rows: a tenure for each partition that is of no
//! GPU, on a node without a name. Written within the commit thread's transaction.

use tonnage_proto::limits::GRACE_NS;

use super::{StoreError, existence, write};
use crate::budgets::run::Run;
use crate::model::{Device, NodeName};
use crate::store::sql::{self, Connection, OptionalExtension, params};

type Result<T> = std::result::Result<T, StoreError>;

const S: i64 = 1_000_000_000;
/// Stands where a device's model does: limits of a GPU's model are not for it.
pub const MODEL: &str = "CPU";
/// A run that is not known to have ended is missing once nothing was stated of it for so long, and until it is so old.
const SILENT_S: i64 = 3_600;
const LOST_S: i64 = 30 * 86_400;
/// Jobs that one answer names.
const MISSING_MAX: i64 = 500;

/// What stands where a device's UUID does, of a cluster.
#[must_use]
pub fn place(cluster: &str) -> String {
    format!("slurm:{cluster}")
}

/// Did anything ever come from this cluster?
pub fn knows(db: &Connection, cluster: &str) -> Result<bool> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM node WHERE cluster = ?1)")?
        .query_row([cluster], |row| row.get(0))?)
}

/// The tenure of a partition's rows, made on first use.
pub fn tenure(db: &Connection, cluster: &str, partition: &str) -> Result<i64> {
    let node = write::node(db, &NodeName { cluster: cluster.to_owned(), node: String::new() })?;
    let device = write::device(
        db,
        &Device {
            uuid: place(cluster),
            model: MODEL.to_owned(),
            memory_bytes: 0,
            slices: 1,
            minor: u32::MAX,
            pci_bus_id: String::new(),
            driver_version: String::new(),
        },
    )?;
    existence::tenure(db, (device, node, partition, 1), 0)
}

/// A run as it was last stated.
pub fn run(db: &Connection, cluster: &str, job_id: &str, start_s: i64) -> Result<Option<Run>> {
    let json: Option<String> = db
        .prepare_cached("SELECT json FROM job_run WHERE cluster = ?1 AND job_id = ?2 AND start_s = ?3")?
        .query_row(params![cluster, job_id, start_s], |row| row.get(0))
        .optional()?;
    let damaged = |e: serde_json::Error| StoreError::Damaged { what: "job_run", detail: e.to_string() };
    json.map(|json| serde_json::from_str(&json).map_err(damaged)).transpose()
}

/// Stores a run as it is stated now.
pub fn put(db: &Connection, cluster: &str, run: &Run) -> Result<()> {
    let json = serde_json::to_string(run)
        .map_err(|e| StoreError::Damaged { what: "job_run", detail: e.to_string() })?;
    db.prepare_cached(
        "INSERT INTO job_run (cluster, job_id, start_s, end_s, ended, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (cluster, job_id, start_s) DO UPDATE SET end_s = excluded.end_s, ended = excluded.ended,
             json = excluded.json",
    )?
    .execute(params![cluster, run.job_id, run.start_s, run.end_s, i64::from(run.ended), json])?;
    Ok(())
}

/// Until when everything is stated of a cluster's jobs; 0: nothing yet.
pub fn stated_until(db: &Connection, cluster: &str) -> Result<i64> {
    let found = db
        .prepare_cached("SELECT until_s FROM job_report WHERE cluster = ?1")?
        .query_row([cluster], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// Notes that everything until then is stated; what is earlier than what is known changes nothing.
pub fn set_stated_until(db: &Connection, cluster: &str, until_s: i64) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO job_report (cluster, until_s) VALUES (?1, ?2)
         ON CONFLICT (cluster) DO UPDATE SET until_s = excluded.until_s WHERE job_report.until_s < excluded.until_s",
    )?
    .execute(params![cluster, until_s])?;
    Ok(())
}

/// Jobs that are not known to have ended, and of which nothing was stated for long, though everything until `until_s` is.
pub fn missing(db: &Connection, cluster: &str, until_s: i64) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT job_id FROM job_run WHERE cluster = ?1 AND ended = 0 AND end_s < ?2 AND end_s >= ?3
         ORDER BY job_id LIMIT ?4",
    )?;
    let values = params![cluster, until_s - SILENT_S, until_s - LOST_S, MISSING_MAX];
    let rows = statement.query_map(values, |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// True if whoever tells of a cluster's jobs has not told of all until `until_ns`, and was heard within the hour before.
pub fn is_awaited(db: &Connection, until_ns: i64) -> Result<bool> {
    let found = db
        .prepare_cached("SELECT 1 FROM job_report WHERE until_s < ?1 AND until_s >= ?2 LIMIT 1")?
        .query_row([until_ns.div_euclid(S), (until_ns - GRACE_NS).div_euclid(S)], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// Lets go of runs of which nothing lies behind the horizon.
pub(super) fn purge(db: &Connection, horizon_ns: i64) -> Result<()> {
    db.execute("DELETE FROM job_run WHERE end_s <= ?1", [horizon_ns.div_euclid(S)])?;
    Ok(())
}
