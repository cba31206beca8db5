//! The only file that touches sled: the spool's disk as a database in a folder.
//!
//! sled 0.34 rules that shape this file:
//!
//! - `flush` survives a kill, but not a power loss: all it awaits is `sync_file_range`, which writes no file's length
//!   and empties no disk's cache. So the log is synced behind it.
//! - `apply_batch` on one tree is atomic, so everything lives in one tree under prefixes; but half a batch may survive
//!   where a page of the tree is too long for the log and gets a file of its own. So long values are kept in parts.
//! - Memory grows with what is kept, whatever its cache is told, so the caller keeps little.
//! - An I/O error poisons the open database for good.

use std::cell::Cell;
use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::disk::{Change, Changes, Disk, List, Name, StoreError};

/// Longest part of a value. A page of sled's tree holds up to 17 entries, and is written to a file of its own, which
/// nobody syncs in time, when it exceeds a quarter of a segment: 128 KiB.
const PART_BYTES_MAX: usize = 4096;
/// How often who waits for the disk is woken: for a minute in all.
const WAKES_MAX: u32 = 6;

#[derive(Debug)]
pub(super) struct Store {
    tree: sled::Tree,
    db: sled::Db,
    failure: Cell<Option<ErrorKind>>,
    /// sled's log, by a handle of our own.
    log: File,
    /// `None` only while it is dropped.
    watch: Option<(SyncSender<Flush>, JoinHandle<()>)>,
    // Behind the others: so it is what lets go of the database.
    _last: Last,
}

impl Drop for Store {
    /// The watch has the database too, and with it the lock of its files: who opens them next need not wait for that.
    fn drop(&mut self) {
        if let Some((told, watch)) = self.watch.take() {
            drop(told);
            let _ = watch.join();
        }
    }
}

/// What a thread beside the spool's is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    Begun,
    Ended,
}

/// Where a write fails that sled does in the background, it forgets to wake who waits for it in `flush`. Another
/// `flush` sees the error and wakes all. It is made after a second, and again after two, four, ... since it waits in
/// vain itself where a disk fails slowly; then the process ends: to the spool that is a kill.
fn watch(flushes: &Receiver<Flush>, last: &Last) {
    while flushes.recv() == Ok(Flush::Begun) {
        let ended = (0..WAKES_MAX).any(|wake| {
            let ended = flushes.recv_timeout(Duration::from_secs(1 << wake));
            if ended == Err(RecvTimeoutError::Timeout) {
                let db = last.0.clone();
                let wake = move || db.map(|db| drop(db.flush())).unwrap_or_default();
                let woken = std::thread::Builder::new().spawn(wake);
                tracing::warn!(started = woken.is_ok(), "The spool waits for its disk.");
            }
            ended != Err(RecvTimeoutError::Timeout)
        });
        if !ended {
            tracing::error!("The spool's disk does not answer; the agent ends, to be started again.");
            std::process::exit(1);
        }
    }
}

/// sled panics where it lets go of a database whose disk fails.
#[derive(Debug)]
struct Last(Option<sled::Db>);

impl Drop for Last {
    fn drop(&mut self) {
        let db = self.0.take();
        let close = move || {
            drop(db);
            Ok(())
        };
        if told(close).is_err() {
            tracing::warn!("The spool's database could not be closed in order; what it promised is on disk.");
        }
    }
}

impl Store {
    /// True if there are files of a store in `path`.
    pub(super) fn exists(path: &Path) -> bool {
        path.join("db").exists()
    }

    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(told(|| Self::try_open(path))?)
    }

    fn try_open(path: &Path) -> Result<Self, sled::Error> {
        remove_half_snapshots(path)?;
        let db = sled::Config::new()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(1 << 20)
            // We flush by ourselves, where durability is promised; sled's own thread would only add work.
            .flush_every_ms(None)
            .open()?;
        let tree = db.open_tree("spool")?;
        db.flush()?;
        let log = sync_all(path)?;
        let last = Last(Some(db.clone()));
        let (watch, flushes) = sync_channel(2);
        let watched = Last(Some(db.clone()));
        let watching = std::thread::Builder::new()
            .name("spool-watch".to_owned())
            .spawn(move || self::watch(&flushes, &watched))?;
        Ok(Self { tree, db, failure: Cell::new(None), log, watch: Some((watch, watching)), _last: last })
    }

    fn tell(&self, flush: Flush) {
        if let Some((watch, _)) = &self.watch {
            let _ = watch.send(flush);
        }
    }

    fn noting<T>(&self, result: Result<T, sled::Error>) -> Result<T, StoreError> {
        result.map_err(StoreError::from).inspect_err(|error| self.failure.set(Some(error.kind())))
    }
}

