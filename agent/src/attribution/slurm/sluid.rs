//! Which job a SLUID is: since Slurm 26.05 the cgroups of a job are called so, and the name does not say the job's id.
//!
//! Each step has a slurmstepd in `<SLUID>/step_<s>/slurm`, whose title is `slurmstepd: [<job>.<step>]`. A process's
//! title is its own to write, but only root puts one into that folder; and it must be root's.
//!
//! `CgroupJobIdPaths=yes` in cgroup.conf (26.05.2) brings the job's id back into the path.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::attribution::process;
use crate::attribution::slurm::job_file::is_number;

/// SLUIDs that are remembered.
const KNOWN_MAX: usize = 4_096;
/// Folders looked into on one level, and steps of one job.
const FOLDERS_MAX: usize = 256;
/// Slices within slices above Slurm's scope (`CgroupSlice`).
const DEPTH_MAX: u32 = 4;
const BYTES_MAX: u64 = 4 << 10;
/// `s` and 13 digits of Crockford's base 32.
const SLUID_BYTES: usize = 14;

#[derive(Debug)]
pub struct Sluids {
    cgroups: PathBuf,
    procfs: PathBuf,
    known: HashMap<String, String>,
}

impl Sluids {
    /// `cgroups` is where cgroup v2 is mounted, `procfs` the host's `/proc`.
    #[must_use]
    pub fn new(cgroups: PathBuf, procfs: PathBuf) -> Self {
        Self { cgroups, procfs, known: HashMap::new() }
    }

    /// The job's id; `None` where it is not known (yet): no step runs, or its processes cannot be seen.
    pub fn job_id(&mut self, sluid: &str) -> Option<&str> {
        if !is_sluid(sluid) {
            return None;
        }
        if !self.known.contains_key(sluid) {
            let roots = [self.cgroups.clone(), self.cgroups.join("unified")];
            let job = roots.iter().find_map(|root| self.find(root, sluid, DEPTH_MAX))?;
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(sluid.to_owned(), job);
        }
        self.known.get(sluid).map(String::as_str)
    }

    /// Looks through slices for Slurm's scope, and there for the job.
    fn find(&self, folder: &Path, sluid: &str, depth: u32) -> Option<String> {
        let names = folders(folder);
        let scopes = names.iter().filter(|name| name.ends_with("slurmstepd.scope"));
        let within = scopes.filter_map(|scope| self.job(&folder.join(scope).join(sluid)));
        let mut deeper = names.iter().filter(|name| depth > 0 && name.ends_with(".slice"));
        within
            .into_iter()
            .next()
            .or_else(|| deeper.find_map(|slice| self.find(&folder.join(slice), sluid, depth - 1)))
    }

    fn job(&self, folder: &Path) -> Option<String> {
        let steps = folders(folder).into_iter().filter(|name| name.starts_with("step_"));
        steps.filter_map(|step| self.step(&folder.join(step).join("slurm/cgroup.procs"))).next()
    }

    fn step(&self, procs: &Path) -> Option<String> {
        let mut text = String::new();
        File::open(procs).ok()?.take(BYTES_MAX).read_to_string(&mut text).ok()?;
        let pids = text.lines().filter_map(|line| line.parse().ok());
        pids.filter(|pid| process::uid(&self.procfs, *pid) == Some(0))
            .find_map(|pid| job_of_title(&process::title(&self.procfs, pid)?).map(str::to_owned))
    }
}

/// `s5K1KKYAYG5D00`.
pub(in crate::attribution) fn is_sluid(text: &str) -> bool {
    text.len() == SLUID_BYTES
        && text.starts_with('s')
        && text.bytes().skip(1).all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// `slurmstepd: [1234.batch]`.
fn job_of_title(title: &str) -> Option<&str> {
    let (job, _) = title.strip_prefix("slurmstepd: [")?.split_once('.')?;
    is_number(job).then_some(job)
}

fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.take(FOLDERS_MAX).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLUID: &str = "s5K1KKYAYG5D00";

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A process as `/proc` shows it.
        fn process(&self, pid: u32, uid: u32, title: &str) {
            let status = include_str!("sluid/status").replace("UID", &uid.to_string());
            self.write(&format!("proc/{pid}/status"), &status);
            self.write(&format!("proc/{pid}/cmdline"), &format!("{title}\0\0"));
        }

        fn sluids(&self) -> Sluids {
            Sluids::new(self.0.path().join("cgroup"), self.0.path().join("proc"))
        }
    }

    #[test]
    fn the_job_stands_in_the_title_of_its_slurmstepd() {
        for scope in [
            "system.slice/slurmstepd.scope",
            "system.slice/n1_slurmstepd.scope",
            "hpc.slice/hpc-gpu.slice/slurmstepd.scope",
        ] {
            let tree = Tree::new();
            tree.process(70, 0, "slurmstepd: [1234.batch]");
            tree.write(&format!("cgroup/{scope}/system/cgroup.procs"), "1\n");
            tree.write(&format!("cgroup/{scope}/{SLUID}/step_batch/slurm/cgroup.procs"), "69\n70\n");
            let mut sluids = tree.sluids();
            assert_eq!(sluids.job_id(SLUID), Some("1234"), "{scope}");
            // What is known stays: the last step may end before the job does.
            fs::remove_dir_all(tree.0.path().join("cgroup")).unwrap();
            assert_eq!(sluids.job_id(SLUID), Some("1234"));
        }
    }

    #[test]
    fn only_a_slurmstepd_of_root_says_it() {
        let procs = format!("cgroup/system.slice/slurmstepd.scope/{SLUID}/step_0/slurm/cgroup.procs");
        for (uid, title) in [
            (1000, "slurmstepd: [1234.0]"),
            (0, "sleep"),
            (0, "slurmstepd: [x.0]"),
            (0, "/usr/sbin/slurmstepd infinity"),
        ] {
            let tree = Tree::new();
            tree.process(70, uid, title);
            tree.write(&procs, "70\n");
            assert_eq!(tree.sluids().job_id(SLUID), None, "{uid} {title}");
        }
        let tree = Tree::new();
        tree.process(70, 0, "slurmstepd: [1234.0]");
        tree.write(&procs.replace("slurm/cgroup.procs", "user/task_0/cgroup.procs"), "70\n");
        assert_eq!(tree.sluids().job_id(SLUID), None);
    }

    #[test]
    fn what_is_no_sluid_is_not_looked_for() {
        let tree = Tree::new();
        assert_eq!(tree.sluids().job_id("../../../etc/x"), None);
        assert_eq!(tree.sluids().job_id(SLUID), None);
    }
}
