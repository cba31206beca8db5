//! Recomputes the ledger from the journal's sealed bytes and compares it with what is stored, bucket by bucket.
//!
//! Independent on purpose: it shares no code with the folding path (`commit`, `ledger`), only the price book. It is
//! written plainly rather than fast, and holds the recomputed ledger in memory.
//!
//! Proves, for every (slot, tenure): held + idle + unobserved = existence, charges + idle + unobserved + rounding =
//! price; for slots, hours and days: stored = recomputed; that roll-ups are their sums; that pods and
//! namespaces are as was journalled of them; that exactly those windows are quarantined that must be; for
//! closed slots: what is posted sums to their rows; that accounts, grants and holds are what was asked for, and what jobs
//! of open holds were charged; that every checkpoint is the hash of its entries; and that
//! balances are the sums of what was posted. After a purge it starts from the opening.

use std::collections::BTreeMap;

use tonnage_proto::limits::{DAY_NS, HOUR_NS};
use tonnage_proto::rest::VerifyAnswer;

use crate::prices::Book;
use crate::store::Connection;
use crate::store::StoreError;
use crate::store::audit::{self, Bucket, BucketKey, Buckets};
use crate::store::opening::{self, Opening};

mod budgets;
mod described;
mod grants;
mod jobs;
mod measured;
mod memory;
mod posted;
mod recompute;
mod rollups;

use recompute::Recomputed;

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub batches: u64,
    pub windows: u64,
    pub devices: usize,
    /// Entries posted, and checkpoints over them.
    pub entries: usize,
    pub checkpoints: usize,
    /// Sum over all buckets of the differences' absolute values, in slice-nanoseconds and nano-dollars.
    pub difference_ns: i128,
    pub difference_nanos: i128,
    /// Differences of any kind, and the first of them in words.
    pub differences: u64,
    pub first: Option<String>,
}

impl Report {
    /// True if nothing differs.
    #[must_use]
    pub fn conserved(&self) -> bool {
        self.differences == 0
    }

