//! One batch into the ledger: the part of a transaction that decides and remembers, over a working set of the slots,
//! tenures and coverage that are in use.
//!
//! The working set outlives transactions, so that a steady stream costs no reads. It is what the store holds plus
//! what this transaction changed: after a failed one it must be thrown away. Bounded: see [`Working::trim`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::Connection;
use tonnage_proto::limits::{CLOCK_AHEAD_NS_MAX, DAY_NS, HOUR_NS, SLOT_NS, slot_start};

use super::CommitError;
use crate::ledger::coverage::{Coverage, Interval};
use crate::ledger::settle::{Key, NOBODY, Row, Rows, settle};
use crate::ledger::tenure::{Place, Placed, Tenure, place};
use crate::model::{Device, NodeFacts, NodeName, Owner, RowKind, UsageBatch, Window};
use crate::prices::{Book, PriceFacts};
use crate::store::write::{self, Rollup, SlotState};

/// Entries of the working set before slots that are over are let go: a few hundred GPUs' last two slots.
const ENTRIES_SOFT_MAX: usize = 20_000;
/// Entries of the working set before it is emptied.
const ENTRIES_MAX: usize = 400_000;
/// A window older than this is quarantined: a node whose clock stood at 1970 must not create a tenure of 50 years.
pub const WINDOW_AGE_NS_MAX: i64 = 400 * DAY_NS;

/// A slot in the working set, with its rows as the store has them.
#[derive(Debug, Clone)]
struct Slot {
    state: SlotState,
    stored: Rows,
    node: NodeName,
    model: String,
    slices: u32,
    dirty: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Working {
    slots: HashMap<(i64, i64), Slot>,
    coverage: HashMap<(i64, i64), (Coverage, bool)>,
    tenures: HashMap<i64, Vec<Tenure>>,
    owners: HashMap<Owner, i64>,
    facts: HashMap<i64, NodeFacts>,
    facts_ids: HashMap<NodeFacts, i64>,
    /// By UUID: as last described, the store's number, slices in the ledger.
    devices: HashMap<String, (Device, i64, u32)>,
}

/// A batch's place in the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub node: &'a NodeName,
    pub node_id: i64,
    /// The ledger's clock.
    pub now_ns: i64,
}

/// A window that was not folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Position in the batch.
    pub window: usize,
    pub device: String,
    pub span: Interval,
    pub reason: Reason,
}

/// Why a window was not folded: one of few words for metrics, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub kind: &'static str,
    pub text: String,
}

fn against<T>(kind: &'static str, text: impl Into<String>) -> Result<T, Reason> {
    Err(Reason { kind, text: text.into() })
}

impl Working {
    /// Folds a valid batch, but for the windows that do not fit what is already known: those are returned.
    pub fn fold(
        &mut self,
        db: &Connection,
        context: Context<'_>,
        batch: &UsageBatch,
    ) -> Result<Vec<Quarantined>, CommitError> {
        let facts_id = self.facts_id(db, &batch.facts)?;
        let place = Place {
            node: context.node_id,
            life: if batch.instance_id.is_empty() { &batch.boot_id } else { &batch.instance_id }.clone(),
        };
        let devices: Vec<(i64, u32)> =
            batch.devices.iter().map(|device| self.device(db, device)).collect::<Result<_, _>>()?;
        let mut quarantined = Vec::new();
        for (at, window) in batch.windows.iter().enumerate() {
            let (device_id, slices) = devices[window.device];
            let span = Interval { start_ns: window.start_ns, end_ns: window.end_ns };
            let described = &batch.devices[window.device];
            let reason = if described.slices == slices {
                self.accept(db, device_id, &place, span, context.now_ns)?
            } else {
                against("slices", format!("device has {slices} slices here, {} there", described.slices))
            };
            match reason {
                Ok(tenure) => {
                    let about = (context.node, described.model.as_str(), slices, facts_id);
                    self.extend(db, tenure, span.end_ns, about)?;
                    self.add(db, tenure.0, batch, window, slices)?;
                }
                Err(reason) => {
                    let device = described.uuid.clone();
                    quarantined.push(Quarantined { window: at, device, span, reason });
                }
            }
        }
        Ok(quarantined)
    }

