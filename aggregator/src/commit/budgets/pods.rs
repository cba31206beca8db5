//! Pods and how they are labelled, where budgets are bound by labels: whose a pod's usage is. A cache of the store.

use std::collections::HashMap;

use super::{Budgets, Context, REMEMBERED_MAX};
use crate::budgets::{Ask, Labels, Subject, Tree, Usage};
use crate::commit::CommitError;
use crate::model::{Description, Owner, OwnerKind, Subject as Told, SubjectKind};
use crate::store::query::{Described, described_pod, explain};
use crate::store::{Connection, budgets as stored};

/// By cluster and the owner's number; `None` of what is no pod.
#[derive(Debug, Default)]
pub(super) struct Pods(HashMap<String, HashMap<i64, Option<Pod>>>);

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) owner: Owner,
    described: Described,
}

impl Pods {
    pub(super) fn of(
        &mut self,
        db: &Connection,
        cluster: &str,
        owner: i64,
    ) -> Result<Option<&Pod>, CommitError> {
        if !self.0.contains_key(cluster) {
            self.0.insert(cluster.to_owned(), HashMap::new());
        }
        let Some(known) = self.0.get_mut(cluster) else { return Ok(None) };
        if !known.contains_key(&owner) {
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            let pod = match explain::owner(db, owner)?.filter(|owner| owner.kind == OwnerKind::Pod) {
                Some(owner) => {
                    let described = described_pod(db, cluster, &owner.pod_uid, &owner.namespace)?;
                    Some(Pod { owner, described })
                }
                None => None,
            };
            known.insert(owner, pod);
        }
        Ok(known.get(&owner).and_then(Option::as_ref))
    }
}

impl Pod {
    /// Whose its usage in a slot is.
    pub(super) fn account(&self, tree: &Tree, cluster: &str, slot_ns: i64) -> Option<i64> {
        let Owner { namespace, user, account, partition, .. } = &self.owner;
        let [cluster, namespace, user, account, partition] =
            [cluster, namespace, user, account, partition].map(str::to_owned);
        let labels = self.described.labels_of(&cluster, &self.owner, slot_ns);
        let usage = Usage { cluster, namespace, user, account, partition };
        tree.owner_of(&usage, labels, slot_ns)
    }
}

impl Budgets {
    /// Takes note of what is told of pods and namespaces: sums with usage that may be another's now are let go of.
    pub(in crate::commit) fn told(
        &mut self,
        db: &Connection,
        versions: &[(Told, i64, Description)],
    ) -> Result<(), CommitError> {
        if !self.tree.is_by_labels() || self.spent.is_empty() && self.pods.0.is_empty() {
            return Ok(());
        }
        for (subject, ..) in versions {
            // Most pods are told of before their first usage comes, and most never hold a GPU.
            if subject.kind == SubjectKind::Namespace || stored::is_owner(db, &subject.name)? {
                self.spent.clear();
                self.pods = Pods::default();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whose the usage of what is asked for will be.
    pub(super) fn account_of(
        &self,
        context: Context<'_>,
        ask: &Ask,
        slot_ns: i64,
    ) -> Result<Option<i64>, CommitError> {
        let usage = ask.usage();
        if !self.tree.is_by_labels() {
            return Ok(self.tree.owner_of(&usage, Labels::default(), slot_ns));
        }
        let pod_uid = match &ask.subject {
            Some(Subject::Pod(uid)) => uid.clone(),
            _ => String::new(),
        };
        let described = described_pod(context.db, &ask.cluster, &pod_uid, &ask.namespace)?;
        let owner = Owner { pod_uid, namespace: ask.namespace.clone(), ..Owner::default() };
        let told = described.labels_of(&ask.cluster, &owner, slot_ns);
        let said = Some(&ask.labels).filter(|labels| !labels.is_empty());
        Ok(self.tree.owner_of(&usage, Labels { pod: told.pod.or(said), ..told }, slot_ns))
    }
}
