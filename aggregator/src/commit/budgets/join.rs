//! A hold for more of a job, as more time, becomes one with the job's own: so what the job is charged counts against both, and
//! nothing twice while it runs. Its money moves, and nothing else is asked.

use super::{Answer, Budgets, CommitError, Context, journal};
use crate::budgets::hold::{Escrow, Event, State};
use crate::budgets::{Acted, BudgetError, Hold};
use crate::store::budgets as stored;
use crate::store::write::JournalKind;

impl Budgets {
    /// What was joined is settled with nothing; said twice it is done once.
    pub(super) fn join(
        &mut self,
        context: Context<'_>,
        transaction: &[u8; 16],
        into: &[u8; 16],
        by: &str,
    ) -> Result<Answer, CommitError> {
        let conflict = |text: String| Ok(Err(BudgetError::Conflict(text)));
        let Some(own) = self.open(into) else {
            return conflict("into: there is no such open hold".to_owned());
        };
        let Some(more) = self.open(transaction) else {
            return Ok(match stored::hold_by_transaction(context.db, transaction)? {
                Some(more) if more.state == State::Settled && more.amount_nanos == 0 => {
                    Ok(Acted::Hold(Box::new(own)))
                }
                Some(more) => {
                    let text =
                        format!("transaction_id: {} is {} already", more.transaction_id(), more.state.name());
                    Err(BudgetError::Conflict(text))
                }
                None => Err(BudgetError::NotFound("transaction_id: there is no such hold".to_owned())),
            });
        };
        if let Some(text) = unlike(&more, &own) {
            return conflict(text.to_owned());
        }
        let Some(amount_nanos) = own.amount_nanos.checked_add(more.amount_nanos) else {
            return conflict("into: both together are more than the ledger counts".to_owned());
        };
        let joined = Hold { amount_nanos, ..own.clone() };
        let event = Event::Joined { amount_nanos, by: by.to_owned() };
        journal(context, JournalKind::Hold, into, &event, by)?;
        stored::update_hold(context.db, &joined)?;
        self.forget(&own);
        self.remember(joined.clone());
        let ended = self.with(context, transaction, |budgets, hold| {
            hold.amount_nanos = 0;
            let event = Event::Drawn { amount_nanos: 0, by: by.to_owned() };
            journal(context, JournalKind::Hold, transaction, &event, by)?;
            budgets.end(context, hold, State::Settled, by)
        })?;
        Ok(ended.map(|_| Acted::Hold(Box::new(joined))))
    }

    fn open(&self, transaction: &[u8; 16]) -> Option<Hold> {
        self.transactions.get(transaction).and_then(|id| self.holds.get(id)).cloned()
    }
}

/// Why the one cannot become one with the other.
fn unlike(more: &Hold, own: &Hold) -> Option<&'static str> {
    let limits = |hold: &Hold| (hold.account, hold.ask.cluster.clone(), hold.ask.partition.clone());
    if more.ask.escrow == Escrow::Lease || own.ask.escrow == Escrow::Lease {
        Some("transaction_id: an escrow is of no job")
    } else if more.subject.is_some() {
        Some("transaction_id: it is the hold of a job by itself")
    } else if own.subject.is_none() {
        Some("into: it is of no job yet; bind it first")
    } else if limits(more) != limits(own) || more.ask.model != own.ask.model {
        // They stand in different limits.
        Some("into: it is of another account, cluster, partition or model")
    } else {
        None
    }
}
