//! The ledger again, from sealed bytes, by the rules of docs/ledger.md written out plainly.
//!
//! Not step by step as the ledger grew, but from all inputs at once: who covers what is decided by seniority over
//! everything that was ever offered, whatever the order in which it came.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use sha2::{Digest, Sha256};
use tonnage_proto::limits::{CLAIM_NS_MAX, CLOCK_AHEAD_NS_MAX, CLOCK_BEHIND_NS_MAX, DAY_NS, SLOT_NS};
use tonnage_proto::metering as pb;
use tonnage_proto::metering::ack::Outcome;

use super::budgets::Replayed;
use super::described::Journalled;
use super::grants::Granted;
use super::jobs;
use super::measured::{Measured, instance, owner, priced};
use super::{Report, parse_book};
use crate::model::{Instance, NodeFacts, NodeName, Order, Owner};
use crate::prices::{Book, PriceFacts, Rate};
use crate::store::Connection;
use crate::store::StoreError;
use crate::store::audit::{self, Bucket, BucketKey, Entry};
use crate::store::opening::{Opening, OpeningDevice};
use crate::store::write::{self, Mark};

/// The whole ledger.
pub(super) struct Recomputed {
    pub(super) batches: u64,
    pub(super) windows: u64,
    pub(super) devices: BTreeMap<String, Device>,
    /// Windows that are not counted: entry of the journal, and position.
    pub(super) held_back: BTreeSet<(i64, usize)>,
    book: Book,
    horizon_ns: i64,
    existence_until_ns: i64,
    batches_by_entry: BTreeMap<i64, BatchFacts>,
    /// Windows that an earlier version held back for their slices.
    held_for_slices: BTreeSet<(i64, usize)>,
    memory_told_after: i64,
    pub(super) described: Journalled,
    pub(super) budgets: Replayed,
    pub(super) grants: Granted,
    jobs: jobs::Replayed,
}

/// A node's life, and into how many slices the device is cut there.
type Place = (NodeName, String, u32);

/// What all windows of a batch share.
struct BatchFacts {
    node: NodeName,
    life: String,
    facts: NodeFacts,
    owners: Vec<Owner>,
    instances: Vec<Instance>,
}

/// One device's life.
pub(super) struct Device {
    model: String,
    tenures: BTreeMap<Place, Tenure>,
    frozen: Vec<Stay>,
    retired: Vec<i64>,
    offers: Vec<Offered>,
    stays: Vec<Stay>,
}

#[derive(Default)]
struct Tenure {
    claimed_ns: i64,
    claims: BTreeMap<Vec<u8>, i64>,
    /// Facts by the time from which they hold.
    facts: BTreeMap<i64, NodeFacts>,
    slots: BTreeMap<i64, Measured>,
}

/// A window that may count.
struct Offered {
    entry: i64,
    at: usize,
    epoch: Vec<u8>,
    /// Of the device, by this batch.
    slices: u32,
    window: pb::Window,
    /// By a person's order.
    ordered: bool,
    /// The clock was against it when it came.
    excluded: bool,
}

#[derive(Clone)]
struct Stay {
    tenure: Place,
    from_ns: i64,
    covered_ns: i64,
    to_ns: i64,
}

pub(super) fn from_journal(db: &Connection, opening: Option<&Opening>) -> Result<Recomputed, StoreError> {
    let mut ledger = Recomputed {
        batches: 0,
        windows: 0,
        devices: BTreeMap::new(),
        held_back: BTreeSet::new(),
        book: Book::empty(),
        horizon_ns: i64::MIN,
        existence_until_ns: 0,
        batches_by_entry: BTreeMap::new(),
        held_for_slices: audit::held_for_slices(db)?,
        memory_told_after: write::mark(db, Mark::MemoryToldAfter)?,
        described: Journalled::default(),
        budgets: Replayed::default(),
        grants: Granted::default(),
        jobs: jobs::Replayed::default(),
    };
    if let Some(opening) = opening {
        ledger.open(opening)?;
    }
    audit::journal(db, |entry| {
        match entry.kind {
            1 => ledger.batch(&entry)?,
            2 => ledger.book = parse_book(&String::from_utf8_lossy(&entry.payload))?,
            4 => ledger.existence_until_ns = ledger.existence_until_ns.max(entry.to_ns),
            5 | 6 => ledger.order(&entry)?,
            9 => ledger.described.add(&entry)?,
            7 => ledger.budgets.purge(&entry),
            10 => ledger.budgets.account(&entry)?,
            11 => ledger.budgets.hold(&entry)?,
            12 => ledger.grants.add(&entry)?,
            13 => ledger.jobs.add(&entry)?,
            _ => {}
        }
        Ok(())
    })?;
    ledger.decide();
    Ok(ledger)
}

