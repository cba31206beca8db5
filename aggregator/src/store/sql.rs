//! One set of statements for two engines. What the store asks is written once, in the SQL that SQLite and PostgreSQL
//! share; what they do not share is behind [`Connection`].
//!
//! Parameters are `?1`, `?2`, ...; columns are 64-bit integers, text and bytes. Constraints on statements, which the tests
//! run on both engines: no scalar MIN and MAX, no bare columns beside aggregates, sums cast to BIGINT, a target for
//! each `ON CONFLICT ... DO UPDATE` with the table's name before what is there, `"user"` and `"window"` in quotes, and
//! a list of numbers as `SELECT CAST(value AS BIGINT) FROM json_each(?1)`.

use std::ops::Deref;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tonnage_runtime::tls::TlsError;

use super::server::Access;

mod postgres;
mod sqlite;
mod value;

pub use value::{FromSql, Params, ToSql, ValueRef};

/// SQL failed, or a row is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("PostgreSQL: {0}")]
    Connect(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("PostgreSQL has not answered for {seconds} s")]
    Silent { seconds: u64 },
    #[error("a statement of the transaction failed, so that nothing of it was done")]
    Aborted,
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
        match self {
            Self::Sqlite(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted),
            Self::Postgres(e) => e.code() == Some(&SqlState::QUERY_CANCELED),
            _ => false,
        }
    }

    /// Is it about the way to a server, rather than about what was asked?
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Tls(_) | Self::Silent { .. } => true,
            Self::Postgres(e) => {
                let io = |cause: &(dyn std::error::Error + 'static)| cause.is::<std::io::Error>();
                let ends = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
                e.is_closed()
                    || std::error::Error::source(e).is_some_and(io)
                    || e.code().is_some_and(|code| ends.contains(code))
            }
            _ => false,
        }
    }

    /// Is there such a row already?
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Sqlite(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation),
            Self::Postgres(e) => e.code() == Some(&SqlState::UNIQUE_VIOLATION),
            _ => false,
        }
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
    Postgres(Box<postgres::Session>),
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self(Engine::Sqlite(connection))
    }
}

impl Connection {
    /// Connects to a server.
    ///
    /// # Errors
    /// If it cannot be reached, or does not let us in.
    pub fn connect(access: Access) -> Result<Self> {
        Ok(Self(Engine::Postgres(Box::new(postgres::Session::new(access)?))))
    }

    /// An answer of a server is waited for so long at most; then its connection is made anew.
    pub(in crate::store) fn set_patience(&self, patience: Duration) {
        if let Engine::Postgres(session) = &self.0 {
            session.set_patience(patience);
        }
    }

    /// Is it PostgreSQL?
    #[must_use]
    pub fn is_server(&self) -> bool {
        matches!(self.0, Engine::Postgres(_))
    }

    /// Was this name never asked about in what was committed, or in this transaction? A server's partitions are looked for once.
    pub(in crate::store) fn is_new(&self, name: &str) -> bool {
        match &self.0 {
            Engine::Sqlite(_) => false,
            Engine::Postgres(session) => session.is_new(name),
        }
    }

