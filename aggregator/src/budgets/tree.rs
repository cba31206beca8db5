//! All accounts and what is bound to them: who is whose child, and whose a row of usage is. Pure: a change says what it
//! changed, for whoever stores it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tonnage_proto::limits::{SLOT_NS, slot_start};

use super::account::{Bound, Spec, Standing, Status};
use super::allocation::{Schedule, Step};
use super::selector::{Labels, Selector, Usage};
use super::{BudgetError, invalid};

/// Accounts in one ledger, closed ones with them.
pub const ACCOUNTS_MAX: usize = 10_000;
/// Bindings in one ledger, former ones with them.
pub const BINDINGS_MAX: usize = 50_000;
/// Accounts from the root to the deepest.
pub const DEPTH_MAX: usize = 8;
/// How far ahead of now a binding may begin: a year.
const AHEAD_NS_MAX: i64 = 366 * 96 * SLOT_NS;

/// An account as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: i64,
    /// Without its bindings.
    pub spec: Spec,
    pub created_ns: i64,
    pub updated_ns: i64,
    pub closed_ns: Option<i64>,
}

/// What is bound to an account from one slot on, and until another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub account: i64,
    pub selector: Selector,
    pub from_ns: i64,
    /// `i64::MAX` while it is in force.
    pub to_ns: i64,
}

/// What an operator wants changed. Journalled as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Box<Spec>),
    /// All that is said of it, its bindings with it: what is not said any more ends.
    Update(Box<Spec>),
    /// Nothing is bound to it any more, and nothing is erased.
    Close(String),
    /// Another schedule by which parts come to its limit for life.
    Schedule {
        account: String,
        schedule: Box<Schedule>,
    },
    /// About one of its schedules, by its place.
    Decide {
        account: String,
        schedule: usize,
        step: Step,
    },
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    accounts: BTreeMap<i64, Account>,
    names: BTreeMap<String, i64>,
    bindings: Vec<Binding>,
}

impl Tree {
    /// As it is stored.
    #[must_use]
    pub fn new(accounts: Vec<Account>, bindings: Vec<Binding>) -> Self {
        let names = accounts.iter().map(|account| (account.spec.name.clone(), account.id)).collect();
        Self {
            accounts: accounts.into_iter().map(|account| (account.id, account)).collect(),
            names,
            bindings,
        }
    }

    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    #[must_use]
    pub fn by_id(&self, id: i64) -> Option<&Account> {
        self.accounts.get(&id)
    }

    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Account> {
        self.accounts.get(self.names.get(name)?)
    }

