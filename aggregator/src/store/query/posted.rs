//! What was posted, hour by hour, with the names behind its numbers: entries added up to charges.
//!
//! Entries are never changed and their numbers go up, so a [`Snapshot`] is all of a moment that an export needs: each hour
//! can be read by itself, whatever is posted meanwhile, and no reader holds the store for as long as a client takes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tonnage_proto::limits::HOUR_NS;

use super::{Told, explain};
use crate::model::{GpuTime, Instance, NodeFacts, Owner, RowKind};
use crate::store::existence::{self, TenureRecord};
use crate::store::sql::{self, Connection, OptionalExtension, params};
use crate::store::{self, StoreError, audit};

type Result<T> = std::result::Result<T, StoreError>;

/// A moment of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Slots before this are closed and posted.
    pub closed_until_ns: i64,
    /// Number of the last entry that there was.
    pub last_entry: i64,
    /// The price book in force with its nodes file; empty if there is none.
    pub book: String,
}

/// The ledger as it is now.
///
/// # Errors
/// If the store fails.
pub fn snapshot(db: &Connection) -> Result<Snapshot> {
    let last: Option<i64> =
        db.prepare_cached("SELECT MAX(id) FROM entry")?.query_row([], |row| row.get(0))?;
    // A slot closes before the last of it is posted.
    let waiting: Option<i64> = db
        .prepare_cached(
            "SELECT MIN(u.start) FROM unposted u WHERE NOT EXISTS
                (SELECT 1 FROM entry e WHERE e.start = u.start AND e.tenure = u.tenure)",
        )?
        .query_row([], |row| row.get(0))?;
    let closed_until_ns = audit::closed_until(db)?;
    Ok(Snapshot {
        closed_until_ns: waiting.map_or(closed_until_ns, |start_ns| start_ns.min(closed_until_ns)),
        last_entry: last.unwrap_or(0),
        book: audit::applied_book(db)?.unwrap_or_default(),
    })
}

/// Start of the first slot in `[from_ns, to_ns)` of which anything was posted.
///
/// # Errors
/// If the store fails.
pub fn first_posted(db: &Connection, from_ns: i64, to_ns: i64) -> Result<Option<i64>> {
    let found = db
        .prepare_cached("SELECT MIN(start) FROM entry WHERE start >= ?1 AND start < ?2")?
        .query_row([from_ns, to_ns], |row| row.get(0))?;
    Ok(found)
}

/// When a charge was posted, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Posting {
    /// First of its key in its slot.
    First,
    /// Corrects the first, before the billing period was over.
    Correction,
    /// Corrects the first, once the billing period was over.
    Late,
}

/// Entries of one (hour, tenure, instance, posting, owner, kind), added up.
#[derive(Debug, Clone)]
pub struct Charge {
    pub posting: Posting,
    pub tenure: Arc<TenureRecord>,
    pub facts: Arc<NodeFacts>,
    /// `None` = the GPU as a whole, or what of it is in no instance.
    pub instance: Option<Arc<Instance>>,
    /// `None` = nobody.
    pub owner: Option<Arc<Owner>>,
    /// What Kubernetes says of the owner.
    pub told: Told,
    pub kind: RowKind,
    pub figures: Figures,
}

impl Charge {
    /// Time of the whole GPU.
    #[must_use]
    pub fn gpu_time(&self, slice_ns: i128) -> GpuTime {
        GpuTime::of_slices(slice_ns, self.tenure.slices)
    }
}

/// Sums, of which corrections can make any negative; times in slice-nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub time_ns: i128,
    pub busy_ns: i128,
    pub memory_byte_seconds: i128,
    pub energy_uj: i128,
    pub cost_nanos: i128,
    pub unpriced_ns: i128,
}

/// A [`Charge`]'s place: tenure, instance, posting, owner, kind.
type Place = (i64, i64, Posting, i64, RowKind);

/// What was posted of the slots in `[from_ns, to_ns)`, which are of one hour, ordered by GPU, instance, posting and owner.
///
/// `period_end_ns` is where the billing period of that hour ends. `facts` says what a node is, given what its agent said,
/// `told` what is said of a cluster's owner.
/// Charges that came to nothing are left out.
///
/// # Errors
/// If the store fails.
pub fn charges(
    db: &Connection,
    snapshot: &Snapshot,
    (from_ns, to_ns): (i64, i64),
    period_end_ns: i64,
    facts: &dyn Fn(&TenureRecord, NodeFacts) -> NodeFacts,
    told: &dyn Fn(&str, &Owner) -> Told,
) -> Result<Vec<Charge>> {
    debug_assert!(to_ns - from_ns <= HOUR_NS, "an hour at a time is held in memory");
    let (sums, newest) = sums(db, snapshot, (from_ns, to_ns), period_end_ns)?;
    let mut names = Names::new(db, facts, newest);
    let mut charges = Vec::with_capacity(sums.len());
    for ((tenure, instance, posting, owner, kind), figures) in sums {
        if figures == Figures::default() {
            continue;
        }
        let (tenure, facts) = names.tenure(tenure)?;
        let instance = names.instance(&tenure, instance)?;
        let owner = names.owner(owner)?;
        let told = owner.as_ref().map(|owner| told(&tenure.node.cluster, owner)).unwrap_or_default();
        charges.push(Charge { posting, tenure, facts, instance, owner, told, kind, figures });
    }
    Ok(charges)
}

