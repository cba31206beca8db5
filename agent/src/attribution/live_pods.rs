//! Which pods are alive, by the folders that the kubelet makes for them in the cgroup tree. A kubelet removes a pod's
//! folder when its containers have ended, and goes on listing the pod as one with devices.
//!
//! The tree is walked every ten seconds, and earlier when a pod is asked for that was not there; a pod that was found is
//! looked at each time, which costs one small read. Walks are bounded, and stop at the first pod of a path: what is within
//! a pod is the pod's (see `cgroup`). They leave out folders that are not root's, which are given to users and services to
//! make folders of their own in. A tree with too many folders does not say who does not live. Mounts of v1 have a tree per controller, and a hybrid one v2's beside them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::attribution::cgroup;

const WALK_EVERY_NS: i64 = 10_000_000_000;
/// For pods that were not there.
const WALK_AGAIN_NS: i64 = 2_000_000_000;
const DEPTH_MAX: usize = 8;
const FOLDERS_MAX: usize = 16_384;
/// Trees of v1 in which every kubelet makes pods; one of them is enough.
const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "systemd", "unified"];

#[derive(Debug)]
pub(super) struct LivePods {
    root: PathBuf,
    walked_at_ns: Option<i64>,
    readable: bool,
    complete: bool,
    /// Folders of each pod, by its uid: one per tree, or one per container where the runtime makes none for pods.
    folders: HashMap<String, Vec<PathBuf>>,
}

impl LivePods {
    /// `root` is where cgroups are mounted, `/sys/fs/cgroup` of the host.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, walked_at_ns: None, readable: false, complete: true, folders: HashMap::new() }
    }

    /// Whether a pod lives; `None` where the tree cannot be read, or not all of it. `now_ns` is monotonic.
    pub(super) fn is_live(&mut self, uid: &str, now_ns: i64) -> Option<bool> {
        let every = if self.folders.contains_key(uid) { WALK_EVERY_NS } else { WALK_AGAIN_NS };
        self.walk(now_ns, every);
        match self.folders.get(uid) {
            Some(folders) => Some(are_populated(folders)),
            None => (self.readable && self.complete).then_some(false),
        }
    }

    /// Whether any pod lives; `None` as above.
    pub(super) fn any(&mut self, now_ns: i64) -> Option<bool> {
        self.walk(now_ns, WALK_AGAIN_NS);
        self.readable.then(|| self.folders.values().any(|folders| are_populated(folders)))
    }

    fn walk(&mut self, now_ns: i64, every_ns: i64) {
        if self.walked_at_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < every_ns) {
            return;
        }
        self.walked_at_ns = Some(now_ns);
        self.folders.clear();
        (self.readable, self.complete) = (false, true);
        let trees: Vec<PathBuf> = if self.root.join("cgroup.controllers").exists() {
            vec![self.root.clone()]
        } else {
            CONTROLLERS.iter().map(|name| self.root.join(name)).collect()
        };
        for tree in trees {
            let Some(complete) = walk(&tree, &mut self.folders) else { continue };
            self.readable = true;
            self.complete &= complete;
        }
    }
}

