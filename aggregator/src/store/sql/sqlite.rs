//! SQLite's side of [`super`].

use rusqlite::types::{ToSqlOutput, Value, ValueRef as Native};
use rusqlite::{Connection, ParamsFromIter, Row, ToSql};

use super::{Error, Result, ValueRef};

/// Steps of SQLite's machine between two looks at the time: some microseconds.
pub(super) const OPS_PER_LOOK: i32 = 10_000;

impl ToSql for ValueRef<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(Native::Text(text.as_bytes())),
            Self::Blob(bytes) => ToSqlOutput::Borrowed(Native::Blob(bytes)),
        })
    }
}

pub(super) fn bound<'a>(values: &'a [ValueRef<'a>]) -> ParamsFromIter<&'a [ValueRef<'a>]> {
    rusqlite::params_from_iter(values)
}

pub(super) fn value<'a>(row: &'a Row<'_>, at: usize) -> Result<ValueRef<'a>> {
    match row.get_ref(at)? {
        Native::Null => Ok(ValueRef::Null),
        Native::Integer(number) => Ok(ValueRef::Integer(number)),
        Native::Text(text) => std::str::from_utf8(text)
            .map(ValueRef::Text)
            .map_err(|e| Error::Value { at, found: format!("text that is not UTF-8: {e}") }),
        Native::Blob(bytes) => Ok(ValueRef::Blob(bytes)),
        Native::Real(number) => Err(Error::Value { at, found: number.to_string() }),
    }
}

pub(super) fn insert_all<R: AsRef<[Option<i64>]>>(
    db: &Connection,
    table: &str,
    conflict: &str,
    rows: &[R],
) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let values: Vec<String> = (1..=first.as_ref().len()).map(|at| format!("?{at}")).collect();
    let sql = format!("INSERT INTO {table} VALUES ({}) {conflict}", values.join(", "));
    let mut statement = db.prepare_cached(&sql)?;
    for row in rows {
        statement.execute(rusqlite::params_from_iter(row.as_ref()))?;
    }
    Ok(())
}

pub(super) fn insert_bytes(
    db: &Connection,
    table: &str,
    conflict: &str,
    rows: &[([i64; 3], Vec<u8>)],
) -> Result<()> {
    let mut statement =
        db.prepare_cached(&format!("INSERT INTO {table} VALUES (?1, ?2, ?3, ?4) {conflict}"))?;
    for ([first, second, third], bytes) in rows {
        statement.execute(rusqlite::params![first, second, third, bytes])?;
    }
    Ok(())
}

pub(super) fn execute_all<const N: usize>(db: &Connection, sql: &str, rows: &[[i64; N]]) -> Result<()> {
    let mut statement = db.prepare_cached(sql)?;
    for row in rows {
        statement.execute(rusqlite::params_from_iter(row))?;
    }
    Ok(())
}