    /// # Errors
    /// If there is none of this name.
    pub fn named(&self, name: &str) -> Result<&Account, BudgetError> {
        self.by_name(name).ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            BudgetError::NotFound(format!("account: there is none of the name {shown:?}"))
        })
    }

    /// Of one account, newest last.
    pub fn bindings(&self, account: i64) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| binding.account == account)
    }

    /// All that is said of an account, with what is bound to it now.
    #[must_use]
    pub fn said(&self, account: &Account) -> Spec {
        let now = self.bindings(account.id).filter(|binding| binding.to_ns == i64::MAX);
        let bound = |binding: &Binding| Bound { selector: binding.selector.clone(), from_ns: None };
        Spec { bindings: now.map(bound).collect(), ..account.spec.clone() }
    }

    /// All bindings, for whoever stores them.
    #[must_use]
    pub fn all_bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// An account, its parent, and so on to the root.
    pub fn path(&self, id: i64) -> impl Iterator<Item = &Account> {
        let parent = |account: &&Account| self.by_name(account.spec.parent.as_ref()?);
        std::iter::successors(self.by_id(id), parent).take(DEPTH_MAX)
    }

    /// Is anything bound by labels, or was it? Then whose a pod's usage is cannot be told without them.
    #[must_use]
    pub fn is_by_labels(&self) -> bool {
        self.bindings.iter().any(|binding| binding.selector.is_by_labels())
    }

    /// Whose a row of usage in the slot at `at_ns` is, labelled so: one account, or nobody's.
    #[must_use]
    pub fn owner_of(&self, usage: &Usage, labels: Labels<'_>, at_ns: i64) -> Option<i64> {
        let in_force = |binding: &&Binding| binding.from_ns <= at_ns && at_ns < binding.to_ns;
        let matching =
            self.bindings.iter().filter(in_force).filter(|binding| binding.selector.matches(usage, labels));
        matching.max_by_key(|binding| binding.selector.rank()).map(|binding| binding.account)
    }

    /// When who owns what changes within a window: the edges between its parts.
    #[must_use]
    pub fn edges(&self, (from_ns, to_ns): (i64, i64)) -> Vec<i64> {
        let mut edges: Vec<i64> =
            self.bindings.iter().flat_map(|binding| [binding.from_ns, binding.to_ns]).collect();
        edges.retain(|edge_ns| from_ns < *edge_ns && *edge_ns < to_ns);
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// How an account stands, by itself.
    #[must_use]
    pub fn standing(account: &Account, now_ns: i64) -> Standing {
        match account.spec.status {
            _ if account.closed_ns.is_some() => Standing::Closed,
            _ if account.spec.ends_ns.is_some_and(|ends_ns| ends_ns <= now_ns) => Standing::Expired,
            Status::Suspended => Standing::Suspended,
            Status::Inactive => Standing::Inactive,
            Status::Active if now_ns < account.spec.starts_ns => Standing::Pending,
            Status::Active => Standing::Active,
        }
    }

    /// Makes a change at `now_ns`; gives the account that changed. `kept_from_ns`: usage before that is frozen.
    ///
    /// # Errors
    /// If it does not fit; then nothing has changed.
    pub fn apply(&mut self, change: &Change, now_ns: i64, kept_from_ns: i64) -> Result<i64, BudgetError> {
        match change {
            Change::Create(spec) => self.create(spec, now_ns, kept_from_ns),
            Change::Update(spec) => self.update(spec, now_ns, kept_from_ns),
            Change::Close(name) => self.close(name, now_ns),
            Change::Schedule { account, schedule } => {
                let mut spec = self.open(account)?.spec.clone();
                spec.schedules.push(Schedule::clone(schedule));
                self.put(spec, now_ns)
            }
            Change::Decide { account, schedule, step } => {
                let mut spec = self.open(account)?.spec.clone();
                let missing =
                    || BudgetError::NotFound(format!("id: account {account:?} has no schedule {schedule}"));
                spec.schedules.get_mut(*schedule).ok_or_else(missing)?.decide(*step, now_ns)?;
                self.put(spec, now_ns)
            }
        }
    }

    /// Keeps what changed of an account's schedules.
    fn put(&mut self, mut spec: Spec, now_ns: i64) -> Result<i64, BudgetError> {
        spec.begin_with_nothing();
        spec.check()?;
        let id = self.open(&spec.name)?.id;
        if let Some(account) = self.accounts.get_mut(&id) {
            (account.spec, account.updated_ns) = (spec, now_ns);
        }
        Ok(id)
    }

    /// Until an operator makes it active.
    pub fn suspend(&mut self, id: i64, now_ns: i64) {
        if let Some(account) = self.accounts.get_mut(&id) {
            (account.spec.status, account.updated_ns) = (Status::Suspended, now_ns);
        }
    }

    fn create(&mut self, spec: &Spec, now_ns: i64, kept_from_ns: i64) -> Result<i64, BudgetError> {
        spec.check()?;
        if let Some(known) = self.by_name(&spec.name) {
            let state = if known.closed_ns.is_some() {
                "closed, and its name stays its own"
            } else {
                "there already"
            };
            return Err(BudgetError::Conflict(format!("slurm_account: account {:?} is {state}", spec.name)));
        }
        if self.accounts.len() >= ACCOUNTS_MAX {
            return Err(BudgetError::Conflict(format!("accounts: the ledger has {ACCOUNTS_MAX} already")));
        }
        let id = self.accounts.keys().next_back().map_or(1, |last| last + 1);
        self.check_parent(spec, 1)?;
        let began_ns = if spec.starts_ns > 0 { spec.starts_ns } else { now_ns };
        let bindings = self.bound(id, spec, &[], (slot_start(began_ns), kept_from_ns), now_ns)?;
        self.bindings.extend(bindings);
        self.names.insert(spec.name.clone(), id);
        let mut spec = Spec { bindings: Vec::new(), ..spec.clone() };
        spec.begin_with_nothing();
        let account = Account { id, spec, created_ns: now_ns, updated_ns: now_ns, closed_ns: None };
        self.accounts.insert(id, account);
        Ok(id)
    }

    fn update(&mut self, spec: &Spec, now_ns: i64, kept_from_ns: i64) -> Result<i64, BudgetError> {
        spec.check()?;
        let account = self.open(&spec.name)?;
        let id = account.id;
        self.check_parent(spec, self.height(&spec.name))?;
        let slot_ns = slot_start(now_ns);
        let mut own: Vec<Binding> = self.bindings(id).cloned().collect();
        for binding in own.iter_mut().filter(|binding| binding.to_ns == i64::MAX) {
            let stays = |bound: &Bound| {
                bound.selector == binding.selector
                    && bound.from_ns.is_none_or(|from_ns| from_ns == binding.from_ns)
            };
            if !spec.bindings.iter().any(stays) {
                binding.to_ns = slot_ns.max(binding.from_ns);
            }
        }
        let new = self.bound(id, spec, &own, (slot_ns, kept_from_ns), now_ns)?;
        self.bindings.retain(|binding| binding.account != id);
        self.bindings.extend(own.into_iter().chain(new));
        let known = self.accounts.get_mut(&id).ok_or_else(|| BudgetError::NotFound(spec.name.clone()))?;
        // Whoever changes an account may not have seen what came to its schedules since.
        let schedules = std::mem::take(&mut known.spec.schedules);
        known.spec = Spec { bindings: Vec::new(), schedules, ..spec.clone() };
        known.spec.begin_with_nothing();
        known.updated_ns = now_ns;
        Ok(id)
    }

    fn close(&mut self, name: &str, now_ns: i64) -> Result<i64, BudgetError> {
        let id = self.open(name)?.id;
        let child =
            |account: &&Account| account.closed_ns.is_none() && account.spec.parent.as_deref() == Some(name);
        if let Some(child) = self.accounts.values().find(child) {
            let text =
                format!("account: {name:?} has the account {:?} below it: close that first", child.spec.name);
            return Err(BudgetError::Conflict(text));
        }
        let slot_ns = slot_start(now_ns);
        for binding in self.bindings.iter_mut().filter(|binding| binding.account == id) {
            binding.to_ns = binding.to_ns.min(slot_ns.max(binding.from_ns));
        }
        if let Some(account) = self.accounts.get_mut(&id) {
            (account.closed_ns, account.updated_ns) = (Some(now_ns), now_ns);
        }
        Ok(id)
    }

    fn open(&self, name: &str) -> Result<&Account, BudgetError> {
        let account = self.named(name)?;
        if account.closed_ns.is_some() {
            return Err(BudgetError::Conflict(format!("account: {name:?} is closed, for good")));
        }
        Ok(account)
    }

    /// The bindings that an account gets besides `own`, which it has.
    fn bound(
        &self,
        account: i64,
        spec: &Spec,
        own: &[Binding],
        (default_ns, kept_from_ns): (i64, i64),
        now_ns: i64,
    ) -> Result<Vec<Binding>, BudgetError> {
        let mut new: Vec<Binding> = Vec::new();
        for bound in &spec.bindings {
            let is_there =
                |binding: &&Binding| binding.to_ns == i64::MAX && binding.selector == bound.selector;
            if own.iter().chain(&new).any(|binding| is_there(&binding)) {
                continue;
            }
            let from_ns = bound.from_ns.unwrap_or(default_ns.max(kept_from_ns));
            if from_ns.rem_euclid(SLOT_NS) != 0 || from_ns > now_ns.saturating_add(AHEAD_NS_MAX) {
                let reason = "is not on a quarter of an hour, or more than a year ahead";
                return Err(invalid("bindings.from", reason));
            }
            if from_ns < kept_from_ns {
                let reason = "lies before the ledger's retention: usage there stays where it is";
                return Err(invalid("bindings.from", reason));
            }
            let binding = Binding { account, selector: bound.selector.clone(), from_ns, to_ns: i64::MAX };
            // Two of one account may: whichever goes first, it is that account's.
            let mut others = self.bindings.iter().filter(|other| other.account != account);
            let against = others.find(|other| {
                other.from_ns < binding.to_ns
                    && binding.from_ns < other.to_ns
                    && other.selector.is_ambiguous_with(&binding.selector)
            });
            if let Some(other) = against {
                let of = self
                    .by_id(other.account)
                    .map_or(spec.name.as_str(), |account| account.spec.name.as_str());
                return Err(BudgetError::Conflict(format!(
                    "bindings: {} of account {:?} and {} of account {of:?} could both match one row of usage, and neither \
                     goes first; give one of them one field more",
                    binding.selector, spec.name, other.selector
                )));
            }
            new.push(binding);
        }
        if self.bindings.len() + new.len() > BINDINGS_MAX {
            return Err(BudgetError::Conflict(format!("bindings: the ledger has {BINDINGS_MAX} already")));
        }
        Ok(new)
    }

    /// Is the parent one that an account with `height` levels from itself down can be below?
    fn check_parent(&self, spec: &Spec, height: usize) -> Result<(), BudgetError> {
        let Some(parent) = &spec.parent else { return Ok(()) };
        let known = self.by_name(parent).filter(|known| known.closed_ns.is_none());
        let Some(known) = known else {
            return Err(invalid("parent", format!("there is no open account {parent:?}")));
        };
        let mut above = 0;
        for account in self.path(known.id) {
            above += 1;
            if account.spec.name == spec.name {
                return Err(invalid("parent", format!("{parent:?} is below {:?} itself", spec.name)));
            }
        }
        if above + height > DEPTH_MAX {
            return Err(invalid("parent", format!("accounts are at most {DEPTH_MAX} below each other")));
        }
        Ok(())
    }

    /// Levels from an account down, its own with them.
    fn height(&self, name: &str) -> usize {
        let children = self.accounts.values().filter(|account| account.spec.parent.as_deref() == Some(name));
        1 + children.map(|child| self.height(&child.spec.name)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
