//! Accounts and holds again, from the journal alone: who was made and bound when, what was held and how that ended, and by the
//! recomputed slots what the jobs of open holds were charged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use tonnage_proto::limits::SLOT_NS;

use super::Report;
use crate::budgets::account::{Limit, Status};
use crate::budgets::allocation::Decision;
use crate::budgets::hold::{Event, State, Subject};
use crate::budgets::period::Period;
use crate::budgets::{Change, Hold, Selector, Spec};
use crate::model::OwnerKind;
use crate::store::audit::{Bucket, BucketKey, Entry};
use crate::store::budgets::{self as stored, Listed};
use crate::store::{Connection, StoreError};

/// Since when, and until when: `i64::MAX` while it is in force.
type Bound = (Selector, i64, i64);

/// What the journal says.
#[derive(Default)]
pub(super) struct Replayed {
    accounts: BTreeMap<String, Account>,
    holds: BTreeMap<i64, Hold>,
    /// Their numbers by their transactions.
    numbers: HashMap<[u8; 16], i64>,
    /// Jobs that a hold is also of, with its number.
    tasks: BTreeSet<(i64, String)>,
    purged_until_ns: i64,
}

struct Account {
    /// Accounts are numbered as they are made.
    id: i64,
    spec: Spec,
    created_ns: i64,
    closed_ns: Option<i64>,
    bindings: Vec<Bound>,
}

#[derive(Deserialize)]
struct Changed {
    change: Change,
}

impl Replayed {
    pub(super) fn purge(&mut self, entry: &Entry) {
        self.purged_until_ns = self.purged_until_ns.max(entry.to_ns);
    }

