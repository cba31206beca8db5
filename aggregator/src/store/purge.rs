//! What a purge writes down and what it deletes. See `commit::close` for when.

use std::collections::BTreeMap;

use super::audit::{Buckets, described_hash, sums_before};
use super::opening::{Opening, OpeningDevice, OpeningTenure};
use super::{StoreError, budgets, described, existence, jobs, opening, rollup, server, wide, write};
use crate::store::sql::{self, Connection, OptionalExtension, params};

type Result<T> = std::result::Result<T, StoreError>;

/// The ledger as it stands at `horizon_ns`, before anything is deleted.
pub fn opening_at(db: &Connection, horizon_ns: i64) -> Result<Opening> {
    freeze_facts(db, horizon_ns)?;
    let mut balances: BTreeMap<(i64, u8), [i128; 3]> = BTreeMap::new();
    if let Some((_, before)) = opening::last(db)? {
        balances.extend(before.balances.into_iter().map(|(owner, kind, sums)| ((owner, kind), sums)));
    }
    let [time, cost, unpriced] = ["time_ns", "cost_nanos", "unpriced_ns"].map(wide::sum);
    let mut statement = db.prepare_cached(&format!(
        "SELECT owner, kind, {time}, {cost}, {unpriced} FROM entry WHERE start < ?1 GROUP BY owner, kind"
    ))?;
    let mut rows = statement.query([horizon_ns])?;
    while let Some(row) = rows.next()? {
        let sums = balances.entry((row.get(0)?, row.get(1)?)).or_default();
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum += wide::read(&row, 2 + 2 * at)?;
        }
    }
    let mut devices = Vec::new();
    for device in existence::devices(db)? {
        devices.extend(device_at(db, device, horizon_ns)?);
    }
    Ok(Opening {
        horizon_ns,
        existence_until_ns: write::mark(db, write::Mark::ExistenceUntil)?,
        book: last_book(db)?,
        devices,
        balances: balances.into_iter().map(|((owner, kind), sums)| (owner, kind, sums)).collect(),
        hours: [0; 2],
        days: [0; 2],
        described: None,
    })
}

/// Facts of every tenure in its last slot before the horizon.
fn freeze_facts(db: &Connection, horizon_ns: i64) -> Result<()> {
    db.execute(
        "UPDATE tenure SET facts = s.facts, facts_ns = s.facts_ns
         FROM slot_state s JOIN (SELECT tenure, MAX(start) AS start FROM slot_state WHERE start < ?1 GROUP BY tenure) l
             ON l.tenure = s.tenure AND l.start = s.start
         WHERE s.tenure = tenure.id",
        [horizon_ns],
    )?;
    Ok(())
}

fn last_book(db: &Connection) -> Result<String> {
    let stored: Option<(i64, Vec<u8>)> = db
        .query_row("SELECT id, payload FROM journal WHERE kind = 2 ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((id, stored)) = stored else { return Ok("currency = \"USD\"\n".to_owned()) };
    Ok(String::from_utf8_lossy(&super::decompress(id, &stored)?).into_owned())
}

/// A device that was seen before the horizon.
fn device_at(db: &Connection, device: i64, horizon_ns: i64) -> Result<Option<OpeningDevice>> {
    let stays: Vec<_> =
        existence::stays(db, device)?.into_iter().filter(|stay| stay.from_ns < horizon_ns).collect();
    let last_covered: Option<i64> = db
        .prepare_cached(
            "SELECT end_ns FROM covered WHERE device = ?1 AND start_ns < ?2 ORDER BY start_ns DESC LIMIT 1",
        )?
        .query_row([device, horizon_ns], |row| row.get(0))
        .optional()?;
    let Some(last_covered) = last_covered.filter(|_| !stays.is_empty()) else { return Ok(None) };
    let (uuid, model) = db
        .prepare_cached("SELECT uuid, model FROM device WHERE id = ?1")?
        .query_row([device], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = db.prepare_cached(
        "SELECT t.id, n.cluster, n.name, t.life, t.claimed_ns, COALESCE(f.json, ''), t.slices FROM tenure t
         JOIN node n ON n.id = t.node LEFT JOIN facts f ON f.id = t.facts WHERE t.device = ?1 ORDER BY t.id",
    )?;
    let mut rows = statement.query([device])?;
    let (mut ids, mut tenures) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        ids.push(id);
        tenures.push(OpeningTenure {
            cluster: row.get(1)?,
            node: row.get(2)?,
            life: row.get(3)?,
            claimed_ns: row.get(4)?,
            claims: claims(db, id)?,
            facts: row.get(5)?,
            slices: row.get(6)?,
        });
    }
    let position = |tenure: i64| ids.iter().position(|id| *id == tenure).unwrap_or(usize::MAX);
    let stays = stays.iter().map(|stay| {
        let covered_ns = stay.covered_ns.min(last_covered.max(stay.from_ns));
        (position(stay.tenure), stay.from_ns, covered_ns)
    });
    let stays = stays.collect();
    let retired = existence::retired(db, device)?;
    Ok(Some(OpeningDevice { uuid, model, slices: 0, tenures, stays, retired }))
}

