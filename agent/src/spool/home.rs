//! The folder that a spool lies in, around the database's own files.
//!
//! - `epoch`: says that a spool was here, and which. A database that went missing or was emptied under it is noticed
//!   by this file before a new one is made in its place.
//! - `reserve`: room that is given back when the disk is full, so that what makes room can be written.
//!
//! Non-goals: what is in the database, and when any of this is due.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Enough for the database to be opened, and to write what frees more.
pub(super) const RESERVE_BYTES: usize = 1 << 20;

/// Stands in the marker while a spool is made for the first time.
const BEGUN: &str = "begun";

/// What is in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// No spool was here.
    New,
    /// One was to be made, and may be half done.
    Begun,
    /// One is here.
    Kept,
    /// The spool of this epoch was here, and its database is gone.
    Lost(String),
}

/// What tells a folder from another that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    device: u64,
    inode: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) path: PathBuf,
}

impl Home {
    /// The database's file as it is now; `None` if there is none.
    pub(super) fn place(&self) -> Option<Place> {
        let file = fs::metadata(self.database()).ok()?;
        Some(Place { device: file.dev(), inode: file.ino() })
    }

    /// What the marker says of the database.
    pub(super) fn state(&self) -> State {
        let marker = fs::read_to_string(self.marker()).ok();
        let database = fs::metadata(self.database()).is_ok_and(|file| file.len() > 0);
        match marker.as_deref().map(str::trim) {
            Some(BEGUN) => State::Begun,
            Some(epoch) if !database => State::Lost(epoch.to_owned()),
            // Spools of the first version have no marker.
            None if !database => State::New,
            _ => State::Kept,
        }
    }

    /// Says that a spool is about to be made here.
    pub(super) fn begin(&self) -> std::io::Result<()> {
        fs::create_dir_all(&self.path)?;
        self.write_marker(BEGUN)
    }

    /// Says that the spool of this epoch is here.
    pub(super) fn mark(&self, epoch: &[u8; 16]) -> std::io::Result<()> {
        let text: String = epoch.iter().map(|byte| format!("{byte:02x}")).collect();
        if fs::read_to_string(self.marker()).is_ok_and(|known| known.trim() == text) {
            return Ok(());
        }
        self.write_marker(&text)
    }

    fn write_marker(&self, text: &str) -> std::io::Result<()> {
        let new = self.path.join("epoch.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.marker())
    }

    /// Moves everything aside, and says where to. A folder that cannot be renamed, since it is a mount point, keeps
    /// its files in a folder within.
    pub(super) fn move_aside(&self, now_ns: i64) -> std::io::Result<PathBuf> {
        self.free_reserve();
        let aside = PathBuf::from(format!("{}.unreadable.{now_ns}", self.path.display()));
        if fs::rename(&self.path, &aside).is_ok() {
            return Ok(aside);
        }
        let within = self.path.join(format!("unreadable.{now_ns}"));
        fs::create_dir(&within)?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with("unreadable.") {
                fs::rename(entry.path(), within.join(entry.file_name()))?;
            }
        }
        Ok(within)
    }

    /// Gives the reserve back to the disk. False if there is none.
    pub(super) fn free_reserve(&self) -> bool {
        fs::remove_file(self.reserve()).is_ok()
    }

    /// Makes the reserve where there is none, and room for it and as much again. True if there is one now.
    pub(super) fn keep_reserve(&self) -> bool {
        if self.reserve().exists() {
            return true;
        }
        if free_bytes(&self.path).is_none_or(|free| free < 2 * RESERVE_BYTES as u64) {
            return false;
        }
        // Written, since a hole in a file holds no room.
        let written = fs::File::create(self.reserve()).and_then(|mut file| {
            file.write_all(&vec![0; RESERVE_BYTES])?;
            file.sync_all()
        });
        if written.is_err() {
            self.free_reserve();
        }
        written.is_ok()
    }

    fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    fn marker(&self) -> PathBuf {
        self.path.join("epoch")
    }

    fn reserve(&self) -> PathBuf {
        self.path.join("reserve")
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
