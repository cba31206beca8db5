//! Money of accounts that is leased to this gate, so that most submissions need no answer of the aggregator's.
//!
//! A lease is for one account, user, partition and model: what a check of so many GPU-hours holds. Jobs are let in for parts of it, chunk by
//! chunk: that a chunk is being spent is on the disk before any of it is, so that after a crash all of the chunk counts as spent, and
//! what is left of it is forfeited until the lease is settled. Which jobs were let in says Slurm, by their marks.
//!
//! A lease is spent until [`MARGIN_NS`] before its end, counted from before it was asked for. Then it is left alone: a sweep, of this gate
//! or another one, takes out what was let in, and gives back the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tonnage_proto::decimal::{from_nanos, to_nanos};
use tonnage_runtime::clock::{Clock, Reading};

use super::ledger::{Ask, ESCROW, Escrow, GATE, Granted};
use super::need::Need;

const S: i64 = 1_000_000_000;
/// Nothing is spent so shortly before the end: a submission that was let in is in Slurm by then.
pub const MARGIN_NS: i64 = 10 * S;
/// Parts of a lease that are spent behind one flush.
const CHUNKS: i64 = 16;
/// Leases of one key that may be spent at once, and keys.
const LEASES_MAX: usize = 4;
const KEYS_MAX: usize = 1000;
/// After a refusal no lease is asked for so long: each submission asks by itself.
const REFUSED_NS: i64 = 60 * S;

/// How much is leased at once, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Of one GPU; 0: nothing is leased.
    pub gpu_seconds: u64,
    pub seconds: u32,
}

/// For whose jobs a lease is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub account: String,
    pub user: String,
    pub partition: String,
    pub model: String,
}

impl Key {
    #[must_use]
    pub fn of(ask: &Ask) -> Self {
        let Ask { account, user, partition, need, .. } = ask;
        let [account, user, partition, model] = [account, user, partition, &need.model].map(Clone::clone);
        Self { account, user, partition, model }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    transaction: String,
    key: Key,
    /// On the wall clock, for the next run,
    begin_ns: i64,
    end_ns: i64,
    /// and on this run's.
    #[serde(skip)]
    until_ns: i64,
    amount_nanos: i64,
    /// What that is the price of.
    gpu_seconds: u64,
    /// What was left of the account beside it.
    beside_nanos: Option<i64>,
    /// On the disk as spent; not less than what is.
    ahead_nanos: i64,
    #[serde(skip)]
    spent_nanos: i64,
}

impl Lease {
    fn price(&self, need: &Need) -> Option<i64> {
        let work = i128::from(need.gpus) * i128::from(need.seconds);
        let product = i128::from(self.amount_nanos).checked_mul(work)?;
        let per = i128::from(self.gpu_seconds.max(1));
        i64::try_from(product.div_euclid(per) + i128::from(product.rem_euclid(per) > 0)).ok()
    }

    fn left(&self) -> i64 {
        self.amount_nanos - self.spent_nanos
    }

    fn is_spendable(&self, now_ns: i64) -> bool {
        now_ns < self.until_ns - MARGIN_NS
    }
}

#[derive(Debug, Default)]
struct Inner {
    leases: Vec<Lease>,
    asking: BTreeSet<Key>,
    /// Until when no lease is asked for.
    refused: HashMap<Key, i64>,
}

/// Money that a job was let in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    pub transaction: String,
    /// As text.
    pub amount: String,
    /// What is left of the account, as far as is known here.
    pub left: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Purse {
    inner: Mutex<Inner>,
    terms: Terms,
    path: PathBuf,
    clock: Clock,
    /// Two gates must not spend of one file.
    _lock: File,
}

impl Purse {
    /// What an earlier run left in `state`; what that may have spent is spent.
    ///
    /// # Errors
    /// If the file cannot be used, or another gate does.
    pub fn open(state: &Path, terms: Terms, clock: Clock) -> io::Result<Self> {
        fs::create_dir_all(state)?;
        let lock = File::create(state.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other("another gate uses it"))?;
        let path = state.join("escrow.json");
        let mut leases: Vec<Lease> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let Reading { wall_ns, boot_ns, .. } = clock.read();
        // A clock that was set back would make a lease longer.
        leases.retain(|lease| (lease.begin_ns..lease.end_ns).contains(&wall_ns));
        for lease in &mut leases {
            lease.spent_nanos = lease.ahead_nanos;
            lease.until_ns = boot_ns + (lease.end_ns - wall_ns);
        }
        let inner = Mutex::new(Inner { leases, ..Inner::default() });
        Ok(Self { inner, terms, path, clock, _lock: lock })
    }

