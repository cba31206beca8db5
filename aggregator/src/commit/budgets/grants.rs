//! Grants in the commit thread's transaction.

use super::{Answer, Budgets, Context, journal};
use crate::budgets::{Acted, GrantChange};
use crate::commit::CommitError;
use crate::store::grants;
use crate::store::write::JournalKind;

impl Budgets {
    pub(super) fn grant(
        &mut self,
        context: Context<'_>,
        change: &GrantChange,
        by: &str,
    ) -> Result<Answer, CommitError> {
        let mut awards = self.awards.clone();
        let award = match awards.apply(change, &self.tree, context.now_ns) {
            Ok(award) => award,
            Err(error) => return Ok(Err(error)),
        };
        grants::put(context.db, &award)?;
        journal(context, JournalKind::Grant, &[], &serde_json::json!({ "change": change, "by": by }), by)?;
        self.awards = awards;
        Ok(Ok(Acted::Grant(Box::new(award))))
    }
}
