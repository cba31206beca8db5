//! Where verification starts after a purge: the ledger as it stood at the horizon, under natural keys.

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::store::sql::{Connection, OptionalExtension, params};

type Result<T> = std::result::Result<T, StoreError>;

/// Bytes of an opening, unpacked: some hundred thousand GPUs.
const OPENING_BYTES_MAX: usize = 512 << 20;

/// The ledger at a purge horizon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub horizon_ns: i64,
    pub existence_until_ns: i64,
    pub book: String,
    pub devices: Vec<OpeningDevice>,
    /// Sums of all entries of slots before the horizon, by the store's owner and kind: time, cost, unpriced time.
    pub balances: Vec<(i64, u8, [i128; 3])>,
    /// Sums over the hours and the days before the horizon that are kept: time, cost.
    pub hours: [i128; 2],
    pub days: [i128; 2],
    /// Hash of what is kept of how pods and namespaces were before the horizon (`audit::described_hash`); `None` as ledgers
    /// of version 5 wrote it.
    #[serde(default)]
    pub described: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningDevice {
    pub uuid: String,
    pub model: String,
    /// Of the device in all its tenures, as ledgers of version 3 wrote it; 0 since.
    #[serde(default)]
    pub slices: u32,
    pub tenures: Vec<OpeningTenure>,
    /// Stays that began before the horizon: position in `tenures`, start, and end of coverage before the horizon.
    pub stays: Vec<(usize, i64, i64)>,
    pub retired: Vec<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningTenure {
    pub cluster: String,
    pub node: String,
    pub life: String,
    /// 0: those of the device.
    #[serde(default)]
    pub slices: u32,
    pub claimed_ns: i64,
    /// Epoch in hexadecimal, and the start of the first window that it offered.
    pub claims: Vec<(String, i64)>,
    /// JSON of `model::NodeFacts` at the horizon; empty if none are known.
    pub facts: String,
}

/// The newest opening with its checkpoint; `None` if nothing was ever purged.
pub fn last(db: &Connection) -> Result<Option<(i64, Opening)>> {
    let found: Option<(i64, Vec<u8>)> = db
        .prepare_cached("SELECT checkpoint, payload FROM opening ORDER BY checkpoint DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let damaged = |detail: String| StoreError::Damaged { what: "opening", detail };
    let Some((checkpoint, stored)) = found else { return Ok(None) };
    let json = zstd::bulk::decompress(&stored, OPENING_BYTES_MAX).map_err(|e| damaged(e.to_string()))?;
    let opening = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
    Ok(Some((checkpoint, opening)))
}

/// Writes an opening in the place of those before it.
pub fn put(db: &Connection, checkpoint: i64, opening: &Opening) -> Result<()> {
    let damaged = |detail: String| StoreError::Damaged { what: "opening", detail };
    let json = serde_json::to_vec(opening).map_err(|e| damaged(e.to_string()))?;
    let payload = zstd::bulk::compress(&json, 3).map_err(|e| damaged(e.to_string()))?;
    db.execute("DELETE FROM opening", [])?;
    db.execute("INSERT INTO opening VALUES (?1, ?2, ?3)", params![checkpoint, opening.horizon_ns, payload])?;
    Ok(())
}