    fn facts_id(&mut self, db: &Connection, facts: &NodeFacts) -> Result<i64, CommitError> {
        if let Some(id) = self.facts_ids.get(facts) {
            return Ok(*id);
        }
        let id = write::facts(db, facts)?;
        self.facts_ids.insert(facts.clone(), id);
        self.facts.insert(id, facts.clone());
        Ok(id)
    }

    fn device(&mut self, db: &Connection, device: &Device) -> Result<(i64, u32), CommitError> {
        if let Some((known, id, slices)) = self.devices.get(&device.uuid)
            && known == device
        {
            return Ok((*id, *slices));
        }
        let (id, slices) = write::device(db, device)?;
        self.devices.insert(device.uuid.clone(), (device.clone(), id, slices));
        Ok((id, slices))
    }

    /// Checks a window against clock, tenures and coverage, and covers it. Gives the tenure's id and its
    /// end before this window, or the reason for quarantine.
    fn accept(
        &mut self,
        db: &Connection,
        device: i64,
        at: &Place,
        span: Interval,
        now_ns: i64,
    ) -> Result<Result<(i64, i64, i64), Reason>, CommitError> {
        if span.end_ns > now_ns + CLOCK_AHEAD_NS_MAX {
            let ahead_s = (span.end_ns - now_ns) / 1_000_000_000;
            let text = format!("ends {ahead_s} s after the ledger's now; set the node's clock");
            return Ok(against("clock_ahead", text));
        }
        if span.start_ns < now_ns - WINDOW_AGE_NS_MAX {
            return Ok(against("too_old", "is over 400 days old; was the node's clock wrong?"));
        }
        let tenures = match self.tenures.entry(device) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(write::tenures(db, device)?),
        };
        let placed = place(tenures, at, span);
        if let Placed::Against(other) = placed {
            let Interval { start_ns, end_ns } = tenures[other].span;
            let text = format!("another node or boot has the device from {start_ns} to {end_ns} ns");
            return Ok(against("tenure", text));
        }
        let slot = slot_start(span.start_ns);
        let (coverage, dirty) = match self.coverage.entry((device, slot)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert((write::coverage(db, device, slot, slot + SLOT_NS)?, false)),
        };
        if let Some(Interval { start_ns, end_ns }) = coverage.overlap(span) {
            let text = format!("covers again what is covered from {start_ns} to {end_ns} ns");
            return Ok(against("overlap", text));
        }
        coverage.insert(span);
        *dirty = true;
        Ok(Ok(match placed {
            Placed::In(own) => {
                let tenure = &mut tenures[own];
                let was_end_ns = tenure.span.end_ns;
                if span.end_ns > was_end_ns {
                    tenure.span.end_ns = span.end_ns;
                    write::extend_tenure(db, tenure.id, span.end_ns)?;
                }
                (tenure.id, tenure.span.start_ns, was_end_ns)
            }
            Placed::New | Placed::Against(_) => {
                let id = write::insert_tenure(db, device, at, span)?;
                tenures.push(Tenure { id, place: at.clone(), span });
                (id, span.start_ns, span.start_ns)
            }
        }))
    }

    /// Brings existence up to date in every slot that a tenure grew in.
    fn extend(
        &mut self,
        db: &Connection,
        (tenure, from_ns, was_end_ns): (i64, i64, i64),
        to_ns: i64,
        (node, model, slices, facts): (&NodeName, &str, u32, i64),
    ) -> Result<(), CommitError> {
        let span = Interval { start_ns: from_ns, end_ns: to_ns.max(was_end_ns) };
        let mut start_ns = slot_start(was_end_ns.min(to_ns - 1));
        while start_ns < to_ns {
            let whole = Interval { start_ns, end_ns: start_ns + SLOT_NS };
            let slot = match self.slots.entry((start_ns, tenure)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => {
                    let state = write::slot(db, start_ns, tenure)?;
                    let (node, model, stored) = (node.clone(), model.to_owned(), state.rows.clone());
                    free.insert(Slot { state, stored, node, model, slices, dirty: false })
                }
            };
            slot.state.extent.existence_ns = span.intersect(whole).length_ns() * i64::from(slices);
            slot.state.facts = facts;
            slot.dirty = true;
            start_ns += SLOT_NS;
        }
        Ok(())
    }

    /// Adds a window's figures to its slot, which [`Working::extend`] has brought in.
    fn add(
        &mut self,
        db: &Connection,
        tenure: i64,
        batch: &UsageBatch,
        window: &Window,
        slices: u32,
    ) -> Result<(), CommitError> {
        let start_ns = slot_start(window.start_ns);
        let mut held = Vec::with_capacity(window.usages.len());
        for usage in &window.usages {
            let owner = &batch.owners[usage.owner];
            let id = match self.owners.get(owner) {
                Some(id) => *id,
                None => {
                    let id = write::owner(db, owner)?;
                    self.owners.insert(owner.clone(), id);
                    id
                }
            };
            held.push((id, usage));
        }
        let slot = self.slots.get_mut(&(start_ns, tenure)).ok_or(CommitError::Bug("slot was brought in"))?;
        slot.state.extent.covered_ns += (window.end_ns - window.start_ns) * i64::from(slices);
        for (owner, usage) in held {
            let row = slot.state.rows.entry((owner, RowKind::Held)).or_default();
            row.time_ns += int(usage.held_ns)?;
            row.busy_ns += int(usage.busy_ns)?;
            row.memory_byte_seconds += int(usage.memory_byte_seconds)?;
            row.energy_uj += int(usage.energy_uj)?;
            row.method |= usage.method;
        }
        let idle = slot.state.rows.entry((NOBODY, RowKind::Idle)).or_default();
        idle.busy_ns += int(window.busy_unattributed_ns)?;
        idle.energy_uj += int(window.energy_idle_uj)?;
        let unobserved = slot.state.rows.entry((NOBODY, RowKind::Unobserved)).or_default();
        unobserved.energy_uj += int(window.energy_unobserved_uj)?;
        slot.dirty = true;
        Ok(())
    }

    /// Brings a stored slot in, to be priced again.
    pub fn touch(&mut self, db: &Connection, slot: &write::PricedSlot) -> Result<(), CommitError> {
        let key = (slot.start_ns, slot.tenure);
        match self.slots.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().dirty = true,
            Entry::Vacant(free) => {
                let state = write::slot(db, slot.start_ns, slot.tenure)?;
                let stored = state.rows.clone();
                let (node, model, slices) = (slot.node.clone(), slot.model.clone(), slot.slices);
                free.insert(Slot { state, stored, node, model, slices, dirty: true });
            }
        }
        Ok(())
    }

    /// Prices and writes all that changed: slots, hours, days, coverage. The last step before the commit.
    pub fn write(&mut self, db: &Connection, book: &Book) -> Result<(), CommitError> {
        let mut rollups: HashMap<(Rollup, i64, i64, Key), Row> = HashMap::new();
        for ((start_ns, tenure), slot) in self.slots.iter_mut().filter(|(_, slot)| slot.dirty) {
            let node_facts = match self.facts.entry(slot.state.facts) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => free.insert(write::facts_by_id(db, slot.state.facts)?),
            };
            let facts = PriceFacts {
                cluster: &slot.node.cluster,
                node: &slot.node.node,
                gpu_model: &slot.model,
                facts: node_facts,
            };
            let rate = book.rate(&facts, *start_ns, slot.slices);
            let charge = rate
                .map(|rate| move |ns: i64| i64::try_from(rate.charge(i128::from(ns))).unwrap_or(i64::MAX));
            let charge = charge.as_ref().map(|charge| charge as &dyn Fn(i64) -> i64);
            slot.state.price_nanos = settle(&mut slot.state.rows, slot.state.extent, charge)?;
            write::put_slot_state(db, *start_ns, *tenure, &slot.state)?;
            write_rows(db, (*start_ns, *tenure), slot, &mut rollups)?;
            slot.dirty = false;
        }
        for ((rollup, start_ns, tenure, key), difference) in rollups {
            write::add_to_rollup(db, rollup, start_ns, tenure, key, &difference)?;
        }
        for ((device, slot), (coverage, dirty)) in self.coverage.iter_mut().filter(|(_, (_, d))| *d) {
            write::put_coverage(db, *device, *slot, *slot + SLOT_NS, coverage)?;
            *dirty = false;
        }
        Ok(())
    }

    /// Keeps the working set small; call after the commit, when all of it is stored. Old slots go first: live traffic
    /// does not come back to them.
    pub fn trim(&mut self, now_ns: i64) {
        if self.entries() > ENTRIES_SOFT_MAX {
            let oldest_ns = slot_start(now_ns) - SLOT_NS;
            self.slots.retain(|(start_ns, _), _| *start_ns >= oldest_ns);
            self.coverage.retain(|(_, start_ns), _| *start_ns >= oldest_ns);
            // A backlog's peak need not stay allocated.
            self.slots.shrink_to(ENTRIES_SOFT_MAX);
            self.coverage.shrink_to(ENTRIES_SOFT_MAX);
        }
        if self.entries() > ENTRIES_MAX {
            *self = Self::default();
        }
    }

    fn entries(&self) -> usize {
        let rows: usize = self.slots.values().map(|slot| 1 + slot.state.rows.len()).sum();
        let others = [
            self.coverage.len(),
            self.tenures.len(),
            self.owners.len(),
            self.devices.len(),
            self.facts.len(),
        ];
        rows + others.iter().sum::<usize>()
    }
}

