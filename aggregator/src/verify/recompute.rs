//! The ledger again, from sealed bytes, by the rules of docs/ledger.md written out plainly.

use std::collections::BTreeMap;

use prost::Message;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tonnage_proto::limits::{CLOCK_AHEAD_NS_MAX, DAY_NS, SLOT_NS};
use tonnage_proto::metering as pb;
use tonnage_proto::metering::ack::Outcome;

use super::{Report, parse_book};
use crate::model::{NodeFacts, NodeName, Owner, OwnerKind, RowKind};
use crate::prices::{Book, PriceFacts, Rate};
use crate::store::StoreError;
use crate::store::audit::{self, Bucket, BucketKey, Entry};

/// The whole ledger.
pub(super) struct Recomputed {
    pub(super) batches: u64,
    pub(super) windows: u64,
    pub(super) devices: BTreeMap<String, Device>,
    book: Book,
}

/// One device's life.
pub(super) struct Device {
    model: String,
    slices: i64,
    stays: Vec<Stay>,
    /// End by start; they never overlap.
    covered: BTreeMap<i64, i64>,
}

struct Stay {
    node: NodeName,
    life: String,
    from_ns: i64,
    to_ns: i64,
    /// By slot: the facts that it is priced by, and what was measured in it.
    slots: BTreeMap<i64, Measured>,
}

#[derive(Default)]
struct Measured {
    facts: NodeFacts,
    covered_ns: i128,
    owners: BTreeMap<Owner, Bucket>,
    idle: Bucket,
    unobserved: Bucket,
}

