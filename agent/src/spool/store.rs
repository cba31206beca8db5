//! The only file that touches sled: the spool's disk as a database in a folder.
//!
//! sled 0.34 rules that shape this file: a change is durable only after `flush` returned; `apply_batch` on one tree
//! is atomic, so everything lives in one tree under prefixes; memory grows with what is kept, whatever its cache is
//! told, so the caller keeps little and values are small; an I/O error poisons the open database for good.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::Path;

use super::disk::{Change, Changes, Disk, List, Name, StoreError};

#[derive(Debug)]
pub(super) struct Store {
    tree: sled::Tree,
    db: sled::Db,
    failure: Cell<Option<ErrorKind>>,
}

impl Store {
    /// True if there are files of a store in `path`.
    pub(super) fn exists(path: &Path) -> bool {
        path.join("db").exists()
    }

    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let db = sled::Config::new()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(1 << 20)
            // We flush by ourselves, where durability is promised; sled's own thread would only add work.
            .flush_every_ms(None)
            .open()?;
        let tree = db.open_tree("spool")?;
        Ok(Self { tree, db, failure: Cell::new(None) })
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
                Change::Put(list, number, value) => batch.insert(&list_key(list, number), value),
                Change::Remove(list, number) => batch.remove(&list_key(list, number)),
            }
        }
        self.noting(self.tree.apply_batch(batch))?;
        self.noting(self.db.flush())?;
        Ok(())
    }

    fn get(&self, name: Name) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.noting(self.tree.get(name_key(name)))?.map(|value| value.to_vec()))
    }

    fn read(&self, list: List, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.noting(self.tree.get(list_key(list, number)))?.map(|value| value.to_vec()))
    }

    fn failure(&self) -> Option<ErrorKind> {
        self.failure.get()
    }

    fn sizes(&self, list: List) -> Result<Vec<(u64, usize)>, StoreError> {
        self.tree
            .scan_prefix([prefix(list)])
            .map(|entry| {
                let (key, value) = self.noting(entry)?;
                let mut number = [0; 8];
                number.copy_from_slice(key.get(1..9).unwrap_or(&[0; 8]));
                Ok((u64::from_be_bytes(number), value.len()))
            })
            .collect()
    }
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
    };
    [b'm', name]
}

fn prefix(list: List) -> u8 {
    match list {
        List::Drafts => b'd',
        List::Batches => b'b',
    }
}

fn list_key(list: List, number: u64) -> [u8; 9] {
    let mut key = [prefix(list); 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}
