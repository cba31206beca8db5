//! The working set of the commit thread: the slots, tenures and coverage that are in use, and how their changes reach
//! the store.
//!
//! It outlives transactions, so that a steady stream costs no reads. It is what the store holds plus what this
//! transaction changed: after a failed one it must be thrown away. Bounded: see [`Working::trim`].

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tonnage_proto::limits::{SLOT_NS, slot_start};

use super::CommitError;
use super::budgets::Budgets;
use super::jobs;
use super::nodes::Nodes;
use super::priced::{self, Shares};
use super::written::Written;
use crate::ledger::coverage::Coverage;
use crate::ledger::rows::{Key, NOBODY, Row, Rows, WHOLE};
use crate::ledger::stay::Stay;
use crate::metrics::budgets::Counts;
use crate::model::{Device, Instance, NodeFacts, Owner, RowKind, UsageBatch, Window};
use crate::prices::{Book, PriceFacts};
use crate::store::Connection;
use crate::store::closing;
use crate::store::existence::{self, Stayed, TenureRecord};
use crate::store::facts;
use crate::store::instances;
use crate::store::rollup::Keys;
use crate::store::write::{self, Mark, SlotState};

/// Entries of the working set before slots that are over are let go: some thousand GPUs' slots.
pub(super) const ENTRIES_SOFT_MAX: usize = 20_000;
/// What an entry takes, more or less.
const ENTRY_BYTES: usize = 256;
/// Entries of the working set before it is emptied, more than 80,000 GPUs with some pods on each have: a fleet that does
/// not fit would have everything read again with each commit.
const ENTRIES_MAX: usize = 1_200_000;
/// So long after its end windows of a slot still come as a matter of course: an agent's last, and its first after a pause.
const LATE_NS: i64 = 60_000_000_000;

/// A slot in the working set.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    /// Its rows as the store has them, where this transaction changed them.
    pub(super) stored: Option<Rows>,
    pub(super) tenure: Arc<TenureRecord>,
    pub(super) dirty: bool,
}

impl Slot {
    /// Its rows, to be changed.
    pub(super) fn rows(&mut self) -> &mut Rows {
        if self.stored.is_none() {
            self.stored = Some(self.state.rows.clone());
        }
        &mut self.state.rows
    }
}

/// The stays of a device, as they are and as they are stored, and when it was retired.
#[derive(Debug, Clone, Default)]
pub(super) struct Stays {
    pub(super) now: Vec<Stay>,
    stored: Vec<Stay>,
    pub(super) retired: Vec<i64>,
}

/// What the ledger has got to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// Until then silence has been taken note of.
    pub(super) existence_until_ns: i64,
    /// Slots before this are closed.
    pub(super) closed_until_ns: i64,
    /// Slots before this are frozen.
    pub(super) purged_until_ns: i64,
    /// Roll-ups that end at or before this are built.
    rolled_until_ns: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Working {
    marks: Option<Marks>,
    /// The window that is being folded: entry of the journal, and position.
    pub(super) folding: Option<(i64, usize)>,
    slots: HashMap<(i64, i64), Slot>,
    pub(super) coverage: HashMap<(i64, i64), (Coverage, bool)>,
    stays: HashMap<i64, Stays>,
    tenures: HashMap<i64, Arc<TenureRecord>>,
    /// By device, node, life and slices.
    tenure_ids: HashMap<(i64, i64, String, u32), i64>,
    /// (tenure, cursor) that have claimed.
    claims: HashSet<(i64, i64)>,
    pub(super) nodes: Nodes,
    owners: HashMap<Owner, i64>,
    instances: HashMap<Instance, i64>,
    shares: Shares,
    facts: HashMap<i64, NodeFacts>,
    /// Bytes of text in the facts that are known, by either map.
    facts_bytes: usize,
    facts_ids: HashMap<NodeFacts, i64>,
    /// By UUID: as last described, and the store's number.
    devices: HashMap<String, (Device, i64)>,
    rollup_keys: Keys,
    pub(super) budgets: Option<Budgets>,
}

