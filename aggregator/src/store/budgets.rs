//! Accounts, what is bound to them, and holds, as they are stored. Written within the commit thread's transaction.

use crate::budgets::account::Spec;
use crate::budgets::estimate::{LOOKED_AT_MAX, Sample};
use crate::budgets::hold::{Code, Found, State, Subject};
use crate::budgets::tree::{Account, Binding, Tree};
use crate::budgets::{Ask, Hold};
use crate::store::StoreError;
use crate::store::sql::{self, Connection, OptionalExtension, Row, params};

pub mod reports;
pub mod tasks;
mod usage;

pub use usage::{
    KnownGpu, RolledUsage, Usages, charged, clusters, gpus, is_owner, spent, subject_of, unassigned, usage,
};

type Result<T> = std::result::Result<T, StoreError>;

const HOLD: &str =
    "SELECT id, transaction_id, account, ask, subject_kind, subject, cost_nanos, amount_nanos, charged_nanos,
     from_ns, until_ns, state, refusal, available_nanos, created_ns, ended_ns, found FROM hold";

/// All accounts and bindings.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn tree(db: &Connection) -> Result<Tree> {
    let mut statement =
        db.prepare_cached("SELECT id, json, created_ns, updated_ns, closed_ns FROM account ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        let (id, json): (i64, String) = (row.get(0)?, row.get(1)?);
        let times: (i64, i64, Option<i64>) = (row.get(2)?, row.get(3)?, row.get(4)?);
        Ok((id, json, times))
    })?;
    let mut accounts = Vec::new();
    for row in rows {
        let (id, json, (created_ns, updated_ns, closed_ns)) = row?;
        let spec: Spec = read("account", &json)?;
        accounts.push(Account { id, spec, created_ns, updated_ns, closed_ns });
    }
    let mut statement = db.prepare_cached("SELECT account, json, from_ns, to_ns FROM binding ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        let (account, json): (i64, String) = (row.get(0)?, row.get(1)?);
        Ok((account, json, row.get::<i64>(2)?, row.get::<i64>(3)?))
    })?;
    let mut bindings = Vec::new();
    for row in rows {
        let (account, json, from_ns, to_ns) = row?;
        bindings.push(Binding { account, selector: read("binding", &json)?, from_ns, to_ns });
    }
    Ok(Tree::new(accounts, bindings))
}

/// Stores an account as it is now, with its bindings.
///
/// # Errors
/// If SQL fails.
pub fn put_account(db: &Connection, tree: &Tree, account: &Account) -> Result<()> {
    let Account { id, spec, created_ns, updated_ns, closed_ns } = account;
    db.prepare_cached(
        "INSERT INTO account (id, name, json, created_ns, updated_ns, closed_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO UPDATE SET json = excluded.json, updated_ns = excluded.updated_ns,
             closed_ns = excluded.closed_ns",
    )?
    .execute(params![id, spec.name, written("account", spec)?, created_ns, updated_ns, closed_ns])?;
    db.prepare_cached("DELETE FROM binding WHERE account = ?1")?.execute([*id])?;
    for binding in tree.bindings(*id) {
        let json = written("binding", &binding.selector)?;
        db.prepare_cached("INSERT INTO binding (account, json, from_ns, to_ns) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![id, json, binding.from_ns, binding.to_ns])?;
    }
    Ok(())
}

/// Holds that are open.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn open_holds(db: &Connection) -> Result<Vec<Hold>> {
    let mut statement = db.prepare_cached(&format!("{HOLD} WHERE state = 0"))?;
    let rows = statement.query_map([], |row| Ok(hold(row)))?;
    rows.map(|row| row?).collect()
}

/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn hold_by_key(db: &Connection, key: &str) -> Result<Option<Hold>> {
    // As the index has it.
    let mut statement = db.prepare_cached(&format!("{HOLD} WHERE key = ?1 AND key <> ''"))?;
    statement.query_row([key], |row| Ok(hold(row))).optional()?.transpose()
}

/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn hold_by_transaction(db: &Connection, transaction: &[u8; 16]) -> Result<Option<Hold>> {
    let mut statement = db.prepare_cached(&format!("{HOLD} WHERE transaction_id = ?1"))?;
    statement.query_row([&transaction[..]], |row| Ok(hold(row))).optional()?.transpose()
}

/// Which holds are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    pub account: Option<i64>,
    pub state: Option<i64>,
    /// Of a job or a pod; of a task of an array that of the array, too.
    pub subject: Option<String>,
    pub from_ns: Option<i64>,
    pub to_ns: Option<i64>,
    /// Only those that have ended and whose jobs were charged something by then.
    pub charged: bool,
    /// Only those that have ended and had reserved more than that.
    pub refunded: bool,
}

/// Holds and refusals, newest first.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn holds(db: &Connection, listed: &Listed, limit: usize, offset: usize) -> Result<Vec<Hold>> {
    let mut statement = db.prepare_cached(&format!(
        "{HOLD} WHERE (CAST(?1 AS BIGINT) IS NULL OR account = ?1) AND (CAST(?2 AS BIGINT) IS NULL OR state = ?2)
         AND (CAST(?3 AS TEXT) IS NULL OR subject = ?3 OR id IN (SELECT hold FROM hold_task WHERE job_id = ?3)) AND (CAST(?4 AS BIGINT) IS NULL OR created_ns >= ?4)
         AND (CAST(?5 AS BIGINT) IS NULL OR created_ns < ?5)
         AND (CAST(?8 AS BIGINT) = 0 OR state IN (1, 2, 3) AND charged_nanos <> 0)
         AND (CAST(?9 AS BIGINT) = 0 OR state IN (1, 2, 3) AND amount_nanos > charged_nanos)
         ORDER BY id DESC LIMIT ?6 OFFSET ?7"
    ))?;
    let Listed { account, state, subject, from_ns, to_ns, charged, refunded } = listed;
    let [charged, refunded] = [charged, refunded].map(|only| i64::from(*only));
    let [limit, offset] = [limit, offset].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let rows = statement.query_map(
        params![account, state, subject, from_ns, to_ns, limit, offset, charged, refunded],
        |row| Ok(hold(row)),
    )?;
    rows.map(|row| row?).collect()
}

