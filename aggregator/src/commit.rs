//! The one thread that writes the ledger. Submissions wait in a bounded queue; all that wait are committed together
//! (group commit), so that one flush of the disk serves many agents; each answer goes out after its commit.
//!
//! Constraint: whatever one submission holds, it harms no other. A bad batch was found bad by validation and is
//! journalled as refused; if a group fails all the same, each of it is tried alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::resync::Reason;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use crate::budgets::{Act, Acted, BudgetError};
use crate::ledger::settle::NotConserved;
use crate::live::Live;
use crate::metrics::{Metrics, Operation};
use crate::model::{AlertAct, AlertActed, Id, NodeName, Order, OrderError, Told, UsageBatch};
use crate::prices::Book;
use crate::store::pen;
use crate::store::sql::{self, Connection};
use crate::store::write;
use crate::store::{Store, StoreError};

mod alerts;
mod budgets;
mod close;
mod describe;
mod displace;
mod existence;
pub mod fold;
mod jobs;
mod nodes;
mod priced;
mod take;
mod turn;
mod working;
mod written;

pub use close::Retention;
pub use describe::{LEASE_NS, Taken};
use turn::{Turn, take_up};
use working::Working;

/// Submissions that may wait. Each agent has at most a few on the way; further ones wait in their streams.
pub const QUEUE_MAX: usize = 1024;
/// Submissions in one transaction.
const GROUP_MAX: usize = 512;
/// Windows in one transaction, give or take a batch: what a backlog makes the working set grow by at once.
const GROUP_WINDOWS_MAX: usize = 8_192;
/// Slots that are priced again in one transaction after the book changed.
const REPRICE_MAX: u32 = 500;

/// Something to commit, and where its answer goes.
#[derive(Debug)]
pub enum Submission {
    Hello {
        hello: HelloFacts,
        answer: oneshot::Sender<Result<Position, Unavailable>>,
    },
    Batch {
        batch: Box<Sealed>,
        answer: oneshot::Sender<Result<Verdict, Unavailable>>,
    },
    /// The book to price by from now on; slots priced by another are priced again.
    Book(Arc<Book>),
    /// What a person wants done; answered with what was done, in words.
    Order {
        order: Order,
        answer: oneshot::Sender<Result<String, OrderError>>,
    },
    /// What is seen of a cluster's pods and namespaces.
    Told {
        told: Arc<Told>,
        answer: oneshot::Sender<Result<Taken, Unavailable>>,
    },
    /// What is to be done to accounts and holds.
    Budget {
        act: Box<Act>,
        answer: oneshot::Sender<Result<Result<Acted, BudgetError>, Unavailable>>,
    },
    /// What is to be done to alerts.
    Alerts {
        act: AlertAct,
        answer: oneshot::Sender<Result<AlertActed, Unavailable>>,
    },
    /// Time has passed: silent devices go on existing, slots close. Carries nothing, so one more or less is no harm.
    Tick,
}

impl Submission {
    fn windows(&self) -> usize {
        match self {
            Self::Batch { batch, .. } => batch.valid.as_ref().map_or(0, |valid| valid.windows.len()),
            _ => 0,
        }
    }
}

/// What an agent's Hello says that the ledger keeps.
#[derive(Debug, Clone)]
pub struct HelloFacts {
    pub node: NodeName,
    pub epoch: Id,
    pub oldest_seq: u64,
    pub agent_version: String,
    pub sent_at_ns: i64,
}

/// Where the ledger stands with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub cursor_seq: u64,
    pub backed_up_seq: u64,
    pub now_ns: i64,
}

/// A batch as it came, and what validation says of it.
#[derive(Debug)]
pub struct Sealed {
    pub node: NodeName,
    pub epoch: Id,
    pub seq: u64,
    /// The agent's wall clock when it sent it; 0 if it did not say.
    pub sent_at_ns: i64,
    pub payload: Vec<u8>,
    pub sha256: [u8; 32],
    pub valid: Result<Arc<UsageBatch>, String>,
}

