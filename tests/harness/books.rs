//! The ledger's file as it lies on disk, in the scenarios' words: what was committed, and what the buckets say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use prost::Message;
use tonnage_aggregator::ledger::coverage::Interval;
use tonnage_aggregator::model::{Owner, RowKind};
use tonnage_aggregator::store::Store;
use tonnage_aggregator::store::audit::{self, Bucket, BucketKey, Buckets};
use tonnage_proto::metering as pb;
use tonnage_proto::metering::ack::Outcome;

use crate::truth;

/// (start of the bucket, device, start of the tenure, kind, owner's word or nothing).
pub type Key = (i64, String, i64, RowKind, String);

/// A batch of the journal.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the journal.
    pub number: i64,
    pub outcome: Outcome,
    /// `None`: bytes that are no batch, which were refused.
    pub batch: Option<pb::Batch>,
}

/// A window that was folded.
#[derive(Debug, Clone, Default)]
pub struct Folded {
    /// Node and boot id of its batch.
    pub place: (String, String),
    pub start_ns: i64,
    pub end_ns: i64,
    pub held_ns: BTreeMap<String, i64>,
    /// Use by those who hold nothing.
    pub intruded_ns: BTreeMap<String, i64>,
    pub idle_ns: i64,
    /// Bits of `tonnage_proto::method` of all its usages.
    pub method: u32,
}

/// Everything in a ledger.
#[derive(Debug, Clone, Default)]
pub struct Books {
    pub entries: Vec<Entry>,
    /// Quarantined windows: entry of the journal, and position in its batch.
    pub held_back: BTreeSet<(i64, usize)>,
    pub slots: BTreeMap<Key, Bucket>,
    pub hours: BTreeMap<Key, Bucket>,
    pub days: BTreeMap<Key, Bucket>,
}

impl Books {
    /// Reads the ledger in `data`, whether an aggregator runs on it or not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(data: &Path) -> anyhow::Result<Self> {
        Self::of(&Store::open(data)?)
    }

    /// Reads a ledger wherever it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(store: &Store) -> anyhow::Result<Self> {
        let readers = store.readers();
        let mut books = Self::default();
        readers.with(|db| {
            audit::journal(db, |entry| {
                if entry.kind == 1 {
                    let outcome = Outcome::try_from(entry.outcome).unwrap_or_default();
                    let batch = pb::Batch::decode(entry.payload.as_slice()).ok();
                    books.entries.push(Entry { number: entry.id, outcome, batch });
                }
                Ok(())
            })?;
            books.held_back = audit::held_back(db, i64::MIN)?;
            for (which, sums) in [
                (Buckets::Slot, &mut books.slots),
                (Buckets::Hour, &mut books.hours),
                (Buckets::Day, &mut books.days),
            ] {
                audit::buckets(db, which, |key, bucket| add(sums, key, bucket))?;
                // A roll-up may keep a row of nothing where a slot's row went away.
                sums.retain(|_, bucket| *bucket != Bucket::default());
            }
            Ok(())
        })?;
        Ok(books)
    }

    /// How many batches had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == outcome).count()
    }

    /// Every window that counts, by device and time.
    ///
    /// # Errors
    /// If a batch cannot be read, or its figures are over 2^63.
    pub fn folded(&self) -> anyhow::Result<BTreeMap<String, Vec<Folded>>> {
        self.windows(|place| !self.held_back.contains(&place))
    }

    /// Every window that is quarantined, by device and time.
    ///
    /// # Errors
    /// As [`Books::folded`].
    pub fn quarantined(&self) -> anyhow::Result<BTreeMap<String, Vec<Folded>>> {
        self.windows(|place| self.held_back.contains(&place))
    }

    fn windows(&self, which: impl Fn((i64, usize)) -> bool) -> anyhow::Result<BTreeMap<String, Vec<Folded>>> {
        let mut devices: BTreeMap<String, Vec<Folded>> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.outcome != Outcome::Refused) {
            let batch = entry.batch.as_ref().context("a batch that was taken cannot be read")?;
            for (at, window) in batch.windows.iter().enumerate().filter(|(at, _)| which((entry.number, *at)))
            {
                let device = &batch.devices[window.device as usize];
                devices
                    .entry(device.uuid.clone())
                    .or_default()
                    .push(folded(batch, window).with_context(|| format!("window {at}"))?);
            }
        }
        devices.values_mut().for_each(|windows| windows.sort_by_key(|window| window.start_ns));
        Ok(devices)
    }

    /// Slice-nanoseconds in the slots by kind and owner, over all devices or one.
    #[must_use]
    pub fn time(&self, kind: RowKind, device: Option<&str>) -> BTreeMap<String, i128> {
        let mut sums = BTreeMap::new();
        for ((_, of, _, row, owner), bucket) in &self.slots {
            if *row == kind && device.is_none_or(|device| device == of) {
                *sums.entry(owner.clone()).or_default() += bucket.time_ns;
            }
        }
        sums
    }
}

/// Every stretch of unobserved time in a ledger, with the reason that it gives, by device and time.
///
/// # Errors
/// If it cannot be read.
pub fn unobserved(store: &Store) -> anyhow::Result<Vec<audit::Piece>> {
    let always = Interval { start_ns: 0, end_ns: i64::MAX };
    let mut pieces = Vec::new();
    store.readers().with(|db| audit::unobserved(db, always, None, |piece| pieces.push(piece)))?;
    Ok(pieces)
}

fn add(buckets: &mut BTreeMap<Key, Bucket>, key: BucketKey, bucket: Bucket) {
    let owner = key.owner.as_ref().map(word).unwrap_or_default();
    let key = (key.start_ns, key.device, key.tenure_from_ns, key.kind, owner);
    // Owners that differ in a name only are one in the scenarios' words.
    *buckets.entry(key).or_default() += bucket;
}

fn folded(batch: &pb::Batch, window: &pb::Window) -> anyhow::Result<Folded> {
    let (mut held_ns, mut intruded_ns) = (BTreeMap::new(), BTreeMap::new());
    for usage in &window.usages {
        let owner = truth::of_wire(&batch.owners[usage.owner as usize]);
        if usage.kind() == pb::usage::Kind::Intruder {
            *intruded_ns.entry(owner).or_default() += i64::try_from(usage.busy_ns)?;
        } else {
            *held_ns.entry(owner).or_default() += i64::try_from(usage.held_ns)?;
        }
    }
    Ok(Folded {
        place: (batch.node.clone(), batch.boot_id.clone()),
        start_ns: window.start_ns,
        end_ns: window.start_ns + i64::try_from(window.duration_ns)?,
        held_ns,
        intruded_ns,
        idle_ns: i64::try_from(window.idle_ns)?,
        method: window.usages.iter().fold(0, |bits, usage| bits | usage.method),
    })
}

/// A ledger's owner in the scenarios' words.
fn word(owner: &Owner) -> String {
    let owner = owner.clone();
    truth::of_wire(&pb::Owner {
        kind: i32::from(owner.kind as u8),
        namespace: owner.namespace,
        pod: owner.pod,
        pod_uid: owner.pod_uid,
        container: owner.container,
        container_id: owner.container_id,
        job_id: owner.job_id,
        step: owner.step,
        unit: owner.unit,
        user: owner.user,
        account: owner.account,
        partition: owner.partition,
    })
}
