//! Sums over all devices and pods, for questions of many of both: per cluster, model, profile, kind, namespace, user, account
//! and partition, over blocks of time that are wider and wider.
//!
//! ```text
//! a slot's rows change -> its block of a slot, in the same transaction
//!                      -> and every wider block that it lies in and that is built
//! time passes          -> blocks that are over are built from narrower ones ([`build`])
//! ```
//!
//! Invariant: a block that ends at or before `Mark::RolledUntil` is the sum of the slots' rows in it, whatever changes; of
//! those behind that mark only the blocks of one slot are kept. So live traffic writes one block, and a question about any
//! window reads few. Method bits are those that a row ever had, as in hours and days. Figures of [`packed::KEYS`] keys are
//! one value: a row for each would take longer to read than to add up.

use std::collections::{BTreeMap, HashMap};

use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

use super::sql::Connection;
use super::write::{self, Mark};
use super::{StoreError, sql};

mod keys;
pub mod packed;
mod rebuild;

pub use keys::Keys;
pub use packed::Figures;
pub use rebuild::rebuild;

/// How wide blocks are, each a multiple of the one before.
pub const WIDTHS: [i64; 6] = [SLOT_NS, HOUR_NS, 6 * HOUR_NS, DAY_NS, 8 * DAY_NS, 32 * DAY_NS];
/// What is built in one step.
const BUILT_MAX_NS: i64 = DAY_NS;
/// Parts that are written at once.
const PARTS_MAX: usize = 512;

type Result<T> = std::result::Result<T, StoreError>;

/// A block's parts, each with the figures of its keys.
type Parts = BTreeMap<i64, BTreeMap<i64, Figures>>;

/// The start of the block of this width that has `at_ns`.
#[must_use]
pub fn block(at_ns: i64, width_ns: i64) -> i64 {
    at_ns - at_ns.rem_euclid(width_ns)
}

/// Adds what slots' rows changed by, given by slot and key.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn add(db: &Connection, rolled_until_ns: i64, differences: &HashMap<(i64, i64), Figures>) -> Result<()> {
    let mut blocks: BTreeMap<(i64, i64), Parts> = BTreeMap::new();
    for ((slot_ns, key), difference) in differences {
        for width_ns in WIDTHS {
            let start_ns = block(*slot_ns, width_ns);
            if width_ns > SLOT_NS && start_ns + width_ns > rolled_until_ns {
                break;
            }
            let part = blocks.entry((width_ns, start_ns)).or_default().entry(key.div_euclid(packed::KEYS));
            part.or_default().entry(*key).or_default().add(difference);
        }
    }
    for ((width_ns, start_ns), mut parts) in blocks {
        let wanted: Vec<String> = parts.keys().map(i64::to_string).collect();
        let mut statement = db.prepare_cached(
            "SELECT part, sums FROM rollup WHERE width_ns = ?1 AND start = ?2
             AND part IN (SELECT CAST(value AS BIGINT) FROM json_each(?3))",
        )?;
        let list = format!("[{}]", wanted.join(","));
        let stored = statement.query_map(sql::params![width_ns, start_ns, list], |row| {
            Ok((row.get::<i64>(0)?, row.get::<Vec<u8>>(1)?))
        })?;
        for row in stored {
            let (part, bytes) = row?;
            take(part, &bytes, parts.entry(part).or_default())?;
        }
        put(db, (width_ns, start_ns), &parts)?;
    }
    Ok(())
}

