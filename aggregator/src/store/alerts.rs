//! Alerts, and who is still to be told of them. Written within the commit thread's transaction.
//!
//! No part of the ledger: nothing is charged by them, and `verify` does not look at them.

use crate::model::{Alert, AlertState, Delivery, Event, Finding};
use crate::store::StoreError;
use crate::store::sql::{self, Connection, OptionalExtension as _, Row, params};

/// Nobody waits longer than this for another try, whatever a channel asks.
pub const WAIT_NS_MAX: i64 = 3_600_000_000_000;

type Result<T> = std::result::Result<T, StoreError>;

const ALERT: &str =
    "a.id, a.json, a.state, a.triggered_ns, a.missing_ns, a.acknowledged_ns, a.acknowledged_by, a.notes,
     a.resolved_ns";

/// Alerts that are not resolved.
pub fn open(db: &Connection) -> Result<Vec<Alert>> {
    let mut statement =
        db.prepare_cached(&format!("SELECT {ALERT} FROM alert a WHERE a.state <> 2 ORDER BY a.id"))?;
    collect(statement.query_map([], |row| Ok(alert(row)))?)
}

/// The newest alerts, from `offset` on. `state`: of these alone. `account`: of this budget alone.
pub fn list(
    db: &Connection,
    state: Option<AlertState>,
    account: Option<&str>,
    (limit, offset): (usize, usize),
) -> Result<Vec<Alert>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {ALERT} FROM alert a WHERE (CAST(?1 AS BIGINT) IS NULL OR a.state = ?1)
         AND (CAST(?2 AS TEXT) IS NULL OR a.account = ?2) ORDER BY a.id DESC LIMIT ?3 OFFSET ?4"
    ))?;
    let state = state.map(|state| i64::from(state as u8));
    let page = [limit, offset].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    collect(statement.query_map(params![state, account, page[0], page[1]], |row| Ok(alert(row)))?)
}

/// An alert by its number.
pub fn one(db: &Connection, id: i64) -> Result<Option<Alert>> {
    let mut statement = db.prepare_cached(&format!("SELECT {ALERT} FROM alert a WHERE a.id = ?1"))?;
    statement.query_row([id], |row| Ok(alert(row))).optional()?.transpose()
}

/// A new alert; its number.
pub fn add(db: &Connection, finding: &Finding, now_ns: i64) -> Result<i64> {
    db.prepare_cached(
        "INSERT INTO alert (key, account, json, state, triggered_ns, missing_ns, acknowledged_ns, acknowledged_by,
            notes, resolved_ns) VALUES (?1, ?2, ?3, 0, ?4, 0, 0, '', '', 0)",
    )?
    .execute(params![finding.key, finding.account, json(finding)?, now_ns])?;
    Ok(db
        .prepare_cached("SELECT id FROM alert WHERE key = ?1 AND state <> 2")?
        .query_row([&finding.key], |row| row.get(0))?)
}

/// Stores an alert as it is now.
pub fn put(db: &Connection, alert: &Alert) -> Result<()> {
    db.prepare_cached(
        "UPDATE alert SET json = ?2, state = ?3, missing_ns = ?4, acknowledged_ns = ?5, acknowledged_by = ?6, notes = ?7,
            resolved_ns = ?8 WHERE id = ?1",
    )?
    .execute(params![
        alert.id,
        json(&alert.finding)?,
        alert.state as u8,
        alert.missing_ns,
        alert.acknowledged_ns,
        alert.acknowledged_by,
        alert.notes,
        alert.resolved_ns
    ])?;
    Ok(())
}

/// Has its channels told of an event.
pub fn tell(db: &Connection, alert: i64, event: Event, channels: &[String], now_ns: i64) -> Result<()> {
    for channel in channels {
        db.prepare_cached(
            "INSERT INTO delivery (alert, event, channel, attempts, created_ns, next_ns, done_ns, error)
             VALUES (?1, ?2, ?3, 0, ?4, ?4, 0, '')",
        )?
        .execute(params![alert, event as u8, channel, now_ns])?;
    }
    Ok(())
}

