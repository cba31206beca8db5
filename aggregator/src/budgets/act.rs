//! What is asked of the one thread that writes accounts and holds, and what it answers. All of it is done in one transaction,
//! and answered after its commit.

use super::hold::{Ask, Hold, Subject};
use super::tree::{Account, Change};

/// What somebody wants done; `by` is who.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    pub what: What,
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Account(Change),
    /// Is there enough, and if so, hold it: one step.
    Check(Box<Ask>),
    /// Says what a hold is for.
    Bind {
        transaction: [u8; 16],
        subject: Subject,
    },
    /// Another lease from now on.
    Renew {
        transaction: [u8; 16],
    },
    /// The job has ended; `subject`, if it was not said before.
    Settle {
        transaction: [u8; 16],
        subject: Option<Subject>,
    },
    /// It will never run.
    Void {
        transaction: [u8; 16],
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    Account(Box<Account>),
    /// As it is now. Of a check: its answer, also where it was given before.
    Hold(Box<Hold>),
}
