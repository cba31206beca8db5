//! Accounts and holds in the commit thread's transaction: checks are decided by what the transaction itself has written, one after
//! the other, so that no two spend the same money.
//!
//! What is remembered between transactions is a cache of the store, as all of the working set: accounts, open holds, and sums
//! of the periods that were asked about, which each change of a slot's rows moves on.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use tonnage_proto::limits::slot_start;

use super::CommitError;
use crate::budgets::account::{Overrun, Spec, Status};
use crate::budgets::available::Sums;
use crate::budgets::estimate::Sample;
use crate::budgets::hold::{Code, Escrow, Event, Found, State, Subject, check_subject};
use crate::budgets::{Account, Act, Acted, Ask, Awards, BudgetError, Change, Hold, Tree, What, invalid};
use crate::metrics::budgets::Counts;
use crate::prices::Book;
use crate::store::Connection;
use crate::store::budgets::{self as stored, KnownGpu, Usages};
use crate::store::write::{self, JournalEntry, JournalKind};
use decide::Decided;
use tasks::Tasks;

mod decide;
mod escrow;
mod grants;
mod join;
mod pods;
mod recover;
mod reported;
mod sums;
mod tasks;

/// Open holds in one ledger.
const HOLDS_MAX: usize = 100_000;
/// Sums of periods, and what else is looked up, before all of it is forgotten.
const REMEMBERED_MAX: usize = 100_000;
/// Open holds that one step ends because their time is over.
const EXPIRED_MAX: usize = 1_000;

type Span = (i64, i64);
type Answer = Result<Acted, BudgetError>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    tree: Tree,
    awards: Awards,
    /// Open ones, by their number.
    holds: BTreeMap<i64, Hold>,
    transactions: HashMap<[u8; 16], i64>,
    /// Of open holds, with their cluster; jobs that they are also of among them.
    subjects: HashMap<(String, Subject), i64>,
    /// Those, by their hold's number.
    tasks: Tasks,
    reserved: Sums,
    spent: HashMap<Span, Sums>,
    /// Usage by the key of a roll-up.
    usages: Usages,
    owners: HashMap<i64, Option<Subject>>,
    pods: pods::Pods,
    /// GPUs of which something was known in the slot at the time, to price by.
    gpus: Option<(i64, Vec<KnownGpu>)>,
    /// What the last settled holds of accounts tell of what work costs.
    samples: HashMap<i64, Vec<Sample>>,
    /// What was done since it was last counted.
    counts: Counts,
}

/// Why a check is refused, also in words.
type Refusal = (Code, String);

/// What is the same for all that one submission does.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) db: &'a Connection,
    pub(super) book: &'a Book,
    pub(super) now_ns: i64,
    /// Slots before this are frozen.
    pub(super) purged_until_ns: i64,
}

impl Budgets {
    pub(super) fn load(db: &Connection) -> Result<Self, CommitError> {
        let awards = crate::store::grants::awards(db)?;
        let mut budgets = Self { tree: stored::tree(db)?, awards, ..Self::default() };
        for hold in stored::open_holds(db)? {
            budgets.remember(hold);
        }
        for (hold, job_id) in stored::tasks::of_open_holds(db)? {
            budgets.remember_task(hold, job_id);
        }
        Ok(budgets)
    }

    /// What was done since the last time, for whoever counts it after the commit.
    pub(super) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Does what is asked, and journals it.
    pub(super) fn act(&mut self, context: Context<'_>, act: &Act) -> Result<Answer, CommitError> {
        let by = act.by.as_str();
        match &act.what {
            What::Account(change) => self.change(context, change, by),
            What::Amend { spec, seen } => self.amend(context, spec, seen, by),
            What::Grant(change) => self.grant(context, change, by),
            What::Check(ask) => self.check(context, ask, by),
            What::Bind { transaction, subject } => self.with(context, transaction, |budgets, hold| {
                if let Err(error) = escrow::may_not_bind(hold) {
                    return Ok(Err(error));
                }
                let bound = budgets.bind(context, hold, subject, by)?;
                Ok(bound.map(|_| ()))
            }),
            What::Tasks { transaction, jobs } => self.name_tasks(context, transaction, jobs, by),
            What::Join { transaction, into } => self.join(context, transaction, into, by),
            What::Renew { transaction } => {
                self.with(context, transaction, |_, hold| renew(context, hold, by))
            }
            What::Settle { transaction, subject } => self.settle(context, transaction, subject.as_ref(), by),
            What::Recover(orphans) => self.recover(context, orphans, by),
            What::Report(reported) => self.report(context, reported, by),
            What::Ran(_) => Err(CommitError::Bug("what jobs ran for is no matter of holds")),
            What::Void { transaction } => {
                self.with(context, transaction, |budgets, hold| budgets.end(context, hold, State::Voided, by))
            }
        }
    }