impl Disk for Store {
    fn apply(&mut self, changes: Changes) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for change in changes.0 {
            match change {
                Change::Set(name, value) => batch.insert(&name_key(name), value),
                Change::Put(list, number, value) => {
                    for (part, bytes) in (0_u32..).zip(value.chunks(PART_BYTES_MAX)) {
                        let key = [&list_key(list, number)[..], &part.to_be_bytes()].concat();
                        batch.insert(key, bytes);
                    }
                }
                Change::Remove(list, number) => {
                    for key in self.tree.scan_prefix(list_key(list, number)).keys() {
                        batch.remove(self.noting(key)?);
                    }
                }
            }
        }
        // Should the watch be gone, sled is trusted.
        self.tell(Flush::Begun);
        let flushed = self.tree.apply_batch(batch).and_then(|()| self.db.flush());
        self.tell(Flush::Ended);
        self.noting(flushed)?;
        self.noting(self.log.sync_data().map_err(sled::Error::from))
    }

    fn get(&self, name: Name) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.noting(self.tree.get(name_key(name)))?.map(|value| value.to_vec()))
    }

    fn read(&self, list: List, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut value = None;
        for part in self.tree.scan_prefix(list_key(list, number)).values() {
            value.get_or_insert_with(Vec::new).extend_from_slice(&self.noting(part)?);
        }
        Ok(value)
    }

    fn failure(&self) -> Option<ErrorKind> {
        self.failure.get()
    }

    fn sizes(&self, list: List) -> Result<Vec<(u64, usize)>, StoreError> {
        let mut sizes: Vec<(u64, usize)> = Vec::new();
        for part in self.tree.scan_prefix([prefix(list)]) {
            let (key, bytes) = self.noting(part)?;
            let mut number = [0; 8];
            number.copy_from_slice(key.get(1..9).unwrap_or(&[0; 8]));
            let number = u64::from_be_bytes(number);
            match sizes.last_mut() {
                Some((last, size)) if *last == number => *size += bytes.len(),
                _ => sizes.push((number, bytes.len())),
            }
        }
        Ok(sizes)
    }
}

/// sled panics on some files that are bad: an error all the same.
fn told<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, sled::Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
        let text = text.unwrap_or("sled panicked");
        // So it shows an error of the system: the disk failed, and the files may be good.
        let is_disk = text.contains("Os {") || text.contains("Io(");
        Err(if is_disk {
            sled::Error::Io(std::io::Error::other(text.to_owned()))
        } else {
            sled::Error::ReportableBug(text.to_owned())
        })
    })
}

/// Makes durable what is in the folder, and its names: who wrote it may have been killed before it was. Gives sled's
/// log.
fn sync_all(folder: &Path) -> std::io::Result<File> {
    let log = File::open(folder.join("db"))?;
    log.sync_all()?;
    for path in [&folder.join("conf"), folder, folder.parent().unwrap_or(folder)] {
        File::open(path)?.sync_all()?;
    }
    Ok(log)
}

/// sled writes a snapshot of its log's index under a name of its own before it takes the place of the last one. Killed
/// meanwhile, it would take the half one for the newest, and all files for corrupt.
fn remove_half_snapshots(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            // sled has no kind for it.
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
                Self::Locked(error)
            }
            sled::Error::Io(error) => Self::Io(error),
            other => Self::Damaged(Box::new(other)),
        }
    }
}

fn name_key(name: Name) -> [u8; 2] {
    let name = match name {
        Name::Version => b'v',
        Name::Epoch => b'e',
        Name::LedgerId => b'l',
        Name::Acked => b'a',
        Name::Sealed => b's',
        Name::LastWindowEnd => b'w',
        Name::Devices => b'g',
        Name::Appended => b'n',
        Name::Incarnation => b'i',
    };
    [b'm', name]
}

fn prefix(list: List) -> u8 {
    match list {
        List::Drafts => b'd',
        List::Batches => b'b',
        List::Former => b'f',
    }
}

fn list_key(list: List, number: u64) -> [u8; 9] {
    let mut key = [prefix(list); 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}
