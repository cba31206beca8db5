//! What the spool needs of a disk: a few named values and three numbered lists, changed together or not at all.
//!
//! `store::Store` keeps them with sled; [`super::memory::Memory`] in memory, for simulations that crash it
//! between any two writes. Constraint: when [`Disk::apply`] returns without an error the changes are durable; when
//! it fails, either all of them may turn up after the disk is opened again, or none.

/// Name of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Version,
    Epoch,
    LedgerId,
    Acked,
    Sealed,
    LastWindowEnd,
    /// The node's devices, as the agent encodes them.
    Devices,
    /// Appends until now.
    Appended,
    /// The ledger's incarnation, as it last said.
    Incarnation,
}

/// A numbered list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Drafts by order of arrival.
    Drafts,
    /// Sealed batches by seq.
    Batches,
    /// Acked batches of former epochs, by age.
    Former,
}

/// The disk, or the files on it, failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files could not be reached: a full disk, one that is read-only, rights. What is in them is good, and is
    /// left where it is.
    #[error("spool store: the disk failed")]
    Io(#[source] std::io::Error),
    #[error("spool store: another process has it open")]
    Locked(#[source] std::io::Error),
    #[error("spool store: its files are damaged")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> std::io::ErrorKind {
        match self {
            Self::Io(error) | Self::Locked(error) => error.kind(),
            Self::Damaged(_) => std::io::ErrorKind::InvalidData,
        }
    }

    /// True if the files themselves are bad.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Set(Name, Vec<u8>),
    Put(List, u64, Vec<u8>),
    Remove(List, u64),
}

/// Changes that happen together, in this order.
#[derive(Debug, Clone, Default)]
pub struct Changes(pub(super) Vec<Change>);

impl Changes {
    pub(super) fn set(&mut self, name: Name, value: &[u8]) {
        self.0.push(Change::Set(name, value.to_vec()));
    }

    pub(super) fn put(&mut self, list: List, number: u64, value: Vec<u8>) {
        self.0.push(Change::Put(list, number, value));
    }

    pub(super) fn remove(&mut self, list: List, number: u64) {
        self.0.push(Change::Remove(list, number));
    }
}

/// See the module. Dropping it closes it.
pub trait Disk: std::fmt::Debug + Send {
    /// Applies the changes, all or none, and returns once they are durable.
    ///
    /// # Errors
    /// If the disk fails; then it fails until it is opened again, and may have the changes or not.
    fn apply(&mut self, changes: Changes) -> Result<(), StoreError>;

    /// # Errors
    /// If the disk fails.
    fn get(&self, name: Name) -> Result<Option<Vec<u8>>, StoreError>;

    /// # Errors
    /// If the disk fails.
    fn read(&self, list: List, number: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// What it failed with, if it did: then it is to be dropped, and opened again.
    fn failure(&self) -> Option<std::io::ErrorKind>;

    /// Number and size of every entry, in order.
    ///
    /// # Errors
    /// If the disk fails.
    fn sizes(&self, list: List) -> Result<Vec<(u64, usize)>, StoreError>;
}
