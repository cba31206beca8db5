//! Namespace and name of a pod by its uid, from the folders that the kubelet makes as root in `/var/log/pods`:
//! `<namespace>_<name>_<uid>`.
//!
//! A uid with two folders has no name here: it stays unknown until the aggregator knows. The folder is looked at when
//! something unknown appears, and read when it has changed or ten seconds have passed. A node without a kubelet has no
//! such folder, and a kubelet may be told to keep it elsewhere (`podLogsDir`).

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use tonnage_proto::limits;

const READ_EVERY_NS: i64 = 10_000_000_000;
/// Entries looked at. A node runs a few hundred pods; its kubelet removes the folders of dead ones.
const ENTRIES_MAX: usize = 16_384;

/// Namespace and name.
pub(super) type PodName = (String, String);

#[derive(Debug)]
pub(super) struct PodNames {
    folder: PathBuf,
    read_at_ns: Option<i64>,
    modified: Option<SystemTime>,
    readable: bool,
    /// `None`: two folders claim the uid.
    names: HashMap<String, Option<PodName>>,
    /// A name is used again (StatefulSets), so it may have several uids.
    uids: HashMap<PodName, Vec<String>>,
}

impl PodNames {
    pub(super) fn new(folder: PathBuf) -> Self {
        let (names, uids) = (HashMap::new(), HashMap::new());
        Self { folder, read_at_ns: None, modified: None, readable: false, names, uids }
    }

    /// The pod's namespace and name, if the kubelet says so beyond doubt. `now_ns` is monotonic.
    pub(super) fn get(&mut self, uid: &str, now_ns: i64) -> Option<PodName> {
        if !self.names.contains_key(uid) {
            self.refresh(now_ns);
        }
        self.names.get(uid).cloned().flatten()
    }

    /// Every uid that a pod of this name has a folder of; `None` if the folder of logs cannot be read.
    pub(super) fn uids(&mut self, name: &PodName, now_ns: i64) -> Option<&[String]> {
        self.refresh(now_ns);
        self.readable.then(|| self.uids.get(name).map_or(&[][..], Vec::as_slice))
    }

    /// Reads the folder again if it has changed, and every ten seconds; true if pods came or went. A folder that is
    /// made in the same tick of the disk's clock as the last reading is missed until then.
    pub(super) fn refresh(&mut self, now_ns: i64) -> bool {
        let modified = fs::metadata(&self.folder).and_then(|metadata| metadata.modified()).ok();
        let due = self.read_at_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= READ_EVERY_NS);
        if !due && modified == self.modified {
            return false;
        }
        (self.read_at_ns, self.modified) = (Some(now_ns), modified);
        let before = std::mem::take(&mut self.names);
        self.uids.clear();
        self.read();
        before.len() != self.names.len() || before.keys().any(|uid| !self.names.contains_key(uid))
    }

    fn read(&mut self) {
        let entries = fs::read_dir(&self.folder);
        self.readable = entries.is_ok();
        for entry in entries.into_iter().flatten().take(ENTRIES_MAX).flatten() {
            if let Some((uid, name)) = entry.file_name().to_str().and_then(parse) {
                self.uids.entry(name.clone()).or_default().push(uid.clone());
                self.names.entry(uid).and_modify(|known| *known = None).or_insert(Some(name));
            }
        }
    }
}

/// None of the three has an underscore: they are DNS names and a uid.
fn parse(entry: &str) -> Option<(String, PodName)> {
    let mut parts = entry.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let sound = |part: &str| !part.is_empty() && part.len() <= limits::NAME_BYTES_MAX;
    let all_sound = parts.next().is_none() && [namespace, name, uid].into_iter().all(sound);
    all_sound.then(|| (uid.to_owned(), (namespace.to_owned(), name.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_uid_with_one_folder_has_a_name_and_one_with_two_has_none() {
        let folder = tempfile::tempdir().unwrap();
        for entry in ["ml_train-0_uid-1", "ml_a_uid-2", "ml_b_uid-2", "odd", "a_b_c_d", "__x"] {
            fs::create_dir(folder.path().join(entry)).unwrap();
        }
        let mut names = PodNames::new(folder.path().to_owned());
        assert_eq!(names.get("uid-1", 0), Some(("ml".to_owned(), "train-0".to_owned())));
        assert_eq!(names.get("uid-2", 0), None);
        assert_eq!(names.get("x", 0), None);
    }

    #[test]
    fn a_new_pod_is_found_when_the_folder_has_changed_or_ten_seconds_have_passed() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = PodNames::new(folder.path().to_owned());
        assert_eq!(names.get("u", 0), None);
        fs::create_dir(folder.path().join("ns_p_u")).unwrap();
        let made = fs::metadata(folder.path()).unwrap().modified().unwrap();
        let changed = made + std::time::Duration::from_secs(5);
        let touch = |at| fs::File::open(folder.path()).unwrap().set_modified(at).unwrap();
        touch(changed);
        assert!(names.get("u", 1).is_some());
        fs::create_dir(folder.path().join("ns_p_v")).unwrap();
        touch(changed);
        assert_eq!(names.get("v", 10 * S), None);
        assert!(names.get("v", 10 * S + 1).is_some());
    }

    #[test]
    fn a_name_that_is_used_again_has_every_uid() {
        let folder = tempfile::tempdir().unwrap();
        for entry in ["ml_train-0_uid-1", "ml_train-0_uid-2", "ml_train-1_uid-3"] {
            fs::create_dir(folder.path().join(entry)).unwrap();
        }
        let mut names = PodNames::new(folder.path().to_owned());
        let mut uids = names.uids(&("ml".into(), "train-0".into()), 0).unwrap().to_vec();
        uids.sort();
        assert_eq!(uids, ["uid-1", "uid-2"]);
        assert_eq!(names.uids(&("ml".into(), "other".into()), 0), Some(&[][..]));
        assert_eq!(PodNames::new("/no/such/folder".into()).uids(&("a".into(), "b".into()), 0), None);
    }

    #[test]
    fn a_node_without_the_folder_names_no_pod() {
        assert_eq!(PodNames::new(PathBuf::from("/no/such/folder")).get("u", 0), None);
    }
}
