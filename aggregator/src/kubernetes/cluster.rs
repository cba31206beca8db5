//! From what the API server says to what the ledger is told. Pure.
//!
//! A pod's controller is its owner, or that one's where it is a ReplicaSet or a Job: so Deployments, Rollouts and CronJobs are
//! found by references that the API server keeps, not by names that anybody may choose.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::model::{Description, LABEL_KEY_BYTES_MAX, Seen, Subject, SubjectKind, Told};

/// Subjects that are told of at a time, and bytes of their labels, give or take one of them.
const TOLD_MAX: usize = 200;
const TOLD_BYTES_MAX: usize = 1 << 20;
/// Pods that may wait for their ReplicaSet or Job; one more waits no longer.
const WAITING_MAX: usize = 4_096;
/// How long one waits: the API server says these things on streams of their own.
const PATIENCE_NS: i64 = 10_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Pod,
    Namespace,
    ReplicaSet,
    Job,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::ReplicaSet, Self::Job, Self::Namespace, Self::Pod];

    /// As Kubernetes calls it in the plural.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Namespace => "namespaces",
            Self::ReplicaSet => "replicasets",
            Self::Job => "jobs",
        }
    }
}

/// What is needed of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Object {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) created_ns: i64,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) controller: Option<Reference>,
}

/// Who controls an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// All of a kind follow, up to `Listed`.
    Listing,
    Listed,
    Seen(Object),
    Gone(Object),
}

/// What is known of a cluster, and what of it the ledger is yet to be told.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Who controls ReplicaSets and Jobs, by their UID: kind and name.
    controllers: HashMap<String, Option<(String, String)>>,
    /// What was told of subjects last, hashes by hashes: most changes of a pod are none to us, and there are many pods.
    told: HashMap<u64, u64>,
    /// UIDs, and names of namespaces, in the lists that are under way.
    lists: HashMap<Kind, HashSet<String>>,
    /// Pods whose ReplicaSet or Job was not seen yet, by UID, and since when they wait.
    waiting: HashMap<String, (Object, i64)>,
    listed: HashSet<Kind>,
    seen: Vec<Seen>,
    seen_bytes: usize,
    gone: Vec<(SubjectKind, String)>,
    all: Vec<(SubjectKind, HashSet<String>)>,
    /// Labels or names that the ledger does not keep.
    pub(super) trimmed: u64,
}

impl Cluster {
    /// Was all of this kind seen once?
    pub(super) fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Is there anything to be told of?
    pub(super) fn has_news(&self) -> bool {
        !self.seen.is_empty() || !self.gone.is_empty() || !self.all.is_empty()
    }

    /// Is it as much as is told at a time?
    pub(super) fn is_full(&self) -> bool {
        self.seen.len() + self.gone.len() >= TOLD_MAX
            || self.seen_bytes >= TOLD_BYTES_MAX
            || !self.all.is_empty()
    }

    /// What is to be told.
    pub(super) fn take(&mut self, cluster: &str) -> Told {
        let (seen, gone) = (std::mem::take(&mut self.seen), std::mem::take(&mut self.gone));
        let all = std::mem::take(&mut self.all);
        self.seen_bytes = 0;
        Told { cluster: cluster.to_owned(), seen, gone, all }
    }

    pub(super) fn apply(&mut self, kind: Kind, change: Change, now_ns: i64) {
        match change {
            Change::Listing => {
                self.lists.insert(kind, HashSet::new());
            }
            Change::Listed => self.list(kind),
            Change::Seen(object) => self.see(kind, object, now_ns),
            Change::Gone(object) => self.go(kind, &object),
        }
    }

