//! The ledger's store: SQLite in one folder. All SQL of the aggregator is in this file and its children.
//!
//! One writer, on one thread ([`Store::writer`]); readers come from a pool ([`Readers`]) and see whole commits only
//! (WAL). `synchronous=FULL`: a commit that returned is on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub use embedded::lock;
use server::{Access, Presence, TlsFiles};
pub use sql::Connection;
use tonnage_runtime::shutdown::Shutdown;

pub mod alerts;
pub mod audit;
pub mod backup;
pub mod budgets;
pub mod closing;
pub mod described;
mod embedded;
pub mod existence;
pub mod facts;
pub mod grants;
pub mod instances;
pub mod jobs;
mod meta;
mod migrate;
pub mod opening;
pub mod pen;
pub mod purge;
pub mod quarantine;
pub mod query;
pub mod rollup;
mod schema;
pub mod server;
pub mod sql;
pub mod tokens;
pub mod transfer;
mod wide;
pub mod write;

/// Reading connections at once; a query more waits for one.
const READERS_MAX: usize = 4;
/// The ledger's file in its folder.
pub const FILE: &str = "ledger.sqlite";
/// Bytes of one payload, unpacked: a batch, or a price book with a nodes file.
const PAYLOAD_BYTES_MAX: usize = 4 * tonnage_proto::limits::BATCH_BYTES_MAX;

/// The store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("store {path}: cannot be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: sql::Error,
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
    #[error(
        "store {path}: has schema version {found}, from before the first release; this program reads {known}: \
         move it aside and begin a new ledger"
    )]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("store {path}: another aggregator runs on it; stop that one first")]
    Taken { path: PathBuf },
    #[error("store: an aggregator runs on the database; stop all that do first")]
    TakenServer,
    #[error("store: the database cannot be reached, or lets nobody in")]
    Unreachable(#[source] sql::Error),
    /// It is known to be gone, or to hang.
    #[error("store: {0}")]
    Away(String),
    #[error("data: there is no ledger in {path}")]
    NoLedger { path: PathBuf },
    #[error("store: the target holds a ledger that something has entered already; use an empty one")]
    Occupied,
    #[error("database URL: {0}; use postgres://user@host:port/database")]
    Url(String),
    #[error(
        "store: the database has schema version {found}, this program knows up to {known}; use a newer program"
    )]
    NewerServer { found: i64, known: i64 },
    #[error("store: the database has schema version {found}, this program reads {known}")]
    OlderServer { found: i64, known: i64 },
    #[error("store: SQL failed")]
    Sql(#[source] sql::Error),
    #[error("store: a query was given up")]
    Interrupted,
    #[error("store: {what} is damaged: {detail}")]
    Damaged { what: &'static str, detail: String },
}

impl StoreError {
    /// Is it about the way to a server, so that the same may well be had later?
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Away(_) | Self::Unreachable(_) => true,
            Self::Sql(error) => error.is_away(),
            _ => false,
        }
    }
}

impl From<sql::Error> for StoreError {
    fn from(error: sql::Error) -> Self {
        if error.is_interrupted() { Self::Interrupted } else { Self::Sql(error) }
    }
}

/// Where the ledger is to be.
#[derive(Debug, Clone)]
pub enum Location {
    /// A folder with a file of SQLite.
    Folder(PathBuf),
    /// A database of PostgreSQL.
    Database(Box<Access>),
}

impl Location {
    /// By a URL, which may only have a password if `secret` says so.
    ///
    /// # Errors
    /// If it is none.
    pub fn database(url: &str, secret: bool, files: &TlsFiles) -> Result<Self, StoreError> {
        let access = Access::parse(url, files)?;
        if access.config.get_password().is_some() && !secret {
            let text = "it has a password, which everybody sees among the processes: put it into a file, and name that by \
                        database_url_file";
            return Err(StoreError::Url(text.to_owned()));
        }
        Ok(Self::Database(Box::new(access)))
    }

    /// What a stranger on the way to it could do, if anything.
    #[must_use]
    pub fn exposure(&self) -> Option<String> {
        match self {
            Self::Folder(_) => None,
            Self::Database(access) => access.exposure(),
        }
    }

    /// Opens the ledger there, making it if there is none.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Store::connect`].
    pub fn open(&self) -> Result<Store, StoreError> {
        match self {
            Self::Folder(folder) => Store::open(folder),
            Self::Database(access) => Store::connect(Access::clone(access)),
        }
    }

