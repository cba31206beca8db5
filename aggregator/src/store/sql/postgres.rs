//! PostgreSQL's side of [`super`].
//!
//! The store asks from threads that may block; the connection itself is tended by one runtime of this file, so that a
//! thread only waits for answers. A connection that broke is made anew at the next transaction.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::runtime::Runtime;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Access, Error, Result, ValueRef};

/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 256;
/// Rows of a long answer that are fetched at once.
const FETCHED: usize = 2_048;
/// Rows of numbers in one statement.
const INSERTED: usize = 8_192;
/// Statements that are on their way at once.
const PIPELINED: usize = 1_024;
/// What a query with a deadline may take.
const LIMITED_MS: u32 = 30_000;
/// A writer that says nothing for so long loses its transaction, and the lock with it: a process that hangs, or whose
/// network is gone, keeps the others waiting for no longer.
const IDLE_MS: u32 = 60_000;
/// Who asks with a deadline waits for a server that does not keep it for so much longer.
const GRACE: Duration = Duration::from_secs(5);
/// Whoever holds this lock for a transaction writes the ledger.
const WRITER_LOCK: i64 = 0x0074_6f6e_6e61_6765;

/// A connection, made again when it breaks.
pub(super) struct Session {
    access: Arc<Access>,
    client: RefCell<Client>,
    statements: RefCell<HashMap<String, Statement>>,
    /// In a transaction, and whether one of its statements failed: then it can no longer be committed.
    open: Cell<bool>,
    failed: Cell<bool>,
    limited: Cell<bool>,
    /// How long an answer is waited for; `None`: for as long as the connection lives.
    patience: Cell<Option<Duration>>,
    /// An answer was waited for in vain, so nothing that comes on this connection is awaited any more.
    given_up: Cell<bool>,
    cursors: Cell<u64>,
    /// Names that were asked about, see [`Session::is_new`].
    seen: RefCell<HashSet<String>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("access", &self.access).finish_non_exhaustive()
    }
}

/// Runs the connections' own side.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build()
    });
    made.as_ref().map_err(|e| Error::Connect(e.to_string()))
}

/// Files for TLS are read for each connection, so new ones need no restart.
fn connect(access: &Arc<Access>) -> Result<Client> {
    let (tls, to) = (access.tls()?, Arc::clone(access));
    let hosts = to.config.get_hosts().len().max(to.config.get_hostaddrs().len()).max(1);
    let within = to.connect * u32::try_from(hosts).unwrap_or(u32::MAX);
    let task = runtime()?.spawn(async move {
        let attached = async {
            match tls {
                None => attach(&to.config, NoTls).await,
                Some(tls) => attach(&to.config, MakeRustlsConnect::new(tls)).await,
            }
        };
        tokio::time::timeout(within, attached).await
    });
    let connected = pollster::block_on(task).map_err(|e| Error::Connect(e.to_string()))?;
    let connected = connected.map_err(|_| Error::Silent { seconds: within.as_secs() })?;
    connected.map_err(|e| access.explained(&e).map_or(Error::Postgres(e), Error::Connect))
}

/// Connects, and leaves the connection's own side to the runtime.
async fn attach<T>(config: &Config, tls: T) -> std::result::Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "A connection to PostgreSQL broke.");
        }
    });
    Ok(client)
}

impl Session {
    pub(super) fn new(mut access: Access) -> Result<Self> {
        access.config.connect_timeout(access.connect);
        access.config.tcp_user_timeout(Duration::from_secs(60));
        let access = Arc::new(access);
        Ok(Self {
            client: RefCell::new(connect(&access)?),
            access,
            statements: RefCell::default(),
            open: Cell::new(false),
            failed: Cell::new(false),
            limited: Cell::new(false),
            patience: Cell::new(None),
            given_up: Cell::new(false),
            cursors: Cell::new(0),
            seen: RefCell::default(),
        })
    }

    pub(super) fn set_limited(&self, limited: bool) {
        self.limited.set(limited);
        let limit = Duration::from_millis(LIMITED_MS.into()) + GRACE;
        self.patience.set(limited.then_some(limit));
    }

    pub(super) fn set_patience(&self, patience: Duration) {
        self.patience.set(Some(patience));
    }

    /// Waits for an answer.
    fn wait<T>(
        &self,
        answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        if self.given_up.get() {
            return Err(Error::Aborted);
        }
        let result = match self.patience.get() {
            None => pollster::block_on(answer),
            Some(patience) => {
                let waited = {
                    let _timers = runtime()?.enter();
                    tokio::time::timeout(patience, answer)
                };
                pollster::block_on(waited).map_err(|_| {
                    self.failed.set(true);
                    self.given_up.set(true);
                    Error::Silent { seconds: patience.as_secs() }
                })?
            }
        };
        result.map_err(|error| {
            self.failed.set(true);
            Error::Postgres(error)
        })
    }

