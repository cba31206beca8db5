//! The ledger's store: SQLite in one folder. All SQL of the aggregator is in this file and its children.
//!
//! One writer, on one thread ([`Store::writer`]); readers come from a pool ([`Readers`]) and see whole commits only
//! (WAL). `synchronous=FULL`: a commit that returned is on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

pub mod audit;
pub mod query;
mod schema;
pub mod tokens;
pub mod write;

/// Reading connections at once; a query more waits for one.
const READERS_MAX: usize = 4;

/// The store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("store {path}: cannot be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("store {path}: its folder cannot be made")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "store {path}: has schema version {found}, this program knows up to {known}; use a newer program"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("store: SQL failed")]
    Sql(#[from] rusqlite::Error),
    #[error("store: {what} is damaged: {detail}")]
    Damaged { what: &'static str, detail: String },
}

/// Where the ledger lies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens the ledger in `folder`, making it if there is none.
    ///
    /// # Errors
    /// If the folder or the file cannot be made or read, or was written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
        let store = Self { path: folder.join("ledger.sqlite") };
        let mut connection = store.writer()?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > schema::VERSION {
            return Err(StoreError::Newer { path: store.path, found, known: schema::VERSION });
        }
        if found == 0 {
            let transaction = connection.transaction()?;
            transaction.execute_batch(schema::CREATE)?;
            let mut id = [0_u8; 16];
            getrandom::fill(&mut id)
                .map_err(|e| StoreError::Damaged { what: "random numbers", detail: e.to_string() })?;
            transaction
                .execute("INSERT INTO meta VALUES ('ledger_id', ?1), ('incarnation', 1)", [&id[..]])?;
            transaction.pragma_update(None, "user_version", schema::VERSION)?;
            transaction.commit()?;
        }
        Ok(store)
    }

    /// A connection that writes. The ledger has one writer: only the commit thread keeps one, and short
    /// administrative commands take one for a moment.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn writer(&self) -> Result<Connection, StoreError> {
        let open = || {
            let connection = Connection::open(&self.path)?;
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // A page cache of 8 MiB: the open slots of some thousand GPUs.
            connection.pragma_update(None, "cache_size", -8192)?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        open().map_err(|source| StoreError::Open { path: self.path.clone(), source })
    }

    /// A pool of reading connections.
    #[must_use]
    pub fn readers(&self) -> Readers {
        Readers(Arc::new(Pool {
            path: self.path.clone(),
            state: Mutex::new((Vec::new(), 0)),
            returned: Condvar::new(),
        }))
    }
}

/// Reading connections, opened when first needed, at most `READERS_MAX`. Blocks: call off the async threads.
#[derive(Debug, Clone)]
pub struct Readers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    /// Connections at rest, and how many exist.
    state: Mutex<(Vec<Connection>, usize)>,
    returned: Condvar,
}

impl Readers {
    /// Runs `query` on a reading connection.
    ///
    /// # Errors
    /// What `query` returns, or if no connection can be opened.
    pub fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let connection = self.take()?;
        let result = query(&connection);
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push(connection);
        self.0.returned.notify_one();
        result
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = state.0.pop() {
                return Ok(connection);
            }
            if state.1 < READERS_MAX {
                state.1 += 1;
                break;
            }
            state = self.0.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let open = || {
            let connection = Connection::open_with_flags(&self.0.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            connection.set_prepared_statement_cache_capacity(32);
            Ok(connection)
        };
        open().map_err(|source| {
            self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
            self.0.returned.notify_one();
            StoreError::Open { path: self.0.path.clone(), source }
        })
    }
}

/// The ledger's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub ledger_id: crate::model::Id,
    pub incarnation: u64,
}

/// Reads the ledger's identity.
///
/// # Errors
/// If the store cannot be read or does not have one.
pub fn identity(connection: &Connection) -> Result<Identity, StoreError> {
    let damaged = |detail: &str| StoreError::Damaged { what: "meta", detail: detail.to_owned() };
    let id: Option<Vec<u8>> = connection
        .query_row("SELECT value FROM meta WHERE key = 'ledger_id'", [], |row| row.get(0))
        .optional()?;
    let incarnation: i64 =
        connection.query_row("SELECT value FROM meta WHERE key = 'incarnation'", [], |row| row.get(0))?;
    Ok(Identity {
        ledger_id: id
            .and_then(|id| id.try_into().ok())
            .ok_or_else(|| damaged("ledger_id is not 16 bytes"))?,
        incarnation: u64::try_from(incarnation).map_err(|_| damaged("incarnation is negative"))?,
    })
}
