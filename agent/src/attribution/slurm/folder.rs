//! A folder of small files that only root writes: each is read again when it has changed, and what somebody else could
//! have written is not believed.
//!
//! Only the folder's owner may write to it, and files are root's or that owner's, plain, and not writable by others.
//! Limits: files of a folder and bytes of a file; what is beyond is a problem, said and left out.
//!
//! Not for: what the files mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Files of one folder.
pub(super) const FILES_MAX: usize = 4_096;
/// Problems that are told of one folder.
const PROBLEMS_MAX: usize = 64;
/// Anybody but the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// Tells whether a file is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }

    /// Since the Unix epoch.
    pub(super) fn at_ns(self) -> i64 {
        self.modified_s.saturating_mul(1_000_000_000).saturating_add(self.modified_ns)
    }
}

/// What is known of a folder's files.
#[derive(Debug)]
pub(super) struct Folder<T> {
    path: PathBuf,
    bytes_max: usize,
    known: BTreeMap<String, (Stamp, Result<T, String>)>,
    /// Of the folder as a whole, or of files that were not looked into.
    problems: BTreeSet<String>,
}

impl<T> Folder<T> {
    pub(super) fn new(path: PathBuf, bytes_max: usize) -> Self {
        Self { path, bytes_max, known: BTreeMap::new(), problems: BTreeSet::new() }
    }

    /// Looks at the folder, and says whether anything is different. `parse` gets a file's bytes and name.
    pub(super) fn refresh(&mut self, parse: impl Fn(&[u8], &str) -> Result<T, String>) -> bool {
        let mut problems = BTreeSet::new();
        let owner = match fs::metadata(&self.path) {
            Ok(folder) => safe_folder(&self.path, &folder).map(|()| Some(folder.uid())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.path.display())),
        };
        let mut seen = BTreeSet::new();
        let mut changed = false;
        match owner {
            Ok(None) => {}
            Ok(Some(owner)) => match fs::read_dir(&self.path) {
                Ok(entries) => {
                    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                    for name in names.filter(|name| !name.starts_with('.')) {
                        if seen.len() >= FILES_MAX {
                            let path = self.path.display();
                            problems.insert(format!("{path}: over {FILES_MAX} files: the rest is left out"));
                            break;
                        }
                        changed |= self.look(&name, owner, &parse, &mut problems);
                        seen.insert(name);
                    }
                }
                Err(error) => drop(problems.insert(format!("{}: {error}", self.path.display()))),
            },
            Err(problem) => drop(problems.insert(problem)),
        }
        let before = self.known.len();
        self.known.retain(|name, _| seen.contains(name));
        changed |= self.known.len() != before || self.problems != problems;
        self.problems = problems;
        changed
    }

    /// Reads one file if it has changed.
    fn look(
        &mut self,
        name: &str,
        owner: u32,
        parse: &impl Fn(&[u8], &str) -> Result<T, String>,
        problems: &mut BTreeSet<String>,
    ) -> bool {
        let path = self.path.join(name);
        let mut refused = |known: &mut BTreeMap<String, _>, problem: Option<String>| {
            if problems.len() < PROBLEMS_MAX {
                problems.extend(problem);
            }
            known.remove(name).is_some()
        };
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Renamed or removed since the folder was listed.
            Err(_) => return refused(&mut self.known, None),
        };
        if let Err(problem) = safe_file(&path, &metadata, owner) {
            return refused(&mut self.known, Some(problem));
        }
        let stamp = Stamp::of(&metadata);
        if self.known.get(name).is_some_and(|(known, _)| *known == stamp) {
            return false;
        }
        let bytes = match read(&path, owner, self.bytes_max) {
            Ok(bytes) => bytes,
            Err(problem) => return refused(&mut self.known, Some(problem)),
        };
        let parsed = parse(&bytes, name).map_err(|problem| format!("{}: {problem}", path.display()));
        self.known.insert(name.to_owned(), (stamp, parsed));
        true
    }

    /// Files that were understood, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &T)> {
        self.known.iter().filter_map(|(name, (_, file))| Some((name.as_str(), file.as_ref().ok()?)))
    }

    /// As [`Folder::files`], without those that were last written before a moment.
    pub(super) fn files_since(&self, wall_ns: i64) -> impl Iterator<Item = (&str, &T)> {
        let known = self.known.iter().filter(move |(_, (stamp, _))| stamp.at_ns() >= wall_ns);
        known.filter_map(|(name, (_, file))| Some((name.as_str(), file.as_ref().ok()?)))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        let files = self.known.values().filter_map(|(_, file)| file.as_ref().err());
        self.problems.iter().chain(files).map(String::as_str).take(PROBLEMS_MAX)
    }
}

