//! Which uid a pod's name stands for now, and whether that pod lives.
//!
//! The kubelet's devices are by name, cgroups by uid. A name and a uid are joined only where exactly one uid that had
//! this name is alive. Names are used again (StatefulSets), and the kubelet lists pods that have ended: so a pod of which
//! no uid lives has ended, whatever the list says.

use crate::attribution::live_pods::LivePods;
use crate::attribution::pod_names::{PodName, PodNames};

/// What can be said of a pod that the kubelet lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// This uid, and it lives.
    Live(String),
    /// Several uids of this name live: it holds, and which of them it is cannot be known.
    Several,
    /// It may live: there are no folders of logs, or no cgroups to look at. Its uid where only one had the name.
    Unconfirmed(Option<String>),
    /// It has not begun, or has ended.
    Gone,
}

/// `now_ns` is monotonic.
pub(super) fn standing(names: &mut PodNames, live: &mut LivePods, name: &PodName, now_ns: i64) -> Standing {
    let Some(uids) = names.uids(name, now_ns).map(<[String]>::to_vec) else {
        // Without names any pod that lives may be it; where none does, it has ended.
        return match live.any(now_ns) {
            Some(false) => Standing::Gone,
            Some(true) | None => Standing::Unconfirmed(None),
        };
    };
    let mut alive = Vec::new();
    for uid in uids.iter().cloned() {
        match live.is_live(&uid, now_ns) {
            Some(true) => alive.push(uid),
            Some(false) => {}
            None => {
                let only = if let [only] = &uids[..] { Some(only.clone()) } else { None };
                return Standing::Unconfirmed(only);
            }
        }
    }
    match (alive.pop(), alive.is_empty()) {
        (None, _) => Standing::Gone,
        (Some(uid), true) => Standing::Live(uid),
        (Some(_), false) => Standing::Several,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const UIDS: [&str; 2] = ["0b3f4b3e-8a0c-4b6e-9a55-0123456789ab", "1b3f4b3e-8a0c-4b6e-9a55-0123456789ab"];

    /// A node whose folders of logs are those of `logged`, and on which `alive` live.
    fn stand(logged: Option<&[usize]>, alive: Option<&[usize]>) -> Standing {
        let root = tempfile::tempdir().unwrap();
        let [logs, cgroups] = ["logs", "cgroup"].map(|name| root.path().join(name));
        for uid in logged.unwrap_or_default() {
            fs::create_dir_all(logs.join(format!("ml_train-0_{}", UIDS[*uid]))).unwrap();
        }
        if logged.is_some() {
            fs::create_dir_all(&logs).unwrap();
        }
        if let Some(alive) = alive {
            fs::create_dir_all(&cgroups).unwrap();
            fs::write(cgroups.join("cgroup.controllers"), "").unwrap();
            for uid in alive {
                fs::create_dir_all(cgroups.join(format!("kubepods/pod{}", UIDS[*uid]))).unwrap();
            }
        }
        let (mut names, mut live) = (PodNames::new(logs), LivePods::new(cgroups));
        standing(&mut names, &mut live, &("ml".into(), "train-0".into()), 0)
    }

    #[test]
    fn a_name_is_joined_with_the_one_uid_that_lives() {
        assert_eq!(stand(Some(&[0]), Some(&[0])), Standing::Live(UIDS[0].into()));
        assert_eq!(stand(Some(&[0, 1]), Some(&[1])), Standing::Live(UIDS[1].into()), "used again");
        assert_eq!(stand(Some(&[0, 1]), Some(&[0, 1])), Standing::Several);
    }

    #[test]
    fn a_pod_that_ended_or_has_not_begun_does_not_live() {
        assert_eq!(stand(Some(&[0]), Some(&[])), Standing::Gone);
        assert_eq!(stand(Some(&[]), Some(&[1])), Standing::Gone);
        assert_eq!(stand(None, Some(&[])), Standing::Gone);
    }

    #[test]
    fn without_logs_or_cgroups_it_may_live_and_that_is_said() {
        assert_eq!(stand(None, Some(&[0])), Standing::Unconfirmed(None), "logs are kept elsewhere");
        assert_eq!(stand(Some(&[0]), None), Standing::Unconfirmed(Some(UIDS[0].into())));
        assert_eq!(stand(Some(&[0, 1]), None), Standing::Unconfirmed(None));
        assert_eq!(stand(None, None), Standing::Unconfirmed(None));
    }
}
