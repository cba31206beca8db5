//! Namespace and name of a pod by its uid, from the folders that the kubelet makes as root in `/var/log/pods`:
//! `<namespace>_<name>_<uid>`.
//!
//! A uid with two folders has no name here: it stays unknown until the aggregator knows. The folder is read only
//! when an unknown uid appears, at most once in ten seconds. A node without a kubelet has no such folder.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

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
    /// `None`: two folders claim the uid.
    names: HashMap<String, Option<PodName>>,
}

impl PodNames {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, read_at_ns: None, names: HashMap::new() }
    }

    /// The pod's namespace and name, if the kubelet says so beyond doubt. `now_ns` is monotonic.
    pub(super) fn get(&mut self, uid: &str, now_ns: i64) -> Option<PodName> {
        let due = self.read_at_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= READ_EVERY_NS);
        if due && !self.names.contains_key(uid) {
            self.read_at_ns = Some(now_ns);
            self.names = read(&self.folder);
        }
        self.names.get(uid).cloned().flatten()
    }
}

fn read(folder: &Path) -> HashMap<String, Option<PodName>> {
    let mut names = HashMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return names };
    for entry in entries.take(ENTRIES_MAX).flatten() {
        if let Some((uid, name)) = entry.file_name().to_str().and_then(parse) {
            names.entry(uid).and_modify(|known| *known = None).or_insert(Some(name));
        }
    }
    names
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
    fn a_new_pod_is_found_when_ten_seconds_have_passed() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = PodNames::new(folder.path().to_owned());
        assert_eq!(names.get("u", 0), None);
        fs::create_dir(folder.path().join("ns_p_u")).unwrap();
        assert_eq!(names.get("u", 10 * S - 1), None);
        assert!(names.get("u", 10 * S).is_some());
    }

    #[test]
    fn a_node_without_the_folder_names_no_pod() {
        assert_eq!(PodNames::new(PathBuf::from("/no/such/folder")).get("u", 0), None);
    }
}
