//! One set of statements for two engines. What the store asks is written once, in the SQL that SQLite and PostgreSQL
//! share; what they do not share is behind [`Connection`].
//!
//! Parameters are `?1`, `?2`, ...; columns are 64-bit integers, text and bytes. Constraints on statements, which the tests
//! run on both engines: no scalar MIN and MAX, no bare columns beside aggregates, sums cast to BIGINT, a target for
//! each `ON CONFLICT ... DO UPDATE` with the table's name before what is there, `"user"` and `"window"` in quotes, and
//! a list of numbers as `SELECT CAST(value AS BIGINT) FROM json_each(?1)`.

use std::ops::Deref;

mod sqlite;
mod value;

pub use value::{FromSql, Params, ToSql, ValueRef};

/// SQL failed, or a row is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("no row where there must be one")]
    NoRow,
    #[error("column {at} holds {found}, which it never should")]
    Value { at: usize, found: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Was the statement given up because its time was over?
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Sqlite(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted))
    }

    /// Is there such a row already?
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Sqlite(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation))
    }

    /// A number that stands for nothing.
    #[must_use]
    pub fn out_of_range(at: usize, number: i64) -> Self {
        Self::Value { at, found: number.to_string() }
    }
}

/// `None` for a row that is not there.
pub trait OptionalExtension<T> {
    /// # Errors
    /// All but [`Error::NoRow`].
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExtension<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(row) => Ok(Some(row)),
            Err(Error::NoRow) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The parameters of a statement, of any types that are [`ToSql`].
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$(&$value as &dyn $crate::store::sql::ToSql),*] as &[&dyn $crate::store::sql::ToSql]
    };
}
pub(crate) use params;

/// A connection to the store.
#[derive(Debug)]
pub struct Connection(Engine);

#[derive(Debug)]
enum Engine {
    Sqlite(rusqlite::Connection),
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self(Engine::Sqlite(connection))
    }
}

impl Connection {
    /// A statement, kept for the next time.
    ///
    /// # Errors
    /// If it is none.
    pub fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        match &self.0 {
            Engine::Sqlite(db) => Ok(Statement::Sqlite(db.prepare_cached(sql)?)),
        }
    }

    /// Gives how many rows it changed.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    /// # Errors
    /// If SQL or `map` fails; [`Error::NoRow`] if there is none.
    pub fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.prepare_cached(sql)?.query_row(params, map)
    }

    /// Statements without parameters.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn execute_batch(&self, sql: &str) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(db) => Ok(db.execute_batch(sql)?),
        }
    }

    /// Inserts rows of numbers into all columns of a table, `conflict` saying what becomes of those that are there already.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn insert_all<const N: usize>(
        &self,
        table: &str,
        conflict: &str,
        rows: &[[Option<i64>; N]],
    ) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(db) => sqlite::insert_all(db, table, conflict, rows),
        }
    }

    /// Begins to write: nobody else writes until the end of the transaction.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        self.begin_with("BEGIN IMMEDIATE")
    }

    /// Begins to read: all that is read until the end of the transaction is of one moment.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn begin_read(&self) -> Result<Transaction<'_>> {
        self.begin_with("BEGIN")
    }

    fn begin_with(&self, sql: &str) -> Result<Transaction<'_>> {
        self.execute_batch(sql)?;
        Ok(Transaction { db: self, open: true })
    }

    /// From now on statements are given up once `expired` says so; `None`: never.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn set_deadline(&mut self, expired: Option<impl FnMut() -> bool + Send + 'static>) -> Result<()> {
        match &mut self.0 {
            Engine::Sqlite(db) => Ok(db.progress_handler(sqlite::OPS_PER_LOOK, expired)?),
        }
    }
}

/// What is done in it is done whole at its commit, or not at all.
#[derive(Debug)]
pub struct Transaction<'a> {
    db: &'a Connection,
    open: bool,
}

impl Transaction<'_> {
    /// # Errors
    /// If SQL fails: then whether it was done is not known.
    pub fn commit(mut self) -> Result<()> {
        self.open = false;
        self.db.execute_batch("COMMIT").inspect_err(|_| self.roll_back())
    }

    fn roll_back(&self) {
        // A transaction that failed may have been rolled back by the engine already.
        drop(self.db.execute_batch("ROLLBACK"));
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.db
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            self.roll_back();
        }
    }
}

/// A prepared statement.
pub enum Statement<'a> {
    Sqlite(rusqlite::CachedStatement<'a>),
}

impl Statement<'_> {
    /// Gives how many rows it changed.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn execute(&mut self, params: impl Params) -> Result<usize> {
        match self {
            Self::Sqlite(statement) => Ok(statement.execute(sqlite::bound(&params.values()))?),
        }
    }

    /// # Errors
    /// If SQL or `map` fails; [`Error::NoRow`] if there is none.
    pub fn query_row<T>(
        &mut self,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut rows = self.query(params)?;
        let row = rows.next()?.ok_or(Error::NoRow)?;
        map(&row)
    }

    /// # Errors
    /// If SQL fails.
    pub fn query_map<T, F: FnMut(&Row<'_>) -> Result<T>>(
        &mut self,
        params: impl Params,
        map: F,
    ) -> Result<Mapped<'_, F>> {
        Ok(Mapped { rows: self.query(params)?, map })
    }

    /// Rows as they come: however many there are, few are in memory.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn query(&mut self, params: impl Params) -> Result<Rows<'_>> {
        match self {
            Self::Sqlite(statement) => Ok(Rows::Sqlite(statement.query(sqlite::bound(&params.values()))?)),
        }
    }
}

/// The rows of a query.
pub enum Rows<'a> {
    Sqlite(rusqlite::Rows<'a>),
}

impl Rows<'_> {
    /// # Errors
    /// If SQL fails.
    #[allow(
        clippy::should_implement_trait,
        reason = "a row borrows from the rows, which no iterator can give"
    )]
    pub fn next(&mut self) -> Result<Option<Row<'_>>> {
        match self {
            Self::Sqlite(rows) => Ok(rows.next()?.map(Row::Sqlite)),
        }
    }
}

/// Rows, each made something of.
pub struct Mapped<'a, F> {
    rows: Rows<'a>,
    map: F,
}

impl<T, F: FnMut(&Row<'_>) -> Result<T>> Iterator for Mapped<'_, F> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        match self.rows.next() {
            Ok(row) => row.map(|row| (self.map)(&row)),
            Err(error) => Some(Err(error)),
        }
    }
}

/// One row.
pub enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
}

impl Row<'_> {
    /// The text of a column; `None` if it is NULL.
    ///
    /// # Errors
    /// If there is no such column, or it holds no text.
    pub fn text(&self, at: usize) -> Result<Option<&str>> {
        match self.value(at)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(text) => Ok(Some(text)),
            value => Err(Error::Value { at, found: format!("{value:?}") }),
        }
    }

    /// The value of a column, counted from 0.
    ///
    /// # Errors
    /// If there is no such column, or it holds something else.
    pub fn get<T: FromSql>(&self, at: usize) -> Result<T> {
        let value = self.value(at)?;
        T::from_sql(value).ok_or_else(|| Error::Value { at, found: format!("{value:?}") })
    }

    fn value(&self, at: usize) -> Result<ValueRef<'_>> {
        match self {
            Self::Sqlite(row) => sqlite::value(row, at),
        }
    }
}
