//! What is stored of pods and namespaces, under natural keys.

use sha2::{Digest as _, Sha256};

use crate::model::{Subject, SubjectKind};
use crate::store::StoreError;
use crate::store::sql::{self, Connection};

/// How a subject of a cluster is said to be from some time on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionKey {
    pub cluster: String,
    pub subject: Subject,
    pub from_ns: i64,
}

/// Hands every version to `each`, in the order of clusters, kinds, names and times: its key, the description as it is
/// stored with its hash, and when its subject ended.
///
/// # Errors
/// If the store cannot be read, or a row is damaged.
pub fn described(
    db: &Connection,
    mut each: impl FnMut(VersionKey, &str, [u8; 32], i64),
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT s.cluster, s.kind, s.name, s.namespace, s.pod, v.from_ns, d.json, d.sha256, s.ended_ns
         FROM described v JOIN subject s ON s.id = v.subject JOIN description d ON d.id = v.description
         ORDER BY s.cluster, s.kind, s.name, v.from_ns",
    )?;
    let mut rows = statement.query([])?;
    let mut count = 0_i64;
    while let Some(row) = rows.next()? {
        let kind: i64 = row.get(1)?;
        let subject = Subject {
            kind: SubjectKind::from_number(kind).ok_or(sql::Error::out_of_range(1, kind))?,
            name: row.get(2)?,
            namespace: row.get(3)?,
            pod: row.get(4)?,
        };
        let key = VersionKey { cluster: row.get(0)?, subject, from_ns: row.get(5)? };
        each(key, row.text(6)?.unwrap_or_default(), row.get(7)?, row.get(8)?);
        count += 1;
    }
    let all: i64 = db.query_row("SELECT COUNT(*) FROM described", [], |row| row.get(0))?;
    if all == count {
        return Ok(());
    }
    let detail = format!("{} of {all} rows have no subject, or say nothing of it", all - count);
    Err(StoreError::Damaged { what: "described", detail })
}

/// SHA-256 over all versions from before `until_ns`, in hexadecimal: what a purge leaves of them is known by it.
///
/// # Errors
/// As [`described`].
pub fn described_hash(db: &Connection, until_ns: i64) -> Result<String, StoreError> {
    let mut hash = Sha256::new();
    described(db, |key, _, sha256, _| {
        if key.from_ns < until_ns {
            let VersionKey { cluster, subject: Subject { kind, name, namespace, pod }, from_ns } = key;
            for text in [&cluster, &name, &namespace, &pod] {
                hash.update(text.len().to_le_bytes());
                hash.update(text);
            }
            hash.update([kind as u8]);
            hash.update(from_ns.to_le_bytes());
            hash.update(sha256);
        }
    })?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Did this pod ever hold a GPU, as far as the ledger knows?
///
/// # Errors
/// If the store cannot be read.
pub fn ever_held(db: &Connection, subject: &Subject) -> Result<bool, StoreError> {
    let Subject { name, namespace, pod, .. } = subject;
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM owner WHERE pod_uid = ?1)
             OR EXISTS (SELECT 1 FROM owner WHERE pod_uid = '' AND namespace = ?2 AND pod = ?3)",
        )?
        .query_row([name, namespace, pod], |row| row.get(0))?)
}