/// What the last settled holds of an account tell of what work typically costs, the newest first.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn samples(db: &Connection, account: i64) -> Result<Vec<Sample>> {
    let mut statement = db.prepare_cached(&format!(
        "{HOLD} WHERE account = ?1 AND state = 1 ORDER BY ended_ns DESC, id DESC LIMIT ?2"
    ))?;
    let limit = i64::try_from(LOOKED_AT_MAX).unwrap_or(i64::MAX);
    let rows = statement.query_map([account, limit], |row| Ok(hold(row)))?;
    let holds: Vec<Hold> = rows.map(|row| row?).collect::<Result<_>>()?;
    Ok(holds.iter().filter_map(Sample::of).collect())
}

/// # Errors
/// If SQL fails.
pub fn insert_hold(db: &Connection, hold: &Hold) -> Result<()> {
    let (subject_kind, subject) = hold.subject.as_ref().map_or((0, ""), Subject::parts);
    let refusal =
        hold.refusal.as_ref().map(|refusal| written("hold", refusal)).transpose()?.unwrap_or_default();
    db.prepare_cached(
        "INSERT INTO hold (id, transaction_id, key, account, ask, cluster, subject_kind, subject, cost_nanos,
         amount_nanos, charged_nanos, from_ns, until_ns, state, refusal, available_nanos, created_ns, ended_ns, found)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        hold.id,
        &hold.transaction[..],
        hold.ask.key,
        hold.account,
        written("hold", &hold.ask)?,
        hold.ask.cluster,
        subject_kind,
        subject,
        hold.cost_nanos,
        hold.amount_nanos,
        hold.charged_nanos,
        hold.from_ns,
        hold.until_ns,
        hold.state as u8,
        refusal,
        hold.available_nanos,
        hold.created_ns,
        hold.ended_ns,
        written("hold", &hold.found)?
    ])?;
    Ok(())
}

/// Stores what of a hold changes.
///
/// # Errors
/// If SQL fails.
pub fn update_hold(db: &Connection, hold: &Hold) -> Result<()> {
    let (kind, subject) = hold.subject.as_ref().map_or((0, ""), Subject::parts);
    db.prepare_cached(
        "UPDATE hold SET subject_kind = ?2, subject = ?3, charged_nanos = ?4, until_ns = ?5, state = ?6, ended_ns = ?7,
         amount_nanos = ?8 WHERE id = ?1",
    )?
    .execute(params![
        hold.id,
        kind,
        subject,
        hold.charged_nanos,
        hold.until_ns,
        hold.state as u8,
        hold.ended_ns,
        hold.amount_nanos
    ])?;
    Ok(())
}

/// Deletes holds and refusals that had ended before the horizon, and what the journal has of them.
///
/// # Errors
/// If SQL fails.
pub(super) fn purge(db: &Connection, horizon_ns: i64) -> Result<()> {
    db.execute(
        "DELETE FROM journal WHERE kind = 11 AND epoch IN
         (SELECT transaction_id FROM hold WHERE state <> 0 AND ended_ns < ?1)",
        [horizon_ns],
    )?;
    db.execute(
        "DELETE FROM hold_task WHERE hold IN (SELECT id FROM hold WHERE state <> 0 AND ended_ns < ?1)",
        [horizon_ns],
    )?;
    db.execute("DELETE FROM hold WHERE state <> 0 AND ended_ns < ?1", [horizon_ns])?;
    Ok(())
}

fn hold(row: &Row<'_>) -> Result<Hold> {
    let (ask, refusal, found): (String, String, String) = (row.get(3)?, row.get(12)?, row.get(16)?);
    let (kind, state): (i64, i64) = (row.get(4)?, row.get(11)?);
    let ask: Ask = read("hold", &ask)?;
    let refusal: Option<(Code, String)> =
        if refusal.is_empty() { None } else { Some(read("hold", &refusal)?) };
    // Those of earlier versions have none.
    let found = if found.is_empty() { Found::default() } else { read("hold", &found)? };
    Ok(Hold {
        id: row.get(0)?,
        transaction: row.get(1)?,
        account: row.get(2)?,
        ask,
        subject: Subject::of(kind, row.get(5)?),
        cost_nanos: row.get(6)?,
        amount_nanos: row.get(7)?,
        charged_nanos: row.get(8)?,
        from_ns: row.get(9)?,
        until_ns: row.get(10)?,
        state: State::from_number(state).ok_or(sql::Error::out_of_range(11, state))?,
        refusal,
        available_nanos: row.get(13)?,
        found,
        created_ns: row.get(14)?,
        ended_ns: row.get(15)?,
    })
}

fn read<T: serde::de::DeserializeOwned>(what: &'static str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| StoreError::Damaged { what, detail: e.to_string() })
}

fn written<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged { what, detail: e.to_string() })
}