/// The ledger's answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Committed { outcome: Outcome, detail: String, quarantined: Vec<&'static str>, backed_up_seq: u64 },
    Resync { next_seq: u64, reason: Reason },
}

/// Nothing was committed; the agent keeps its batch and tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// A transaction failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    NotConserved(#[from] NotConserved),
    #[error("ledger: {0}; this is a bug")]
    Bug(&'static str),
}

impl From<sql::Error> for CommitError {
    fn from(error: sql::Error) -> Self {
        Self::Store(error.into())
    }
}

/// See the module.
pub struct Committer {
    db: Connection,
    clock: Clock,
    book: Arc<Book>,
    /// Last slot that was priced again, while that is going on.
    repricing: Option<(i64, i64)>,
    /// A book whose transaction failed.
    untaken_book: Option<Arc<Book>>,
    /// Time has passed, and not all that is due by it is done.
    due: bool,
    turn: Turn,
    /// The book that this process was given last, whatever the journal has.
    filed: Arc<Book>,
    /// The ledger's incarnation, as it stood in the last transaction.
    pub incarnation: Arc<AtomicU64>,
    /// For how long detail is kept.
    pub retention: Retention,
    /// The machine's monotonic time, whatever clock the ledger lives by, at which it last took up work.
    pub alive_ns: Arc<AtomicI64>,
    working: Working,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
}

enum Done {
    Hello(Position),
    Batch(Verdict),
    Order(Result<String, OrderError>),
    Told(Taken),
    Budget(Box<Result<Acted, BudgetError>>),
    Alerts(AlertActed),
    Tick,
    Nothing,
}

impl Committer {
    /// # Errors
    /// If the store cannot be opened for writing.
    pub fn new(
        store: &Store,
        clock: Clock,
        book: Arc<Book>,
        live: Arc<Live>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let db = store.writer()?;
        let working = Working::default();
        let holder = pen::holder()?;
        Ok(Self {
            db,
            clock,
            filed: Arc::clone(&book),
            book,
            repricing: None,
            untaken_book: None,
            due: false,
            turn: Turn { holder, known: None, count: 0, set_back: false },
            incarnation: Arc::default(),
            retention: Retention::default(),
            alive_ns: Arc::default(),
            working,
            live,
            metrics,
        })
    }

    /// Commits until every sender is gone, then returns: what was submitted before is committed.
    pub fn run(mut self, mut queue: mpsc::Receiver<Submission>) {
        let book = Arc::clone(&self.book);
        self.commit(vec![Submission::Book(book)]);
        loop {
            let mut group: Vec<Submission> =
                self.untaken_book.take().map(Submission::Book).into_iter().collect();
            if self.repricing.is_none() && !self.due {
                match queue.blocking_recv() {
                    Some(first) => group.push(first),
                    None => return,
                }
            }
            let mut windows: usize = group.iter().map(Submission::windows).sum();
            while group.len() < GROUP_MAX && windows < GROUP_WINDOWS_MAX {
                let next = queue.try_recv();
                windows += next.as_ref().map_or(0, Submission::windows);
                match next {
                    Ok(next) => group.push(next),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) if group.is_empty() => return,
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            }
            self.alive_ns.store(Clock::system().monotonic_ns(), Ordering::Relaxed);
            if !group.is_empty() {
                self.commit(group);
            }
            if self.repricing.is_some() {
                self.reprice_some();
            } else if self.due {
                self.do_due();
            }
        }
    }

    /// Commits what is given, and does all that is due after it: for whoever drives the ledger step by step.
    pub fn commit_now(&mut self, group: Vec<Submission>) {
        if !group.is_empty() {
            self.commit(group);
        }
        while self.due || self.repricing.is_some() {
            if self.repricing.is_some() {
                self.reprice_some();
            } else {
                self.do_due();
            }
        }
    }

