//! What a check is answered: what the work may cost, what is held for it, and what stands against it.

use super::sums::Room;
use super::{Budgets, CommitError, Context, REMEMBERED_MAX, Refusal};
use crate::budgets::account::{Estimate, Fail, Standing};
use crate::budgets::estimate::Ratio;
use crate::budgets::hold::{Code, Escrow, Found};
use crate::budgets::{Account, Ask, BudgetError, Tree, amount};
use crate::store::budgets as stored;

/// See the module.
pub(super) struct Decided {
    pub(super) cost_nanos: Option<i64>,
    pub(super) amount_nanos: i64,
    pub(super) available_nanos: Option<i64>,
    pub(super) refusal: Option<Refusal>,
    pub(super) found: Found,
}

impl Budgets {
    pub(super) fn decide(
        &mut self,
        context: Context<'_>,
        account: i64,
        ask: &Ask,
    ) -> Result<Result<Decided, BudgetError>, CommitError> {
        if let Some(amount_nanos) = ask.given_nanos {
            return self.given(context, account, ask, amount_nanos).map(Ok);
        }
        let path: Vec<&Account> = self.tree.path(account).collect();
        let Some(own) = path.first() else { return Err(CommitError::Bug("a bound account is gone")) };
        let (buffer_permille, fail, estimate) = (own.spec.buffer_permille, own.spec.fail, own.spec.estimate);
        let down = path.iter().map(|account| (account, Tree::standing(account, context.now_ns)));
        let mut refusal = down.into_iter().find(|(_, standing)| *standing != Standing::Active).map(
            |(account, standing)| {
                let code = match standing {
                    Standing::Expired => Code::AccountExpired,
                    _ => Code::AccountInactive,
                };
                (code, format!("account {:?} is {}", account.spec.name, standing.name()))
            },
        );
        let by_price = match self.price(context, ask, buffer_permille)? {
            Ok(by_price) => by_price,
            Err(error) => return Ok(Err(error)),
        };
        let priced = by_price.map(|by| amount::estimated(by, &ask.estimate, buffer_permille));
        if priced.is_none() && fail == Fail::Closed {
            let why = "gpu_model: the price book has no price for these GPUs".to_owned();
            refusal = refusal.or(Some((Code::Unpriced, why)));
        }
        let cost_nanos = priced.map(|(cost, _)| cost);
        // A part of what it may cost by its price, whatever an estimator says.
        let typical_nanos = match by_price.map(|(cost, _)| cost).filter(|cost| *cost > 0) {
            Some(cost) => self.ratio(context, account, ask)?.map(|ratio| ratio.of(cost)),
            None => None,
        };
        let whole_nanos = priced.map_or(0, |(_, amount)| amount);
        let less = typical_nanos.filter(|_| estimate == Estimate::Measured);
        let less = less.and_then(|typical| amount::buffered(typical, buffer_permille));
        let less = less.filter(|amount| *amount < whole_nanos);
        let amount_nanos = less.unwrap_or(whole_nanos);
        let Room { available_nanos, short, found } = self.room(context, account, ask, amount_nanos)?;
        // Work that was let in is held for, be it that nothing is left.
        refusal = refusal.or(short).filter(|_| ask.overdraft.is_empty());
        let found = Found { typical_nanos, measured: less.is_some(), ..found };
        Ok(Ok(Decided { cost_nanos, amount_nanos, available_nanos, refusal, found }))
    }

    /// So much, whatever there is: it is held already, here or elsewhere.
    pub(super) fn given(
        &mut self,
        context: Context<'_>,
        account: i64,
        ask: &Ask,
        amount_nanos: i64,
    ) -> Result<Decided, CommitError> {
        let Room { available_nanos, found, .. } = self.room(context, account, ask, 0)?;
        Ok(Decided { cost_nanos: Some(amount_nanos), amount_nanos, available_nanos, refusal: None, found })
    }

    /// What such work of an account was charged, as a part of what was estimated. Not asked for money that a gate spends by itself: what
    /// it will be spent on is not known.
    fn ratio(&mut self, context: Context<'_>, account: i64, ask: &Ask) -> Result<Option<Ratio>, CommitError> {
        if ask.escrow != Escrow::None {
            return Ok(None);
        }
        if !self.samples.contains_key(&account) {
            if self.samples.values().map(Vec::len).sum::<usize>() > REMEMBERED_MAX {
                self.samples.clear();
            }
            self.samples.insert(account, stored::samples(context.db, account)?);
        }
        let own = self.samples.get(&account).into_iter().flatten();
        Ok(Ratio::median(own.filter(|of| of.partition == ask.partition && of.model == ask.model)))
    }
}
