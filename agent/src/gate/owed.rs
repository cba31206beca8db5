//! What was let in without asking and has no mark in Slurm, as more time for a job: one small file each, flushed before it is let in, and
//! gone once the ledger has it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::request::{LINE_BYTES_MAX, is_token};

/// Of such files, before nothing more is let in.
const FILES_MAX: usize = 10_000;

#[derive(Debug)]
pub struct Owed {
    folder: PathBuf,
}

impl Owed {
    /// # Errors
    /// If there can be no such folder.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("owed");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Notes a line under its token. When it returns it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written, or there are too many.
    pub fn note(&self, token: &str, line: &str) -> io::Result<()> {
        if fs::read_dir(&self.folder)?.take(FILES_MAX).count() == FILES_MAX {
            return Err(io::Error::other(format!("{FILES_MAX} are noted already")));
        }
        let (path, begun) = (self.folder.join(token), self.folder.join(format!("{token}.new")));
        let mut file = File::create(&begun)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&begun, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// All that is noted: tokens and lines.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn all(&self) -> io::Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)?.take(FILES_MAX) {
            let entry = entry?;
            // One that was only begun was never let in.
            let Some(token) = entry.file_name().to_str().filter(|name| is_token(name)).map(str::to_owned)
            else {
                continue;
            };
            let mut line = String::new();
            File::open(entry.path())?.take(LINE_BYTES_MAX as u64).read_to_string(&mut line)?;
            all.push((token, line));
        }
        Ok(all)
    }

    /// The ledger has it.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn paid(&self, token: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_there_until_it_is_paid_and_what_was_only_begun_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let owed = Owed::open(folder.path()).unwrap();
        let token = "0123456789abcdef";
        owed.note(token, "modify x").unwrap();
        fs::write(folder.path().join("owed/fedcba9876543210.new"), "modify y").unwrap();
        let again = Owed::open(folder.path()).unwrap();
        assert_eq!(again.all().unwrap(), [(token.to_owned(), "modify x".to_owned())]);
        again.paid(token).unwrap();
        assert!(owed.all().unwrap().is_empty());
    }
}