impl Recomputed {
    /// Begins where a purge ended.
    fn open(&mut self, opening: &Opening) -> Result<(), StoreError> {
        self.horizon_ns = opening.horizon_ns;
        self.existence_until_ns = opening.existence_until_ns;
        self.book = parse_book(&opening.book)?;
        for device in &opening.devices {
            self.devices.insert(device.uuid.clone(), Device::open(device, opening.horizon_ns)?);
        }
        Ok(())
    }

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
        let told = entry.id > self.memory_told_after;
        let known = BatchFacts {
            node: entry.node.clone(),
            life: if batch.instance_id.is_empty() { batch.boot_id } else { batch.instance_id },
            facts: NodeFacts {
                instance_type: facts.instance_type,
                region: facts.region,
                zone: facts.zone,
                capacity_type: facts.capacity_type,
                labels: facts.labels.into_iter().collect(),
            },
            owners: batch.owners.iter().map(owner).collect(),
            instances: batch.instances.iter().map(|of| instance(of, &batch.devices, told)).collect(),
        };
        for (at, window) in batch.windows.into_iter().enumerate() {
            // What lies before the horizon is in the opening.
            if window.start_ns < self.horizon_ns {
                continue;
            }
            let described = &batch.devices[window.device as usize];
            let device = self.devices.entry(described.uuid.clone()).or_insert_with(|| Device::new(described));
            if self.held_for_slices.contains(&(entry.id, at)) {
                self.held_back.insert((entry.id, at));
                continue;
            }
            let to_ns = window.start_ns + window.duration_ns.cast_signed();
            let excluded = to_ns > entry.at_ns + CLOCK_AHEAD_NS_MAX
                || window.start_ns < entry.at_ns - 400 * DAY_NS
                || entry.skew_ns < -CLOCK_BEHIND_NS_MAX;
            if !excluded {
                let claimed_ns = window.start_ns.max(entry.at_ns - CLAIM_NS_MAX);
                device.claim(&known, described.slices, &entry.epoch, claimed_ns);
            }
            let epoch = entry.epoch.clone();
            let (entry, slices) = (entry.id, described.slices);
            device.offers.push(Offered { entry, at, epoch, slices, window, ordered: false, excluded });
        }
        self.batches_by_entry.insert(entry.id, known);
        Ok(())
    }

    fn order(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let order = serde_json::from_slice(&entry.payload).map_err(|e| StoreError::Damaged {
            what: "journal",
            detail: format!("entry {}: {e}", entry.id),
        })?;
        match order {
            Order::Retire { device, at_ns, .. } => {
                if let Some(device) = self.devices.get_mut(&device) {
                    device.retired.push(at_ns);
                    device.retired.sort_unstable();
                }
            }
            Order::Release { journal, window, .. } => {
                for device in self.devices.values_mut() {
                    let found = device.offers.iter().position(|o| (o.entry, o.at) == (journal, window));
                    let Some(found) = found else { continue };
                    if let Some(known) = self.batches_by_entry.get(&journal) {
                        let Offered { epoch, slices, window, .. } = &device.offers[found];
                        let (epoch, slices, start_ns) = (epoch.clone(), *slices, window.start_ns);
                        device.claim(known, slices, &epoch, start_ns);
                    }
                    device.offers[found].ordered = true;
                }
            }
        }
        Ok(())
    }

    /// Decides what counts, and works out where every device was.
    fn decide(&mut self) {
        let (batches, book) = (&self.batches_by_entry, &self.book);
        for device in self.devices.values_mut() {
            let covered = device.count(batches, &mut self.held_back);
            self.windows += u64::try_from(covered.len()).unwrap_or(u64::MAX);
            device.stay(&covered);
            device.end(book, self.existence_until_ns);
        }
        self.devices.retain(|_, device| !device.stays.is_empty());
    }

    /// The price book in force.
    pub(super) fn book_text(&self) -> &str {
        self.book.text()
    }

    /// Every slot's rows as they should be stored.
    pub(super) fn slots(&self, report: &mut Report) -> BTreeMap<BucketKey, Bucket> {
        let mut rows = BTreeMap::new();
        self.each_slot(|uuid, device, place, start_ns, existence_ns, rate| {
            let nothing = Measured::default();
            let measured = device.tenures[place].slots.get(&start_ns).unwrap_or(&nothing);
            let slot = priced(measured, existence_ns, rate, place.2);
            if let Some(((_, _, kind), row)) = slot.iter().find(|(_, row)| row.time_ns < 0) {
                report.note(|| format!("{kind:?} of {uuid} in slot {start_ns} is {} ns", row.time_ns));
            }
            for ((instance, owner, kind), bucket) in slot {
                let key = BucketKey {
                    start_ns,
                    device: uuid.to_owned(),
                    node: place.0.clone(),
                    tenure_from_ns: device.tenure_from_ns(place),
                    instance,
                    owner,
                    kind,
                };
                rows.insert(key, bucket);
            }
        });
        rows
    }

    /// The same of jobs without GPUs.
    pub(super) fn slots_of_jobs(&self) -> BTreeMap<BucketKey, Bucket> {
        self.jobs.slots(&self.book, self.horizon_ns)
    }

    /// For every (slot, device, tenure's start): its existence in slice-nanoseconds and its price in nano-dollars,
    /// 0 where it is unpriced.
    pub(super) fn existence(&self) -> Vec<((i64, String, i64), i128, i128)> {
        let mut found = Vec::new();
        self.each_slot(|uuid, device, place, start_ns, existence_ns, rate| {
            let price_nanos = rate.map_or(0, |rate| rate.charge(existence_ns));
            let key = (start_ns, uuid.to_owned(), device.tenure_from_ns(place));
            found.push((key, existence_ns, price_nanos));
        });
        found
    }

    fn each_slot(&self, mut each: impl FnMut(&str, &Device, &Place, i64, i128, Option<Rate>)) {
        for (uuid, device) in &self.devices {
            for place in device.tenures.keys() {
                for (start_ns, existence_ns) in device.existence(place, self.horizon_ns) {
                    let rate = device.rate(&self.book, place, start_ns);
                    each(uuid, device, place, start_ns, existence_ns, rate);
                }
            }
        }
    }
}