    /// A statement, kept for the next time.
    ///
    /// # Errors
    /// If it is none.
    pub fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        match &self.0 {
            Engine::Sqlite(db) => Ok(Statement::Sqlite(db.prepare_cached(sql)?)),
            Engine::Postgres(session) => Ok(Statement::Postgres(session.prepare(sql)?)),
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
            Engine::Postgres(session) => session.batch(sql),
        }
    }

    /// Inserts rows of numbers into all columns of a table, `conflict` saying what becomes of those that are there already.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn insert_all<R: AsRef<[Option<i64>]>>(&self, table: &str, conflict: &str, rows: &[R]) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(db) => sqlite::insert_all(db, table, conflict, rows),
            Engine::Postgres(session) => session.insert_all(table, conflict, rows),
        }
    }

    /// The same of rows that end with bytes.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn insert_bytes(&self, table: &str, conflict: &str, rows: &[([i64; 3], Vec<u8>)]) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(db) => sqlite::insert_bytes(db, table, conflict, rows),
            Engine::Postgres(session) => session.insert_bytes(table, conflict, rows),
        }
    }

    /// The same statement for each of many rows of parameters, of which none is waited for before the next is sent.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn execute_all<const N: usize>(&self, sql: &str, rows: &[[i64; N]]) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(db) => sqlite::execute_all(db, sql, rows),
            Engine::Postgres(session) => session.execute_all(sql, rows),
        }
    }

    /// Begins to write: nobody else writes until the end of the transaction.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        self.begin_with(true)
    }

    /// Begins to read: all that is read until the end of the transaction is of one moment.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn begin_read(&self) -> Result<Transaction<'_>> {
        self.begin_with(false)
    }

    fn begin_with(&self, writes: bool) -> Result<Transaction<'_>> {
        match &self.0 {
            Engine::Sqlite(db) => db.execute_batch(if writes { "BEGIN IMMEDIATE" } else { "BEGIN" })?,
            Engine::Postgres(session) => session.begin(writes)?,
        }
        Ok(Transaction { db: self, open: true })
    }

    /// From now on statements are given up once `expired` says so; `None`: never. A server gives up on its own, after half
    /// a minute.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn set_deadline(&mut self, expired: Option<impl FnMut() -> bool + Send + 'static>) -> Result<()> {
        match &mut self.0 {
            Engine::Sqlite(db) => Ok(db.progress_handler(sqlite::OPS_PER_LOOK, expired)?),
            Engine::Postgres(session) => {
                session.set_limited(expired.is_some());
                Ok(())
            }
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
        let done = match &self.db.0 {
            Engine::Sqlite(db) => db.execute_batch("COMMIT").map_err(Error::from),
            Engine::Postgres(session) => session.commit(),
        };
        done.inspect_err(|_| self.roll_back())
    }

    fn roll_back(&self) {
        match &self.db.0 {
            // A transaction that failed may have been rolled back by the engine already.
            Engine::Sqlite(db) => drop(db.execute_batch("ROLLBACK")),
            Engine::Postgres(session) => session.roll_back(),
        }
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
    Postgres(postgres::Prepared<'a>),
}

impl Statement<'_> {
    /// Gives how many rows it changed.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn execute(&mut self, params: impl Params) -> Result<usize> {
        match self {
            Self::Sqlite(statement) => Ok(statement.execute(sqlite::bound(&params.values()))?),
            Self::Postgres(statement) => statement.execute(&params.values()),
        }
    }

    /// # Errors
    /// If SQL or `map` fails; [`Error::NoRow`] if there is none.
    pub fn query_row<T>(
        &mut self,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut rows = self.all(params)?;
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
        Ok(Mapped { rows: self.all(params)?, map })
    }

    /// Rows of an answer that is short.
    fn all(&mut self, params: impl Params) -> Result<Rows<'_>> {
        match self {
            Self::Sqlite(statement) => Ok(Rows::Sqlite(statement.query(sqlite::bound(&params.values()))?)),
            Self::Postgres(statement) => Ok(Rows::Postgres(statement.all(&params.values())?)),
        }
    }

    /// Rows as they come: however many there are, few are in memory.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn query(&mut self, params: impl Params) -> Result<Rows<'_>> {
        match self {
            Self::Sqlite(statement) => Ok(Rows::Sqlite(statement.query(sqlite::bound(&params.values()))?)),
            Self::Postgres(statement) => Ok(Rows::Postgres(statement.rows(&params.values())?)),
        }
    }
}

/// The rows of a query.
pub enum Rows<'a> {
    Sqlite(rusqlite::Rows<'a>),
    Postgres(postgres::Answer<'a>),
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
            Self::Postgres(rows) => Ok(rows.next()?.map(Row::Postgres)),
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
    Postgres(tokio_postgres::Row),
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

    /// The bytes of a column.
    ///
    /// # Errors
    /// If there is no such column, or it holds no bytes.
    pub fn bytes(&self, at: usize) -> Result<&[u8]> {
        match self.value(at)? {
            ValueRef::Blob(bytes) => Ok(bytes),
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

    /// How many columns it has.
    pub(in crate::store) fn len(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.as_ref().column_count(),
            Self::Postgres(row) => row.len(),
        }
    }

    pub(in crate::store) fn value(&self, at: usize) -> Result<ValueRef<'_>> {
        match self {
            Self::Sqlite(row) => sqlite::value(row, at),
            Self::Postgres(row) => postgres::value(row, at),
        }
    }
}
