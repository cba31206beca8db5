//! Windows that were not folded, and the journal as it is searched for them.

use super::StoreError;
use crate::ledger::coverage::Interval;
use crate::model::{Id, NodeName};
use crate::store::sql::{self, Connection, OptionalExtension, params};

type Result<T> = std::result::Result<T, StoreError>;

/// Entries that one answer lists.
pub const LIST_MAX: u32 = 1000;

/// What has become of a quarantined window. The numbers are the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Held = 0,
    /// Counted by a person's order.
    Released = 1,
    /// Counted after all: what stood against it gave way.
    Counted = 2,
}

impl State {
    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Held, Self::Released, Self::Counted]
            .into_iter()
            .find(|state| i64::from(*state as u8) == number)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Released => "released",
            Self::Counted => "counted",
        }
    }
}

/// A quarantined window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: i64,
    pub journal: i64,
    pub window: usize,
    pub device: String,
    pub span: Interval,
    pub kind: String,
    pub reason: String,
    pub state: State,
    pub node: NodeName,
    pub epoch: Id,
    pub seq: u64,
    pub journalled_ns: i64,
}

/// A batch as it was journalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journalled {
    pub id: i64,
    pub node_id: i64,
    pub node: NodeName,
    pub epoch: Id,
    pub seq: u64,
    pub payload: Vec<u8>,
}

const RECORD: &str = "SELECT q.id, q.journal, q.window, q.device, q.start_ns, q.end_ns, q.kind, q.reason,
    q.state, n.cluster, n.name, j.epoch, j.seq, j.at_ns
    FROM quarantine q JOIN journal j ON j.id = q.journal JOIN node n ON n.id = j.node";

/// Notes a window that is not folded, or not any more.
pub fn hold(
    db: &Connection,
    (journal, window): (i64, usize),
    device: &str,
    span: Interval,
    (kind, reason): (&str, &str),
) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO quarantine (journal, \"window\", device, start_ns, end_ns, kind, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (journal, \"window\") DO UPDATE SET kind = excluded.kind, reason = excluded.reason, state = 0",
    )?
    .execute(params![
        journal,
        i64::try_from(window).unwrap_or(i64::MAX),
        device,
        span.start_ns,
        span.end_ns,
        kind,
        reason
    ])?;
    Ok(())
}

/// Notes what has become of a quarantined window.
pub fn set_state(db: &Connection, id: i64, state: State) -> Result<()> {
    db.prepare_cached("UPDATE quarantine SET state = ?2 WHERE id = ?1")?.execute(params![id, state as u8])?;
    Ok(())
}