    /// Pods that have waited for long enough are told of as they are.
    pub(super) fn release(&mut self, now_ns: i64) {
        let over: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, (_, since_ns))| now_ns.saturating_sub(*since_ns) >= PATIENCE_NS)
            .map(|(uid, _)| uid.clone())
            .collect();
        for (object, _) in over.iter().filter_map(|uid| self.waiting.remove(uid)).collect::<Vec<_>>() {
            self.tell_pod(object);
        }
    }

    fn list(&mut self, kind: Kind) {
        self.listed.insert(kind);
        let Some(all) = self.lists.remove(&kind) else { return };
        match kind {
            Kind::Pod => {
                self.waiting.retain(|uid, _| all.contains(uid));
                self.all.push((SubjectKind::Pod, all));
            }
            Kind::Namespace => self.all.push((SubjectKind::Namespace, all)),
            // What went while nobody looked is still in the index: it is small, and goes with the next start.
            Kind::ReplicaSet | Kind::Job => {}
        }
    }

    fn see(&mut self, kind: Kind, object: Object, now_ns: i64) {
        if let Some(all) = self.lists.get_mut(&kind) {
            all.insert(if kind == Kind::Namespace { object.name.clone() } else { object.uid.clone() });
        }
        match kind {
            Kind::ReplicaSet | Kind::Job => {
                let controller = object.controller.map(|owner| (owner.kind, owner.name));
                self.controllers.insert(object.uid.clone(), controller);
                let owned =
                    |waiting: &Object| waiting.controller.as_ref().is_some_and(|by| by.uid == object.uid);
                let ready: Vec<String> = self
                    .waiting
                    .iter()
                    .filter(|(_, (pod, _))| owned(pod))
                    .map(|(uid, _)| uid.clone())
                    .collect();
                for (pod, _) in ready.iter().filter_map(|uid| self.waiting.remove(uid)).collect::<Vec<_>>() {
                    self.tell_pod(pod);
                }
            }
            Kind::Namespace => {
                let description = Description { labels: object.labels, ..Description::default() };
                let (name, created_ns) = (object.name, object.created_ns);
                let (namespace, pod) = (String::new(), String::new());
                let subject = Subject { kind: SubjectKind::Namespace, name, namespace, pod };
                self.tell(Seen { subject, created_ns, description });
            }
            Kind::Pod => {
                let unknown = object.controller.as_ref().is_some_and(|owner| {
                    matches!(owner.kind.as_str(), "ReplicaSet" | "Job")
                        && !self.controllers.contains_key(&owner.uid)
                });
                if unknown && (self.waiting.len() < WAITING_MAX || self.waiting.contains_key(&object.uid)) {
                    let since_ns = self.waiting.get(&object.uid).map_or(now_ns, |(_, since_ns)| *since_ns);
                    self.waiting.insert(object.uid.clone(), (object, since_ns));
                } else {
                    self.waiting.remove(&object.uid);
                    self.tell_pod(object);
                }
            }
        }
    }

    fn go(&mut self, kind: Kind, object: &Object) {
        match kind {
            Kind::ReplicaSet | Kind::Job => {
                self.controllers.remove(&object.uid);
            }
            Kind::Namespace => {
                self.told.remove(&hashed(&(SubjectKind::Namespace, &object.name)));
                self.gone.push((SubjectKind::Namespace, object.name.clone()));
            }
            Kind::Pod => {
                // One that was gone at once was there all the same.
                if let Some((pod, _)) = self.waiting.remove(&object.uid) {
                    self.tell_pod(pod);
                }
                self.told.remove(&hashed(&(SubjectKind::Pod, &object.uid)));
                self.gone.push((SubjectKind::Pod, object.uid.clone()));
            }
        }
    }

    fn tell_pod(&mut self, object: Object) {
        let Object { uid, namespace, name, created_ns, labels, controller } = object;
        let (controller_kind, controller) = match controller {
            Some(owner) => match self.controllers.get(&owner.uid) {
                Some(Some(above)) => above.clone(),
                _ => (owner.kind, owner.name),
            },
            None => (String::new(), String::new()),
        };
        let subject = Subject { kind: SubjectKind::Pod, name: uid, namespace, pod: name };
        let description = Description { controller_kind, controller, labels };
        self.tell(Seen { subject, created_ns, description });
    }

    fn tell(&mut self, mut seen: Seen) {
        let Subject { name, namespace, pod, .. } = &seen.subject;
        // No API server has longer names than a label's key may be.
        if [name, namespace, pod].into_iter().any(|name| name.len() > LABEL_KEY_BYTES_MAX) {
            self.trimmed += 1;
            return;
        }
        self.trimmed += u64::from(seen.description.trim());
        let Description { controller_kind, controller, labels } = &seen.description;
        let (key, hash) =
            (hashed(&(seen.subject.kind, name)), hashed(&(controller_kind, controller, labels)));
        if self.told.insert(key, hash) != Some(hash) {
            // A namespace may come back under its name.
            self.gone.retain(|(kind, gone)| (*kind, gone) != (seen.subject.kind, name));
            self.seen_bytes += labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            self.seen.push(seen);
        }
    }
}