    /// Takes what a job needs out of a lease, if there is one with enough.
    pub fn spend(&self, key: &Key, need: &Need) -> Option<Spent> {
        let now_ns = self.now_ns();
        let mut inner = self.inner();
        let fits = |lease: &Lease| {
            lease.key == *key
                && lease.is_spendable(now_ns)
                && lease.price(need).is_some_and(|price| price <= lease.left())
        };
        let at = inner.leases.iter().position(fits)?;
        let price = inner.leases[at].price(need)?;
        let spent_nanos = inner.leases[at].spent_nanos.checked_add(price)?;
        if spent_nanos > inner.leases[at].ahead_nanos {
            let before = inner.leases[at].ahead_nanos;
            let lease = &mut inner.leases[at];
            lease.ahead_nanos =
                spent_nanos.saturating_add(lease.amount_nanos / CHUNKS).min(lease.amount_nanos);
            if let Err(error) = self.keep(&inner.leases) {
                tracing::warn!(%error, "What is leased cannot be spent, since that cannot be written down first.");
                inner.leases[at].ahead_nanos = before;
                return None;
            }
        }
        let lease = &mut inner.leases[at];
        lease.spent_nanos = spent_nanos;
        let left = lease.beside_nanos.map(|beside| from_nanos(i128::from(beside) + i128::from(lease.left())));
        Some(Spent { transaction: lease.transaction.clone(), amount: from_nanos(price.into()), left })
    }

    /// What to lease for such jobs, if anything is to be. Whoever asks for it says what came of it.
    pub fn wanted(&self, key: &Key, cluster: &str) -> Option<Ask> {
        let now_ns = self.now_ns();
        let quarter_ns = i64::from(self.terms.seconds) * S / 4;
        let mut inner = self.inner();
        inner.refused.retain(|_, until_ns| *until_ns > now_ns);
        inner.leases.retain(|lease| now_ns < lease.until_ns);
        let own = inner.leases.iter().filter(|lease| lease.key == *key);
        let good = own
            .clone()
            .any(|lease| lease.left() > lease.amount_nanos / 4 && lease.until_ns - now_ns > quarter_ns);
        let too_many = own.count() >= LEASES_MAX || inner.leases.len() + inner.asking.len() >= KEYS_MAX;
        if self.terms.gpu_seconds == 0
            || good
            || too_many
            || inner.refused.contains_key(key)
            || !inner.asking.insert(key.clone())
        {
            return None;
        }
        let Key { account, user, partition, model } = key.clone();
        let details = BTreeMap::from([(GATE, cluster.to_owned()), (ESCROW, self.terms.seconds.to_string())]);
        Some(Ask {
            key: String::new(),
            account,
            user,
            partition,
            need: Need { gpus: 1, model, seconds: self.terms.gpu_seconds, ..Need::default() },
            details,
            job: None,
            overdraft: String::new(),
            escrow: Escrow::Lease { seconds: self.terms.seconds },
        })
    }

    /// What came of an ask at `began`: a lease, or none.
    pub fn leased(&self, key: &Key, began: Reading, granted: Option<&Granted>) {
        let lease = granted.and_then(|granted| self.lease(key, began, granted));
        let mut inner = self.inner();
        inner.asking.remove(key);
        match lease {
            Some(lease) => inner.leases.push(lease),
            None => drop(inner.refused.insert(key.clone(), self.now_ns() + REFUSED_NS)),
        }
    }

    fn lease(&self, key: &Key, began: Reading, granted: &Granted) -> Option<Lease> {
        let nanos = |text: &str| i64::try_from(to_nanos(text)?).ok();
        let amount_nanos = nanos(&granted.exact.hold_amount).filter(|amount| *amount > 0)?;
        let length_ns = i64::from(self.terms.seconds) * S;
        Some(Lease {
            transaction: granted.transaction_id.clone(),
            key: key.clone(),
            begin_ns: began.wall_ns,
            end_ns: began.wall_ns + length_ns,
            until_ns: began.boot_ns + length_ns,
            amount_nanos,
            gpu_seconds: self.terms.gpu_seconds,
            beside_nanos: granted.exact.budget_remaining.as_deref().and_then(nanos),
            ahead_nanos: 0,
            spent_nanos: 0,
        })
    }

    /// Leases that are not over.
    #[must_use]
    pub fn own(&self) -> BTreeSet<String> {
        let now_ns = self.now_ns();
        let inner = self.inner();
        let own = inner.leases.iter().filter(|lease| now_ns < lease.until_ns);
        own.map(|lease| lease.transaction.clone()).collect()
    }

