//! What the kernel says about one process: its start, its user, its cgroup. The only reader of `/proc/<pid>`.
//!
//! A process's environment and command line are its own to write, so they are not read; but for the titles of
//! slurmstepd, which is root's, and of MPS's programs, which are believed only with more (`mps`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use procfs::process::Process;

use crate::attribution::cgroup;

/// Kernel's number of the first pid namespace (`PROC_PID_INIT_INO` in include/linux/proc_ns.h).
const INIT_PID_NAMESPACE: &str = "pid:[4026531836]";
/// A title that is longer is nobody's that is asked for.
const TITLE_BYTES_MAX: u64 = 256;

/// When a process began, in clock ticks since boot (field 22 of `stat`). With the pid it is one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start(pub(super) u64);

impl Start {
    /// In nanoseconds of the boot clock; the kernel rounds down to a tick (10 ms).
    pub(super) fn boot_ns(self) -> i64 {
        let per_second = procfs::ticks_per_second().max(1);
        let ns = u128::from(self.0) * 1_000_000_000 / u128::from(per_second);
        i64::try_from(ns).unwrap_or(i64::MAX)
    }
}

/// `None`: there is no such process (any more), or what is there cannot be read.
pub(super) fn start(procfs: &Path, pid: u32) -> Option<Start> {
    Some(Start(open(procfs, pid)?.stat().ok()?.starttime))
}

/// The real user. Not the folder's owner: that is root for a process which may not dump core.
pub(super) fn uid(procfs: &Path, pid: u32) -> Option<u32> {
    Some(open(procfs, pid)?.status().ok()?.ruid)
}

/// The real user, and whether the process is in the pid namespace of this `/proc` itself rather than in one below it,
/// as those of containers are.
pub(super) fn user(procfs: &Path, pid: u32) -> Option<(u32, bool)> {
    let status = open(procfs, pid)?.status().ok()?;
    Some((status.ruid, status.nspid.is_some_and(|pids| pids.len() == 1)))
}

/// What the process is called, at most 15 bytes of it, and its parent.
pub(super) fn name_and_parent(procfs: &Path, pid: u32) -> Option<(String, u32)> {
    let stat = open(procfs, pid)?.stat().ok()?;
    Some((stat.comm, u32::try_from(stat.ppid).ok()?))
}

/// The bytes of `/proc/<pid>/cgroup`, up to the limit of its parser.
pub(super) fn cgroup(procfs: &Path, pid: u32) -> Option<Vec<u8>> {
    let file = File::open(folder(procfs, pid).join("cgroup")).ok()?;
    let mut text = Vec::new();
    let limit = u64::try_from(cgroup::BYTES_MAX).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Whether the pids of this `/proc` are those of another pid namespace than the host's; false if it cannot be told.
pub(super) fn are_foreign(procfs: &Path) -> bool {
    // Another process's namespaces are only shown to those who may trace it.
    let of = |pid: &str| std::fs::read_link(procfs.join(pid).join("ns/pid")).ok();
    of("1").or_else(|| of("self")).is_some_and(|namespace| namespace != Path::new(INIT_PID_NAMESPACE))
}

/// What the process calls itself. Evidence only of root's own processes.
pub(super) fn title(procfs: &Path, pid: u32) -> Option<String> {
    let mut text = Vec::new();
    File::open(folder(procfs, pid).join("cmdline"))
        .ok()?
        .take(TITLE_BYTES_MAX)
        .read_to_end(&mut text)
        .ok()?;
    let title = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(title).into_owned())
}

fn open(procfs: &Path, pid: u32) -> Option<Process> {
    Process::new_with_root(folder(procfs, pid)).ok()
}

fn folder(procfs: &Path, pid: u32) -> PathBuf {
    procfs.join(pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_a_user_and_a_cgroup() {
        let (proc, me) = (Path::new("/proc"), std::process::id());
        let started = start(proc, me).unwrap();
        assert!(started.boot_ns() > 0);
        assert_eq!(start(proc, me), Some(started));
        assert_eq!(uid(proc, me), Some(rustix::process::getuid().as_raw()));
        assert_eq!(user(proc, me).unwrap().0, rustix::process::getuid().as_raw());
        assert_eq!(name_and_parent(proc, me).unwrap().1, std::os::unix::process::parent_id());
        assert!(!cgroup(proc, me).unwrap().is_empty());
    }

    #[test]
    fn pids_are_foreign_where_the_first_process_is_of_another_namespace() {
        let procfs = tempfile::tempdir().unwrap();
        assert!(!are_foreign(procfs.path()), "it cannot be told");
        for (link, foreign) in [(INIT_PID_NAMESPACE, false), ("pid:[4026532000]", true)] {
            let folder = procfs.path().join("1/ns");
            std::fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink(link, folder.join("pid")).unwrap();
            assert_eq!(are_foreign(procfs.path()), foreign, "{link}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn a_process_that_is_not_there_has_none() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(start(empty.path(), 1), None);
        assert_eq!((uid(empty.path(), 1), user(empty.path(), 1)), (None, None));
        assert_eq!(cgroup(empty.path(), 1), None);
    }
}
