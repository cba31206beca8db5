//! Copies of the ledger's file: made while it is in use, and taken back.
//!
//! A backup is one SQLite file with everything in it, as of one moment. After it is on disk the ledger notes which
//! batches are in it, so that agents need not keep those any longer. A ledger that goes on from a backup has another
//! incarnation; agents see that its cursors stand lower and send again what they still have.

use std::path::{Path, PathBuf};

use rusqlite::{Connection as Sqlite, OpenFlags};

use super::write;
use super::{Connection, FILE, Store, StoreError, embedded, identity, lock, migrate, pen, schema, transfer};

/// A backup cannot be made or taken back; what was there before is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("FILE {path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("data: {path} holds a ledger already; with --replace it is moved aside")]
    Occupied { path: PathBuf },
    #[error("{what} {path}: the system refused it")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("backup: SQL failed")]
    Sql(#[from] rusqlite::Error),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub bytes: u64,
    pub batches: i64,
    /// Where the ledger went that was there before.
    pub aside: Option<PathBuf>,
}

/// Writes a copy of the ledger to `file`, which must not exist, while others read and write it.
///
/// # Errors
/// If the file exists or cannot be written, or the ledger cannot be read.
pub fn backup(store: &Store, file: &Path) -> Result<Done, BackupError> {
    let bad = |reason: &str| BackupError::File { path: file.to_owned(), reason: reason.to_owned() };
    if file.exists() {
        return Err(bad("exists already; a backup overwrites nothing"));
    }
    let Some(name) = file.file_name() else { return Err(bad("is not the name of a file")) };
    let partial = file.with_file_name(format!("{}.partial", name.to_string_lossy()));
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Io { what, path, source }
    };
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("an earlier attempt", &partial)(error));
        }
        _ => {}
    }
    let text = partial.to_str().ok_or_else(|| bad("is not UTF-8"))?;
    // One read transaction: all of one moment. Writers go on beside it.
    let reader = store.reader()?;
    if reader.is_server() {
        transfer::copy(&reader, &embedded::create(&partial)?)?;
    } else {
        reader.execute("VACUUM INTO ?1", [text]).map_err(StoreError::from)?;
    }
    let copy = open(&partial)?;
    let mut cursors = Vec::new();
    {
        let mut statement = copy.prepare("SELECT id, seq FROM cursor")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        for row in rows {
            cursors.push(row?);
        }
    }
    let batches = copy.query_row("SELECT COUNT(*) FROM journal WHERE kind = 1", [], |row| row.get(0))?;
    drop(copy);
    let written = std::fs::File::open(&partial).and_then(|file| file.sync_all().and(file.metadata()));
    let bytes = written.map_err(io("the backup", &partial))?.len();
    std::fs::rename(&partial, file).map_err(io("the backup", file))?;
    sync_folder(file).map_err(io("the backup's folder", file))?;
    // Only now may agents let go of what is in it.
    let writer = store.writer()?;
    let transaction = writer.begin().map_err(StoreError::from)?;
    for (cursor, seq) in cursors {
        write::backed_up(&transaction, cursor, seq)?;
    }
    transaction.commit().map_err(StoreError::from)?;
    Ok(Done { bytes, batches, aside: None })
}

/// Makes the ledger in `data` go on from a backup. A ledger that is there is moved aside if `replace` says so.
///
/// # Errors
/// If `file` is no sound ledger of a version that this program knows, or there is a ledger and it may not be replaced.
pub fn restore(file: &Path, data: &Path, replace: bool, now_ns: i64) -> Result<Done, BackupError> {
    let bad = |reason: String| BackupError::File { path: file.to_owned(), reason };
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Io { what, path, source }
    };
    check(file).map_err(bad)?;
    std::fs::create_dir_all(data).map_err(io("data", data))?;
    let _alone = lock(data)?;
    let target = data.join(FILE);
    if target.exists() && !replace {
        return Err(BackupError::Occupied { path: data.to_owned() });
    }
    let partial = data.join(format!("{FILE}.restoring"));
    let bytes = std::fs::copy(file, &partial).map_err(io("the copy", &partial))?;
    let batches = renew(&embedded::writer(&partial)?, now_ns)?;
    std::fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(io("the copy", &partial))?;
    let mut aside = None;
    if target.exists() {
        let folder = data.join(format!("replaced.{now_ns}"));
        std::fs::create_dir(&folder).map_err(io("the folder for the old ledger", &folder))?;
        // The log first: without the file it is nothing, the file without its log would be an older ledger.
        for suffix in ["-wal", "-shm", ""] {
            let name = format!("{FILE}{suffix}");
            if data.join(&name).exists() {
                std::fs::rename(data.join(&name), folder.join(&name)).map_err(io("the old ledger", data))?;
            }
        }
        aside = Some(folder);
    }
    std::fs::rename(&partial, &target).map_err(io("the ledger", &target))?;
    sync_folder(&target).map_err(io("data", data))?;
    Ok(Done { bytes, batches, aside })
}

/// Makes the ledger in an empty database go on from a backup.
///
/// # Errors
/// If `file` is no sound ledger of this version, or the database holds one.
pub fn restore_to_server(file: &Path, store: &Store, now_ns: i64) -> Result<Done, BackupError> {
    let bad = |reason| BackupError::File { path: file.to_owned(), reason };
    check(file).map_err(bad)?;
    let version =
        open(file).and_then(|db| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)));
    if version.as_ref().ok() != Some(&schema::VERSION) {
        return Err(bad("is of an earlier version: restore it to a folder, and migrate that".to_owned()));
    }
    let bytes = std::fs::metadata(file).map_or(0, |found| found.len());
    let target = store.writer()?;
    transfer::copy(&embedded::reader(file)?, &target)?;
    Ok(Done { bytes, batches: renew(&target, now_ns)?, aside: None })
}

/// Is it a ledger, and whole?
fn check(file: &Path) -> Result<(), String> {
    if !file.is_file() {
        return Err("is not there, or is no file".to_owned());
    }
    let db = open(file).map_err(|e| format!("cannot be opened: {e}"))?;
    let ask = |sql: &str| db.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|e| format!("is no ledger: {e}"))?;
    // What is restored from an earlier version is brought up when it is opened.
    if !(migrate::OLDEST..=schema::VERSION).contains(&version) {
        let (from, to) = (migrate::OLDEST, schema::VERSION);
        return Err(format!("has schema version {version}; this program restores {from} to {to}"));
    }
    match ask("PRAGMA integrity_check") {
        Ok(rusqlite::types::Value::Text(text)) if text == "ok" => {}
        Ok(other) => return Err(format!("is damaged: {other:?}")),
        Err(error) => return Err(format!("is damaged: {error}")),
    }
    identity(&db.into()).map(drop).map_err(|e| format!("is no ledger: {e}"))
}

/// Gives the copy another incarnation. All that it holds is, after all, in a backup.
fn renew(db: &Connection, now_ns: i64) -> Result<i64, StoreError> {
    let transaction = db.begin()?;
    pen::renew(&transaction, now_ns, "")?;
    transaction.execute("UPDATE cursor SET backed_up_seq = seq", [])?;
    transaction.execute("DELETE FROM lease", [])?;
    let batches =
        transaction.query_row("SELECT COUNT(*) FROM journal WHERE kind = 1", [], |row| row.get(0))?;
    transaction.commit()?;
    Ok(batches)
}

fn open(file: &Path) -> Result<Sqlite, rusqlite::Error> {
    Sqlite::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
