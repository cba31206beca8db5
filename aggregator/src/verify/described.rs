//! How pods and namespaces were, again from the journal: each version must be stored as it was journalled, and none other.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::Report;
use crate::model::{Described, SubjectKind};
use crate::store::audit::{self, Entry, VersionKey};
use crate::store::{Connection, StoreError};

/// What the journal tells behind the purge horizon.
#[derive(Debug, Default)]
pub(super) struct Journalled {
    /// Hashes of descriptions; what was said last of a slot holds.
    versions: BTreeMap<VersionKey, [u8; 32]>,
    ended: BTreeMap<(String, SubjectKind, String), i64>,
}

impl Journalled {
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let damaged = |detail: String| StoreError::Damaged { what: "journal", detail };
        let news: Described = serde_json::from_slice(&entry.payload)
            .map_err(|e| damaged(format!("entry {}: {e}", entry.id)))?;
        for (subject, from_ns, description) in news.versions {
            let json =
                serde_json::to_vec(&description).map_err(|e| damaged(format!("entry {}: {e}", entry.id)))?;
            let key = VersionKey { cluster: news.cluster.clone(), subject, from_ns };
            self.versions.insert(key, Sha256::digest(json).into());
        }
        for (kind, name, ended_ns) in news.ended {
            self.ended.insert((news.cluster.clone(), kind, name), ended_ns);
        }
        Ok(())
    }

    /// Compares with what is stored at and behind `horizon_ns`. What lies before is known by its hash, if one was taken.
    pub(super) fn check(
        mut self,
        db: &Connection,
        (horizon_ns, before): (i64, Option<&str>),
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let mut stored = BTreeSet::new();
        audit::described(db, |key, json, sha256, ended_ns| {
            let VersionKey { cluster, subject, from_ns } = &key;
            if Sha256::digest(json)[..] != sha256 {
                report.note(|| format!("a description of {subject:?} is not what its hash says"));
            }
            let end = (cluster.clone(), subject.kind, subject.name.clone());
            if self.ended.get(&end).is_some_and(|expected_ns| *expected_ns != ended_ns) {
                report.note(|| {
                    format!("{subject:?} of {cluster} ended at {ended_ns} ns, which is not journalled")
                });
            }
            if *from_ns >= horizon_ns && self.versions.get(&key) != Some(&sha256) {
                report.note(|| {
                    format!("{subject:?} of {cluster} from {from_ns} ns on is not as it is journalled")
                });
            }
            stored.insert(key);
        })?;
        self.versions.retain(|key, _| key.from_ns >= horizon_ns && !stored.contains(key));
        for VersionKey { cluster, subject, from_ns } in self.versions.keys() {
            // A pod that never held a GPU may have been let go of, once it had ended.
            let end = self.ended.get(&(cluster.clone(), subject.kind, subject.name.clone()));
            let gone = end.is_some_and(|ended_ns| *ended_ns != 0);
            if !gone || subject.kind != SubjectKind::Pod || audit::ever_held(db, subject)? {
                report.note(|| {
                    format!("{subject:?} of {cluster} from {from_ns} ns on is journalled, and not stored")
                });
            }
        }
        if let Some(before) = before
            && audit::described_hash(db, horizon_ns)? != before
        {
            report.note(|| "what pods and namespaces were before the horizon is not what it was".to_owned());
        }
        Ok(())
    }
}
