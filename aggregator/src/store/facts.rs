//! Nodes' facts, each set of them once.

use sha2::{Digest as _, Sha256};

use super::StoreError;
use crate::model::NodeFacts;
use crate::store::sql::{Connection, params};

type Result<T> = std::result::Result<T, StoreError>;

/// What a set of facts is known by: its JSON can be longer than an index takes.
pub(super) fn hash(json: &str) -> [u8; 32] {
    Sha256::digest(json).into()
}

/// The number of a set of facts.
pub fn number(db: &Connection, facts: &NodeFacts) -> Result<i64> {
    let json = serde_json::to_string(facts)
        .map_err(|e| StoreError::Damaged { what: "facts", detail: e.to_string() })?;
    let sha256 = hash(&json);
    db.prepare_cached("INSERT INTO facts (sha256, json) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![&sha256[..], json])?;
    Ok(db
        .prepare_cached("SELECT id FROM facts WHERE sha256 = ?1")?
        .query_row([&sha256[..]], |row| row.get(0))?)
}

/// Facts by their number.
pub fn by_number(db: &Connection, id: i64) -> Result<NodeFacts> {
    let json: String =
        db.prepare_cached("SELECT json FROM facts WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    serde_json::from_str(&json).map_err(|e| StoreError::Damaged { what: "facts", detail: e.to_string() })
}