impl Device {
    fn new(described: &pb::Device) -> Self {
        Self {
            model: described.model.clone(),
            tenures: BTreeMap::new(),
            frozen: Vec::new(),
            retired: Vec::new(),
            offers: Vec::new(),
            stays: Vec::new(),
        }
    }

    fn open(opening: &OpeningDevice, horizon_ns: i64) -> Result<Self, StoreError> {
        let damaged = |detail: String| StoreError::Damaged { what: "opening", detail };
        let mut tenures = BTreeMap::new();
        let mut places = Vec::new();
        for tenure in &opening.tenures {
            let node = NodeName { cluster: tenure.cluster.clone(), node: tenure.node.clone() };
            let slices = if tenure.slices == 0 { opening.slices } else { tenure.slices };
            let place = (node, tenure.life.clone(), slices);
            let mut facts = BTreeMap::new();
            if !tenure.facts.is_empty() {
                let known = serde_json::from_str(&tenure.facts).map_err(|e| damaged(e.to_string()))?;
                facts.insert(horizon_ns - 1, known);
            }
            let claims = tenure.claims.iter().map(|(epoch, first_ns)| (unhex(epoch), *first_ns)).collect();
            let known = Tenure { claimed_ns: tenure.claimed_ns, claims, facts, slots: BTreeMap::new() };
            tenures.insert(place.clone(), known);
            places.push(place);
        }
        let frozen = opening.stays.iter().map(|(tenure, from_ns, covered_ns)| {
            let place = places.get(*tenure).cloned();
            let place = place.ok_or_else(|| damaged(format!("{} has no tenure {tenure}", opening.uuid)))?;
            Ok(Stay { tenure: place, from_ns: *from_ns, covered_ns: *covered_ns, to_ns: *covered_ns })
        });
        Ok(Self {
            model: opening.model.clone(),
            tenures,
            frozen: frozen.collect::<Result<_, StoreError>>()?,
            retired: opening.retired.clone(),
            offers: Vec::new(),
            stays: Vec::new(),
        })
    }

