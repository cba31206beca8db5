//! What may still be spent: `limit - posted - provisional - what open holds reserve`, of an account and of all above it.
//!
//! Posted and provisional are one figure here: the charges of an account's usage in the slots of a limit's period, and of all
//! accounts below it.

use std::collections::{BTreeMap, HashMap};

use super::account::Limit;
use super::hold::Code;
use super::tree::{Account, Tree};

/// Nano-dollars by account, each with those of all below it, and within one by partition and model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums(HashMap<i64, BTreeMap<(String, String), i128>>);

impl Sums {
    /// Adds what one account spends or reserves, to it and to all above it.
    pub fn add(&mut self, tree: &Tree, account: i64, (partition, model): (&str, &str), nanos: i128) {
        if nanos == 0 {
            return;
        }
        for account in tree.path(account) {
            let of = self.0.entry(account.id).or_default();
            match of.get_mut(&(partition.to_owned(), model.to_owned())) {
                Some(sum) => *sum += nanos,
                None => drop(of.insert((partition.to_owned(), model.to_owned()), nanos)),
            }
        }
    }

    /// Adds another period's sums.
    pub fn merge(&mut self, other: Self) {
        for (account, parts) in other.0 {
            let of = self.0.entry(account).or_default();
            for (part, nanos) in parts {
                *of.entry(part).or_default() += nanos;
            }
        }
    }

    /// The sum of an account's parts whose partition and model `counts`.
    #[must_use]
    pub fn of(&self, account: i64, counts: impl Fn(&str, &str) -> bool) -> i128 {
        let parts = self.0.get(&account).into_iter().flatten();
        parts.filter(|((partition, model), _)| counts(partition, model)).map(|(_, sum)| sum).sum()
    }

    /// Parts, of all accounts together.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

/// How one limit of one account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand<'a> {
    pub account: &'a Account,
    pub limit: &'a Limit,
    /// The limit's, with the parts that have come to it.
    pub amount_nanos: i64,
    pub span_ns: (i64, i64),
    pub spent_nanos: i128,
    pub reserved_nanos: i128,
}

impl Stand<'_> {
    #[must_use]
    pub fn available_nanos(&self) -> i128 {
        i128::from(self.amount_nanos) - self.spent_nanos - self.reserved_nanos
    }

    /// What a check is refused with that it has no room for.
    #[must_use]
    pub fn code(&self) -> Code {
        match (&self.limit.partition, &self.limit.model) {
            (Some(_), _) => Code::PartitionLimitExceeded,
            (None, Some(_)) => Code::ModelLimitExceeded,
            (None, None) => Code::InsufficientBudget,
        }
    }
}

/// Every limit of an account and of those above it, as they stand at `now_ns`. `spent` gives the sums of a period.
///
/// # Errors
/// What `spent` fails with.
pub fn stands<'a, E>(
    tree: &'a Tree,
    account: i64,
    reserved: &Sums,
    now_ns: i64,
    mut spent: impl FnMut((i64, i64), i64, &Limit) -> Result<i128, E>,
) -> Result<Vec<Stand<'a>>, E> {
    let mut stands = Vec::new();
    for account in tree.path(account) {
        for limit in &account.spec.limits {
            let span_ns = limit.period.span(now_ns, account.spec.starts_ns);
            let spent_nanos = spent(span_ns, account.id, limit)?;
            let reserved_nanos = reserved.of(account.id, |partition, model| limit.reserves(partition, model));
            let amount_nanos = account.spec.amount_nanos(limit, now_ns);
            stands.push(Stand { account, limit, amount_nanos, span_ns, spent_nanos, reserved_nanos });
        }
    }
    Ok(stands)
}