/// Builds the blocks that are over at `until_ns`, a slot's edge, a bounded part at once. True if more are. The slots' rows
/// of this transaction must have been written.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn build(db: &Connection, until_ns: i64) -> Result<bool> {
    let mut from_ns = write::mark(db, Mark::RolledUntil)?;
    if from_ns == 0 {
        // Nothing is there before the first slot: there all blocks are as good as built.
        let first: Option<i64> =
            db.query_row("SELECT MIN(start) FROM rollup WHERE width_ns = ?1", [SLOT_NS], |row| row.get(0))?;
        from_ns = first.map_or(until_ns, |first_ns| block(first_ns, SLOT_NS).min(until_ns));
        // Where it is zero as time goes, it stays so.
        write::set_mark(db, Mark::RolledUntil, from_ns)?;
    }
    if until_ns <= from_ns {
        return Ok(false);
    }
    let to_ns = until_ns.min(from_ns + BUILT_MAX_NS);
    build_between(db, &WIDTHS, from_ns, to_ns)?;
    write::set_mark(db, Mark::RolledUntil, to_ns)?;
    Ok(to_ns < until_ns)
}

/// Builds the blocks that end behind `from_ns` and not behind `to_ns`, of each of the widths but the first.
fn build_between(db: &Connection, widths: &[i64], from_ns: i64, to_ns: i64) -> Result<()> {
    for (narrower_ns, width_ns) in widths.iter().zip(widths.iter().skip(1)) {
        let mut start_ns = block(from_ns, *width_ns);
        while start_ns + width_ns <= to_ns {
            build_block(db, *narrower_ns, *width_ns, start_ns)?;
            start_ns += width_ns;
        }
    }
    Ok(())
}

/// The sum of the narrower blocks, part by part.
fn build_block(db: &Connection, narrower_ns: i64, width_ns: i64, start_ns: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM rollup WHERE width_ns = ?1 AND start = ?2")?
        .execute([width_ns, start_ns])?;
    let mut statement = db.prepare_cached(
        "SELECT part, sums FROM rollup WHERE width_ns = ?1 AND start >= ?2 AND start < ?3 ORDER BY part",
    )?;
    let mut rows = statement.query([narrower_ns, start_ns, start_ns + width_ns])?;
    let mut parts = Parts::new();
    while let Some(row) = rows.next()? {
        let part: i64 = row.get(0)?;
        if parts.len() >= PARTS_MAX && !parts.contains_key(&part) {
            put(db, (width_ns, start_ns), &std::mem::take(&mut parts))?;
        }
        take(part, row.bytes(1)?, parts.entry(part).or_default())?;
    }
    put(db, (width_ns, start_ns), &parts)
}

fn take(part: i64, bytes: &[u8], figures: &mut BTreeMap<i64, Figures>) -> Result<()> {
    if packed::unpack(part, bytes, |key, more| figures.entry(key).or_default().add(&more)) {
        return Ok(());
    }
    Err(StoreError::Damaged { what: "rollup", detail: format!("figures of part {part} cannot be read") })
}

/// Stores parts of a block as they are now.
fn put(db: &Connection, (width_ns, start_ns): (i64, i64), parts: &Parts) -> Result<()> {
    let mut rows = Vec::with_capacity(parts.len());
    for (part, figures) in parts {
        match packed::pack(figures) {
            Some(bytes) => rows.push(([width_ns, start_ns, *part], bytes)),
            None => {
                db.prepare_cached("DELETE FROM rollup WHERE width_ns = ?1 AND start = ?2 AND part = ?3")?
                    .execute([width_ns, start_ns, *part])?;
            }
        }
    }
    let conflict = "ON CONFLICT (width_ns, start, part) DO UPDATE SET sums = excluded.sums";
    Ok(db.insert_bytes("rollup", conflict, &rows)?)
}

/// Deletes blocks with the slots, hours and days that they are sums of.
///
/// # Errors
/// If SQL fails.
pub(super) fn delete(
    db: &Connection,
    slots_until_ns: i64,
    hours_until_ns: i64,
    days_until_ns: i64,
) -> Result<()> {
    for width_ns in WIDTHS {
        let until_ns = match width_ns {
            ..HOUR_NS => slots_until_ns,
            HOUR_NS..DAY_NS => hours_until_ns,
            _ => days_until_ns,
        };
        db.execute("DELETE FROM rollup WHERE width_ns = ?1 AND start < ?2", [width_ns, until_ns])?;
    }
    Ok(())
}