    pub(super) fn account(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let slot_ns = slot_of(entry.at_ns);
        match read::<Changed>(entry)?.change {
            Change::Create(spec) => {
                let began_ns = if spec.starts_ns > 0 { slot_of(spec.starts_ns) } else { slot_ns };
                let mut account = Account {
                    id: i64::try_from(self.accounts.len()).unwrap_or(i64::MAX - 1) + 1,
                    spec: Spec { bindings: Vec::new(), ..Spec::clone(&spec) },
                    created_ns: entry.at_ns,
                    closed_ns: None,
                    bindings: Vec::new(),
                };
                account.whole();
                account.bind(&spec, began_ns.max(self.purged_until_ns));
                self.accounts.insert(spec.name.clone(), account);
            }
            Change::Update(spec) => {
                let Some(account) = self.accounts.get_mut(&spec.name) else { return Err(unknown(entry)) };
                let said = |(selector, from_ns, _): &Bound| {
                    spec.bindings.iter().any(|bound| {
                        bound.selector == *selector && bound.from_ns.is_none_or(|said_ns| said_ns == *from_ns)
                    })
                };
                for bound in &mut account.bindings {
                    if bound.2 == i64::MAX && !said(bound) {
                        bound.2 = slot_ns.max(bound.1);
                    }
                }
                account.bind(&spec, slot_ns.max(self.purged_until_ns));
                let schedules = std::mem::take(&mut account.spec.schedules);
                account.spec = Spec { bindings: Vec::new(), schedules, ..*spec };
                account.whole();
            }
            Change::Schedule { account: name, schedule } => {
                let Some(account) = self.accounts.get_mut(&name) else { return Err(unknown(entry)) };
                account.spec.schedules.push(*schedule);
                account.whole();
            }
            Change::Decide { account: name, schedule, step } => {
                let account = self.accounts.get_mut(&name);
                let schedule = account.and_then(|account| account.spec.schedules.get_mut(schedule));
                let Some(schedule) = schedule else { return Err(unknown(entry)) };
                schedule.decisions.push(Decision { at_ns: entry.at_ns, step });
            }
            Change::Close(name) => {
                let Some(account) = self.accounts.get_mut(&name) else { return Err(unknown(entry)) };
                account.closed_ns = Some(entry.at_ns);
                for (_, from_ns, to_ns) in &mut account.bindings {
                    *to_ns = (*to_ns).min(slot_ns.max(*from_ns));
                }
            }
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let transaction: [u8; 16] = entry.epoch.as_slice().try_into().map_err(|_| unknown(entry))?;
        let event = read::<Event>(entry)?;
        if let Event::Checked {
            account,
            ask,
            cost_nanos,
            amount_nanos,
            available_nanos,
            refusal,
            found,
            by: _,
        } = event
        {
            let hold = Hold {
                id: entry.id,
                transaction,
                account,
                subject: ask.subject.clone(),
                cost_nanos,
                amount_nanos,
                charged_nanos: 0,
                from_ns: slot_of(entry.at_ns),
                until_ns: entry.at_ns + ask.lease_ns,
                state: if refusal.is_some() { State::Refused } else { State::Open },
                ended_ns: if refusal.is_some() { entry.at_ns } else { 0 },
                refusal,
                available_nanos,
                found,
                created_ns: entry.at_ns,
                ask: *ask,
            };
            self.holds.insert(entry.id, hold);
            self.numbers.insert(transaction, entry.id);
            return Ok(());
        }
        let known = self.numbers.get(&transaction).and_then(|id| self.holds.get_mut(id));
        let Some(hold) = known else { return Err(unknown(entry)) };
        match event {
            Event::Bound { subject, .. } => hold.subject = Some(subject),
            Event::Tasks { jobs, .. } => self.tasks.extend(jobs.into_iter().map(|job| (hold.id, job))),
            Event::Renewed { until_ns, .. } => hold.until_ns = until_ns,
            Event::Drawn { amount_nanos, .. } | Event::Joined { amount_nanos, .. } => {
                hold.amount_nanos = amount_nanos;
            }
            Event::Ended { state, charged_nanos, suspends, .. } => {
                (hold.state, hold.charged_nanos, hold.ended_ns) = (state, charged_nanos, entry.at_ns);
                let id = hold.account;
                if suspends && let Some(account) = self.accounts.values_mut().find(|account| account.id == id)
                {
                    account.spec.status = Status::Suspended;
                }
            }
            Event::Checked { .. } => {}
        }
        Ok(())
    }

    /// Compares it with what is stored; `slots` are recomputed, from `horizon_ns` on.
    pub(super) fn check(
        &self,
        db: &Connection,
        slots: &BTreeMap<BucketKey, Bucket>,
        horizon_ns: i64,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let tree = stored::tree(db)?;
        for account in tree.accounts() {
            let name = &account.spec.name;
            let mut bindings: Vec<Bound> = tree
                .bindings(account.id)
                .map(|binding| (binding.selector.clone(), binding.from_ns, binding.to_ns))
                .collect();
            bindings.sort();
            let same = self.accounts.get(name).is_some_and(|known| {
                let mut expected = known.bindings.clone();
                expected.sort();
                known.spec == account.spec
                    && (known.id, known.created_ns, known.closed_ns)
                        == (account.id, account.created_ns, account.closed_ns)
                    && expected == bindings
            });
            if !same {
                report.note(|| format!("account {name:?} is not as the journal says"));
            }
        }
        if tree.accounts().count() != self.accounts.len() {
            let expected = self.accounts.len();
            report.note(|| format!("there are {} accounts, not {expected}", tree.accounts().count()));
        }
        let tasks: BTreeSet<(i64, String)> = stored::tasks::all(db)?.into_iter().collect();
        if let Some((hold, job)) = tasks.symmetric_difference(&self.tasks).next() {
            report.note(|| format!("whether job {job:?} is of hold {hold}, too, is not as the journal says"));
        }
        let charges = Charges::of(slots);
        let mut expected = self.holds.clone();
        for hold in stored::holds(db, &Listed::default(), usize::MAX, 0)? {
            let id = hold.transaction_id();
            let Some(mut known) = expected.remove(&hold.id) else {
                report.note(|| format!("hold {id} is not in the journal"));
                continue;
            };
            if known.state == State::Open {
                // Usage makes a lease longer, never shorter.
                known.until_ns = known.until_ns.max(hold.until_ns);
                known.charged_nanos = if hold.from_ns < horizon_ns {
                    hold.charged_nanos
                } else {
                    self.charged(&charges, &known)
                };
            } else {
                known.until_ns = hold.until_ns;
            }
            if known != hold {
                report.difference_nanos += i128::from(known.charged_nanos.abs_diff(hold.charged_nanos))
                    + i128::from(known.amount_nanos.abs_diff(hold.amount_nanos));
                report.note(|| format!("hold {id} is {hold:?}, recomputed {known:?}"));
            }
        }
        if let Some(hold) = expected.values().next() {
            report.note(|| format!("hold {} of the journal is not stored", hold.transaction_id()));
        }
        Ok(())
    }
}

impl Replayed {
    /// What the recomputed slots charge for the job of a hold, and for those that it is also of.
    fn charged(&self, charges: &Charges, hold: &Hold) -> i64 {
        let tasks = self.tasks.range((hold.id, String::new())..(hold.id + 1, String::new()));
        let subjects =
            hold.subject.clone().into_iter().chain(tasks.map(|(_, job)| Subject::Job(job.clone())));
        let sum: i128 = subjects.map(|subject| charges.from(&hold.ask.cluster, subject, hold.from_ns)).sum();
        i64::try_from(sum).unwrap_or(i64::MAX)
    }
}

impl Account {
    /// Parts come to a limit for life, which is nothing if nobody gave one.
    fn whole(&mut self) {
        let whole = Limit { amount_nanos: 0, period: Period::Lifetime, partition: None, model: None };
        let is_there = |limit: &Limit| Limit { amount_nanos: 0, ..limit.clone() } == whole;
        if !self.spec.schedules.is_empty() && !self.spec.limits.iter().any(is_there) {
            self.spec.limits.insert(0, whole);
        }
    }

