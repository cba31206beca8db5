//! A whole ledger from one engine to the other, row by row, all of one moment.
//!
//! Constraint: the target is empty, and one transaction fills it; then every table is counted and summed on both sides.
//! No number that other rows or hashes name changes.

use super::sql::{self, Row, ToSql, ValueRef};
use super::{Connection, StoreError, schema, server, wide};

/// Rows that are read before they are written.
const CHUNK: usize = 4_096;
/// Tables whose figures are added up on both sides.
const SUMMED: [&str; 4] = ["slot", "hour", "day", "entry"];

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copied {
    pub rows: u64,
    /// Sums over all slots: slice-nanoseconds and nano-dollars, the same on both sides.
    pub time_ns: i128,
    pub cost_nanos: i128,
}

/// Copies everything. `to` must hold a ledger that nothing has entered yet; what it is becomes what `from` is.
///
/// # Errors
/// If one cannot be read or the other not be written, `to` holds anything, or sums differ; then `to` is as it was.
pub fn copy(from: &Connection, to: &Connection) -> Result<Copied, StoreError> {
    let (from, to) = (from.begin_read()?, to.begin()?);
    let held: i64 = to.query_row("SELECT COUNT(*) FROM journal", [], |row| row.get(0))?;
    if held > 0 {
        return Err(StoreError::Occupied);
    }
    let mut copied = Copied::default();
    for table in tables() {
        to.execute(&format!("DELETE FROM {table}"), [])?;
        copied.rows += copy_table(&from, &to, table)?;
        if to.is_server() && has_id(table) {
            count_on(&to, table)?;
        }
        let sums = |db: &Connection| sums(db, table);
        let (there, here) = (sums(&from)?, sums(&to)?);
        if there != here {
            let detail = format!("its copy counts and sums to {here:?}, not {there:?}");
            return Err(StoreError::Damaged { what: table, detail });
        }
        if table == "slot" {
            (copied.time_ns, copied.cost_nanos) = (here.1, here.2);
        }
    }
    to.commit()?;
    Ok(copied)
}

/// On a server: the next number of `table` follows those that were given to it.
pub(super) fn count_on(db: &Connection, table: &str) -> Result<(), StoreError> {
    Ok(db.execute_batch(&format!(
        "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT COALESCE(MAX(id), 0) + 1 FROM {table}), false)"
    ))?)
}

/// Rows, time and cost.
fn sums(db: &Connection, table: &str) -> Result<(i64, i128, i128), StoreError> {
    if !SUMMED.contains(&table) {
        let count = format!("SELECT COUNT(*) FROM {table}");
        return Ok((db.query_row(&count, [], |row| row.get(0))?, 0, 0));
    }
    let (time, cost) = (wide::sum("time_ns"), wide::sum("cost_nanos"));
    let sql = format!("SELECT COUNT(*), {time}, {cost} FROM {table}");
    Ok(db.query_row(&sql, [], |row| Ok((row.get(0)?, wide::read(row, 1)?, wide::read(row, 3)?)))?)
}

fn copy_table(from: &Connection, to: &Connection, table: &'static str) -> Result<u64, StoreError> {
    let mut statement = from.prepare_cached(&format!("SELECT * FROM {table}"))?;
    let mut rows = statement.query([])?;
    let (mut count, mut chunk) = (0, Vec::with_capacity(CHUNK));
    while let Some(row) = rows.next()? {
        chunk.push(Owned::of(&row)?);
        count += 1;
        if chunk.len() == CHUNK {
            insert(to, table, &std::mem::take(&mut chunk))?;
        }
    }
    insert(to, table, &chunk)?;
    Ok(count)
}

fn insert(to: &Connection, table: &'static str, rows: &[Vec<Owned>]) -> Result<(), StoreError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let start_at = if table == "entry" { 2 } else { 0 };
    let starts = rows.iter().filter_map(|row| row.get(start_at)?.number()?);
    server::make_room(to, table, starts)?;
    let numbers: Option<Vec<Vec<Option<i64>>>> =
        rows.iter().map(|row| row.iter().map(Owned::number).collect()).collect();
    if let Some(numbers) = numbers {
        return Ok(to.insert_all(table, "", &numbers)?);
    }
    let places: Vec<String> = (1..=first.len()).map(|at| format!("?{at}")).collect();
    let mut statement = to.prepare_cached(&format!("INSERT INTO {table} VALUES ({})", places.join(", ")))?;
    for row in rows {
        let values: Vec<&dyn ToSql> = row.iter().map(|value| value as &dyn ToSql).collect();
        statement.execute(&values[..])?;
    }
    Ok(())
}

/// A value that outlives its row.
enum Owned {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Owned {
    fn of(row: &Row<'_>) -> sql::Result<Vec<Self>> {
        (0..row.len()).map(|at| Ok(row.value(at)?.into())).collect()
    }

    /// `None` if it is no number.
    fn number(&self) -> Option<Option<i64>> {
        match self {
            Self::Null => Some(None),
            Self::Integer(number) => Some(Some(*number)),
            Self::Text(_) | Self::Blob(_) => None,
        }
    }
}

impl From<ValueRef<'_>> for Owned {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Text(text) => Self::Text(text.to_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_owned()),
        }
    }
}

impl ToSql for Owned {
    fn value(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}

/// All tables, in the order of the schema.
fn tables() -> impl Iterator<Item = &'static str> {
    schema::CREATE.lines().filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split(' ').next())
}

/// Does the engine number its rows?
fn has_id(table: &str) -> bool {
    let begin = format!("{table} (");
    let own = schema::CREATE.split("CREATE TABLE ").find(|text| text.starts_with(&begin));
    own.and_then(|text| text.lines().nth(1)).is_some_and(|line| {
        line.split_whitespace().next() == Some("id") && line.contains("INTEGER PRIMARY KEY")
    })
}
