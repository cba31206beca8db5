//! Who may still spend: accounts in a tree, what usage is theirs ([`selector`]), over which time they are limited
//! ([`period`]), and holds, which reserve what work may cost before it runs (docs/budgets.md).
//!
//! Pure: `now` and sums are given. Amounts are whole nano-dollars. Not here: what was spent, which slots alone say, and where
//! accounts and holds are kept.

pub mod account;
pub mod act;
pub mod allocation;
pub mod amount;
pub mod available;
pub mod burn;
pub mod estimate;
pub mod grant;
pub mod hold;
pub mod period;
pub mod report;
pub mod run;
pub mod selector;
pub mod tree;

pub use account::{Limit, Spec, Standing, Status};
pub use act::{Act, Acted, Orphans, Tasks, What};
pub use grant::{Award, Awards, Grant, GrantChange};
pub use hold::{Ask, Hold, State, Subject};
pub use report::{Outcome, Report, Reported};
pub use selector::{Labels, Selector, Usage};
pub use tree::{Account, Binding, Change, Tree};

/// What was asked for is wrong, or does not fit what is there. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// A field of a request; `reason` says what would be right.
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
}

/// A field that is wrong.
pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> BudgetError {
    BudgetError::Invalid { field, reason: reason.into() }
}