pub(super) fn from_journal(db: &Connection) -> Result<Recomputed, StoreError> {
    let mut ledger = Recomputed { batches: 0, windows: 0, devices: BTreeMap::new(), book: Book::empty() };
    audit::journal(db, |entry| {
        match entry.kind {
            1 => ledger.batch(&entry)?,
            2 => ledger.book = parse_book(&String::from_utf8_lossy(&entry.payload))?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(ledger)
}

impl Recomputed {
    fn batch(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let damaged = |detail: String| StoreError::Damaged { what: "journal", detail };
        if Sha256::digest(&entry.payload)[..] != entry.sha256 {
            return Err(damaged(format!("entry {}: its bytes are not what its hash says", entry.id)));
        }
        self.batches += 1;
        if entry.outcome == Outcome::Refused as i32 {
            return Ok(());
        }
        let batch = pb::Batch::decode(entry.payload.as_slice())
            .map_err(|e| damaged(format!("entry {}: {e}", entry.id)))?;
        let facts = batch.facts.clone().unwrap_or_default();
        let facts = NodeFacts {
            instance_type: facts.instance_type,
            region: facts.region,
            zone: facts.zone,
            capacity_type: facts.capacity_type,
            labels: facts.labels.into_iter().collect(),
        };
        let owners: Vec<Owner> = batch.owners.iter().map(owner).collect();
        for window in &batch.windows {
            let described = &batch.devices[window.device as usize];
            let device = self.devices.entry(described.uuid.clone()).or_insert_with(|| Device {
                model: described.model.clone(),
                slices: i64::from(described.slices),
                stays: Vec::new(),
                covered: BTreeMap::new(),
            });
            let taken = i64::from(described.slices) == device.slices
                && device.take(entry, &batch, window, &facts, &owners);
            self.windows += u64::from(taken);
        }
        self.devices.retain(|_, device| !device.stays.is_empty());
        Ok(())
    }

    /// Every slot's rows as they should be stored.
    pub(super) fn slots(&self, report: &mut Report) -> BTreeMap<BucketKey, Bucket> {
        let mut rows = BTreeMap::new();
        for (uuid, device) in &self.devices {
            for stay in &device.stays {
                for (start_ns, measured) in &stay.slots {
                    let existence_ns = stay.existence_ns(*start_ns, device.slices);
                    let rate = self.rate(device, stay, *start_ns, measured);
                    let slot = priced(measured, existence_ns, rate);
                    if let Some(((_, kind), row)) = slot.iter().find(|(_, row)| row.time_ns < 0) {
                        report
                            .note(|| format!("{kind:?} of {uuid} in slot {start_ns} is {} ns", row.time_ns));
                    }
                    for ((owner, kind), bucket) in slot {
                        let key = BucketKey {
                            start_ns: *start_ns,
                            device: uuid.clone(),
                            node: stay.node.clone(),
                            tenure_from_ns: stay.from_ns,
                            owner,
                            kind,
                        };
                        rows.insert(key, bucket);
                    }
                }
            }
        }
        rows
    }

    /// For every (slot, device, tenure's start): its existence in slice-nanoseconds and its price in nano-dollars,
    /// 0 where it is unpriced.
    pub(super) fn existence(&self) -> impl Iterator<Item = ((i64, String, i64), i128, i128)> {
        self.devices.iter().flat_map(move |(uuid, device)| {
            device.stays.iter().flat_map(move |stay| {
                stay.slots.iter().map(move |(start_ns, measured)| {
                    let existence_ns = stay.existence_ns(*start_ns, device.slices);
                    let rate = self.rate(device, stay, *start_ns, measured);
                    let price_nanos = rate.map_or(0, |rate| rate.charge(existence_ns));
                    ((*start_ns, uuid.clone(), stay.from_ns), existence_ns, price_nanos)
                })
            })
        })
    }

    fn rate(&self, device: &Device, stay: &Stay, start_ns: i64, measured: &Measured) -> Option<Rate> {
        let facts = PriceFacts {
            cluster: &stay.node.cluster,
            node: &stay.node.node,
            gpu_model: &device.model,
            facts: &measured.facts,
        };
        self.book.rate(&facts, start_ns, u32::try_from(device.slices).ok()?)
    }
}

impl Device {
    /// Takes a window unless a rule is against it.
    fn take(
        &mut self,
        entry: &Entry,
        batch: &pb::Batch,
        window: &pb::Window,
        facts: &NodeFacts,
        owners: &[Owner],
    ) -> bool {
        let (from_ns, to_ns) = (window.start_ns, window.start_ns + window.duration_ns.cast_signed());
        let too_late = to_ns > entry.at_ns + CLOCK_AHEAD_NS_MAX;
        let too_old = from_ns < entry.at_ns - 400 * DAY_NS;
        let twice = self.covered.range(..to_ns).next_back().is_some_and(|(_, end)| *end > from_ns);
        if too_late || too_old || twice {
            return false;
        }
        let life = if batch.instance_id.is_empty() { &batch.boot_id } else { &batch.instance_id };
        let mine = |stay: &Stay| stay.node == entry.node && stay.life == *life && stay.from_ns <= from_ns;
        let at = match self.stays.iter().rposition(mine) {
            Some(at) if self.stays.get(at + 1).is_some_and(|next| to_ns > next.from_ns) => return false,
            Some(at) => at,
            None if self.stays.iter().any(|stay| from_ns < stay.to_ns) => return false,
            None => {
                self.stays.push(Stay {
                    node: entry.node.clone(),
                    life: life.clone(),
                    from_ns,
                    to_ns: from_ns,
                    slots: BTreeMap::new(),
                });
                self.stays.len() - 1
            }
        };
        let stay = &mut self.stays[at];
        // Slots that the stay grows into are priced by the facts of the batch that made it grow.
        let mut slot = slot_of(stay.to_ns.min(to_ns - 1));
        while slot < to_ns {
            stay.slots.entry(slot).or_default().facts = facts.clone();
            slot += SLOT_NS;
        }
        stay.to_ns = stay.to_ns.max(to_ns);
        self.covered.insert(from_ns, to_ns);
        let measured = stay.slots.entry(slot_of(from_ns)).or_default();
        measured.covered_ns += i128::from(to_ns - from_ns) * i128::from(self.slices);
        for usage in &window.usages {
            let bucket = measured.owners.entry(owners[usage.owner as usize].clone()).or_default();
            bucket.time_ns += i128::from(usage.held_ns);
            bucket.busy_ns += i128::from(usage.busy_ns);
            bucket.memory_byte_seconds += i128::from(usage.memory_byte_seconds);
            bucket.energy_uj += i128::from(usage.energy_uj);
        }
        measured.idle.busy_ns += i128::from(window.busy_unattributed_ns);
        measured.idle.energy_uj += i128::from(window.energy_idle_uj);
        measured.unobserved.energy_uj += i128::from(window.energy_unobserved_uj);
        true
    }
}

impl Stay {
    fn existence_ns(&self, start_ns: i64, slices: i64) -> i128 {
        let length_ns = self.to_ns.min(start_ns + SLOT_NS) - self.from_ns.max(start_ns);
        i128::from(length_ns) * i128::from(slices)
    }
}

/// A slot's rows: the formulas of docs/ledger.md.
fn priced(
    measured: &Measured,
    existence_ns: i128,
    rate: Option<Rate>,
) -> BTreeMap<(Option<Owner>, RowKind), Bucket> {
    let held_ns: i128 = measured.owners.values().map(|bucket| bucket.time_ns).sum();
    let idle = Bucket { time_ns: measured.covered_ns - held_ns, ..measured.idle };
    let unobserved = Bucket { time_ns: existence_ns - measured.covered_ns, ..measured.unobserved };
    let held = measured.owners.iter().map(|(owner, bucket)| ((Some(owner.clone()), RowKind::Held), *bucket));
    let mut rows: BTreeMap<_, _> = held.collect();
    rows.insert((None, RowKind::Idle), idle);
    rows.insert((None, RowKind::Unobserved), unobserved);
    let mut charged = 0;
    for row in rows.values_mut() {
        match rate {
            Some(rate) => row.cost_nanos = rate.charge(row.time_ns),
            None => row.unpriced_ns = row.time_ns,
        }
        charged += row.cost_nanos;
    }
    if let Some(rate) = rate {
        let cost_nanos = rate.charge(existence_ns) - charged;
        rows.insert((None, RowKind::Rounding), Bucket { cost_nanos, ..Bucket::default() });
    }
    rows.retain(|_, row| *row != Bucket::default());
    rows
}

fn slot_of(at_ns: i64) -> i64 {
    at_ns.div_euclid(SLOT_NS) * SLOT_NS
}

fn owner(owner: &pb::Owner) -> Owner {
    Owner {
        kind: OwnerKind::from_number(i64::from(owner.kind)).unwrap_or_default(),
        namespace: owner.namespace.clone(),
        pod: owner.pod.clone(),
        pod_uid: owner.pod_uid.clone(),
        container: owner.container.clone(),
        container_id: owner.container_id.clone(),
        job_id: owner.job_id.clone(),
        step: owner.step.clone(),
        unit: owner.unit.clone(),
        user: owner.user.clone(),
    }
}