    /// When it returns it is on the disk.
    fn keep(&self, leases: &[Lease]) -> io::Result<()> {
        let begun = self.path.with_extension("new");
        let mut file = File::create(&begun)?;
        file.write_all(&serde_json::to_vec(leases)?)?;
        file.sync_all()?;
        fs::rename(&begun, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }

    /// Time goes on for a lease while the machine is suspended.
    fn now_ns(&self) -> i64 {
        self.clock.read().boot_ns
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Amounts;
    use super::*;

    const TERMS: Terms = Terms { gpu_seconds: 1000, seconds: 600 };

    fn key() -> Key {
        Key { account: "a".into(), user: "u".into(), partition: "p".into(), model: String::new() }
    }

    fn seconds(seconds: u64) -> Need {
        Need { gpus: 1, seconds, ..Need::default() }
    }

    fn granted(amount: &str) -> Granted {
        let exact = Amounts {
            estimated_cost: Some("1".into()),
            hold_amount: amount.into(),
            budget_remaining: Some("5.000000000".into()),
        };
        Granted { transaction_id: "txn_1".into(), exact }
    }

    fn leased(state: &Path, clock: &Clock) -> Purse {
        let purse = Purse::open(state, TERMS, clock.clone()).unwrap();
        let ask = purse.wanted(&key(), "c").unwrap();
        assert_eq!((ask.need.seconds, ask.escrow), (1000, Escrow::Lease { seconds: 600 }));
        assert_eq!(purse.wanted(&key(), "c"), None, "it is asked for already");
        purse.leased(&key(), clock.read(), Some(&granted("1.000000000")));
        purse
    }

    fn simulated(folder: &Path) -> (File, Clock) {
        let path = folder.join("clock");
        let file = File::create(&path).unwrap();
        at(&file, 0);
        (file, Clock::simulated(&path).unwrap())
    }

    fn at(file: &File, seconds: i64) {
        let reading = Reading { wall_ns: (1000 + seconds) * S, boot_ns: seconds * S, ..Reading::default() };
        tonnage_runtime::clock::write_simulated(file, reading).unwrap();
    }

    /// A child that another test starts has the lock, too, until it runs its program.
    fn reopened(state: &Path, clock: &Clock) -> Purse {
        loop {
            if let Ok(purse) = Purse::open(state, TERMS, clock.clone()) {
                return purse;
            }
        }
    }

    #[test]
    fn a_lease_is_spent_by_its_price_to_the_last_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let (_clock, clock) = simulated(folder.path());
        let purse = leased(folder.path(), &clock);
        let spent = purse.spend(&key(), &seconds(250)).unwrap();
        assert_eq!((spent.amount.as_str(), spent.left.as_deref()), ("0.250000000", Some("5.750000000")));
        assert_eq!(purse.spend(&Key { user: "v".into(), ..key() }, &seconds(1)), None, "it is not theirs");
        assert_eq!(purse.spend(&key(), &seconds(751)), None);
        assert!(purse.spend(&key(), &seconds(750)).is_some());
        assert_eq!(purse.spend(&key(), &seconds(1)), None);
        assert!(purse.wanted(&key(), "c").is_some(), "another one is due");
    }

    #[test]
    fn a_lease_is_not_spent_in_the_margin_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (file, clock) = simulated(folder.path());
        let purse = leased(folder.path(), &clock);
        at(&file, 589);
        assert!(purse.spend(&key(), &seconds(1)).is_some());
        at(&file, 590);
        assert_eq!(purse.spend(&key(), &seconds(1)), None);
        assert_eq!(purse.own().len(), 1, "nobody else may think it free");
        at(&file, 600);
        assert!(purse.own().is_empty());
    }

    #[test]
    fn whenever_it_is_killed_no_more_is_spent_than_was_leased() {
        let folder = tempfile::tempdir().unwrap();
        let (_clock, clock) = simulated(folder.path());
        // After each spending, as if killed there: what is on the disk then is what the next run has.
        let (mut purse, mut spent) = (leased(folder.path(), &clock), 0);
        let mut lives = 0;
        while let Some(one) = purse.spend(&key(), &seconds(7)) {
            spent += to_nanos(&one.amount).unwrap();
            drop(purse);
            purse = reopened(folder.path(), &clock);
            lives += 1;
            assert!(spent <= to_nanos("1").unwrap(), "{lives} lives spent {spent}");
        }
        assert!((10..=16).contains(&lives), "{lives} lives spent {spent}");
        let alone = Purse::open(folder.path(), TERMS, clock.clone()).unwrap_err().to_string();
        assert!(alone.contains("another gate"), "{alone}");
    }

    #[test]
    fn what_cannot_be_written_down_is_not_spent() {
        let folder = tempfile::tempdir().unwrap();
        let (_clock, clock) = simulated(folder.path());
        let state = folder.path().join("state");
        let purse = leased(&state, &clock);
        fs::remove_dir_all(&state).unwrap();
        assert_eq!(purse.spend(&key(), &seconds(1)), None);
    }

    #[test]
    fn after_a_refusal_or_a_clock_that_was_set_back_nothing_is_leased_or_spent() {
        let folder = tempfile::tempdir().unwrap();
        let (file, clock) = simulated(folder.path());
        let purse = Purse::open(folder.path(), TERMS, clock.clone()).unwrap();
        purse.wanted(&key(), "c").unwrap();
        purse.leased(&key(), clock.read(), None);
        at(&file, 59);
        assert_eq!(purse.wanted(&key(), "c"), None);
        at(&file, 61);
        assert!(purse.wanted(&key(), "c").is_some());
        purse.leased(&key(), clock.read(), Some(&granted("1.000000000")));
        assert!(purse.spend(&key(), &seconds(1)).is_some());
        drop(purse);
        at(&file, 0);
        let back = reopened(folder.path(), &clock);
        assert_eq!(back.spend(&key(), &seconds(1)), None);
    }
}