    fn bind(&mut self, spec: &Spec, default_ns: i64) {
        for bound in &spec.bindings {
            let is_bound = |(selector, _, to_ns): &Bound| *selector == bound.selector && *to_ns == i64::MAX;
            if !self.bindings.iter().any(is_bound) {
                let from_ns = bound.from_ns.unwrap_or(default_ns);
                self.bindings.push((bound.selector.clone(), from_ns, i64::MAX));
            }
        }
    }
}

/// What the recomputed slots charge for each job and pod, by cluster and slot.
struct Charges(HashMap<(String, Subject), Vec<(i64, i128)>>);

impl Charges {
    fn of(slots: &BTreeMap<BucketKey, Bucket>) -> Self {
        let mut charges: HashMap<(String, Subject), Vec<(i64, i128)>> = HashMap::new();
        for (key, row) in slots.iter().filter(|(key, row)| key.kind.is_charge() && row.cost_nanos != 0) {
            let subject = match &key.owner {
                Some(owner) if owner.kind == OwnerKind::SlurmJob => Subject::Job(owner.job_id.clone()),
                Some(owner) if owner.kind == OwnerKind::Pod => Subject::Pod(owner.pod_uid.clone()),
                _ => continue,
            };
            let of = charges.entry((key.node.cluster.clone(), subject)).or_default();
            of.push((key.start_ns, row.cost_nanos));
        }
        Self(charges)
    }

    fn from(&self, cluster: &str, subject: Subject, from_ns: i64) -> i128 {
        let of = self.0.get(&(cluster.to_owned(), subject)).into_iter().flatten();
        of.filter(|(start_ns, _)| *start_ns >= from_ns).map(|(_, cost_nanos)| cost_nanos).sum()
    }
}

fn slot_of(at_ns: i64) -> i64 {
    at_ns.div_euclid(SLOT_NS) * SLOT_NS
}

fn read<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, StoreError> {
    serde_json::from_slice(&entry.payload)
        .map_err(|e| StoreError::Damaged { what: "journal", detail: format!("entry {}: {e}", entry.id) })
}

fn unknown(entry: &Entry) -> StoreError {
    let detail = format!("entry {} is of an account or a hold that there is not", entry.id);
    StoreError::Damaged { what: "journal", detail }
}