    /// Whoever changes a part of an account says all of it, and so must have seen what it is now: its status, say, which a hold that ends
    /// may have changed.
    fn amend(
        &mut self,
        context: Context<'_>,
        spec: &Spec,
        seen: &Spec,
        by: &str,
    ) -> Result<Answer, CommitError> {
        let known = self.tree.by_name(&spec.name);
        if known.is_some_and(|known| self.tree.said(known) != *seen) {
            return Ok(Ok(Acted::Stale));
        }
        self.change(context, &Change::Update(Box::new(spec.clone())), by)
    }

    fn change(&mut self, context: Context<'_>, change: &Change, by: &str) -> Result<Answer, CommitError> {
        if let Change::Close(name) = change
            && let Some(account) = self.tree.by_name(name)
            && let Some(hold) = self.holds.values().find(|hold| hold.account == account.id)
        {
            let text = format!(
                "account: {name:?} has the open hold {}; settle or void its holds first",
                hold.transaction_id()
            );
            return Ok(Err(BudgetError::Conflict(text)));
        }
        let mut tree = self.tree.clone();
        let id = match tree.apply(change, context.now_ns, context.purged_until_ns) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.awards.fits(&tree) {
            return Ok(Err(error));
        }
        let account = self.put(context, tree, id)?;
        journal(context, JournalKind::Account, &[], &serde_json::json!({ "change": change, "by": by }), by)?;
        // Who is above whom may have changed, and whose usage is whose.
        self.spent.clear();
        self.reserved = Sums::default();
        for hold in self.holds.values() {
            let of = (hold.ask.partition.as_str(), hold.ask.model.as_str());
            self.reserved.add(&self.tree, hold.account, of, hold.reserved_nanos());
        }
        Ok(Ok(Acted::Account(Box::new(account))))
    }

    fn put(&mut self, context: Context<'_>, tree: Tree, id: i64) -> Result<Account, CommitError> {
        let account = tree.by_id(id).cloned().ok_or(CommitError::Bug("an account that changed is gone"))?;
        stored::put_account(context.db, &tree, &account)?;
        self.tree = tree;
        Ok(account)
    }

    /// Checks and holds. What was asked before under the same key is answered as it was then.
    fn check(&mut self, context: Context<'_>, ask: &Ask, by: &str) -> Result<Answer, CommitError> {
        if let Err(error) = ask.check() {
            return Ok(Err(error));
        }
        let mut ask = Cow::Borrowed(ask);
        if !ask.key.is_empty()
            && let Some(known) = stored::hold_by_key(context.db, &ask.key)?
        {
            // The only cluster then need not be the only one now.
            if ask.cluster.is_empty() {
                ask.to_mut().cluster.clone_from(&known.ask.cluster);
            }
            return Ok(again(known, &ask, "idempotency_key"));
        }
        if ask.cluster.is_empty() {
            match stored::clusters(context.db)?.as_slice() {
                [cluster] => ask.to_mut().cluster.clone_from(cluster),
                known => {
                    let why =
                        if known.is_empty() { "no usage came from any" } else { "usage comes from several" };
                    return Ok(Err(invalid("cluster", format!("is not there, and {why}; say which one"))));
                }
            }
        }
        let ask = ask.as_ref();
        let bound = ask.subject.clone().map(|subject| (ask.cluster.clone(), subject));
        if let Some(known) = bound.as_ref().and_then(|bound| self.holds.get(self.subjects.get(bound)?)) {
            return Ok(again(known.clone(), ask, "job_id"));
        }
        if self.holds.len() >= HOLDS_MAX {
            let text = format!("holds: {HOLDS_MAX} are open; settle or void those that have ended");
            return Ok(Err(BudgetError::Conflict(text)));
        }
        if let Escrow::From { transaction, amount_nanos } = ask.escrow {
            return self.draw(context, ask, &transaction, amount_nanos, by);
        }
        let slot_ns = slot_start(context.now_ns);
        let Some(account) = self.account_of(context, ask, slot_ns)? else {
            self.counts.unassigned();
            let text = "account: no budget's binding matches this account, partition, namespace, labels and user on this cluster";
            return Ok(Err(BudgetError::NotFound(text.to_owned())));
        };
        let decided = match self.decide(context, account, ask)? {
            Ok(decided) => decided,
            Err(error) => return Ok(Err(error)),
        };
        let hold = self.hold(context, account, ask, decided, by)?;
        Ok(Ok(Acted::Hold(Box::new(hold))))
    }

