//! What Kubernetes says of pods and namespaces: labels and controllers, and what of them the ledger keeps. Plain data.
//!
//! They group costs, say whose budget pays where one is bound to labels, and decide no charge: whose time it was is what cgroups,
//! the kubelet and Slurm's hooks say.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

/// Labels that are kept of a pod or a namespace: the first, in the order of their keys.
const LABELS_MAX: usize = 64;
/// Bytes of a label's key as Kubernetes has them: a prefix of 253, a slash and 63.
pub const LABEL_KEY_BYTES_MAX: usize = 317;
/// Bytes of a label's value as Kubernetes has them.
pub const LABEL_VALUE_BYTES_MAX: usize = 63;
/// Bytes of any other name.
const NAME_BYTES_MAX: usize = tonnage_proto::limits::NAME_BYTES_MAX;

/// What a subject is. The numbers are the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum SubjectKind {
    Pod = 1,
    Namespace = 2,
}

impl SubjectKind {
    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Pod, Self::Namespace].into_iter().find(|kind| i64::from(*kind as u8) == number)
    }
}

/// A pod or a namespace of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    pub kind: SubjectKind,
    /// A pod's UID, a namespace's name.
    pub name: String,
    /// Of a pod; empty of a namespace.
    pub namespace: String,
    pub pod: String,
}

/// What can change of it. Its JSON is what is journalled, and what a version is known by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Description {
    /// Of a pod; empty if nothing controls it.
    pub controller_kind: String,
    pub controller: String,
    pub labels: BTreeMap<String, String>,
}

impl Description {
    /// Leaves out what the ledger does not keep; true if that was anything.
    pub fn trim(&mut self) -> bool {
        let before = self.labels.len();
        self.labels.retain(|key, value| {
            let short = key.len() <= LABEL_KEY_BYTES_MAX && value.len() <= LABEL_VALUE_BYTES_MAX;
            short && !key.is_empty() && !key.chars().chain(value.chars()).any(char::is_control)
        });
        let last = self.labels.keys().nth(LABELS_MAX).cloned();
        if let Some(last) = last {
            self.labels.split_off(&last);
        }
        let long =
            [&self.controller_kind, &self.controller].into_iter().any(|name| name.len() > NAME_BYTES_MAX);
        if long {
            (self.controller_kind, self.controller) = (String::new(), String::new());
        }
        long || self.labels.len() < before
    }
}

/// A subject as it was seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub subject: Subject,
    /// When the API server made it; 0 if it does not say.
    pub created_ns: i64,
    pub description: Description,
}

/// What is seen of one cluster at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    pub cluster: String,
    pub seen: Vec<Seen>,
    /// Subjects that are gone, by kind and name.
    pub gone: Vec<(SubjectKind, String)>,
    /// The names of all of a kind that there are: others are gone.
    pub all: Vec<(SubjectKind, HashSet<String>)>,
}

/// What of it was new to the ledger: as it is journalled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Described {
    pub cluster: String,
    /// Subjects, the start of the slot from which on they are so, and how they are.
    pub versions: Vec<(Subject, i64, Description)>,
    /// Kind, name, and when it was first seen to be gone; 0 if it is there again.
    pub ended: Vec<(SubjectKind, String, i64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_labels_without_end_the_first_are_kept_and_none_that_kubernetes_would_not_have() {
        let label = |key: String, value: &str| (key, value.to_owned());
        let mut many = Description {
            labels: (0..99).map(|at| label(format!("k{at:02}"), "v")).collect(),
            ..Description::default()
        };
        assert!(many.trim());
        assert_eq!(
            (many.labels.len(), many.labels.keys().next_back().unwrap().as_str()),
            (LABELS_MAX, "k63")
        );
        assert!(!many.trim());
        let mut odd = Description {
            labels: [
                label("k".repeat(LABEL_KEY_BYTES_MAX), &"v".repeat(LABEL_VALUE_BYTES_MAX)),
                label("k".repeat(LABEL_KEY_BYTES_MAX + 1), "v"),
                label("long".into(), &"v".repeat(LABEL_VALUE_BYTES_MAX + 1)),
                label("control\u{7}".into(), "v"),
                label(String::new(), "v"),
            ]
            .into(),
            controller: "c".repeat(NAME_BYTES_MAX + 1),
            controller_kind: "Job".into(),
        };
        assert!(odd.trim());
        assert_eq!((odd.labels.len(), odd.controller_kind.as_str()), (1, ""));
    }
}