    /// The same, but makes no ledger.
    ///
    /// # Errors
    /// If there is none, or as [`Location::open`].
    pub fn existing(&self) -> Result<Store, StoreError> {
        match self {
            // A path may be mistyped; a database was made by somebody.
            Self::Folder(folder) if !folder.join(FILE).exists() => {
                Err(StoreError::NoLedger { path: folder.clone() })
            }
            location => location.open(),
        }
    }

    /// Takes it for this process alone, where it must be: a database has room for more.
    ///
    /// # Errors
    /// If another process has it.
    pub fn lock(&self) -> Result<Option<std::fs::File>, StoreError> {
        match self {
            Self::Folder(folder) => lock(folder).map(Some),
            Self::Database(_) => Ok(None),
        }
    }

    /// Takes it for this process alone, a database too; the folder may have to be made first.
    ///
    /// # Errors
    /// If it cannot be made, or an aggregator has it.
    pub fn alone(&self) -> Result<Alone, StoreError> {
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder)
                    .map_err(|source| StoreError::Folder { path: folder.clone(), source })?;
                lock(folder).map(Alone::Folder)
            }
            Self::Database(access) => server::alone(access).map(Alone::Database),
        }
    }

    /// Do both name one place, as far as their names tell?
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) => {
                let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
                real(one) == real(other)
            }
            (Self::Database(one), Self::Database(other)) => one.is(other),
            _ => false,
        }
    }
}

/// No aggregator runs on a ledger while this is kept.
#[derive(Debug)]
pub enum Alone {
    Folder(std::fs::File),
    Database(Connection),
}

/// Where the ledger lies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Place);

#[derive(Debug, Clone)]
enum Place {
    /// A file of SQLite.
    Embedded(PathBuf),
    /// A database of PostgreSQL.
    Server(Arc<Access>, Arc<Presence>, Spare),
}

/// The connection by which a database was opened, for whoever writes first: a start makes no more of them than it must.
type Spare = Arc<Mutex<Option<Connection>>>;

impl Store {
    /// Opens the ledger in `folder`, making it if there is none, and bringing it up if an earlier version wrote it.
    ///
    /// # Errors
    /// If the folder or the file cannot be made or read, was written by a version that this one does not read, or is to
    /// be brought up while an aggregator runs on it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        #[cfg(test)]
        if let Some(store) = tests::on_a_server(folder)? {
            return Ok(store);
        }
        Self::in_file(folder)
    }

    fn in_file(folder: &Path) -> Result<Self, StoreError> {
        Ok(Self(Place::Embedded(embedded::open(folder)?)))
    }

    /// Opens the ledger in a database of PostgreSQL, making its tables if there are none.
    ///
    /// # Errors
    /// If the database cannot be reached or written, or has a schema that this version does not read.
    pub fn connect(access: Access) -> Result<Self, StoreError> {
        let spare = server::open(&access)?;
        Ok(Self(Place::Server(Arc::new(access), Arc::default(), Arc::new(Mutex::new(Some(spare))))))
    }

    /// A connection that writes. The ledger has one writer: only the commit thread keeps one, and short
    /// administrative commands take one for a moment.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn writer(&self) -> Result<Connection, StoreError> {
        match &self.0 {
            Place::Embedded(path) => embedded::writer(path),
            Place::Server(access, _, spare) => {
                let spare = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                spare.map_or_else(|| Ok(Connection::connect(Access::clone(access))?), Ok)
            }
        }
    }

    /// The ledger's identity.
    ///
    /// # Errors
    /// If the store cannot be read or does not have one.
    pub fn identity(&self) -> Result<Identity, StoreError> {
        if let Place::Server(_, _, spare) = &self.0
            && let Some(db) = &*spare.lock().unwrap_or_else(PoisonError::into_inner)
        {
            return identity(db);
        }
        identity(&self.reader()?)
    }

    /// A connection that only reads, for one long look.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self) -> Result<Connection, StoreError> {
        self.0.reader(None)
    }

    /// Looks after the database until `stop`, for [`Store::presence`]. A file needs none of that.
    pub async fn watch(self, stop: Shutdown) {
        if let Place::Server(access, presence, _) = self.0 {
            presence.watch(access, stop).await;
        }
    }

    /// What is known of a database; `None` for a file, which is there.
    #[must_use]
    pub fn presence(&self) -> Option<Arc<Presence>> {
        match &self.0 {
            Place::Embedded(_) => None,
            Place::Server(_, presence, _) => Some(Arc::clone(presence)),
        }
    }

    /// A pool of reading connections.
    #[must_use]
    pub fn readers(&self) -> Readers {
        self.readers_within(None)
    }

    /// The same; an answer of a database, or a free connection, is waited for so long at most.
    #[must_use]
    pub fn readers_within(&self, patience: Option<Duration>) -> Readers {
        Readers(Arc::new(Pool {
            place: self.0.clone(),
            patience,
            state: Mutex::new((Vec::new(), 0)),
            returned: Condvar::new(),
        }))
    }
}