    /// Journals and stores what was decided.
    fn hold(
        &mut self,
        context: Context<'_>,
        account: i64,
        ask: &Ask,
        decided: Decided,
        by: &str,
    ) -> Result<Hold, CommitError> {
        let Decided { cost_nanos, amount_nanos, available_nanos, refusal, found } = decided;
        let found = Found { amount_nanos: Some(amount_nanos), ..found };
        let slot_ns = slot_start(context.now_ns);
        let event = Event::Checked {
            account,
            ask: Box::new(ask.clone()),
            cost_nanos,
            amount_nanos,
            available_nanos,
            refusal: refusal.clone(),
            found,
            by: by.to_owned(),
        };
        let mut transaction = [0; 16];
        getrandom::fill(&mut transaction).map_err(|e| crate::store::StoreError::Damaged {
            what: "random numbers",
            detail: e.to_string(),
        })?;
        let id = journal(context, JournalKind::Hold, &transaction, &event, by)?;
        let refused = refusal.is_some();
        let charged_nanos = match &ask.subject {
            Some(subject) if !refused => stored::charged(context.db, &ask.cluster, [subject], slot_ns)?,
            _ => 0,
        };
        let hold = Hold {
            id,
            transaction,
            account,
            ask: ask.clone(),
            subject: ask.subject.clone(),
            cost_nanos,
            amount_nanos,
            charged_nanos,
            from_ns: slot_ns,
            until_ns: context.now_ns.saturating_add(ask.lease_ns),
            state: if refused { State::Refused } else { State::Open },
            refusal,
            available_nanos,
            found,
            created_ns: context.now_ns,
            ended_ns: if refused { context.now_ns } else { 0 },
        };
        stored::insert_hold(context.db, &hold)?;
        self.counts.checked(hold.refusal.as_ref().map(|(code, _)| *code));
        if !refused {
            self.remember(hold.clone());
        }
        Ok(hold)
    }

    fn settle(
        &mut self,
        context: Context<'_>,
        transaction: &[u8; 16],
        subject: Option<&Subject>,
        by: &str,
    ) -> Result<Answer, CommitError> {
        self.with(context, transaction, |budgets, hold| {
            // Settled twice is settled once, whatever is said of its job then.
            if let (Some(subject), State::Open) = (subject, hold.state)
                && let Err(error) = budgets.bind(context, hold, subject, by)?
            {
                return Ok(Err(error));
            }
            budgets.end(context, hold, State::Settled, by)
        })
    }

    /// Does something to one hold, open or not, and stores it.
    fn with(
        &mut self,
        context: Context<'_>,
        transaction: &[u8; 16],
        act: impl FnOnce(&mut Self, &mut Hold) -> Result<Result<(), BudgetError>, CommitError>,
    ) -> Result<Answer, CommitError> {
        let known = match self.transactions.get(transaction) {
            Some(id) => self.holds.get(id).cloned(),
            None => stored::hold_by_transaction(context.db, transaction)?,
        };
        let Some(before) = known else {
            let text = "transaction_id: there is no such hold; it may have been purged".to_owned();
            return Ok(Err(BudgetError::NotFound(text)));
        };
        let mut hold = before.clone();
        if let Err(error) = act(self, &mut hold)? {
            return Ok(Err(error));
        }
        if hold != before {
            stored::update_hold(context.db, &hold)?;
            self.forget(&before);
            if hold.state == State::Open {
                self.remember(hold.clone());
            } else {
                self.forget_tasks(&hold);
            }
        }
        Ok(Ok(Acted::Hold(Box::new(hold))))
    }

    fn bind(
        &self,
        context: Context<'_>,
        hold: &mut Hold,
        subject: &Subject,
        by: &str,
    ) -> Result<Result<(), BudgetError>, CommitError> {
        let conflict = |text: String| Ok(Err(BudgetError::Conflict(text)));
        if let Err(error) = check_subject(subject.parts().1) {
            return Ok(Err(error));
        }
        let (id, name) = (hold.transaction_id(), subject.parts().1);
        if hold.subject.as_ref() == Some(subject) {
            return Ok(Ok(()));
        }
        if hold.state != State::Open {
            return conflict(format!("transaction_id: {id} is {} already", hold.state.name()));
        }
        if let Some(other) = &hold.subject {
            return conflict(format!("job_id: {id} is the hold of {:?}, not of {name:?}", other.parts().1));
        }
        let bound = (hold.ask.cluster.clone(), subject.clone());
        if let Some(other) = self.subjects.get(&bound).and_then(|other| self.holds.get(other)) {
            return conflict(format!(
                "job_id: {name:?} has the open hold {} already",
                other.transaction_id()
            ));
        }
        hold.charged_nanos = stored::charged(context.db, &hold.ask.cluster, [subject], hold.from_ns)?;
        hold.subject = Some(subject.clone());
        let event = Event::Bound { subject: subject.clone(), by: by.to_owned() };
        journal(context, JournalKind::Hold, &hold.transaction, &event, by)?;
        Ok(Ok(()))
    }