fn claims(db: &Connection, tenure: i64) -> Result<Vec<(String, i64)>> {
    let mut statement = db.prepare_cached(
        "SELECT c.epoch, l.first_ns FROM claim l JOIN cursor c ON c.id = l.cursor WHERE l.tenure = ?1
         ORDER BY l.cursor",
    )?;
    let rows = statement.query_map([tenure], |row| {
        let epoch: [u8; 16] = row.get(0)?;
        Ok((epoch.iter().map(|byte| format!("{byte:02x}")).collect(), row.get(1)?))
    })?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Deletes the detail before the horizon, hours before `hours_from_ns` and days before `days_from_ns`; the opening
/// then says what is left of hours, days, and of what pods were. Orders and restores stay in the journal: they are few.
pub fn delete(db: &Connection, opening: &mut Opening, hours_from_ns: i64, days_from_ns: i64) -> Result<()> {
    let horizon_ns = opening.horizon_ns;
    for (table, until_ns) in [
        ("slot", horizon_ns),
        ("slot_state", horizon_ns),
        ("entry", horizon_ns),
        ("hour", hours_from_ns),
        ("day", days_from_ns),
    ] {
        server::drop_before(db, table, until_ns)?;
    }
    for sql in [
        "DELETE FROM slot WHERE start < ?1",
        "DELETE FROM slot_state WHERE start < ?1",
        "DELETE FROM entry WHERE start < ?1",
        "DELETE FROM quarantine WHERE start_ns < ?1",
        "DELETE FROM gap WHERE end_ns <= ?1",
        // The last interval of each device stays, so that its stay can be gone on from.
        "DELETE FROM covered WHERE start_ns < (SELECT MAX(c.start_ns) FROM covered c
            WHERE c.device = covered.device AND c.start_ns < ?1)",
        "DELETE FROM journal WHERE kind IN (1, 13) AND to_ns <= ?1 AND at_ns < ?1",
        "DELETE FROM journal WHERE kind IN (3, 4, 9) AND at_ns < ?1",
        "DELETE FROM journal WHERE kind = 2 AND at_ns < ?1
            AND id < (SELECT MAX(id) FROM journal WHERE kind = 2)",
    ] {
        db.execute(sql, [horizon_ns])?;
    }
    budgets::purge(db, horizon_ns)?;
    jobs::purge(db, horizon_ns)?;
    db.execute("DELETE FROM hour WHERE start < ?1", params![hours_from_ns])?;
    db.execute("DELETE FROM day WHERE start < ?1", params![days_from_ns])?;
    rollup::delete(db, horizon_ns, hours_from_ns, days_from_ns)?;
    described::purge(db, horizon_ns, days_from_ns)?;
    opening.described = Some(described_hash(db, horizon_ns)?);
    opening.hours = sums_before(db, Buckets::Hour, horizon_ns)?;
    opening.days = sums_before(db, Buckets::Day, horizon_ns)?;
    Ok(())
}

/// True if an entry of a slot before the horizon waits to be posted.
pub fn waits(db: &Connection, horizon_ns: i64) -> Result<bool> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM unposted WHERE start < ?1)")?
        .query_row([horizon_ns], |row| row.get(0))?)
}