/// Writes the rows that differ from the stored ones, and collects the differences for hours and days.
fn write_rows(
    db: &Connection,
    (start_ns, tenure): (i64, i64),
    slot: &mut Slot,
    rollups: &mut HashMap<(Rollup, i64, i64, Key), Row>,
) -> Result<(), CommitError> {
    let gone = slot.stored.keys().filter(|key| !slot.state.rows.contains_key(key)).copied();
    let keys: Vec<Key> = gone.chain(slot.state.rows.keys().copied()).collect();
    for key in keys {
        let before = slot.stored.get(&key).copied().unwrap_or_default();
        let now = slot.state.rows.get(&key);
        if now == slot.stored.get(&key) {
            continue;
        }
        match now {
            Some(row) => write::put_row(db, start_ns, tenure, key, row)?,
            None => write::remove_row(db, start_ns, tenure, key)?,
        }
        let now = now.copied().unwrap_or_default();
        for (rollup, length_ns) in [(Rollup::Hour, HOUR_NS), (Rollup::Day, DAY_NS)] {
            let start_ns = start_ns - start_ns.rem_euclid(length_ns);
            let sum = rollups.entry((rollup, start_ns, tenure, key)).or_default();
            sum.time_ns += now.time_ns - before.time_ns;
            sum.busy_ns += now.busy_ns - before.busy_ns;
            sum.memory_byte_seconds += now.memory_byte_seconds - before.memory_byte_seconds;
            sum.energy_uj += now.energy_uj - before.energy_uj;
            sum.method |= now.method;
            sum.cost_nanos += now.cost_nanos - before.cost_nanos;
            sum.unpriced_ns += now.unpriced_ns - before.unpriced_ns;
        }
    }
    slot.stored.clone_from(&slot.state.rows);
    Ok(())
}

/// Validation has bounded every figure far below 2^63.
fn int(value: u64) -> Result<i64, CommitError> {
    i64::try_from(value).map_err(|_| CommitError::Bug("a figure over 2^63 passed validation"))
}
