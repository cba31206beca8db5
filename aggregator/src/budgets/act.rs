//! What is asked of the one thread that writes accounts and holds, and what it answers. All of it is done in one transaction,
//! and answered after its commit.

use super::BudgetError;
use super::account::Spec;
use super::grant::{Award, GrantChange};
use super::hold::{Ask, Hold, State, Subject};
use super::report::Reported;
use super::run::{Report, Told};
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
    /// An account's `Change::Update` by somebody who saw it so, with what is bound to it: if it is another one by then, nothing is changed.
    Amend {
        spec: Box<Spec>,
        seen: Box<Spec>,
    },
    Grant(GrantChange),
    /// Is there enough, and if so, hold it: one step.
    Check(Box<Ask>),
    /// Says what a hold is for.
    Bind {
        transaction: [u8; 16],
        subject: Subject,
    },
    /// Says of which other jobs it also is: tasks of its array.
    Tasks {
        transaction: [u8; 16],
        jobs: Vec<String>,
    },
    /// It is for more of the job that `into` is the hold of: one hold of both from now on.
    Join {
        transaction: [u8; 16],
        into: [u8; 16],
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
    /// Ends holds of which nothing was heard for a while, or only says which.
    Recover(Orphans),
    /// Keeps what was reported of a job, and settles its hold.
    Report(Box<Reported>),
    /// What jobs without GPUs ran for: slots charge it.
    Ran(Report),
}

/// Holds that are taken to be left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    /// For so long nobody renewed it, nor did its job use anything.
    pub silent_ns: i64,
    /// Also of jobs and pods that were never seen to use anything: they may wait in a queue.
    pub waiting: bool,
    /// Of this account and those below it alone.
    pub account: Option<String>,
    /// Changes nothing.
    pub dry_run: bool,
}

/// What a hold is of besides its job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tasks {
    pub count: usize,
    /// Of those that were named now: they have an open hold of their own, or are of another one.
    pub elsewhere: Vec<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    Account(Box<Account>),
    /// It was changed since it was seen.
    Stale,
    Grant(Box<Award>),
    /// As it is now. Of a check: its answer, also where it was given before.
    Hold(Box<Hold>),
    Tasks(Box<Hold>, Tasks),
    /// Holds as they were, each with the state that it ends in; and whether there are more.
    Recovered(Vec<(Hold, State)>, bool),
    /// The hold that was settled, or why it could not be; `None` if there was none to settle.
    Reported(Option<Result<Box<Hold>, BudgetError>>),
    Ran(Told),
}