impl Working {
    pub(super) fn marks(&mut self, db: &Connection) -> Result<Marks, CommitError> {
        if let Some(marks) = self.marks {
            return Ok(marks);
        }
        let marks = Marks {
            existence_until_ns: write::mark(db, Mark::ExistenceUntil)?,
            closed_until_ns: write::mark(db, Mark::ClosedUntil)?,
            purged_until_ns: write::mark(db, Mark::PurgedUntil)?,
            rolled_until_ns: write::mark(db, Mark::RolledUntil)?,
        };
        self.marks = Some(marks);
        Ok(marks)
    }

    pub(super) fn set_mark(&mut self, db: &Connection, mark: Mark, at_ns: i64) -> Result<(), CommitError> {
        write::set_mark(db, mark, at_ns)?;
        self.forget_marks();
        Ok(())
    }

    /// For whoever set one.
    pub(super) fn forget_marks(&mut self) {
        self.marks = None;
    }

    /// True of windows of the batch at hand behind the one that is being folded.
    pub(super) fn is_to_come(&self, journal: i64, window: usize) -> bool {
        self.folding.is_some_and(|(folding, at)| folding == journal && window > at)
    }

    pub(super) fn facts_id(&mut self, db: &Connection, facts: &NodeFacts) -> Result<i64, CommitError> {
        if let Some(id) = self.facts_ids.get(facts) {
            return Ok(*id);
        }
        let id = facts::number(db, facts)?;
        let labels = facts.labels.iter().map(|(key, value)| 64 + key.len() + value.len());
        self.facts_bytes += 512 + labels.sum::<usize>();
        self.facts_ids.insert(facts.clone(), id);
        self.facts.insert(id, facts.clone());
        Ok(id)
    }

    pub(super) fn device(&mut self, db: &Connection, device: &Device) -> Result<i64, CommitError> {
        if let Some((known, id)) = self.devices.get(&device.uuid)
            && known == device
        {
            return Ok(*id);
        }
        let id = write::device(db, device)?;
        self.devices.insert(device.uuid.clone(), (device.clone(), id));
        Ok(id)
    }

    fn instance(&mut self, db: &Connection, device: i64, instance: &Instance) -> Result<i64, CommitError> {
        if let Some(id) = self.instances.get(instance) {
            return Ok(*id);
        }
        let id = instances::number(db, device, instance)?;
        self.instances.insert(instance.clone(), id);
        Ok(id)
    }

    pub(super) fn owner(&mut self, db: &Connection, owner: &Owner) -> Result<i64, CommitError> {
        if let Some(id) = self.owners.get(owner) {
            return Ok(*id);
        }
        let id = write::owner(db, owner)?;
        self.owners.insert(owner.clone(), id);
        Ok(id)
    }

    /// The tenure of a device with so many slices in a life of a node, and the cursor's claim in it, both noted when
    /// new.
    pub(super) fn claim(
        &mut self,
        db: &Connection,
        (device, node, life, slices): (i64, i64, &str, u32),
        cursor: i64,
        first_ns: i64,
    ) -> Result<i64, CommitError> {
        let key = (device, node, life.to_owned(), slices);
        let tenure = match self.tenure_ids.get(&key) {
            Some(tenure) => *tenure,
            None => {
                let tenure = existence::tenure(db, (device, node, life, slices), first_ns)?;
                self.tenure_ids.insert(key, tenure);
                tenure
            }
        };
        if self.claims.insert((tenure, cursor)) {
            existence::claim(db, tenure, cursor, first_ns)?;
        }
        Ok(tenure)
    }