/// True if this window of a journalled batch is held.
pub fn is_held(db: &Connection, journal: i64, window: usize) -> Result<bool> {
    let found = db
        .prepare_cached("SELECT 1 FROM quarantine q WHERE q.journal = ?1 AND q.window = ?2 AND q.state = 0")?
        .query_row(params![journal, i64::try_from(window).unwrap_or(i64::MAX)], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// Windows of a device that overlap a span and are held because others cover it.
pub fn held_overlapping(db: &Connection, device: &str, span: Interval) -> Result<Vec<Record>> {
    let sql = format!(
        "{RECORD} WHERE q.device = ?1 AND q.start_ns < ?3 AND q.end_ns > ?2 AND q.state = 0
         AND q.kind = 'overlap' ORDER BY q.journal, q.window"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params![device, span.start_ns, span.end_ns], record)?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// One window by its number.
pub fn by_id(db: &Connection, id: i64) -> Result<Option<Record>> {
    let sql = format!("{RECORD} WHERE q.id = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id], record).optional()?)
}

/// One window by its place in the journal.
pub fn by_place(db: &Connection, journal: i64, window: usize) -> Result<Option<Record>> {
    let sql = format!("{RECORD} WHERE q.journal = ?1 AND q.window = ?2");
    let window = i64::try_from(window).unwrap_or(i64::MAX);
    Ok(db.prepare_cached(&sql)?.query_row([journal, window], record).optional()?)
}

/// Quarantined windows behind number `after`, in their order; of one device or state, or of all.
pub fn list(
    db: &Connection,
    after: i64,
    device: Option<&str>,
    state: Option<State>,
    limit: u32,
) -> Result<Vec<Record>> {
    let sql = format!(
        "{RECORD} WHERE q.id > ?1 AND (CAST(?2 AS TEXT) IS NULL OR q.device = ?2) AND (CAST(?3 AS BIGINT) IS NULL OR q.state = ?3)
         ORDER BY q.id LIMIT ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let state = state.map(|state| state as u8);
    let rows = statement.query_map(params![after, device, state, limit.min(LIST_MAX)], record)?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// How many windows are held, by kind.
pub fn held_counts(db: &Connection) -> Result<Vec<(String, i64)>> {
    let mut statement = db.prepare_cached(
        "SELECT kind, COUNT(*) FROM quarantine WHERE state = 0 GROUP BY kind ORDER BY kind",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// A journalled batch by its number.
pub fn batch(db: &Connection, journal: i64) -> Result<Journalled> {
    let sql = format!("{JOURNALLED} WHERE j.id = ?1");
    journalled(&sql, db, params![journal])?.pop().ok_or_else(|| StoreError::Damaged {
        what: "journal",
        detail: format!("entry {journal} is not there"),
    })
}

/// Batches of a spool life that were not refused and have windows within `span`.
pub fn batches_within(db: &Connection, node: i64, epoch: &Id, span: Interval) -> Result<Vec<Journalled>> {
    batches_within_behind(db, (node, epoch), span, i64::MIN, u32::MAX)
}

/// The first `limit` of them behind entry `after` of the journal, in its order.
pub fn batches_within_behind(
    db: &Connection,
    (node, epoch): (i64, &Id),
    span: Interval,
    after: i64,
    limit: u32,
) -> Result<Vec<Journalled>> {
    // 3: metering.v1.Ack.Outcome.REFUSED
    let sql = format!(
        "{JOURNALLED} WHERE j.kind = 1 AND j.node = ?1 AND j.to_ns > ?3 AND j.from_ns < ?4 AND j.epoch = ?2
         AND j.outcome <> 3 AND j.id > ?5 ORDER BY j.id LIMIT ?6"
    );
    journalled(&sql, db, params![node, &epoch[..], span.start_ns, span.end_ns, after, limit])
}

const JOURNALLED: &str = "SELECT j.id, j.node, n.cluster, n.name, j.epoch, j.seq, j.payload
    FROM journal j JOIN node n ON n.id = j.node";

fn journalled(sql: &str, db: &Connection, params: &[&dyn sql::ToSql]) -> Result<Vec<Journalled>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        found.push(Journalled {
            id,
            node_id: row.get(1)?,
            node: NodeName { cluster: row.get(2)?, node: row.get(3)? },
            epoch: row.get(4)?,
            seq: row.get::<i64>(5)?.unsigned_abs(),
            payload: super::decompress(id, &row.get::<Vec<u8>>(6)?)?,
        });
    }
    Ok(found)
}

fn record(row: &sql::Row<'_>) -> sql::Result<Record> {
    let state: i64 = row.get(8)?;
    let window: i64 = row.get(2)?;
    Ok(Record {
        id: row.get(0)?,
        journal: row.get(1)?,
        window: usize::try_from(window).map_err(|_| sql::Error::out_of_range(2, window))?,
        device: row.get(3)?,
        span: Interval { start_ns: row.get(4)?, end_ns: row.get(5)? },
        kind: row.get(6)?,
        reason: row.get(7)?,
        state: State::from_number(state).ok_or(sql::Error::out_of_range(8, state))?,
        node: NodeName { cluster: row.get(9)?, node: row.get(10)? },
        epoch: row.get(11)?,
        seq: row.get::<i64>(12)?.unsigned_abs(),
        journalled_ns: row.get(13)?,
    })
}

/// Journal entries with windows of a device that overlap a span and were released by order.
pub fn released_overlapping(db: &Connection, device: &str, span: Interval) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT journal FROM quarantine
         WHERE device = ?1 AND start_ns < ?3 AND end_ns > ?2 AND state = 1",
    )?;
    let rows = statement.query_map(params![device, span.start_ns, span.end_ns], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}
