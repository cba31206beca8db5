//! A simulated disk: replays operations, and says what may be on it after a crash at any point between them.
//!
//! A killed process leaves everything that it did. A power loss leaves what was made durable, and of the rest any
//! part, in any combination:
//!
//! - `fsync` and `fdatasync` of a file make durable its bytes and its length, and every name that was made, changed
//!   or removed before it: so do the journals of ext4 and xfs. `sync_file_range` makes nothing durable: it neither
//!   writes lengths nor empties a disk's cache.
//! - Names that are not durable survive in their order: some first ones of them.
//! - Writes that are not durable survive whole, not at all, or torn: their first part, or any of their sectors.
//!   A lost write before a kept one leaves zeros, where the file was shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::RngExt;
use rand::rngs::StdRng;

use super::trace::{FileId, Op};

const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// Names and contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    names: BTreeMap<String, Node>,
    files: BTreeMap<FileId, Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(FileId),
}

/// What is done, what of it is durable, and what lies between.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    pub(crate) done: Disk,
    durable: Disk,
    pending: Vec<Op>,
}

/// What a power loss makes of the writes that are not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All are lost, and all names too.
    All,
    /// All are lost, names are not.
    AllBytes,
    /// The last one is lost.
    Last,
    /// The last one is torn within its first sector's end.
    LastAfterSector,
    /// The last one is torn in its middle, wherever that is.
    LastInMiddle,
    /// The last one alone is kept, and the names.
    AllButLast,
    /// A random part is kept.
    Random,
}

impl Disk {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Make { path, file } => {
                self.names.insert(path.clone(), Node::File(*file));
                // Its bytes may have become durable before its name.
                self.files.entry(*file).or_default();
            }
            Op::Write { file, at, data } => {
                let bytes = self.files.entry(*file).or_default();
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Op::Truncate { file, length } => self.files.entry(*file).or_default().resize(*length, 0),
            Op::Rename { from, to } => {
                let below = format!("{from}/");
                let moved: Vec<_> = self
                    .names
                    .keys()
                    .filter(|name| *name == from || name.starts_with(&below))
                    .cloned()
                    .collect();
                for name in moved {
                    if let Some(node) = self.names.remove(&name) {
                        self.names.insert(format!("{to}{}", &name[from.len()..]), node);
                    }
                }
            }
            Op::Unlink { path } | Op::Rmdir { path } => drop(self.names.remove(path)),
            Op::Mkdir { path } => drop(self.names.insert(path.clone(), Node::Folder)),
            Op::Sync { .. } | Op::SyncRange | Op::Fault | Op::Mark(_) => {}
        }
    }

    /// The files of a real folder, those left out whose name ends with `without`.
    pub(crate) fn read(folder: &Path, without: &str) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(&at)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
                    if !name.ends_with(without) {
                        found.insert(name, std::fs::read(&path)?);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The files, those left out whose name ends with `without`.
    pub(crate) fn listing(&self, without: &str) -> BTreeMap<String, Vec<u8>> {
        let file = |(name, node): (&String, &Node)| match node {
            Node::File(file) => Some((name.clone(), self.files.get(file).cloned().unwrap_or_default())),
            Node::Folder => None,
        };
        self.names.iter().filter(|(name, _)| !name.ends_with(without)).filter_map(file).collect()
    }

    /// Makes a folder of it.
    pub(crate) fn write(&self, folder: &Path, without: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (name, _) in self.names.iter().filter(|(_, node)| **node == Node::Folder) {
            std::fs::create_dir_all(folder.join(name))?;
        }
        for (name, bytes) in self.listing(without) {
            let path = folder.join(name);
            // A name whose folder is lost is lost with it.
            if path.parent().is_some_and(Path::is_dir) {
                std::fs::write(path, bytes)?;
            }
        }
        Ok(())
    }
}

