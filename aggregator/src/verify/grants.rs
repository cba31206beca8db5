//! Grants again, from the journal alone: what was said of each, when it was made, changed and closed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Report;
use crate::budgets::{Award, GrantChange};
use crate::store::audit::Entry;
use crate::store::{Connection, StoreError, grants};

/// What the journal says, by number.
#[derive(Default)]
pub(super) struct Granted(BTreeMap<String, Award>);

#[derive(Deserialize)]
struct Changed {
    change: GrantChange,
}

impl Granted {
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let damaged = |why: String| StoreError::Damaged {
            what: "journal",
            detail: format!("entry {}: {why}", entry.id),
        };
        let Changed { change } =
            serde_json::from_slice(&entry.payload).map_err(|error| damaged(error.to_string()))?;
        let unknown = || damaged("it is of a grant that there is not".to_owned());
        match change {
            GrantChange::Create(grant) => {
                // Grants are numbered as they are made.
                let id = i64::try_from(self.0.len()).unwrap_or(i64::MAX - 1) + 1;
                let (created_ns, number) = (entry.at_ns, grant.number.clone());
                let award = Award { id, grant: *grant, created_ns, updated_ns: created_ns, closed_ns: None };
                self.0.insert(number, award);
            }
            GrantChange::Update(grant) => {
                let award = self.0.get_mut(&grant.number).ok_or_else(unknown)?;
                (award.grant, award.updated_ns) = (*grant, entry.at_ns);
            }
            GrantChange::Close(number) => {
                let award = self.0.get_mut(&number).ok_or_else(unknown)?;
                (award.closed_ns, award.updated_ns) = (Some(entry.at_ns), entry.at_ns);
            }
        }
        Ok(())
    }

    /// Compares it with what is stored.
    pub(super) fn check(&self, db: &Connection, report: &mut Report) -> Result<(), StoreError> {
        let stored = grants::awards(db)?;
        for award in stored.iter() {
            let number = &award.grant.number;
            if self.0.get(number) != Some(award) {
                report.note(|| format!("grant {number:?} is not as the journal says"));
            }
        }
        let (is, expected) = (stored.iter().count(), self.0.len());
        if is != expected {
            report.note(|| format!("there are {is} grants, not {expected}"));
        }
        Ok(())
    }
}