    fn commit(&mut self, group: Vec<Submission>) {
        match self.transaction(&group) {
            Ok(done) => {
                for (submission, done) in group.into_iter().zip(done) {
                    self.answer(submission, done);
                }
                self.working.trim(self.clock.wall_ns());
            }
            Err(error) if group.len() > 1 => {
                self.failed(Operation::Commit, &error);
                tracing::warn!(error = chain(&error), "A group commit failed; trying each alone.");
                self.working = Working::default();
                for submission in group {
                    self.commit(vec![submission]);
                }
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "The ledger could not commit.");
                self.failed(Operation::Commit, &error);
                self.working = Working::default();
                for submission in group {
                    match submission {
                        Submission::Hello { answer, .. } => drop(answer.send(Err(Unavailable))),
                        Submission::Batch { answer, .. } => drop(answer.send(Err(Unavailable))),
                        Submission::Order { answer, .. } => drop(answer.send(Err(OrderError::Unavailable))),
                        Submission::Told { answer, .. } => drop(answer.send(Err(Unavailable))),
                        Submission::Budget { answer, .. } => drop(answer.send(Err(Unavailable))),
                        Submission::Alerts { answer, .. } => drop(answer.send(Err(Unavailable))),
                        Submission::Tick => {}
                        // Comes again with the next submission.
                        Submission::Book(book) => self.untaken_book = Some(book),
                    }
                }
            }
        }
    }

    /// Counts what is the store's fault.
    fn failed(&self, at: Operation, error: &CommitError) {
        if matches!(error, CommitError::Store(_)) {
            self.metrics.store_failed(at);
        }
    }

    fn transaction(&mut self, group: &[Submission]) -> Result<Vec<Done>, CommitError> {
        let started_ns = self.clock.monotonic_ns();
        let now_ns = self.clock.wall_ns();
        let db = self.db.begin()?;
        take_up(
            &db,
            &mut self.turn,
            &self.incarnation,
            now_ns,
            (&mut self.working, &mut self.book, &mut self.repricing),
        )?;
        let mut done = Vec::with_capacity(group.len());
        for submission in group {
            done.push(match submission {
                Submission::Hello { hello, .. } => Done::Hello(take::hello(&db, hello, now_ns)?),
                Submission::Batch { batch, .. } => {
                    Done::Batch(take::batch(&db, &mut self.working, &self.book, batch, now_ns)?)
                }
                Submission::Book(book) => {
                    (self.book, self.filed) = (Arc::clone(book), Arc::clone(book));
                    if take::book(&db, book, now_ns)? {
                        self.repricing = Some((i64::MIN, 0));
                        self.working.settle_all_ends(&db, book)?;
                    }
                    Done::Nothing
                }
                Submission::Order { order, .. } => {
                    Done::Order(take::order(&db, &mut self.working, &self.book, order, now_ns)?)
                }
                Submission::Told { told, .. } => {
                    Done::Told(describe::told(&db, &mut self.working, &self.turn.holder, told, now_ns)?)
                }
                Submission::Budget { act, .. } => {
                    Done::Budget(Box::new(take::budget(&db, &mut self.working, &self.book, act, now_ns)?))
                }
                Submission::Alerts { act, .. } => {
                    Done::Alerts(alerts::act(&db, &self.turn.holder, act, now_ns)?)
                }
                Submission::Tick => Done::Tick,
            });
        }
        self.working.write(&db, &self.book)?;
        db.commit()?;
        self.committed();
        self.metrics.commit_ns(self.clock.monotonic_ns() - started_ns);
        Ok(done)
    }

    fn answer(&mut self, submission: Submission, done: Done) {
        match (submission, done) {
            (_, Done::Tick) => self.due = true,
            (Submission::Hello { answer, .. }, Done::Hello(position)) => drop(answer.send(Ok(position))),
            (Submission::Batch { batch, answer }, Done::Batch(verdict)) => {
                if let Verdict::Committed { outcome, detail, quarantined, .. } = &verdict {
                    self.count(&batch, *outcome, quarantined);
                    if matches!(outcome, Outcome::Refused | Outcome::Quarantined) {
                        let NodeName { cluster, node } = &batch.node;
                        tracing::warn!(cluster, node, batch.seq, detail, "A batch did not enter whole.");
                    }
                }
                drop(answer.send(Ok(verdict)));
            }
            (Submission::Order { answer, .. }, Done::Order(result)) => drop(answer.send(result)),
            (Submission::Told { answer, .. }, Done::Told(taken)) => drop(answer.send(Ok(taken))),
            (Submission::Budget { answer, .. }, Done::Budget(result)) => drop(answer.send(Ok(*result))),
            (Submission::Alerts { answer, .. }, Done::Alerts(acted)) => drop(answer.send(Ok(acted))),
            _ => {}
        }
    }

    fn count(&self, batch: &Sealed, outcome: Outcome, quarantined: &[&'static str]) {
        self.metrics.batch(match outcome {
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
            Outcome::Refused => "refused",
            Outcome::Quarantined => "quarantined",
            Outcome::Unspecified => "unspecified",
        });
        self.metrics.ingest_bytes(batch.payload.len() as u64);
        for kind in quarantined {
            self.metrics.quarantined(kind, 1);
        }
        if let (Outcome::Accepted | Outcome::Quarantined, Ok(valid)) = (outcome, &batch.valid) {
            let now_ns = self.clock.wall_ns();
            self.metrics.windows((valid.windows.len() - quarantined.len()) as u64);
            self.metrics.batch_age_ns(now_ns.saturating_sub(valid.sealed_at_ns));
            if outcome == Outcome::Accepted {
                self.live.apply(&batch.node, valid, now_ns);
                self.metrics.held_idle(&batch.node.cluster, valid);
            }
        }
    }

    /// Does a part of what is due; forgets about it after a failure, until the next tick.
    fn do_due(&mut self) {
        self.due = self.try_due().unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "What is due could not be done; trying again later.");
            self.failed(Operation::Close, &error);
            self.working = Working::default();
            false
        });
    }

    fn try_due(&mut self) -> Result<bool, CommitError> {
        let now_ns = self.clock.wall_ns();
        let db = self.db.begin()?;
        take_up(
            &db,
            &mut self.turn,
            &self.incarnation,
            now_ns,
            (&mut self.working, &mut self.book, &mut self.repricing),
        )?;
        let more =
            close::step(&db, &mut self.working, (&self.book, self.retention), &self.turn.holder, now_ns)?;
        self.working.write(&db, &self.book)?;
        db.commit()?;
        self.committed();
        self.working.trim(now_ns);
        Ok(more)
    }

    /// Prices the next slots again. Restarts from the first slot after a failure or a restart: pricing a slot twice
    /// changes nothing.
    fn reprice_some(&mut self) {
        if let Err(error) = self.try_reprice() {
            tracing::error!(
                error = chain(&error),
                "Slots could not be priced by the new book; trying again."
            );
            self.failed(Operation::Reprice, &error);
            self.working = Working::default();
            self.repricing = Some((i64::MIN, 0));
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }

    fn try_reprice(&mut self) -> Result<(), CommitError> {
        let now_ns = self.clock.wall_ns();
        let db = self.db.begin()?;
        take_up(
            &db,
            &mut self.turn,
            &self.incarnation,
            now_ns,
            (&mut self.working, &mut self.book, &mut self.repricing),
        )?;
        let Some(after) = self.repricing else { return Ok(()) };
        let slots = write::slots_after(&db, after, REPRICE_MAX)?;
        for (start_ns, tenure) in &slots {
            self.working.slot(&db, *start_ns, *tenure)?.dirty = true;
        }
        self.working.write(&db, &self.book)?;
        let last = slots.last().copied();
        if last.is_none() {
            write::set_applied_book(&db, self.book.text())?;
        }
        db.commit()?;
        self.committed();
        self.repricing = last;
        self.working.trim(now_ns);
        Ok(())
    }

    fn committed(&mut self) {
        self.turn.known = Some(self.turn.count);
        self.metrics.budgets.add(&self.working.take_budget_counts());
        if std::mem::take(&mut self.turn.set_back) {
            // The journal may have lost it.
            self.untaken_book = Some(Arc::clone(&self.filed));
        }
    }
}

#[cfg(test)]
mod tests;