fn hashed(value: &impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    value.hash(&mut hash);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, controller: Option<(&str, &str)>) -> Object {
        let reference = |(kind, uid): (&str, &str)| Reference {
            kind: kind.into(),
            name: format!("name-of-{uid}"),
            uid: uid.into(),
        };
        Object {
            uid: uid.into(),
            namespace: "ml".into(),
            name: format!("pod-{uid}"),
            controller: controller.map(reference),
            ..Object::default()
        }
    }

    fn controllers(cluster: &mut Cluster) -> Vec<(String, String, String)> {
        let told = cluster.take("c").seen.into_iter();
        told.map(|seen| (seen.subject.name, seen.description.controller_kind, seen.description.controller))
            .collect()
    }

    fn of(pod: &str, kind: &str, name: &str) -> (String, String, String) {
        (pod.into(), kind.into(), name.into())
    }

    #[test]
    fn a_pods_controller_is_that_of_its_replica_set_or_job_and_else_its_owner() {
        let mut cluster = Cluster::default();
        let mut see = |kind, object| cluster.apply(kind, Change::Seen(object), 0);
        see(Kind::ReplicaSet, object("rs", Some(("Deployment", "d"))));
        see(Kind::ReplicaSet, object("bare", None));
        see(Kind::Job, object("job", Some(("CronJob", "nightly"))));
        for (uid, owner) in [
            ("a", Some(("ReplicaSet", "rs"))),
            ("b", Some(("ReplicaSet", "bare"))),
            ("c", Some(("Job", "job"))),
            ("d", Some(("StatefulSet", "s"))),
            ("e", Some(("RayCluster", "r"))),
            ("f", None),
        ] {
            see(Kind::Pod, object(uid, owner));
        }
        let expected = [
            of("a", "Deployment", "name-of-d"),
            of("b", "ReplicaSet", "name-of-bare"),
            of("c", "CronJob", "name-of-nightly"),
            of("d", "StatefulSet", "name-of-s"),
            of("e", "RayCluster", "name-of-r"),
            of("f", "", ""),
        ];
        assert_eq!(controllers(&mut cluster), expected);
    }

    #[test]
    fn a_pod_waits_for_its_job_a_while_and_is_told_of_even_if_it_is_gone_before() {
        let mut cluster = Cluster::default();
        for uid in ["a", "b", "c"] {
            cluster.apply(Kind::Pod, Change::Seen(object(uid, Some(("Job", uid)))), 5);
        }
        assert!(!cluster.has_news());
        cluster.apply(Kind::Job, Change::Seen(object("a", Some(("CronJob", "nightly")))), 6);
        assert_eq!(controllers(&mut cluster), [of("a", "CronJob", "name-of-nightly")]);
        cluster.apply(Kind::Pod, Change::Gone(object("b", None)), 7);
        let told = cluster.take("c");
        assert_eq!((told.seen[0].subject.name.as_str(), told.gone[0].1.as_str()), ("b", "b"));
        cluster.release(PATIENCE_NS + 4);
        assert!(!cluster.has_news());
        cluster.release(PATIENCE_NS + 5);
        assert_eq!(controllers(&mut cluster), [of("c", "Job", "name-of-c")]);
    }

    #[test]
    fn what_does_not_change_is_told_once_and_a_list_says_what_there_is() {
        let mut cluster = Cluster::default();
        let list = |cluster: &mut Cluster, uids: &[&str]| {
            cluster.apply(Kind::Pod, Change::Listing, 0);
            for uid in uids {
                cluster.apply(Kind::Pod, Change::Seen(object(uid, None)), 0);
            }
            cluster.apply(Kind::Pod, Change::Listed, 0);
            cluster.take("c")
        };
        let first = list(&mut cluster, &["a", "b"]);
        assert_eq!((first.seen.len(), first.all[0].1.len()), (2, 2));
        let again = list(&mut cluster, &["b"]);
        assert_eq!((again.seen.len(), again.all[0].1.len()), (0, 1));
        cluster.apply(Kind::Pod, Change::Seen(object("b", None)), 0);
        assert!(!cluster.has_news());
        let labels = [("team".to_owned(), "a".to_owned())].into();
        cluster.apply(Kind::Pod, Change::Seen(Object { labels, ..object("b", None) }), 0);
        assert_eq!(cluster.take("c").seen.len(), 1);
    }

    #[test]
    fn a_namespace_that_is_made_again_at_once_is_not_gone() {
        let mut cluster = Cluster::default();
        let namespace = || Object { name: "ml".into(), ..object("u", None) };
        cluster.apply(Kind::Namespace, Change::Seen(namespace()), 0);
        cluster.take("c");
        cluster.apply(Kind::Namespace, Change::Gone(namespace()), 0);
        cluster.apply(Kind::Namespace, Change::Seen(Object { uid: "v".into(), ..namespace() }), 0);
        let told = cluster.take("c");
        assert_eq!((told.seen.len(), told.gone.len()), (1, 0));
    }

    #[test]
    fn what_is_told_at_a_time_is_bounded_by_count_and_by_bytes() {
        let mut cluster = Cluster::default();
        let mut count = 0;
        while !cluster.is_full() {
            cluster.apply(Kind::Pod, Change::Seen(object(&format!("u{count}"), None)), 0);
            count += 1;
        }
        assert_eq!(count, TOLD_MAX);
        let mut cluster = Cluster::default();
        let mut count = 0;
        while !cluster.is_full() {
            let labels = (0..99).map(|at| (format!("{at:0300}"), "v".repeat(63))).collect();
            let long = Object { labels, ..object(&format!("u{count}"), None) };
            cluster.apply(Kind::Pod, Change::Seen(long), 0);
            count += 1;
        }
        assert_eq!(count, TOLD_BYTES_MAX.div_ceil(64 * 363));
        assert_eq!(cluster.trimmed, count as u64);
    }
}