    /// `writes`: nobody else writes the ledger until the end of the transaction.
    pub(super) fn begin(&self, writes: bool) -> Result<()> {
        if self.client.borrow().is_closed() || self.given_up.get() {
            self.statements.borrow_mut().clear();
            // What answers now may be an older copy.
            self.seen.borrow_mut().clear();
            *self.client.borrow_mut() = connect(&self.access)?;
            self.given_up.set(false);
        }
        let mut sql = if writes {
            format!(
                "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS};
                 SELECT pg_advisory_xact_lock({WRITER_LOCK})"
            )
        } else {
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned()
        };
        if self.limited.get() {
            let _ = write!(sql, "; SET LOCAL statement_timeout = {LIMITED_MS}");
        }
        self.failed.set(false);
        self.batch(&sql).inspect_err(|_| self.roll_back())?;
        self.open.set(true);
        Ok(())
    }

    pub(super) fn commit(&self) -> Result<()> {
        if self.failed.get() {
            return Err(Error::Aborted);
        }
        self.open.set(false);
        self.batch("COMMIT")
    }

    pub(super) fn is_new(&self, name: &str) -> bool {
        self.seen.borrow_mut().insert(name.to_owned())
    }

    pub(super) fn roll_back(&self) {
        // Tables that were made go with it.
        self.seen.borrow_mut().clear();
        self.open.set(false);
        // One that broke is rolled back by the server.
        drop(self.batch("ROLLBACK"));
    }

    pub(super) fn batch(&self, sql: &str) -> Result<()> {
        let client = self.client.borrow();
        self.wait(client.batch_execute(sql))
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<Prepared<'_>> {
        let sql = translated(sql);
        let known = self.statements.borrow().get(&sql).cloned();
        let statement = if let Some(statement) = known {
            statement
        } else {
            let statement = self.wait(self.client.borrow().prepare(&sql))?;
            let mut statements = self.statements.borrow_mut();
            if statements.len() >= STATEMENTS_MAX {
                statements.clear();
            }
            statements.insert(sql.clone(), statement.clone());
            statement
        };
        Ok(Prepared { session: self, sql, statement })
    }

    pub(super) fn insert_all<R: AsRef<[Option<i64>]>>(
        &self,
        table: &str,
        conflict: &str,
        rows: &[R],
    ) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let width = first.as_ref().len();
        let arrays: Vec<String> = (1..=width).map(|at| format!("CAST(${at} AS BIGINT[])")).collect();
        let sql = format!("INSERT INTO {table} SELECT * FROM UNNEST({}) {conflict}", arrays.join(", "));
        for rows in rows.chunks(INSERTED) {
            let columns: Vec<Vec<Option<i64>>> =
                (0..width).map(|at| rows.iter().map(|row| row.as_ref()[at]).collect()).collect();
            let values: Vec<&(dyn ToSql + Sync)> =
                columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
            let prepared = self.prepare(&sql)?;
            self.wait(self.client.borrow().execute(&prepared.statement, &values))?;
        }
        Ok(())
    }

    pub(super) fn execute_all<const N: usize>(&self, sql: &str, rows: &[[i64; N]]) -> Result<()> {
        let prepared = self.prepare(sql)?;
        for rows in rows.chunks(PIPELINED) {
            let values: Vec<[&(dyn ToSql + Sync); N]> =
                rows.iter().map(|row| row.each_ref().map(|value| value as &(dyn ToSql + Sync))).collect();
            let client = self.client.borrow();
            let all = values.iter().map(|values| client.execute(&prepared.statement, values));
            self.wait(try_join_all(all))?;
        }
        Ok(())
    }

    pub(super) fn insert_bytes(
        &self,
        table: &str,
        conflict: &str,
        rows: &[([i64; 3], Vec<u8>)],
    ) -> Result<()> {
        let sql = format!(
            "INSERT INTO {table} SELECT * FROM UNNEST(CAST($1 AS BIGINT[]), CAST($2 AS BIGINT[]), CAST($3 AS BIGINT[]),
             CAST($4 AS BYTEA[])) {conflict}"
        );
        for rows in rows.chunks(INSERTED) {
            let numbers: [Vec<i64>; 3] =
                std::array::from_fn(|at| rows.iter().map(|(numbers, _)| numbers[at]).collect());
            let bytes: Vec<&[u8]> = rows.iter().map(|(_, bytes)| bytes.as_slice()).collect();
            let [first, second, third] = &numbers;
            let prepared = self.prepare(&sql)?;
            let values: [&(dyn ToSql + Sync); 4] = [first, second, third, &bytes];
            self.wait(self.client.borrow().execute(&prepared.statement, &values))?;
        }
        Ok(())
    }
}

/// A statement of a session.
pub struct Prepared<'a> {
    session: &'a Session,
    sql: String,
    statement: Statement,
}

