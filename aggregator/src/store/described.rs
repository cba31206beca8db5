//! Pods and namespaces, and how they were from when on: what Kubernetes told of them. All within the transaction of
//! whoever calls.
//!
//! A subject is there until it was seen to be gone, and then for as long as anything is kept of its time. One that never
//! held a GPU is let go of sooner: most pods of most clusters are like that.

use sha2::{Digest as _, Sha256};

use super::write::{Mark, mark, set_mark};
use super::{Connection, StoreError};
use crate::model::{Description, Subject, SubjectKind};
use crate::store::sql::{self, OptionalExtension as _, params};

type Result<T> = std::result::Result<T, StoreError>;

/// What the ledger has of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: i64,
    /// 0 while it is there.
    pub ended_ns: i64,
    /// How often it changed in the day that starts at `day_ns`.
    pub day_ns: i64,
    pub changes: i64,
    /// Its newest version: since when, and the hash of its description.
    pub from_ns: i64,
    pub sha256: Vec<u8>,
}

/// A description as it is stored: JSON, and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub json: String,
    pub sha256: [u8; 32],
}

impl Text {
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn of(description: &Description) -> Result<Self> {
        let json = serde_json::to_string(description)
            .map_err(|e| StoreError::Damaged { what: "description", detail: e.to_string() })?;
        Ok(Self { sha256: Sha256::digest(&json).into(), json })
    }
}

/// Looks a subject up.
pub fn known(db: &Connection, cluster: &str, kind: SubjectKind, name: &str) -> Result<Option<Known>> {
    let mut statement = db.prepare_cached(
        "SELECT s.id, s.ended_ns, s.day_ns, s.changes, v.from_ns, d.sha256 FROM subject s
         JOIN described v ON v.subject = s.id JOIN description d ON d.id = v.description
         WHERE s.cluster = ?1 AND s.kind = ?2 AND s.name = ?3 ORDER BY v.from_ns DESC LIMIT 1",
    )?;
    let found = statement.query_row(params![cluster, kind as u8, name], |row| {
        Ok(Known {
            id: row.get(0)?,
            ended_ns: row.get(1)?,
            day_ns: row.get(2)?,
            changes: row.get(3)?,
            from_ns: row.get(4)?,
            sha256: row.get(5)?,
        })
    });
    Ok(found.optional()?)
}

/// Adds a subject that is not known; returns its number.
pub fn add(db: &Connection, cluster: &str, subject: &Subject) -> Result<i64> {
    let Subject { kind, name, namespace, pod } = subject;
    Ok(db
        .prepare_cached(
            "INSERT INTO subject (cluster, kind, name, namespace, pod) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING id",
        )?
        .query_row(params![cluster, *kind as u8, name, namespace, pod], |row| row.get(0))?)
}

