//! What was measured and is not yet in the ledger, on disk. Survives kill -9 at any point.
//!
//! ```text
//! windows -> draft (no number) -> sealed batch (seq, bytes that never change) -> acked -> kept a while -> gone
//! ```
//!
//! - Every step is one atomic change, flushed before the call returns; nothing is sent that is not flushed.
//! - At most [`SEALED_MAX`] batches are sealed and not acked; later windows wait as drafts.
//! - Acked batches stay within [`Limits::kept_bytes`] and seven days, in case a restored ledger asks again; those of
//!   former epochs too.
//! - A backlog of over an hour is merged to slots, oldest drafts first, a few at each step.
//! - Where [`Limits::bytes`] is reached, acked batches go first; then all drafts are merged; then new windows are
//!   turned away, and the time they stood for is unobserved. The caller counts and says so.
//! - Nothing is ever read as a whole: memory is bounded by some drafts or one batch, whatever the backlog.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tonnage_proto::limits::BATCH_BYTES_MAX;

use crate::seal::{self, Header};

mod backlog;
pub mod disk;
mod epochs;
mod home;
mod keeper;
pub mod memory;
mod store;
mod tended;

pub use disk::StoreError;
use disk::{Changes, Disk, List, Name};
use home::Home;
pub use keeper::Keeper;
use store::Store;
pub use tended::Tended;

/// Batches that are sealed and not acked.
pub const SEALED_MAX: u64 = 4;
/// Drafts that one batch may join: a backlog is sent in fewer, larger batches.
const DRAFTS_PER_BATCH_MAX: usize = 90;
/// Number of the first draft ever: what is sealed again goes in front of those that wait.
const FIRST_DRAFT: u64 = 1 << 32;
/// Acked batches are kept no longer than this.
const KEPT_NS_MAX: i64 = 7 * 86_400_000_000_000;
/// Layout of this spool on disk.
const VERSION: u8 = 1;

/// How much the spool may hold, in bytes of drafts and batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    pub kept_bytes: usize,
}

/// The spool failed; what was on disk before is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("spool: is full ({bytes} bytes of {limit}); these windows are not kept")]
    Full { bytes: usize, limit: usize },
    #[error("spool: its files hold no spool any more")]
    Emptied,
    #[error("spool {path}: its folder cannot be used")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("spool: is closed: {why}")]
    Closed { why: String },
    #[error("spool {path}: cannot be moved aside")]
    Aside {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("spool: no random numbers: {0}")]
    Random(String),
    #[error("spool: an operation ended without an answer; this is a bug")]
    Gone,
}

impl SpoolError {
    /// True if another process has it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Store(StoreError::Locked(_)))
    }

    fn is_full_disk(&self) -> bool {
        let kind = match self {
            Self::Store(error) => error.kind(),
            Self::Folder { source, .. } => source.kind(),
            _ => return false,
        };
        kind == std::io::ErrorKind::StorageFull
    }

    /// True if the files themselves are bad; false if they could not be reached.
    fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => error.is_corruption(),
            Self::Emptied => true,
            _ => false,
        }
    }
}

/// Who this spool belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster: String,
    pub node: String,
}

/// What can be sent: `oldest_seq..=sealed_seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    pub oldest_seq: u64,
    pub sealed_seq: u64,
    pub acked_seq: u64,
}

/// A batch as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBatch {
    pub payload: Vec<u8>,
    pub sha256: [u8; 32],
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    seq: u64,
    bytes: usize,
    /// When it was acked, or the spool opened.
    at_ns: i64,
}

/// Where epochs come from: random bytes, but for simulations that must repeat.
pub type Mint = Box<dyn FnMut() -> Result<[u8; 16], SpoolError> + Send>;

/// See the module.
pub struct Spool {
    store: Box<dyn Disk>,
    mint: Mint,
    identity: Identity,
    limits: Limits,
    epoch: [u8; 16],
    acked_seq: u64,
    sealed_seq: u64,
    batches: VecDeque<Kept>,
    /// Acked batches of former epochs, by a number of their own: a restored ledger may not have them.
    former: VecDeque<Kept>,
    drafts: VecDeque<(u64, usize)>,
    next_draft: u64,
    appended: u64,
    /// Place in `drafts` of the one that takes up those behind it; all before it are as merged as they can be.
    merging: usize,
    counts: Counts,
}

/// What the spool did for want of room, since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Acked batches that were let go before they had to be.
    pub dropped: u64,
    /// Drafts that became part of another.
    pub merged: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("store", &self.store).field("holdings", &self.holdings()).finish()
    }
}