    fn claim(&mut self, batch: &BatchFacts, slices: u32, epoch: &[u8], start_ns: i64) {
        let place = (batch.node.clone(), batch.life.clone(), slices);
        // A tenure that begins because MIG was switched is as old as the one before it in that life.
        let kin = || {
            let of_life =
                self.tenures.iter().filter(|(other, _)| (&other.0, &other.1) == (&place.0, &place.1));
            of_life.map(|(_, tenure)| tenure)
        };
        let claimed_ns = kin().map(|tenure| tenure.claimed_ns).chain([start_ns]).min().unwrap_or(start_ns);
        let first_ns = kin().filter_map(|tenure| tenure.claims.get(epoch)).copied().chain([start_ns]).min();
        let tenure = self.tenures.entry(place).or_insert_with(|| Tenure { claimed_ns, ..Tenure::default() });
        tenure.claims.entry(epoch.to_vec()).or_insert(first_ns.unwrap_or(start_ns));
    }

    /// Takes the offers in the order of seniority, each if its time is still free. Gives what is covered then.
    fn count(
        &mut self,
        batches: &BTreeMap<i64, BatchFacts>,
        held_back: &mut BTreeSet<(i64, usize)>,
    ) -> BTreeMap<i64, (i64, Place)> {
        let mut offers = std::mem::take(&mut self.offers);
        offers.sort_by(|one, two| self.seniority(batches, one, two));
        let mut covered: BTreeMap<i64, (i64, Place)> = BTreeMap::new();
        for offer in &offers {
            let (from_ns, to_ns) = (offer.window.start_ns, end_of(&offer.window));
            let taken = covered.range(..to_ns).next_back().is_some_and(|(_, (end_ns, _))| *end_ns > from_ns);
            if taken || (offer.excluded && !offer.ordered) {
                held_back.insert((offer.entry, offer.at));
                continue;
            }
            let batch = &batches[&offer.entry];
            let place = (batch.node.clone(), batch.life.clone(), offer.slices);
            covered.insert(from_ns, (to_ns, place.clone()));
            let Some(tenure) = self.tenures.get_mut(&place) else { continue };
            tenure.facts.insert(from_ns, batch.facts.clone());
            tenure.slots.entry(slot_of(from_ns)).or_default().add(
                &offer.window,
                &batch.owners,
                &batch.instances,
                i128::from(offer.slices),
            );
        }
        covered
    }

    fn seniority(&self, batches: &BTreeMap<i64, BatchFacts>, one: &Offered, two: &Offered) -> Ordering {
        let key = |offer: &Offered| {
            let batch = &batches[&offer.entry];
            let place = (batch.node.clone(), batch.life.clone(), offer.slices);
            let claims = self.tenures.get(&place).map(|tenure| {
                let first_ns = tenure.claims.get(&offer.epoch).copied().unwrap_or(i64::MAX);
                (tenure.claimed_ns, place, first_ns, offer.epoch.clone())
            });
            (!offer.ordered, claims.is_none(), claims, offer.entry, offer.at)
        };
        key(one).cmp(&key(two))
    }