impl Replay {
    pub(crate) fn apply(&mut self, op: &Op) {
        self.done.apply(op);
        match op {
            Op::Sync { file } => {
                let (sure, pending) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|op| of_file(op).is_none_or(|of| of == *file));
                let sure: Vec<Op> = sure;
                sure.iter().for_each(|op| self.durable.apply(op));
                self.pending = pending;
            }
            Op::SyncRange | Op::Fault | Op::Mark(_) => {}
            _ => self.pending.push(op.clone()),
        }
    }

    /// What a kill within the last write leaves: the kernel stops between pages.
    pub(crate) fn killed_within(&self, before: &Disk, op: &Op) -> Option<Disk> {
        let Op::Write { file, at, data } = op else { return None };
        let end = (at + data.len() / 2) / PAGE_BYTES * PAGE_BYTES;
        let part = data.get(..end.checked_sub(*at)?).filter(|part| !part.is_empty())?;
        let mut disk = before.clone();
        disk.apply(&Op::Write { file: *file, at: *at, data: part.to_vec() });
        Some(disk)
    }

    /// The losses that differ here.
    pub(crate) fn losses(&self, random: usize) -> Vec<Loss> {
        let (names, bytes): (Vec<&Op>, Vec<&Op>) = self.pending.iter().partition(|op| of_file(op).is_none());
        let mut losses = Vec::new();
        if !self.pending.is_empty() {
            losses.push(Loss::All);
        }
        if !names.is_empty() && !bytes.is_empty() {
            losses.push(Loss::AllBytes);
        }
        if let Some(Op::Write { data, .. }) = bytes.last() {
            losses.extend((data.len() > SECTOR_BYTES).then_some(Loss::LastAfterSector));
            losses.push(Loss::LastInMiddle);
        }
        if bytes.len() > 1 {
            losses.extend([Loss::Last, Loss::AllButLast]);
        }
        if self.pending.len() > 1 {
            losses.extend(std::iter::repeat_n(Loss::Random, random));
        }
        losses
    }

    /// A disk after a power loss.
    pub(crate) fn after(&self, loss: Loss, rng: &mut StdRng) -> Disk {
        let mut disk = self.durable.clone();
        let names = self.pending.iter().filter(|op| of_file(op).is_none());
        let names_kept = match loss {
            Loss::All => 0,
            Loss::Random => rng.random_range(0..=names.clone().count()),
            _ => usize::MAX,
        };
        names.take(names_kept).for_each(|op| disk.apply(op));
        let bytes: Vec<&Op> = self.pending.iter().filter(|op| of_file(op).is_some()).collect();
        for (at, op) in bytes.iter().enumerate() {
            let last = at + 1 == bytes.len();
            let kept = match (loss, last) {
                (Loss::All | Loss::AllBytes, _) | (Loss::Last, true) | (Loss::AllButLast, false) => {
                    Kept::Nothing
                }
                (Loss::LastAfterSector, true) => Kept::First(SECTOR_BYTES),
                (Loss::LastInMiddle, true) => Kept::First(usize::MAX),
                (Loss::Random, _) => Kept::random(rng),
                _ => Kept::Whole,
            };
            kept.apply(&mut disk, op, rng);
        }
        disk
    }
}

/// What is left of one write.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Nothing,
    Whole,
    /// So many bytes, half of them at most.
    First(usize),
    /// Any of its sectors.
    Sectors,
}

impl Kept {
    fn random(rng: &mut StdRng) -> Self {
        match rng.random_range(0..8) {
            0..3 => Self::Nothing,
            3..6 => Self::Whole,
            6 => Self::First(usize::MAX),
            _ => Self::Sectors,
        }
    }

    fn apply(self, disk: &mut Disk, op: &Op, rng: &mut StdRng) {
        let part = |at: usize, data: &[u8]| match op {
            Op::Write { file, .. } => Op::Write { file: *file, at, data: data.to_vec() },
            _ => op.clone(),
        };
        match (self, op) {
            (Self::Nothing, _) => {}
            (Self::First(bytes), Op::Write { at, data, .. }) => {
                disk.apply(&part(*at, &data[..bytes.min(data.len() / 2)]));
            }
            (Self::Sectors, Op::Write { at, data, .. }) => {
                let mut from = 0;
                while from < data.len() {
                    let to = data.len().min((at + from) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - at);
                    if rng.random_bool(0.5) {
                        disk.apply(&part(at + from, &data[from..to]));
                    }
                    from = to;
                }
            }
            _ => disk.apply(op),
        }
    }
}

/// The file whose bytes or length an operation changes; `None` if it changes names.
fn of_file(op: &Op) -> Option<FileId> {
    match op {
        Op::Write { file, .. } | Op::Truncate { file, .. } => Some(*file),
        _ => None,
    }
}

/// Points of a history at which it may crash: behind each of these operations, and before the first.
pub(crate) fn boundaries(ops: &[Op]) -> BTreeSet<usize> {
    let changes = |op: &Op| !matches!(op, Op::SyncRange | Op::Fault | Op::Mark(_));
    ops.iter().enumerate().filter(|(_, op)| changes(op)).map(|(at, _)| at + 1).collect()
}