impl Spool {
    /// Opens the spool in `path`, making it if there is none. One that cannot be read is moved aside, never
    /// deleted, and a new one begins under a new epoch; its path is returned.
    ///
    /// # Errors
    /// If the disk does not allow even that.
    pub fn open(
        path: &Path,
        identity: Identity,
        limits: Limits,
        now_ns: i64,
    ) -> Result<(Self, Option<PathBuf>), SpoolError> {
        let home = Home { path: path.to_owned() };
        let is_new = || !Store::exists(path);
        match Self::open_files(path, is_new(), identity.clone(), limits, now_ns) {
            Ok(spool) => Ok((spool, None)),
            Err(error) if error.is_damage() => {
                let failed = |source| SpoolError::Aside { path: path.to_owned(), source };
                let aside = home.move_aside(now_ns).map_err(failed)?;
                tracing::error!(error = tonnage_runtime::telemetry::chain(&error), aside = %aside.display(),
                    "The spool cannot be read; it is moved aside and a new one begins.");
                Ok((Self::open_files(path, is_new(), identity, limits, now_ns)?, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn open_files(
        path: &Path,
        may_be_new: bool,
        identity: Identity,
        limits: Limits,
        now_ns: i64,
    ) -> Result<Self, SpoolError> {
        Self::begin(Box::new(Store::open(path)?), may_be_new, Box::new(random), identity, limits, now_ns)
    }

    /// Opens the spool on a disk of any kind, making it if there is none.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_on(
        disk: Box<dyn Disk>,
        mint: Mint,
        identity: Identity,
        limits: Limits,
        now_ns: i64,
    ) -> Result<Self, SpoolError> {
        Self::begin(disk, true, mint, identity, limits, now_ns)
    }

    fn begin(
        mut store: Box<dyn Disk>,
        may_be_new: bool,
        mut mint: Mint,
        identity: Identity,
        limits: Limits,
        now_ns: i64,
    ) -> Result<Self, SpoolError> {
        let number = |name| -> Result<u64, SpoolError> {
            let value = store.get(name)?;
            Ok(value.and_then(|v| Some(u64::from_be_bytes(v.try_into().ok()?))).unwrap_or(0))
        };
        let (acked_seq, sealed_seq) = (number(Name::Acked)?, number(Name::Sealed)?);
        let appended = number(Name::Appended)?;
        let epoch = match store.get(Name::Epoch)?.and_then(|epoch| epoch.try_into().ok()) {
            Some(epoch) => epoch,
            // sled opens what it cannot read as if it were empty, and would begin anew without a word.
            None if !may_be_new => return Err(SpoolError::Emptied),
            None => {
                let epoch = mint()?;
                let mut changes = Changes::default();
                changes.set(Name::Version, &[VERSION]);
                changes.set(Name::Epoch, &epoch);
                store.apply(changes)?;
                epoch
            }
        };
        let batches = store.sizes(List::Batches)?;
        let kept = |(seq, bytes)| Kept { seq, bytes, at_ns: now_ns };
        let batches = batches.into_iter().map(kept).collect();
        let former = store.sizes(List::Former)?.into_iter().map(kept).collect();
        let drafts = VecDeque::from(store.sizes(List::Drafts)?);
        let next_draft = drafts.back().map_or(FIRST_DRAFT, |(number, _)| number + 1);
        Ok(Self {
            store,
            mint,
            identity,
            limits,
            epoch,
            acked_seq,
            sealed_seq,
            batches,
            former,
            drafts,
            next_draft,
            appended,
            merging: 0,
            counts: Counts::default(),
        })
    }

    #[must_use]
    pub fn epoch(&self) -> [u8; 16] {
        self.epoch
    }

    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let oldest_seq = self.batches.front().map_or(self.sealed_seq + 1, |kept| kept.seq);
        Holdings { oldest_seq, sealed_seq: self.sealed_seq, acked_seq: self.acked_seq }
    }

    /// Windows waiting without a number, as drafts.
    #[must_use]
    pub fn drafts(&self) -> usize {
        self.drafts.len()
    }

    /// Acked batches of former epochs that are kept for a ledger that was set back.
    #[must_use]
    pub fn former(&self) -> usize {
        self.former.len()
    }

    /// Bytes of all drafts and batches.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let drafts: usize = self.drafts.iter().map(|(_, bytes)| bytes).sum();
        let kept = self.batches.iter().chain(&self.former);
        drafts + kept.map(|kept| kept.bytes).sum::<usize>()
    }

    /// What the disk failed with, if it did: then this is to be dropped, and opened again.
    #[must_use]
    pub fn failure(&self) -> Option<std::io::ErrorKind> {
        self.store.failure()
    }

    /// Holds as much as this from here on.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Ledger time up to which everything is accounted for by drafts that were appended.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn last_window_end_ns(&self) -> Result<Option<i64>, SpoolError> {
        let value = self.store.get(Name::LastWindowEnd)?;
        Ok(value.and_then(|v| Some(i64::from_be_bytes(v.try_into().ok()?))))
    }

    /// The ledger that this spool feeds, once it has met one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn ledger_id(&self) -> Result<Option<Vec<u8>>, SpoolError> {
        Ok(self.store.get(Name::LedgerId)?)
    }