    /// Works out the stays from what is covered.
    fn stay(&mut self, covered: &BTreeMap<i64, (i64, Place)>) {
        let mut stays = self.frozen.clone();
        for (from_ns, (to_ns, place)) in covered {
            let goes_on = stays.last().is_some_and(|last: &Stay| {
                last.tenure == *place
                    && !self.retired.iter().any(|at| last.covered_ns <= *at && *at <= *from_ns)
            });
            match stays.last_mut() {
                Some(last) if goes_on => last.covered_ns = *to_ns,
                _ => stays.push(Stay {
                    tenure: place.clone(),
                    from_ns: *from_ns,
                    covered_ns: *to_ns,
                    to_ns: *to_ns,
                }),
            }
        }
        self.stays = stays;
    }

    /// Works out how far each stay reaches beyond its coverage.
    fn end(&mut self, book: &Book, existence_until_ns: i64) {
        for at in 0..self.stays.len() {
            let (stay, next) = (self.stays[at].clone(), self.stays.get(at + 1).cloned());
            let until_ns = next.as_ref().map_or(i64::MAX, |next| next.from_ns);
            let retired = self.retired.iter().find(|at| stay.covered_ns <= **at && **at <= until_ns);
            let here = next.as_ref().is_none_or(|next| next.tenure.0 == stay.tenure.0);
            let slot = slot_of(stay.covered_ns - 1);
            // MIG was switched: the same boot goes on.
            let goes_on = next.as_ref().is_some_and(|next| next.tenure.1 == stay.tenure.1);
            let lasts = here && (goes_on || book.lasts(&self.price_facts(&stay.tenure, slot), slot));
            self.stays[at].to_ns = match (retired, next) {
                (Some(at_ns), _) => *at_ns,
                (None, Some(next)) if lasts => next.from_ns,
                (None, None) if lasts => stay.covered_ns.max(existence_until_ns),
                _ => stay.covered_ns,
            };
        }
    }

    fn tenure_from_ns(&self, place: &Place) -> i64 {
        self.stays.iter().filter(|stay| stay.tenure == *place).map(|stay| stay.from_ns).min().unwrap_or(0)
    }

    /// Slots at or behind the horizon in which a tenure existed, and for how long.
    fn existence(&self, place: &Place, horizon_ns: i64) -> BTreeMap<i64, i128> {
        let mut slots = BTreeMap::new();
        for stay in self.stays.iter().filter(|stay| stay.tenure == *place) {
            let mut start_ns = slot_of(stay.from_ns.max(horizon_ns));
            while start_ns < stay.to_ns {
                let length_ns = stay.to_ns.min(start_ns + SLOT_NS) - stay.from_ns.max(start_ns);
                *slots.entry(start_ns).or_default() += i128::from(length_ns) * i128::from(place.2);
                start_ns += SLOT_NS;
            }
        }
        slots
    }

    /// A slot is priced by the facts of the last window that began before its end.
    fn price_facts<'a>(&'a self, place: &'a Place, start_ns: i64) -> PriceFacts<'a> {
        static UNKNOWN: std::sync::LazyLock<NodeFacts> = std::sync::LazyLock::new(NodeFacts::default);
        let known = self
            .tenures
            .get(place)
            .and_then(|tenure| tenure.facts.range(..start_ns + SLOT_NS).next_back().map(|(_, facts)| facts));
        PriceFacts {
            cluster: &place.0.cluster,
            node: &place.0.node,
            gpu_model: &self.model,
            facts: known.unwrap_or(&UNKNOWN),
        }
    }

    fn rate(&self, book: &Book, place: &Place, start_ns: i64) -> Option<Rate> {
        book.rate(&self.price_facts(place, start_ns), start_ns, place.2)
    }
}

fn end_of(window: &pb::Window) -> i64 {
    window.start_ns + window.duration_ns.cast_signed()
}

fn slot_of(at_ns: i64) -> i64 {
    at_ns.div_euclid(SLOT_NS) * SLOT_NS
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|at| u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()).collect()
}