/// Notes the pods of one tree; whether it saw all of it, or `None` if it cannot be read.
fn walk(tree: &Path, found: &mut HashMap<String, Vec<PathBuf>>) -> Option<bool> {
    let owner = fs::metadata(tree).ok()?.uid();
    fs::read_dir(tree).ok()?;
    let mut left = vec![(tree.to_owned(), 0)];
    let mut folders = 0;
    while let Some((folder, depth)) = left.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if folders >= FOLDERS_MAX {
                return Some(false);
            }
            folders += 1;
            if entry.metadata().is_ok_and(|metadata| metadata.uid() != owner) {
                continue;
            }
            if let Some(uid) = cgroup::pod_uid(name) {
                found.entry(uid).or_default().push(entry.path());
            } else if depth + 1 < DEPTH_MAX && !cgroup::is_of_a_user(name) {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    Some(true)
}

/// v2 says whether there is a process in it or below; with v1 the kubelet removes the folder of a pod that ended.
fn are_populated(folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| match fs::read_to_string(folder.join("cgroup.events")) {
        Ok(events) => !events.lines().any(|line| line == "populated 0"),
        Err(_) => folder.is_dir(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const UID: &str = "0b3f4b3e-8a0c-4b6e-9a55-0123456789ab";
    const OTHER: &str = "1b3f4b3e-8a0c-4b6e-9a55-0123456789ab";

    fn tree(v2: bool, folders: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        if v2 {
            fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        }
        root
    }

    #[test]
    fn pods_of_every_driver_are_found_in_v2() {
        for folder in [
            format!("kubepods/burstable/pod{UID}"),
            format!("kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_")),
            format!(
                "system.slice/containerd.service/kubepods-pod{}.slice:cri-containerd:{}",
                UID.replace('-', "_"),
                "ab".repeat(32)
            ),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice",
                UID.replace('-', "_")
            ),
        ] {
            let root = tree(true, &[&folder]);
            let mut pods = LivePods::new(root.path().to_owned());
            assert_eq!((pods.is_live(UID, 0), pods.is_live(OTHER, 0)), (Some(true), Some(false)), "{folder}");
            fs::write(root.path().join(folder).join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
            assert_eq!(pods.is_live(UID, 1), Some(false));
        }
    }

    #[test]
    fn pods_are_found_in_the_trees_of_v1_and_of_hybrid_mounts() {
        for tree_name in ["memory", "unified"] {
            let root = tree(false, &[&format!("{tree_name}/kubepods/pod{UID}")]);
            assert_eq!(LivePods::new(root.path().to_owned()).is_live(UID, 0), Some(true), "{tree_name}");
        }
    }

    #[test]
    fn a_pod_within_a_pod_and_a_users_folders_are_no_pods_of_this_node() {
        let inner = format!("kubepods/pod{UID}/kubepods/pod{OTHER}");
        let users = format!("user.slice/user-1000.slice/pod{OTHER}");
        let root = tree(true, &[&inner, &users]);
        assert_eq!(LivePods::new(root.path().to_owned()).is_live(OTHER, 0), Some(false));
    }

    #[test]
    fn a_pod_that_ended_is_gone_at_once_and_a_new_one_is_there_within_two_seconds() {
        let root = tree(true, &[&format!("kubepods/pod{UID}")]);
        let mut pods = LivePods::new(root.path().to_owned());
        assert_eq!(pods.is_live(UID, 0), Some(true));
        fs::remove_dir(root.path().join(format!("kubepods/pod{UID}"))).unwrap();
        fs::create_dir(root.path().join(format!("kubepods/pod{OTHER}"))).unwrap();
        assert_eq!((pods.is_live(UID, 1), pods.is_live(OTHER, 1)), (Some(false), Some(false)));
        assert_eq!(pods.is_live(OTHER, 2 * S), Some(true));
        assert_eq!(pods.any(2 * S), Some(true));
    }

    #[test]
    fn a_folder_that_was_given_away_is_no_evidence() {
        let given = "system.slice/own.service";
        let root = tree(true, &[&format!("{given}/kubepods/pod{UID}")]);
        if std::os::unix::fs::chown(root.path().join(given), Some(4_711), None).is_err() {
            return;
        }
        assert_eq!(LivePods::new(root.path().to_owned()).is_live(UID, 0), Some(false));
    }

    #[test]
    fn a_tree_with_too_many_folders_does_not_say_that_a_pod_has_ended() {
        let root = tree(true, &[]);
        (0..=FOLDERS_MAX).for_each(|n| fs::create_dir(root.path().join(format!("folder-{n}"))).unwrap());
        assert_eq!(LivePods::new(root.path().to_owned()).is_live(UID, 0), None);
    }

    #[test]
    fn where_there_is_no_tree_nothing_is_known() {
        let mut pods = LivePods::new("/no/such/folder".into());
        assert_eq!((pods.is_live(UID, 0), pods.any(0)), (None, None));
    }
}