    pub(super) fn tenure(&mut self, db: &Connection, id: i64) -> Result<Arc<TenureRecord>, CommitError> {
        Ok(match self.tenures.entry(id) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(free) => Arc::clone(free.insert(Arc::new(existence::tenure_by_id(db, id)?))),
        })
    }

    pub(super) fn stays(&mut self, db: &Connection, device: i64) -> Result<&mut Stays, CommitError> {
        Ok(match self.stays.entry(device) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let now = existence::stays(db, device)?;
                let retired = existence::retired(db, device)?;
                free.insert(Stays { stored: now.clone(), now, retired })
            }
        })
    }

    pub(super) fn coverage(
        &mut self,
        db: &Connection,
        device: i64,
        slot: i64,
    ) -> Result<&mut (Coverage, bool), CommitError> {
        Ok(match self.coverage.entry((device, slot)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                free.insert((existence::coverage(db, device, slot, slot + SLOT_NS)?, false))
            }
        })
    }

    /// A slot as it is now; new ones are empty and know no facts.
    pub(super) fn slot(
        &mut self,
        db: &Connection,
        start_ns: i64,
        tenure: i64,
    ) -> Result<&mut Slot, CommitError> {
        if !self.slots.contains_key(&(start_ns, tenure)) {
            let record = self.tenure(db, tenure)?;
            let state = write::slot(db, start_ns, tenure)?;
            let slot = Slot { state, stored: None, tenure: record, dirty: false };
            self.slots.insert((start_ns, tenure), slot);
        }
        self.slots.get_mut(&(start_ns, tenure)).ok_or(CommitError::Bug("a slot was brought in"))
    }

    /// What prices of a tenure in a slot go by.
    pub(super) fn price_facts<T>(
        &mut self,
        db: &Connection,
        start_ns: i64,
        tenure: i64,
        with: impl FnOnce(&PriceFacts<'_>) -> T,
    ) -> Result<T, CommitError> {
        let record = self.tenure(db, tenure)?;
        let facts = self.slot(db, start_ns, tenure)?.state.facts;
        let facts = known_facts(&mut self.facts, db, facts)?;
        Ok(with(&PriceFacts {
            cluster: &record.node.cluster,
            node: &record.node.node,
            gpu_model: &record.model,
            facts,
        }))
    }

    /// Accounts and holds, once all that changed before is written.
    pub(super) fn budgets(&mut self, db: &Connection, book: &Book) -> Result<&mut Budgets, CommitError> {
        self.write(db, book)?;
        self.budgets.as_mut().ok_or(CommitError::Bug("writing brings budgets in"))
    }

    /// What was done to accounts and holds since the last time.
    pub(super) fn take_budget_counts(&mut self) -> Counts {
        self.budgets.as_mut().map(Budgets::take_counts).unwrap_or_default()
    }

    /// Adds a window's figures to its slot, or takes them away again (`sign` -1).
    pub(super) fn add(
        &mut self,
        db: &Connection,
        tenure: i64,
        batch: &UsageBatch,
        window: &Window,
        sign: i64,
    ) -> Result<(), CommitError> {
        let device = self.tenure(db, tenure)?.device;
        let mut idles = Vec::with_capacity(window.instance_idles.len());
        for (at, idle_ns) in &window.instance_idles {
            idles.push((self.instance(db, device, &batch.instances[*at])?, *idle_ns));
        }
        let mut owned = Vec::with_capacity(window.usages.len());
        for usage in &window.usages {
            let instance = match usage.instance {
                Some(at) => self.instance(db, device, &batch.instances[at])?,
                None => WHOLE,
            };
            let id = self.owner(db, &batch.owners[usage.owner])?;
            let kind = if usage.intruder { RowKind::Intruder } else { RowKind::Held };
            owned.push(((instance, id, kind), usage));
        }
        let slot = self.slot(db, slot_start(window.start_ns), tenure)?;
        let slices = i64::from(slot.tenure.slices);
        slot.state.extent.covered_ns += sign * (window.end_ns - window.start_ns) * slices;
        let rows = slot.rows();
        for (key, usage) in owned {
            let row = rows.row(key);
            row.time_ns += sign * int(usage.held_ns)?;
            row.busy_ns += sign * int(usage.busy_ns)?;
            row.memory_byte_seconds += sign * int(usage.memory_byte_seconds)?;
            row.energy_uj += sign * int(usage.energy_uj)?;
            row.method |= usage.method;
        }
        for (instance, idle_ns) in idles {
            rows.row((instance, NOBODY, RowKind::Idle)).time_ns += sign * int(idle_ns)?;
        }
        if window.stranded_ns > 0 {
            let stranded = rows.row((WHOLE, NOBODY, RowKind::Stranded));
            stranded.time_ns += sign * int(window.stranded_ns)?;
        }
        let idle = rows.row((WHOLE, NOBODY, RowKind::Idle));
        idle.busy_ns += sign * int(window.busy_unattributed_ns)?;
        idle.energy_uj += sign * int(window.energy_idle_uj)?;
        let unobserved = rows.row((WHOLE, NOBODY, RowKind::Unobserved));
        unobserved.energy_uj += sign * int(window.energy_unobserved_uj)?;
        if sign < 0 {
            // What is left of a row whose windows are all gone is its price, which is worked out anew.
            let nothing = |row: &Row| {
                (row.time_ns, row.busy_ns, row.memory_byte_seconds, row.energy_uj) == (0, 0, 0, 0)
            };
            let of_device = |(instance, owner, kind): &Key| {
                (*instance, *owner) == (WHOLE, NOBODY) && *kind != RowKind::Stranded
            };
            rows.retain(|key, row| of_device(key) || !nothing(row));
        }
        slot.dirty = true;
        Ok(())
    }

    /// Writes the coverage of one device, so that the store can be asked about all of it.
    pub(super) fn write_coverage(&mut self, db: &Connection, only: Option<i64>) -> Result<(), CommitError> {
        let dirty = self
            .coverage
            .iter_mut()
            .filter(|((device, _), (_, dirty))| *dirty && only.is_none_or(|only| only == *device));
        let mut written = Vec::new();
        for ((device, slot), (coverage, dirty)) in dirty {
            written.push(([*device, *slot, *slot + SLOT_NS], &*coverage));
            *dirty = false;
        }
        // In the order of the table's key, which is the least work for either engine.
        written.sort_unstable_by_key(|(span, _)| *span);
        Ok(existence::put_coverage(db, &written)?)
    }

    /// Prices and writes all that changed: slots, hours, days, coverage, stays. The last step before the commit.
    pub(super) fn write(&mut self, db: &Connection, book: &Book) -> Result<(), CommitError> {
        let Marks { closed_until_ns, rolled_until_ns, .. } = self.marks(db)?;
        let mut written = Written::default();
        let (mut dirty, mut unposted) = (Vec::new(), Vec::new());
        for ((start_ns, tenure), slot) in self.slots.iter_mut().filter(|(_, slot)| slot.dirty) {
            if slot.tenure.is_of_jobs() {
                jobs::settle(slot, book, *start_ns);
            } else {
                let facts = known_facts(&mut self.facts, db, slot.state.facts)?;
                priced::settle(db, &mut self.shares, slot, (book, facts), *start_ns)?;
            }
            let changed = written.take(db, &mut self.rollup_keys, (*start_ns, *tenure), slot)?;
            if changed && *start_ns < closed_until_ns {
                unposted.push([*start_ns, *tenure]);
            }
            slot.dirty = false;
            dirty.push((*start_ns, *tenure));
        }
        closing::mark_unposted(db, &unposted)?;
        dirty.sort_unstable();
        let state = |key: &(i64, i64)| self.slots.get(key).map(|slot| (key.0, key.1, &slot.state));
        write::put_slot_states(db, dirty.iter().filter_map(state))?;
        written.write(db, rolled_until_ns)?;
        let tenure_of = |tenure: i64| self.tenures.get(&tenure).map(|tenure| &**tenure);
        let budgets = match &mut self.budgets {
            Some(budgets) => budgets,
            none => none.insert(Budgets::load(db)?),
        };
        budgets.fold(db, &written.figures, &written.held, tenure_of)?;
        self.write_coverage(db, None)?;
        self.write_stays(db)?;
        self.nodes.write(db)
    }

    fn write_stays(&mut self, db: &Connection) -> Result<(), CommitError> {
        let changed = || self.stays.iter().filter(|(_, stays)| stays.now != stays.stored);
        let mut devices: Vec<Stayed<'_>> = changed()
            .map(|(device, Stays { now, stored, .. })| Stayed { device: *device, stored, new: now })
            .collect();
        devices.sort_unstable_by_key(|stayed| stayed.device);
        existence::put_stays(db, &devices)?;
        for stays in self.stays.values_mut().filter(|stays| stays.now != stays.stored) {
            stays.stored.clone_from(&stays.now);
        }
        Ok(())
    }

    /// Keeps the working set small; call after the commit, when all of it is stored. Old slots go first: live traffic
    /// does not come back to them.
    pub(super) fn trim(&mut self, now_ns: i64) {
        if self.entries() > ENTRIES_SOFT_MAX {
            let oldest_ns = slot_start(now_ns - LATE_NS);
            self.slots.retain(|(start_ns, _), _| *start_ns >= oldest_ns);
            self.coverage.retain(|(_, start_ns), _| *start_ns >= oldest_ns);
            if 2 * self.facts_bytes / ENTRY_BYTES > ENTRIES_SOFT_MAX {
                self.facts.clear();
                self.facts_ids.clear();
                self.facts_bytes = 0;
            }
            // Pods come and go; those that stay are found again. Those of large fleets are many, and all of them stay.
            let live: usize = self.slots.values().map(|slot| slot.state.rows.len()).sum();
            self.rollup_keys.age(live.max(ENTRIES_SOFT_MAX / 8));
            if self.owners.len() > live.max(ENTRIES_SOFT_MAX / 2) {
                self.owners.clear();
            }
            if self.instances.len().max(self.shares.len()) > ENTRIES_SOFT_MAX / 2 {
                self.instances.clear();
                self.shares.clear();
            }
            // A backlog's peak need not stay allocated.
            self.slots.shrink_to(ENTRIES_SOFT_MAX);
            self.coverage.shrink_to(ENTRIES_SOFT_MAX);
        }
        if self.entries() > ENTRIES_MAX {
            *self = Self::default();
        }
    }

    pub(super) fn entries(&self) -> usize {
        let rows: usize = self.slots.values().map(|slot| 1 + slot.state.rows.len()).sum();
        let stays: usize = self.stays.values().map(|stays| 1 + stays.now.len()).sum();
        let others = [
            self.coverage.len(),
            self.tenures.len(),
            self.tenure_ids.len(),
            self.claims.len(),
            self.nodes.len(),
            self.owners.len(),
            self.instances.len(),
            self.shares.len(),
            self.devices.len(),
            self.facts.len(),
            self.rollup_keys.count(),
            // A node that has other labels with each batch must not make it grow.
            2 * self.facts_bytes / ENTRY_BYTES,
        ];
        rows + stays + others.iter().sum::<usize>()
    }
}

/// Facts by their number; 0 is a slot that knows none.
fn known_facts<'a>(
    known: &'a mut HashMap<i64, NodeFacts>,
    db: &Connection,
    id: i64,
) -> Result<&'a NodeFacts, CommitError> {
    Ok(match known.entry(id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(free) if id == 0 => free.insert(NodeFacts::default()),
        Entry::Vacant(free) => free.insert(facts::by_number(db, id)?),
    })
}

/// Validation has bounded every figure far below 2^63.
fn int(value: u64) -> Result<i64, CommitError> {
    i64::try_from(value).map_err(|_| CommitError::Bug("a figure over 2^63 passed validation"))
}