/// From `from_ns` on a subject is so, in the place of what it was said to be from then on.
pub fn describe(db: &Connection, subject: i64, from_ns: i64, text: &Text) -> Result<()> {
    let Text { json, sha256 } = text;
    db.prepare_cached("INSERT INTO description (sha256, json) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![&sha256[..], json])?;
    db.prepare_cached(
        "INSERT INTO described SELECT CAST(?1 AS BIGINT), CAST(?2 AS BIGINT), id FROM description WHERE sha256 = ?3
         ON CONFLICT (subject, from_ns) DO UPDATE SET description = excluded.description",
    )?
    .execute(params![subject, from_ns, &sha256[..]])?;
    Ok(())
}

/// Notes how often a subject changed in a day.
pub fn set_changes(db: &Connection, subject: i64, day_ns: i64, changes: i64) -> Result<()> {
    db.prepare_cached("UPDATE subject SET day_ns = ?2, changes = ?3 WHERE id = ?1")?
        .execute([subject, day_ns, changes])?;
    Ok(())
}

/// Notes that a subject is gone since then; 0: that it is there. False if that is known, or it is not.
pub fn set_ended(
    db: &Connection,
    cluster: &str,
    (kind, name): (SubjectKind, &str),
    ended_ns: i64,
) -> Result<bool> {
    let changed = db
        .prepare_cached(
            "UPDATE subject SET ended_ns = ?4 WHERE cluster = ?1 AND kind = ?2 AND name = ?3
             AND CASE WHEN ended_ns = 0 THEN 0 ELSE 1 END <> CASE WHEN CAST(?4 AS BIGINT) = 0 THEN 0 ELSE 1 END",
        )?
        .execute(params![cluster, kind as u8, name, ended_ns])?;
    Ok(changed > 0)
}

/// Names of the subjects of a kind that are there.
pub fn there(db: &Connection, cluster: &str, kind: SubjectKind) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT name FROM subject WHERE ended_ns = 0 AND cluster = ?1 AND kind = ?2 ORDER BY name",
    )?;
    let rows = statement.query_map(params![cluster, kind as u8], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// What of `subject s` never held a GPU.
const NEVER_HELD: &str = "s.kind = 1 AND NOT EXISTS (SELECT 1 FROM owner o WHERE o.pod_uid = s.name)
     AND NOT EXISTS (SELECT 1 FROM owner o WHERE o.pod_uid = '' AND o.namespace = s.namespace AND o.pod = s.pod)";

/// Lets go of pods that were gone by `until_ns` and never held a GPU. Of those with a word from before the purge horizon an
/// opening tells: they go with the next purge.
pub fn forget(db: &Connection, until_ns: i64) -> Result<usize> {
    let from_ns = mark(db, Mark::ForgottenUntil)?;
    if until_ns <= from_ns {
        return Ok(0);
    }
    let horizon_ns = mark(db, Mark::PurgedUntil)?;
    let numbers = select(
        db,
        &format!(
            "SELECT s.id FROM subject s WHERE s.ended_ns >= ?1 AND s.ended_ns < ?2 AND s.ended_ns > 0 AND {NEVER_HELD}
             AND NOT EXISTS (SELECT 1 FROM described v WHERE v.subject = s.id AND v.from_ns < ?3)"
        ),
        &[from_ns, until_ns, horizon_ns],
    )?;
    delete(db, &numbers)?;
    set_mark(db, Mark::ForgottenUntil, until_ns)?;
    Ok(numbers.len())
}

/// What goes with the detail before `horizon_ns`, and with the days before `days_from_ns`.
pub fn purge(db: &Connection, horizon_ns: i64, days_from_ns: i64) -> Result<()> {
    let never_held =
        format!("SELECT s.id FROM subject s WHERE s.ended_ns > 0 AND s.ended_ns <= ?1 AND {NEVER_HELD}");
    let ended = "SELECT s.id FROM subject s WHERE s.ended_ns > 0 AND s.ended_ns <= ?1";
    for (sql, until_ns) in [(never_held.as_str(), horizon_ns), (ended, days_from_ns)] {
        let numbers = select(db, sql, &[until_ns])?;
        delete(db, &numbers)?;
    }
    db.execute(
        "DELETE FROM described WHERE from_ns < ?1 AND EXISTS (SELECT 1 FROM described v
         WHERE v.subject = described.subject AND v.from_ns > described.from_ns AND v.from_ns <= ?1)",
        [days_from_ns],
    )?;
    db.execute(
        "DELETE FROM description WHERE NOT EXISTS (SELECT 1 FROM described v WHERE v.description = description.id)",
        [],
    )?;
    Ok(())
}

fn select(db: &Connection, sql: &str, params: &[i64]) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached(sql)?;
    let params: Vec<&dyn sql::ToSql> = params.iter().map(|param| param as &dyn sql::ToSql).collect();
    let rows = statement.query_map(&params[..], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

fn delete(db: &Connection, subjects: &[i64]) -> Result<()> {
    for subject in subjects {
        db.prepare_cached("DELETE FROM described WHERE subject = ?1")?.execute([*subject])?;
        db.prepare_cached("DELETE FROM subject WHERE id = ?1")?.execute([*subject])?;
    }
    Ok(())
}