    /// Remembers the ledger that this spool feeds.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn set_ledger_id(&mut self, id: &[u8]) -> Result<(), SpoolError> {
        let mut changes = Changes::default();
        changes.set(Name::LedgerId, id);
        Ok(self.store.apply(changes)?)
    }

    /// What [`Spool::set_devices`] was given last.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn devices(&self) -> Result<Vec<u8>, SpoolError> {
        Ok(self.store.get(Name::Devices)?.unwrap_or_default())
    }

    /// Remembers the node's devices for the next run.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn set_devices(&mut self, encoded: &[u8]) -> Result<(), SpoolError> {
        let mut changes = Changes::default();
        changes.set(Name::Devices, encoded);
        Ok(self.store.apply(changes)?)
    }

    /// Seals drafts while fewer than [`SEALED_MAX`] batches wait for their ack. True if a batch was sealed.
    ///
    /// # Errors
    /// If the disk fails: what was a draft stays one.
    pub fn seal(&mut self, now_ns: i64) -> Result<bool, SpoolError> {
        let mut sealed = false;
        while !self.drafts.is_empty() && self.sealed_seq - self.acked_seq.min(self.sealed_seq) < SEALED_MAX {
            let numbers = self.leading(0, DRAFTS_PER_BATCH_MAX, BATCH_BYTES_MAX / 2);
            let drafts = self.read_drafts(&numbers)?;
            let seq = self.sealed_seq + 1;
            let header = Header {
                cluster: self.identity.cluster.clone(),
                node: self.identity.node.clone(),
                epoch: self.epoch,
                seq,
                sealed_at_ns: now_ns,
            };
            let (payload, taken) = seal::seal(&drafts, &header);
            let mut value = Sha256::digest(&payload).to_vec();
            value.extend_from_slice(&payload);
            let mut changes = Changes::default();
            let bytes = value.len();
            changes.put(List::Batches, seq, value);
            changes.set(Name::Sealed, &seq.to_be_bytes());
            for number in &numbers[..taken] {
                changes.remove(List::Drafts, *number);
            }
            self.store.apply(changes)?;
            self.batches.push_back(Kept { seq, bytes, at_ns: now_ns });
            self.drafts.drain(..taken);
            self.merging = self.merging.saturating_sub(taken);
            self.sealed_seq = seq;
            sealed = true;
        }
        Ok(sealed)
    }

    /// A batch by its number; `None` if it is not held, or damaged.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn batch(&self, seq: u64) -> Result<Option<SealedBatch>, SpoolError> {
        let Some(value) = self.store.read(List::Batches, seq)? else { return Ok(None) };
        let Some((hash, payload)) = value.split_first_chunk::<32>() else { return Ok(None) };
        if Sha256::digest(payload)[..] != hash[..] {
            tracing::error!(seq, "A batch in the spool is damaged; it will not be sent.");
            return Ok(None);
        }
        Ok(Some(SealedBatch { payload: payload.to_vec(), sha256: *hash }))
    }

    /// The ledger has everything up to `seq`. Lets go of what need not be kept any longer.
    ///
    /// # Errors
    /// If the disk fails: nothing has changed.
    pub fn ack(&mut self, seq: u64, backed_up_seq: u64, now_ns: i64) -> Result<(), SpoolError> {
        let acked_seq = seq.min(self.sealed_seq).max(self.acked_seq);
        let mut changes = Changes::default();
        changes.set(Name::Acked, &acked_seq.to_be_bytes());
        let acked = self.batches.iter().filter(|kept| kept.seq <= acked_seq);
        let mut kept_bytes: usize = acked.clone().map(|kept| kept.bytes).sum();
        let mut gone = 0;
        for kept in acked {
            let old = now_ns - kept.at_ns > KEPT_NS_MAX;
            if kept.seq > backed_up_seq && kept_bytes <= self.limits.kept_bytes && !old {
                break;
            }
            changes.remove(List::Batches, kept.seq);
            kept_bytes -= kept.bytes;
            gone += 1;
        }
        let mut former_bytes: usize = self.former.iter().map(|kept| kept.bytes).sum();
        let mut forgotten = 0;
        for kept in &self.former {
            let old = now_ns - kept.at_ns > KEPT_NS_MAX;
            if former_bytes + kept_bytes <= self.limits.kept_bytes && !old {
                break;
            }
            changes.remove(List::Former, kept.seq);
            former_bytes -= kept.bytes;
            forgotten += 1;
        }
        self.store.apply(changes)?;
        self.batches.drain(..gone);
        self.former.drain(..forgotten);
        self.acked_seq = acked_seq;
        Ok(())
    }
}

fn random() -> Result<[u8; 16], SpoolError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| SpoolError::Random(e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
