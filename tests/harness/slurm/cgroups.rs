//! What a node of Slurm leaves in the machine's cgroups: processes of steps, and folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// Ends what is left of a node's steps, and removes its folders. Only cgroups called by the node are touched.
pub(super) fn remove(node: &str) {
    let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for root in controllers.map(|entry| entry.path().join(format!("slurm_{node}"))) {
        let _ = wait_until(Duration::from_secs(5), "empty cgroups", String::new, || {
            let mut folders = Vec::new();
            below(&root, &mut folders);
            for pid in folders.iter().flat_map(|folder| pids(folder)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            // The deepest come last.
            folders.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
            Ok((!root.exists()).then_some(()))
        });
    }
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    if !folder.is_dir() {
        return;
    }
    found.push(folder.to_owned());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
        }
    }
}

fn pids(folder: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect()
}