    /// The same for REST.
    #[must_use]
    pub fn answer(&self) -> VerifyAnswer {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        VerifyAnswer {
            conserved: self.conserved(),
            batches: self.batches,
            windows: self.windows,
            devices: count(self.devices),
            entries: count(self.entries),
            checkpoints: count(self.checkpoints),
            differences: self.differences,
            first: self.first.clone(),
            summary: self.to_string(),
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        self.differences += 1;
        if self.first.is_none() {
            self.first = Some(what());
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { devices, difference_ns, difference_nanos, .. } = self;
        if self.conserved() {
            write!(
                f,
                "conserved: held + idle + unobserved = existence on {devices} devices, charges = price, \
                 difference {difference_ns} ns, {difference_nanos} nanos"
            )
        } else {
            write!(
                f,
                "NOT conserved on {devices} devices: {} differences, {difference_ns} ns, \
                 {difference_nanos} nanos; the first: {}",
                self.differences,
                self.first.as_deref().unwrap_or("?")
            )
        }
    }
}

/// Verifies the whole ledger as of one moment.
///
/// # Errors
/// If the store cannot be read, or the journal is damaged: sealed bytes that are not what their hash says.
pub fn verify(db: &Connection) -> Result<Report, StoreError> {
    let db = db.begin_read()?;
    let opening = opening::last(&db)?;
    let (first_checkpoint, opening) = opening.map_or((0, None), |(id, opening)| (id, Some(opening)));
    let horizon_ns = opening.as_ref().map_or(i64::MIN, |opening| opening.horizon_ns);
    let recomputed = recompute::from_journal(&db, opening.as_ref())?;
    let mut report = Report {
        batches: recomputed.batches,
        windows: recomputed.windows,
        devices: recomputed.devices.len(),
        ..Report::default()
    };
    if audit::applied_book(&db)?.is_some_and(|applied| applied != recomputed.book_text()) {
        report.note(|| {
            "slots are still being priced by the newest book; run the aggregator until that has ended"
                .to_owned()
        });
    }
    let mut expected = recomputed.slots(&mut report);
    expected.extend(recomputed.slots_of_jobs());
    for (which, length_ns) in [(Buckets::Slot, 0), (Buckets::Hour, HOUR_NS), (Buckets::Day, DAY_NS)] {
        compare(&db, which, horizon_ns, rolled_up(&expected, length_ns), &mut report)?;
    }
    sums(&db, horizon_ns, &recomputed, &mut report)?;
    let held_back = audit::held_back(&db, horizon_ns)?;
    if let Some((entry, window)) = held_back.symmetric_difference(&recomputed.held_back).next() {
        let is = if held_back.contains(&(*entry, *window)) { "is" } else { "is not" };
        report.note(|| format!("window {window} of entry {entry} {is} quarantined, and should be the other"));
    }
    if let Some(opening) = &opening {
        frozen(&db, opening, &mut report)?;
    }
    let before = opening.as_ref().and_then(|opening| opening.described.as_deref());
    recomputed.described.check(&db, (horizon_ns, before), &mut report)?;
    rollups::check(&db, &mut report)?;
    recomputed.budgets.check(&db, &expected, horizon_ns, &mut report)?;
    recomputed.grants.check(&db, &mut report)?;
    posted::check(&db, first_checkpoint, opening.as_ref(), &mut report)?;
    Ok(report)
}

/// What lies before the horizon can only be compared with the sums that were taken then.
fn frozen(db: &Connection, opening: &Opening, report: &mut Report) -> Result<(), StoreError> {
    for (which, expected) in [(Buckets::Hour, opening.hours), (Buckets::Day, opening.days)] {
        let stored = audit::sums_before(db, which, opening.horizon_ns)?;
        if stored != expected {
            report.difference_ns += (stored[0] - expected[0]).abs();
            report.difference_nanos += (stored[1] - expected[1]).abs();
            report.note(|| format!("{which:?}s before the horizon sum to {stored:?}, were {expected:?}"));
        }
    }
    Ok(())
}

/// Compares stored buckets with the expected ones.
fn compare(
    db: &Connection,
    which: Buckets,
    from_ns: i64,
    mut expected: BTreeMap<BucketKey, Bucket>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let zero = Bucket::default();
    audit::buckets_from(db, which, from_ns, |key, stored| {
        let expected = expected.remove(&key).unwrap_or_default();
        if stored != expected {
            report.difference_ns += (stored.time_ns - expected.time_ns).abs();
            report.difference_nanos += (stored.cost_nanos - expected.cost_nanos).abs();
            report.note(|| format!("{which:?} {key:?} is {stored:?}, recomputed {expected:?}"));
        }
    })?;
    for (key, expected) in expected.into_iter().filter(|(_, bucket)| *bucket != zero) {
        report.difference_ns += expected.time_ns;
        report.difference_nanos += expected.cost_nanos;
        report.note(|| format!("{which:?} {key:?} is not stored, recomputed {expected:?}"));
    }
    Ok(())
}

/// Sums slots into hours or days; 0 leaves them slots.
fn rolled_up(slots: &BTreeMap<BucketKey, Bucket>, length_ns: i64) -> BTreeMap<BucketKey, Bucket> {
    if length_ns == 0 {
        return slots.clone();
    }
    let mut sums: BTreeMap<BucketKey, Bucket> = BTreeMap::new();
    for (key, bucket) in slots {
        let start_ns = key.start_ns - key.start_ns.rem_euclid(length_ns);
        *sums.entry(BucketKey { start_ns, ..key.clone() }).or_default() += *bucket;
    }
    sums
}

/// The promises themselves, on the stored rows alone: times sum to existence, costs to the price.
fn sums(
    db: &Connection,
    from_ns: i64,
    recomputed: &Recomputed,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut stored: BTreeMap<(i64, String, i64), (i128, i128)> = BTreeMap::new();
    audit::buckets_from(db, Buckets::Slot, from_ns, |key, bucket| {
        // What jobs without GPUs ran for is of no GPU: it has no existence to sum to.
        if key.node.node.is_empty() {
            return;
        }
        let sum = stored.entry((key.start_ns, key.device, key.tenure_from_ns)).or_default();
        sum.0 += bucket.time_ns;
        sum.1 += bucket.cost_nanos;
    })?;
    for (key, existence_ns, price_nanos) in recomputed.existence() {
        let (time_ns, cost_nanos) = stored.remove(&key).unwrap_or_default();
        if (time_ns, cost_nanos) != (existence_ns, price_nanos) {
            report.difference_ns += (time_ns - existence_ns).abs();
            report.difference_nanos += (cost_nanos - price_nanos).abs();
            report.note(|| {
                format!(
                    "slot {key:?}: rows sum to {time_ns} ns and {cost_nanos} nanos; existence is \
                     {existence_ns} ns, the price {price_nanos} nanos"
                )
            });
        }
    }
    for (key, (time_ns, cost_nanos)) in stored {
        report.difference_ns += time_ns.abs();
        report.difference_nanos += cost_nanos.abs();
        report.note(|| format!("slot {key:?}: rows for a time when the device did not exist"));
    }
    Ok(())
}

/// The book in force: the last one in the journal.
fn parse_book(text: &str) -> Result<Book, StoreError> {
    Book::kept(text)
        .map_err(|e| StoreError::Damaged { what: "price book in the journal", detail: e.to_string() })
}

#[cfg(test)]
mod tests;
