//! The only file that touches sled: a few named values, drafts and batches, changed together or not at all.
//!
//! sled 0.34 rules that shape this file: a change is durable only after `flush` returned; `apply_batch` on one tree
//! is atomic, so everything lives in one tree under prefixes; memory grows with what is kept, whatever its cache is
//! told, so the caller keeps little and values are small.

use std::path::Path;

/// Name of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Version,
    Epoch,
    LedgerId,
    Acked,
    Sealed,
    LastWindowEnd,
}

/// A numbered list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Drafts by order of arrival.
    Drafts,
    /// Sealed batches by seq.
    Batches,
}

/// The disk, or the files on it, failed.
#[derive(Debug, thiserror::Error)]
#[error("spool store failed")]
pub struct StoreError(#[from] sled::Error);

impl StoreError {
    /// True if the files themselves are bad. False if they could not be reached: a lock that another agent holds,
    /// rights, a full disk. Those files are good, and are left where they are.
    pub(super) fn is_corruption(&self) -> bool {
        !matches!(self.0, sled::Error::Io(_))
    }
}

/// Changes that happen together.
#[derive(Default)]
pub(super) struct Changes(sled::Batch);

#[derive(Debug)]
pub(super) struct Store {
    tree: sled::Tree,
    db: sled::Db,
}

impl Changes {
    pub(super) fn set(&mut self, name: Name, value: &[u8]) {
        self.0.insert(&name.key(), value);
    }

    pub(super) fn put(&mut self, list: List, number: u64, value: &[u8]) {
        self.0.insert(&list.key(number), value);
    }

    pub(super) fn remove(&mut self, list: List, number: u64) {
        self.0.remove(&list.key(number));
    }
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
        Ok(Self { tree, db })
    }

    /// Applies the changes, all or none, and returns once they are on disk.
    pub(super) fn apply(&self, changes: Changes) -> Result<(), StoreError> {
        self.tree.apply_batch(changes.0)?;
        self.db.flush()?;
        Ok(())
    }

    pub(super) fn get(&self, name: Name) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree.get(name.key())?.map(|value| value.to_vec()))
    }

    pub(super) fn read(&self, list: List, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree.get(list.key(number))?.map(|value| value.to_vec()))
    }

    /// Number and size of every entry, in order.
    pub(super) fn sizes(&self, list: List) -> Result<Vec<(u64, usize)>, StoreError> {
        let prefix = [list.prefix()];
        self.tree
            .scan_prefix(prefix)
            .map(|entry| {
                let (key, value) = entry?;
                let mut number = [0; 8];
                number.copy_from_slice(key.get(1..9).unwrap_or(&[0; 8]));
                Ok((u64::from_be_bytes(number), value.len()))
            })
            .collect()
    }
}

impl Name {
    fn key(self) -> [u8; 2] {
        let name = match self {
            Self::Version => b'v',
            Self::Epoch => b'e',
            Self::LedgerId => b'l',
            Self::Acked => b'a',
            Self::Sealed => b's',
            Self::LastWindowEnd => b'w',
        };
        [b'm', name]
    }
}

impl List {
    fn prefix(self) -> u8 {
        match self {
            Self::Drafts => b'd',
            Self::Batches => b'b',
        }
    }

    fn key(self, number: u64) -> [u8; 9] {
        let mut key = [self.prefix(); 9];
        key[1..].copy_from_slice(&number.to_be_bytes());
        key
    }
}