    fn end(
        &mut self,
        context: Context<'_>,
        hold: &mut Hold,
        state: State,
        by: &str,
    ) -> Result<Result<(), BudgetError>, CommitError> {
        if let Err(error) = escrow::may_end(hold, context.now_ns) {
            return Ok(Err(error));
        }
        match hold.end(state, context.now_ns) {
            Err(error) => return Ok(Err(error)),
            Ok(false) => return Ok(Ok(())),
            Ok(true) => {}
        }
        self.counts.ended(state);
        // Read again where it is asked for: what this one tells is among it then.
        self.samples.remove(&hold.account);
        let account = self.tree.by_id(hold.account);
        let suspends = hold.overrun_nanos() > 0
            && account.is_some_and(|account| {
                account.spec.overrun == Overrun::Suspend && account.spec.status == Status::Active
            });
        let event = Event::Ended { state, charged_nanos: hold.charged_nanos, suspends, by: by.to_owned() };
        journal(context, JournalKind::Hold, &hold.transaction, &event, by)?;
        if suspends {
            let mut tree = self.tree.clone();
            tree.suspend(hold.account, context.now_ns);
            self.put(context, tree, hold.account)?;
        }
        Ok(Ok(()))
    }

    /// Ends holds whose time is over. True if more may be.
    pub(super) fn expire(&mut self, context: Context<'_>) -> Result<bool, CommitError> {
        // Some may have been purged.
        self.samples.clear();
        // A gate that nobody hears of may have let work in: what is left of its escrow is not free before somebody has looked.
        let over = self.holds.values().filter(|hold| hold.ask.escrow != Escrow::Lease);
        let over = over.filter(|hold| hold.until_ns <= context.now_ns);
        let over: Vec<[u8; 16]> = over.map(|hold| hold.transaction).take(EXPIRED_MAX).collect();
        for transaction in &over {
            let _ = self.with(context, transaction, |budgets, hold| {
                budgets.end(context, hold, State::Expired, "time")
            })?;
        }
        Ok(over.len() == EXPIRED_MAX)
    }

    fn remember(&mut self, hold: Hold) {
        let of = (hold.ask.partition.as_str(), hold.ask.model.as_str());
        self.reserved.add(&self.tree, hold.account, of, hold.reserved_nanos());
        if let Some(subject) = &hold.subject {
            self.subjects.insert((hold.ask.cluster.clone(), subject.clone()), hold.id);
        }
        self.transactions.insert(hold.transaction, hold.id);
        self.holds.insert(hold.id, hold);
    }

    fn forget(&mut self, hold: &Hold) {
        let of = (hold.ask.partition.as_str(), hold.ask.model.as_str());
        self.reserved.add(&self.tree, hold.account, of, -hold.reserved_nanos());
        if let Some(subject) = &hold.subject {
            self.subjects.remove(&(hold.ask.cluster.clone(), subject.clone()));
        }
        self.transactions.remove(&hold.transaction);
        self.holds.remove(&hold.id);
    }
}

/// The answer to a request that came before, if it is the same.
fn again(known: Hold, ask: &Ask, field: &'static str) -> Answer {
    if known.ask == (Ask { estimate: known.ask.estimate.clone(), ..ask.clone() }) {
        return Ok(Acted::Hold(Box::new(known)));
    }
    let id = known.transaction_id();
    Err(BudgetError::Conflict(format!("{field}: {id} was asked for under it, with another request")))
}

fn renew(context: Context<'_>, hold: &mut Hold, by: &str) -> Result<Result<(), BudgetError>, CommitError> {
    if hold.state != State::Open {
        let text = format!("transaction_id: {} is {} already", hold.transaction_id(), hold.state.name());
        return Ok(Err(BudgetError::Conflict(text)));
    }
    if let Err(error) = escrow::may_not_renew(hold) {
        return Ok(Err(error));
    }
    hold.until_ns = hold.until_ns.max(context.now_ns.saturating_add(hold.ask.lease_ns));
    let event = Event::Renewed { until_ns: hold.until_ns, by: by.to_owned() };
    journal(context, JournalKind::Hold, &hold.transaction, &event, by)?;
    Ok(Ok(()))
}

fn journal(
    context: Context<'_>,
    kind: JournalKind,
    transaction: &[u8],
    what: &impl serde::Serialize,
    by: &str,
) -> Result<i64, CommitError> {
    let json = serde_json::to_vec(what)
        .map_err(|e| crate::store::StoreError::Damaged { what: "budgets", detail: e.to_string() })?;
    let entry = JournalEntry {
        epoch: transaction,
        detail: by,
        payload: &json,
        ..JournalEntry::of(context.now_ns, kind)
    };
    Ok(write::journal(context.db, &entry)?)
}