impl Place {
    fn reader(&self, patience: Option<Duration>) -> Result<Connection, StoreError> {
        match self {
            Self::Embedded(path) => embedded::reader(path),
            Self::Server(access, ..) => Ok(Connection::connect(access.within(patience))?),
        }
    }
}

/// Reading connections, opened when first needed, at most `READERS_MAX`. Blocks: call off the async threads.
#[derive(Debug, Clone)]
pub struct Readers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    place: Place,
    patience: Option<Duration>,
    /// Connections at rest, and how many exist.
    state: Mutex<(Vec<Connection>, usize)>,
    returned: Condvar,
}

impl Readers {
    /// Runs `query` on a reading connection. All that it reads is the ledger at one moment, whatever is committed
    /// meanwhile.
    ///
    /// # Errors
    /// What `query` returns, or if no connection can be opened.
    pub fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.run(None::<fn() -> bool>, query)
    }

    /// The same, but gives up once `expired` says so, in the middle of a statement too.
    ///
    /// # Errors
    /// As [`Readers::with`]; [`StoreError::Interrupted`] if it was given up.
    pub fn until<T>(
        &self,
        expired: impl FnMut() -> bool + Send + 'static,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.run(Some(expired), query)
    }

    fn run<T>(
        &self,
        expired: Option<impl FnMut() -> bool + Send + 'static>,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Place::Server(_, presence, _) = &self.0.place {
            presence.check().map_err(StoreError::Away)?;
        }
        let mut connection = self.take()?;
        let result = connection
            .set_deadline(expired)
            .and_then(|()| {
                if let Some(patience) = self.0.patience {
                    connection.set_patience(patience);
                }
                connection.begin_read()
            })
            .map_err(StoreError::from)
            .and_then(|db| query(&db));
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
            let Some(patience) = self.0.patience else {
                state = self.0.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited =
                self.0.returned.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            if waited.1.timed_out() && waited.0.0.is_empty() {
                return Err(StoreError::Away("too many wait for the database".to_owned()));
            }
            state = waited.0;
        }
        drop(state);
        self.0.place.reader(self.0.patience).inspect_err(|_| {
            self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
            self.0.returned.notify_one();
        })
    }
}

/// The bytes of a journal entry.
fn decompress(entry: i64, stored: &[u8]) -> Result<Vec<u8>, StoreError> {
    zstd::bulk::decompress(stored, PAYLOAD_BYTES_MAX)
        .map_err(|e| StoreError::Damaged { what: "journal", detail: format!("entry {entry}: {e}") })
}

/// The ledger's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub ledger_id: crate::model::Id,
    pub incarnation: u64,
    /// The ledger that this one declares to continue; empty if none.
    pub succeeds: Vec<u8>,
}

/// Reads the ledger's identity.
///
/// # Errors
/// If the store cannot be read or does not have one.
pub fn identity(connection: &Connection) -> Result<Identity, StoreError> {
    let damaged = |detail: String| StoreError::Damaged { what: "meta", detail };
    let id = meta::get(connection, "ledger_id")?.unwrap_or_default();
    let incarnation = meta::get(connection, "incarnation")?.unwrap_or_default();
    let succeeds = meta::get(connection, "succeeds")?.unwrap_or_default();
    Ok(Identity {
        succeeds: meta::bytes(&succeeds).ok_or_else(|| damaged(format!("succeeds is {succeeds:?}")))?,
        ledger_id: meta::bytes(&id)
            .and_then(|id| id.try_into().ok())
            .ok_or_else(|| damaged(format!("ledger_id is {id:?}")))?,
        incarnation: incarnation.parse().map_err(|_| damaged(format!("incarnation is {incarnation:?}")))?,
    })
}

/// Declares that this ledger continues another, so that agents of that one send to it.
///
/// # Errors
/// If the store cannot be written.
pub fn set_succeeds(connection: &Connection, id: &[u8]) -> Result<(), StoreError> {
    meta::set(connection, "succeeds", &meta::hex(id))
}

#[cfg(test)]
mod tests;