/// Sums by place, and the newest slot of each tenure.
fn sums(
    db: &Connection,
    snapshot: &Snapshot,
    (from_ns, to_ns): (i64, i64),
    period_end_ns: i64,
) -> Result<(BTreeMap<Place, Figures>, HashMap<i64, i64>)> {
    let mut statement = db.prepare_cached(
        "SELECT e.start, e.tenure, e.instance, e.owner, e.kind, e.corrects, c.at_ns, e.time_ns, e.busy_ns,
            e.memory_byte_seconds, e.energy_uj, e.cost_nanos, e.unpriced_ns
         FROM entry e JOIN checkpoint c ON c.id = e.checkpoint
         WHERE e.start >= ?1 AND e.start < ?2 AND e.id <= ?3",
    )?;
    let mut rows = statement.query(params![from_ns, to_ns, snapshot.last_entry])?;
    let mut sums: BTreeMap<Place, Figures> = BTreeMap::new();
    let mut newest = HashMap::new();
    while let Some(row) = rows.next()? {
        let kind: i64 = row.get(4)?;
        let kind = RowKind::from_number(kind).ok_or(sql::Error::out_of_range(4, kind))?;
        let (start_ns, tenure, corrects, at_ns): (i64, i64, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(5)?, row.get(6)?);
        let posting = match corrects {
            0 => Posting::First,
            _ if at_ns < period_end_ns => Posting::Correction,
            _ => Posting::Late,
        };
        let slot = newest.entry(tenure).or_insert(start_ns);
        *slot = start_ns.max(*slot);
        let figure = |at: usize| row.get::<i64>(at).map(i128::from);
        let sum = sums.entry((tenure, row.get(2)?, posting, row.get(3)?, kind)).or_default();
        sum.time_ns += figure(7)?;
        sum.busy_ns += figure(8)?;
        sum.memory_byte_seconds += figure(9)?;
        sum.energy_uj += figure(10)?;
        sum.cost_nanos += figure(11)?;
        sum.unpriced_ns += figure(12)?;
    }
    Ok((sums, newest))
}

/// What numbers of the store stand for, each read once in an hour.
struct Names<'a> {
    db: &'a Connection,
    facts: &'a dyn Fn(&TenureRecord, NodeFacts) -> NodeFacts,
    /// The slot that a tenure's facts are from.
    newest: HashMap<i64, i64>,
    tenures: HashMap<i64, (Arc<TenureRecord>, Arc<NodeFacts>)>,
    instances: HashMap<i64, Option<Arc<Instance>>>,
    owners: HashMap<i64, Option<Arc<Owner>>>,
}

impl<'a> Names<'a> {
    fn new(
        db: &'a Connection,
        facts: &'a dyn Fn(&TenureRecord, NodeFacts) -> NodeFacts,
        newest: HashMap<i64, i64>,
    ) -> Self {
        Self { db, facts, newest, tenures: HashMap::new(), instances: HashMap::new(), owners: HashMap::new() }
    }

    fn tenure(&mut self, id: i64) -> Result<(Arc<TenureRecord>, Arc<NodeFacts>)> {
        if let Some(known) = self.tenures.get(&id) {
            return Ok(known.clone());
        }
        let tenure = existence::tenure_by_id(self.db, id)?;
        let said: Option<i64> = self
            .db
            .prepare_cached("SELECT facts FROM slot_state WHERE start = ?1 AND tenure = ?2")?
            .query_row([self.newest.get(&id).copied().unwrap_or_default(), id], |row| row.get(0))
            .optional()?;
        let said = match said.unwrap_or(0) {
            0 => NodeFacts::default(),
            facts => store::facts::by_number(self.db, facts)?,
        };
        let facts = Arc::new((self.facts)(&tenure, said));
        Ok(self.tenures.entry(id).or_insert((Arc::new(tenure), facts)).clone())
    }

    fn instance(&mut self, tenure: &TenureRecord, id: i64) -> Result<Option<Arc<Instance>>> {
        if let Some(known) = self.instances.get(&id) {
            return Ok(known.clone());
        }
        let found = explain::instance(self.db, tenure, id)?.map(Arc::new);
        Ok(self.instances.entry(id).or_insert(found).clone())
    }

    fn owner(&mut self, id: i64) -> Result<Option<Arc<Owner>>> {
        if let Some(known) = self.owners.get(&id) {
            return Ok(known.clone());
        }
        let found = explain::owner(self.db, id)?.map(Arc::new);
        Ok(self.owners.entry(id).or_insert(found).clone())
    }
}