/// Whether only its owner may write to a folder.
///
/// # Errors
/// Otherwise: what to do.
pub(crate) fn safe_folder(path: &Path, folder: &Metadata) -> Result<(), String> {
    let path = path.display();
    if !folder.is_dir() {
        return Err(format!("{path}: not a folder"));
    }
    if folder.mode() & OTHERS_WRITE != 0 {
        let mode = folder.mode() & 0o7777;
        return Err(format!("{path}: mode {mode:04o}: others than its owner may write there: chmod go-w it"));
    }
    Ok(())
}

fn safe_file(path: &Path, file: &Metadata, folder_owner: u32) -> Result<(), String> {
    let path = path.display();
    if !file.is_file() {
        return Err(format!("{path}: not a plain file"));
    }
    let owner = file.uid();
    if owner != 0 && owner != folder_owner {
        return Err(format!("{path}: owned by uid {owner}; it should be root's or the folder's owner's"));
    }
    if file.mode() & OTHERS_WRITE != 0 {
        return Err(format!("{path}: others than its owner may write to it: chmod go-w it"));
    }
    Ok(())
}

/// Opens without following a link, and looks again at what was opened.
fn read(path: &Path, folder_owner: u32, bytes_max: usize) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(&error))?);
    safe_file(path, &file.metadata().map_err(|error| failed(&error))?, folder_owner)?;
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() > bytes_max {
        return Err(format!("{}: over {bytes_max} bytes", path.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder<String>) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = Folder::new(dir.path().to_owned(), 16);
        (dir, folder)
    }

    fn refresh(folder: &mut Folder<String>) -> bool {
        folder.refresh(|bytes, _| match bytes {
            b"bad" => Err("bad".to_owned()),
            bytes => Ok(String::from_utf8_lossy(bytes).into_owned()),
        })
    }

    fn files(folder: &Folder<String>) -> Vec<(&str, &str)> {
        folder.files().map(|(name, text)| (name, text.as_str())).collect()
    }

    #[test]
    fn only_what_changed_is_different() {
        let (dir, mut folder) = folder();
        assert!(!refresh(&mut folder));
        fs::write(dir.path().join("1"), "a").unwrap();
        fs::write(dir.path().join(".2"), "half").unwrap();
        assert!(refresh(&mut folder) && !refresh(&mut folder));
        assert_eq!(files(&folder), [("1", "a")]);
        fs::write(dir.path().join(".1"), "b").unwrap();
        fs::rename(dir.path().join(".1"), dir.path().join("1")).unwrap();
        assert!(refresh(&mut folder));
        assert_eq!(files(&folder), [("1", "b")]);
        fs::remove_file(dir.path().join("1")).unwrap();
        assert!(refresh(&mut folder) && files(&folder).is_empty());
    }

    #[test]
    fn a_file_that_is_not_understood_is_told_and_left_out() {
        let (dir, mut folder) = folder();
        fs::write(dir.path().join("1"), "bad").unwrap();
        fs::write(dir.path().join("2"), "x".repeat(17)).unwrap();
        fs::write(dir.path().join("3"), "good").unwrap();
        refresh(&mut folder);
        assert_eq!(files(&folder), [("3", "good")]);
        let problems: Vec<_> = folder.problems().collect();
        assert!(problems.len() == 2 && problems.iter().any(|p| p.ends_with("/1: bad")), "{problems:?}");
    }

    #[test]
    fn what_another_could_have_written_is_not_believed() {
        let (dir, mut folder) = folder();
        fs::write(dir.path().join("1"), "a").unwrap();
        fs::set_permissions(dir.path().join("1"), fs::Permissions::from_mode(0o666)).unwrap();
        symlink("/proc/self/stat", dir.path().join("2")).unwrap();
        refresh(&mut folder);
        assert_eq!(files(&folder), []);
        assert_eq!(folder.problems().count(), 2);
        fs::set_permissions(dir.path().join("1"), fs::Permissions::from_mode(0o644)).unwrap();
        refresh(&mut folder);
        assert_eq!(files(&folder).len(), 1);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        refresh(&mut folder);
        assert_eq!(files(&folder), []);
        assert!(folder.problems().any(|problem| problem.contains("0777") && problem.contains("go-w")));
    }
}