impl<'a> Prepared<'a> {
    pub(super) fn execute(&self, values: &[ValueRef<'_>]) -> Result<usize> {
        let client = self.session.client.borrow();
        let changed = self.session.wait(client.execute(&self.statement, &bound(values)))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// All rows at once.
    pub(super) fn all(&self, values: &[ValueRef<'_>]) -> Result<Answer<'a>> {
        let client = self.session.client.borrow();
        let rows = self.session.wait(client.query(&self.statement, &bound(values)))?;
        Ok(Answer { rows: rows.into(), cursor: None })
    }

    /// Rows as they are asked for, in a transaction; else all at once.
    pub(super) fn rows(&self, values: &[ValueRef<'_>]) -> Result<Answer<'a>> {
        if !self.session.open.get() {
            return self.all(values);
        }
        let name = format!("c{}", self.session.cursors.replace(self.session.cursors.get() + 1));
        let sql = format!("DECLARE {name} NO SCROLL CURSOR FOR {}", self.sql);
        let client = self.session.client.borrow();
        self.session.wait(client.execute(&sql, &bound(values)))?;
        let cursor = Cursor { session: self.session, name, done: false };
        Ok(Answer { rows: VecDeque::new(), cursor: Some(cursor) })
    }
}

/// The rows of an answer.
pub struct Answer<'a> {
    rows: VecDeque<Row>,
    cursor: Option<Cursor<'a>>,
}

struct Cursor<'a> {
    session: &'a Session,
    name: String,
    done: bool,
}

impl Answer<'_> {
    pub(super) fn next(&mut self) -> Result<Option<Row>> {
        if let Some(cursor) = self.cursor.as_mut().filter(|cursor| self.rows.is_empty() && !cursor.done) {
            let sql = format!("FETCH {FETCHED} FROM {}", cursor.name);
            let rows = cursor.session.wait(cursor.session.client.borrow().query(&sql, &[]))?;
            cursor.done = rows.len() < FETCHED;
            self.rows = rows.into();
        }
        Ok(self.rows.pop_front())
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // What is left open ends with the transaction.
        if self.session.open.get() && !self.session.failed.get() {
            drop(self.session.batch(&format!("CLOSE {}", self.name)));
        }
    }
}

fn bound<'a>(values: &'a [ValueRef<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

type AnyError = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for ValueRef<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, AnyError> {
        match (self, ty) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Integer(number), &Type::INT4) => i32::try_from(*number)?.to_sql(ty, out),
            (Self::Integer(number), &Type::INT8) => number.to_sql(ty, out),
            (Self::Text(text), &Type::JSON) => text.to_sql(&Type::TEXT, out),
            (Self::Text(text), ty) if <&str as ToSql>::accepts(ty) => text.to_sql(ty, out),
            (Self::Blob(bytes), &Type::BYTEA) => bytes.to_sql(ty, out),
            _ => Err(format!("{self:?} is given where {ty} is wanted").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, AnyError> {
        self.to_sql(ty, out)
    }
}

pub(super) fn value(row: &Row, at: usize) -> Result<ValueRef<'_>> {
    let column = row.columns().get(at);
    let ty = column.map(tokio_postgres::Column::type_);
    let found = match ty {
        Some(&Type::INT8) => row.try_get::<_, Option<i64>>(at)?.map(ValueRef::Integer),
        Some(&Type::INT4) => {
            row.try_get::<_, Option<i32>>(at)?.map(|number| ValueRef::Integer(i64::from(number)))
        }
        Some(&Type::BOOL) => {
            row.try_get::<_, Option<bool>>(at)?.map(|truth| ValueRef::Integer(i64::from(truth)))
        }
        Some(&Type::BYTEA) => row.try_get::<_, Option<&[u8]>>(at)?.map(ValueRef::Blob),
        Some(_) => row.try_get::<_, Option<&str>>(at)?.map(ValueRef::Text),
        None => return Err(Error::Value { at, found: "no column".to_owned() }),
    };
    Ok(found.unwrap_or(ValueRef::Null))
}

/// What of a statement is said otherwise here: parameters, and lists of numbers.
fn translated(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 16);
    let mut rest = sql;
    while let Some(at) = rest.find("json_each(?") {
        let (before, list) = rest.split_at(at);
        let number: String = list["json_each(?".len()..].chars().take_while(char::is_ascii_digit).collect();
        text.push_str(before);
        let _ = write!(text, "json_array_elements_text(CAST(?{number} AS JSON))");
        rest = list["json_each(?".len() + number.len()..].strip_prefix(')').unwrap_or_default();
    }
    text.push_str(rest);
    text.replace('?', "$")
}

#[cfg(test)]
mod tests {
    use super::translated;

    #[test]
    fn parameters_and_lists_are_said_as_postgresql_has_them() {
        assert_eq!(
            translated("SELECT a FROM b WHERE c = ?1 AND d = ?12"),
            "SELECT a FROM b WHERE c = $1 AND d = $12"
        );
        assert_eq!(
            translated("x IN (SELECT CAST(value AS BIGINT) FROM json_each(?10)) AND y = ?2"),
            "x IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST($10 AS JSON))) AND y = $2"
        );
    }
}
