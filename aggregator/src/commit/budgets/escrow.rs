//! Money that gates spend by themselves: leased for a time, taken out again hold by hold, and free only once that time and a margin
//! are over and somebody has looked which work was let in for it.
//!
//! So a gate that is cut off may go on until its lease ends, and another one beside it spends nothing of the same money.

use super::{Answer, Budgets, CommitError, Context, journal};
use crate::budgets::hold::{Escrow, Event, State};
use crate::budgets::{Acted, Ask, BudgetError, Hold};
use crate::store::budgets as stored;
use crate::store::write::JournalKind;

/// How long after a lease's end nobody spends of it any more, whatever its gate's clock does.
const MARGIN_NS: i64 = 30_000_000_000;

impl Budgets {
    /// A hold for work that was let in for an escrow: its money moves from there to here.
    pub(super) fn draw(
        &mut self,
        context: Context<'_>,
        ask: &Ask,
        transaction: &[u8; 16],
        amount_nanos: i64,
        by: &str,
    ) -> Result<Answer, CommitError> {
        let known = self.transactions.get(transaction).and_then(|id| self.holds.get(id));
        let Some(before) = known.filter(|hold| hold.ask.escrow == Escrow::Lease) else {
            let text = "escrow_id: there is no such open escrow; use overdraft for work that runs already";
            return Ok(Err(BudgetError::Conflict(text.to_owned())));
        };
        if before.ask.cluster != ask.cluster || before.amount_nanos < amount_nanos {
            let left = tonnage_proto::decimal::from_nanos(before.amount_nanos.into());
            let text =
                format!("escrow_amount: that escrow is of {:?} and has {left} left", before.ask.cluster);
            return Ok(Err(BudgetError::Conflict(text)));
        }
        let before = before.clone();
        let left = Hold { amount_nanos: before.amount_nanos - amount_nanos, ..before.clone() };
        let event = Event::Drawn { amount_nanos: left.amount_nanos, by: by.to_owned() };
        journal(context, JournalKind::Hold, transaction, &event, by)?;
        stored::update_hold(context.db, &left)?;
        let account = left.account;
        self.forget(&before);
        self.remember(left);
        let decided = self.given(context, account, ask, amount_nanos)?;
        let hold = self.hold(context, account, ask, decided, by)?;
        Ok(Ok(Acted::Hold(Box::new(hold))))
    }
}

pub(super) fn may_not_bind(hold: &Hold) -> Result<(), BudgetError> {
    not_a_lease(hold, "is of no job; take a hold for the job out of it")
}

pub(super) fn may_not_renew(hold: &Hold) -> Result<(), BudgetError> {
    not_a_lease(hold, "is not made longer; lease another one")
}

fn not_a_lease(hold: &Hold, right: &str) -> Result<(), BudgetError> {
    if hold.ask.escrow != Escrow::Lease {
        return Ok(());
    }
    Err(BudgetError::Conflict(format!("transaction_id: {} is an escrow and {right}", hold.transaction_id())))
}

/// While a gate may still spend of it, what is left of an escrow is not free.
pub(super) fn may_end(hold: &Hold, now_ns: i64) -> Result<(), BudgetError> {
    let free_ns = hold.until_ns.saturating_add(MARGIN_NS);
    if hold.ask.escrow != Escrow::Lease || hold.state != State::Open || now_ns >= free_ns {
        return Ok(());
    }
    let seconds = (free_ns - now_ns) / 1_000_000_000 + 1;
    let id = hold.transaction_id();
    Err(BudgetError::Conflict(format!(
        "transaction_id: a gate may spend the escrow {id} for {seconds} s more"
    )))
}
