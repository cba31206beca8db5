//! The ledger as a file of SQLite in a folder: the default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection as Sqlite, OpenFlags};

use super::{Connection, FILE, StoreError, meta, migrate, schema, sql};

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        sql::Error::from(error).into()
    }
}

/// Takes the ledger in `folder` for this process alone, until the file is dropped or the process ends.
///
/// # Errors
/// If another process has it.
pub fn lock(folder: &Path) -> Result<std::fs::File, StoreError> {
    let path = folder.join("lock");
    let error = |source| StoreError::Folder { path: path.clone(), source };
    let file = std::fs::File::create(&path).map_err(error)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Taken { path: folder.to_owned() }),
        Err(errno) => Err(error(errno.into())),
    }
}

/// The file in `folder`, made if there is none, and brought up if an earlier version wrote it.
pub(super) fn open(folder: &Path) -> Result<PathBuf, StoreError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
    let path = folder.join(FILE);
    let db = Connection::from(open_writer(&path)?);
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > schema::VERSION {
        return Err(StoreError::Newer { path, found, known: schema::VERSION });
    }
    if found != 0 && found < migrate::OLDEST {
        return Err(StoreError::Older { path, found, known: schema::VERSION });
    }
    if (migrate::OLDEST..schema::VERSION).contains(&found) {
        let _alone = lock(folder)?;
        migrate::up(&db)?;
        tracing::info!(found, now = schema::VERSION, "Brought the ledger to this version's schema.");
    }
    if found == 0 {
        let transaction = db.begin()?;
        // Another process may have made it meanwhile.
        if transaction.query_row("PRAGMA user_version", [], |row| row.get::<i64>(0))? == 0 {
            transaction.execute_batch(&schema::CREATE)?;
            meta::mint(&transaction)?;
            transaction.execute_batch(&format!("PRAGMA user_version = {}", schema::VERSION))?;
        }
        transaction.commit()?;
    }
    Ok(path)
}

/// A new file for a copy of a ledger.
pub(super) fn create(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let connection = Sqlite::open(path)?;
        // It is a copy: it is whole on disk, or it is made again.
        connection.pragma_update(None, "journal_mode", "OFF")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute_batch(&schema::CREATE)?;
        connection.pragma_update(None, "user_version", schema::VERSION)?;
        Ok(connection)
    };
    let connection = open().map_err(|source: rusqlite::Error| StoreError::Open {
        path: path.to_owned(),
        source: source.into(),
    })?;
    Ok(connection.into())
}

/// A connection that writes.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    Ok(open_writer(path)?.into())
}

fn open_writer(path: &Path) -> Result<Sqlite, StoreError> {
    let open = || {
        let connection = Sqlite::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A page cache of 8 MiB: the open slots of some thousand GPUs.
        connection.pragma_update(None, "cache_size", -8192)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open()
        .map_err(|source: rusqlite::Error| StoreError::Open { path: path.to_owned(), source: source.into() })
}

/// A connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let connection = Sqlite::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    let connection = open().map_err(|source: rusqlite::Error| StoreError::Open {
        path: path.to_owned(),
        source: source.into(),
    })?;
    Ok(connection.into())
}