/// Deliveries whose time has come, at most `limit`: of each alert and channel the first that is left. Channels take turns, so that
/// one that hangs keeps no other waiting. What waits for longer than anything may was put off by a clock that has been set back.
pub fn due(db: &Connection, now_ns: i64, limit: usize) -> Result<Vec<Delivery>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {ALERT}, d.id, d.event, d.channel, d.attempts, d.created_ns FROM (
             SELECT o.*, ROW_NUMBER() OVER (PARTITION BY o.channel ORDER BY o.next_ns, o.id) AS turn FROM delivery o
             WHERE o.done_ns = 0 AND (o.next_ns <= ?1 OR o.next_ns > ?2) AND NOT EXISTS (SELECT 1 FROM delivery e
                 WHERE e.alert = o.alert AND e.channel = o.channel AND e.done_ns = 0 AND e.id < o.id)
         ) d JOIN alert a ON a.id = d.alert ORDER BY d.turn, d.next_ns, d.id LIMIT ?3"
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let latest_ns = now_ns.saturating_add(WAIT_NS_MAX);
    let rows = statement.query_map([now_ns, latest_ns, limit], |row| Ok(delivery(row)))?;
    collect(rows)
}

/// How many wait.
pub fn waiting(db: &Connection) -> Result<i64> {
    let count = "SELECT COUNT(*) FROM delivery WHERE done_ns = 0";
    Ok(db.prepare_cached(count)?.query_row([], |row| row.get(0))?)
}

/// A delivery with its number.
pub fn delivery_of(db: &Connection, id: i64) -> Result<Option<Delivery>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {ALERT}, d.id, d.event, d.channel, d.attempts, d.created_ns FROM delivery d JOIN alert a ON a.id = d.alert
         WHERE d.id = ?1 AND d.done_ns = 0"
    ))?;
    statement.query_row([id], |row| Ok(delivery(row))).optional()?.transpose()
}

/// It was told, or is given up for this reason.
pub fn done(db: &Connection, id: i64, error: &str, now_ns: i64) -> Result<()> {
    db.prepare_cached("UPDATE delivery SET done_ns = ?2, error = ?3 WHERE id = ?1")?
        .execute(params![id, now_ns, error])?;
    Ok(())
}

/// It is to be tried again.
pub fn again(db: &Connection, id: i64, error: &str, next_ns: i64) -> Result<()> {
    db.prepare_cached("UPDATE delivery SET attempts = attempts + 1, next_ns = ?2, error = ?3 WHERE id = ?1")?
        .execute(params![id, next_ns, error])?;
    Ok(())
}

/// Lets go of what was resolved before a time, and of what is not among the newest `count`; but of nothing that somebody is still to be
/// told of.
pub fn forget(db: &Connection, before_ns: i64, count: i64) -> Result<()> {
    let old = "SELECT id FROM alert WHERE state = 2 AND (resolved_ns < ?1 OR id <= (SELECT MAX(b.id) FROM alert b) - ?2)
        AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.alert = alert.id AND d.done_ns = 0)";
    for sql in ["DELETE FROM delivery WHERE alert IN", "DELETE FROM alert WHERE id IN"] {
        db.prepare_cached(&format!("{sql} ({old})"))?.execute([before_ns, count])?;
    }
    Ok(())
}

fn collect<T>(rows: impl Iterator<Item = sql::Result<Result<T>>>) -> Result<Vec<T>> {
    rows.map(|row| row?).collect()
}

fn json(finding: &Finding) -> Result<String> {
    serde_json::to_string(finding).map_err(damaged)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn damaged(error: serde_json::Error) -> StoreError {
    StoreError::Damaged { what: "alert", detail: error.to_string() }
}

fn alert(row: &Row<'_>) -> Result<Alert> {
    let (text, state): (String, i64) = (row.get(1)?, row.get(2)?);
    Ok(Alert {
        id: row.get(0)?,
        finding: serde_json::from_str(&text).map_err(damaged)?,
        state: AlertState::from_number(state).ok_or(sql::Error::out_of_range(2, state))?,
        triggered_ns: row.get(3)?,
        missing_ns: row.get(4)?,
        acknowledged_ns: row.get(5)?,
        acknowledged_by: row.get(6)?,
        notes: row.get(7)?,
        resolved_ns: row.get(8)?,
    })
}

fn delivery(row: &Row<'_>) -> Result<Delivery> {
    let (event, attempts): (i64, i64) = (row.get(10)?, row.get(12)?);
    Ok(Delivery {
        alert: alert(row)?,
        id: row.get(9)?,
        event: Event::from_number(event).ok_or(sql::Error::out_of_range(10, event))?,
        channel: row.get(11)?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        created_ns: row.get(13)?,
    })
}
