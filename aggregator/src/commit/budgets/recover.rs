//! Holds that are left behind, ended at somebody's word before their lease is over.

use super::{Answer, Budgets, Context, EXPIRED_MAX};
use crate::budgets::hold::State;
use crate::budgets::{Acted, BudgetError, Hold, Orphans, invalid};
use crate::commit::CommitError;

/// A slot: usage within one is not late yet.
const SILENT_NS_MIN: i64 = tonnage_proto::limits::SLOT_NS;

impl Budgets {
    /// Ends holds of which nothing was heard, or says which it would end.
    pub(super) fn recover(
        &mut self,
        context: Context<'_>,
        orphans: &Orphans,
        by: &str,
    ) -> Result<Answer, CommitError> {
        let chosen = match self.orphans(orphans, context.now_ns) {
            Ok(chosen) => chosen,
            Err(error) => return Ok(Err(error)),
        };
        let more = chosen.len() > EXPIRED_MAX;
        let chosen: Vec<(Hold, State)> = chosen.into_iter().take(EXPIRED_MAX).collect();
        if !orphans.dry_run {
            for (hold, state) in &chosen {
                let ended = self.with(context, &hold.transaction, |budgets, hold| {
                    budgets.end(context, hold, *state, by)
                })?;
                if let Err(error) = ended {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(Acted::Recovered(chosen, more)))
    }

    fn orphans(&self, orphans: &Orphans, now_ns: i64) -> Result<Vec<(Hold, State)>, BudgetError> {
        let Orphans { silent_ns, waiting, account, dry_run: _ } = orphans;
        if *silent_ns < SILENT_NS_MIN {
            let least = SILENT_NS_MIN / 1_000_000_000;
            let reason = format!("is less than {least}, a slot, within which usage is not late");
            return Err(invalid("silent_seconds", reason));
        }
        let above = account.as_ref().map(|name| self.tree.named(name)).transpose()?;
        let own = |hold: &Hold| {
            above.is_none_or(|above| self.tree.path(hold.account).any(|account| account.id == above.id))
        };
        let chosen = self
            .holds
            .values()
            .filter(|hold| own(hold))
            .filter_map(|hold| Some((hold.clone(), hold.orphaned(now_ns, *silent_ns, *waiting)?)));
        Ok(chosen.take(EXPIRED_MAX + 1).collect())
    }
}
