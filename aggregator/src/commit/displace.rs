//! The rare case: time that was counted for one gives way to a senior, and what it had stood against is tried again.
//!
//! What was counted is found in the journal, where the sealed bytes are, and taken away figure by figure. The end is
//! the same as if the senior's window had come first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tonnage_proto::limits::{SLOT_NS, slot_start};

use super::CommitError;
use super::fold::{Offer, life};
use super::working::Working;
use crate::ledger::coverage::{Covered, Interval};
use crate::model::UsageBatch;
use crate::prices::Book;
use crate::store::Connection;
use crate::store::quarantine::{self, Journalled, State};
use crate::store::write::Mark;
use crate::store::{StoreError, existence, write};
use crate::wire;

/// Windows that are tried again after one gave way. They all lie in one slot, so there are far fewer.
const RETRIES_MAX: usize = 10_000;

impl Working {
    /// Counts an offer in the place of juniors' windows.
    pub(super) fn displace(
        &mut self,
        db: &Connection,
        book: &Book,
        offer: &Offer,
        juniors: &[Covered],
    ) -> Result<(), CommitError> {
        let mut freed = self.take_away(db, book, offer, juniors)?;
        let mut retries = 0;
        while let Some(span) = freed.pop_front() {
            for held in quarantine::held_overlapping(db, offer.uuid(), span)? {
                retries += 1;
                if retries > RETRIES_MAX {
                    return Err(CommitError::Bug("windows of one slot give way to each other without end"));
                }
                let journalled = quarantine::batch(db, held.journal)?;
                let cursor = write::cursor(db, journalled.node_id, &journalled.epoch)?.id;
                let again = self.offer_again(db, &journalled, held.window, cursor)?;
                let (coverage, _) = self.coverage(db, offer.device, slot_start(held.span.start_ns))?;
                let known = coverage.overlapping(held.span).to_vec();
                if self.senior(db, &again, &known)?.is_some() {
                    continue;
                }
                if known.is_empty() {
                    self.count(db, book, &again)?;
                } else {
                    freed.extend(self.take_away(db, book, &again, &known)?);
                }
                quarantine::set_state(db, held.id, State::Counted)?;
            }
        }
        Ok(())
    }

    /// Quarantines the windows behind `juniors` that the offer overlaps, and counts the offer. Gives their spans.
    fn take_away(
        &mut self,
        db: &Connection,
        book: &Book,
        offer: &Offer,
        juniors: &[Covered],
    ) -> Result<VecDeque<Interval>, CommitError> {
        let span = offer.span();
        let holder = self.tenure(db, offer.tenure)?;
        let text = format!(
            "gave way to node {:?} of cluster {:?}, which covered the device first",
            holder.node.node, holder.node.cluster
        );
        let labels: BTreeSet<(i64, i64)> = juniors.iter().map(|known| (known.tenure, known.cursor)).collect();
        let mut freed = VecDeque::new();
        for (tenure, cursor) in labels {
            let (node, epoch) = existence::cursor_by_id(db, cursor)?;
            for journalled in quarantine::batches_within(db, node, &epoch, span)? {
                let batch = decode(db, &journalled)?;
                for (at, window) in batch.windows.iter().enumerate() {
                    let other = Interval { start_ns: window.start_ns, end_ns: window.end_ns };
                    if batch.devices[window.device].uuid != offer.uuid()
                        || self.is_to_come(journalled.id, at)
                        || other.intersect(span).length_ns() == 0
                        || quarantine::is_held(db, journalled.id, at)?
                        || self.claim(db, place(offer.device, node, &batch, at), cursor, other.start_ns)?
                            != tenure
                    {
                        continue;
                    }
                    let (coverage, dirty) = self.coverage(db, offer.device, slot_start(other.start_ns))?;
                    if !coverage.remove(other) {
                        return Err(CommitError::Bug("a window that is counted is not covered"));
                    }
                    *dirty = true;
                    self.add(db, tenure, &batch, window, -1)?;
                    quarantine::hold(db, (journalled.id, at), offer.uuid(), other, ("overlap", &text))?;
                    freed.push_back(other);
                }
            }
        }
        let (slot, facts) = (slot_start(span.start_ns), (offer.facts, span.start_ns));
        self.cover(db, offer)?;
        self.set_facts(db, slot, offer.tenure, facts)?;
        for (tenure, _) in juniors.iter().map(|known| (known.tenure, known.cursor)) {
            self.find_facts(db, slot, offer.device, tenure)?;
        }
        self.rebuild(db, book, offer.device)?;
        self.add(db, offer.tenure, &offer.batch, &offer.batch.windows[offer.window], 1)?;
        Ok(freed)
    }

    /// A window of the journal as an offer. Its device and facts are known: they were when it came.
    pub(super) fn offer_again(
        &mut self,
        db: &Connection,
        journalled: &Journalled,
        window: usize,
        cursor: i64,
    ) -> Result<Offer, CommitError> {
        let batch = Arc::new(decode(db, journalled)?);
        let Some(start_ns) = batch.windows.get(window).map(|window| window.start_ns) else {
            return Err(CommitError::Bug("a quarantined window is not in its batch"));
        };
        let described = batch.devices[batch.windows[window].device].clone();
        let device = self.device(db, &described)?;
        let claimed = write::cursor(db, journalled.node_id, &journalled.epoch)?.id;
        let place = place(device, journalled.node_id, &batch, window);
        let tenure = self.claim(db, place, claimed, start_ns)?;
        let facts = self.facts_id(db, &batch.facts)?;
        Ok(Offer { batch, window, device, tenure, cursor, facts })
    }

    /// Sets a slot's facts to those of a window in it, unless those of a later one are known; slots behind it in
    /// which nobody looked have them too.
    pub(super) fn set_facts(
        &mut self,
        db: &Connection,
        start_ns: i64,
        tenure: i64,
        (facts, at_ns): (i64, i64),
    ) -> Result<(), CommitError> {
        let slot = self.slot(db, start_ns, tenure)?;
        if slot.state.facts != 0 && at_ns < slot.state.facts_ns {
            return Ok(());
        }
        self.hand_on_facts(db, start_ns, tenure, (facts, at_ns))
    }

    fn hand_on_facts(
        &mut self,
        db: &Connection,
        mut start_ns: i64,
        tenure: i64,
        (facts, at_ns): (i64, i64),
    ) -> Result<(), CommitError> {
        let slot = self.slot(db, start_ns, tenure)?;
        let changed = slot.state.facts != facts;
        (slot.state.facts, slot.state.facts_ns) = (facts, at_ns);
        slot.dirty |= changed;
        if !changed {
            return Ok(());
        }
        loop {
            start_ns += SLOT_NS;
            let slot = self.slot(db, start_ns, tenure)?;
            let extent = slot.state.extent;
            if extent.existence_ns == 0 || extent.covered_ns > 0 || slot.state.facts == facts {
                return Ok(());
            }
            (slot.state.facts, slot.state.facts_ns, slot.dirty) = (facts, at_ns, true);
        }
    }

    /// A slot that knows no facts has those of the slot before it.
    pub(super) fn inherit_facts(
        &mut self,
        db: &Connection,
        start_ns: i64,
        tenure: i64,
    ) -> Result<(), CommitError> {
        if self.slot(db, start_ns, tenure)?.state.facts != 0 {
            return Ok(());
        }
        let before_ns = start_ns - SLOT_NS;
        let mut inherited = {
            let before = &self.slot(db, before_ns, tenure)?.state;
            (before.facts, before.facts_ns)
        };
        if inherited.0 == 0 && before_ns < self.marks(db)?.purged_until_ns {
            inherited = existence::frozen_facts(db, tenure)?;
        }
        let state = &mut self.slot(db, start_ns, tenure)?.state;
        (state.facts, state.facts_ns) = inherited;
        Ok(())
    }

    /// Works out the facts of a slot anew after windows in it gave way: those of the last window before its end.
    fn find_facts(
        &mut self,
        db: &Connection,
        start_ns: i64,
        device: i64,
        tenure: i64,
    ) -> Result<(), CommitError> {
        self.write_coverage(db, Some(device))?;
        let last = existence::last_covered(db, device, tenure, start_ns + SLOT_NS)?;
        let found = match last {
            Some(covered) if covered.span.start_ns >= self.marks(db)?.purged_until_ns => {
                self.facts_of(db, device, &covered)?
            }
            Some(_) => existence::frozen_facts(db, tenure)?,
            None => return Ok(()),
        };
        self.hand_on_facts(db, start_ns, tenure, found)
    }

    /// Facts of the window that ends a covered interval, and its start.
    fn facts_of(
        &mut self,
        db: &Connection,
        device: i64,
        covered: &Covered,
    ) -> Result<(i64, i64), CommitError> {
        let end_ns = covered.span.end_ns;
        let last = Interval { start_ns: end_ns - 1, end_ns };
        let uuid = self.tenure(db, covered.tenure)?.uuid.clone();
        let candidates = if covered.cursor == 0 {
            let released = quarantine::released_overlapping(db, &uuid, last)?;
            released.into_iter().map(|id| quarantine::batch(db, id)).collect::<Result<Vec<_>, _>>()?
        } else {
            let (node, epoch) = existence::cursor_by_id(db, covered.cursor)?;
            quarantine::batches_within(db, node, &epoch, last)?
        };
        for journalled in candidates {
            let batch = decode(db, &journalled)?;
            for (at, window) in batch.windows.iter().enumerate() {
                let ends = window.end_ns == end_ns && batch.devices[window.device].uuid == uuid;
                if ends
                    && !quarantine::is_held(db, journalled.id, at)?
                    && self.offer_again(db, &journalled, at, covered.cursor)?.tenure == covered.tenure
                {
                    return Ok((self.facts_id(db, &batch.facts)?, window.start_ns));
                }
            }
        }
        tracing::error!(device, "No window of the journal ends a covered interval.");
        Err(CommitError::Bug("a covered interval has no window"))
    }
}

/// The batch in a journal's entry. It was valid when it came.
pub(super) fn decode(db: &Connection, journalled: &Journalled) -> Result<UsageBatch, CommitError> {
    let Journalled { id, node, epoch, seq, payload, .. } = journalled;
    let mut batch = wire::decode(payload, node, epoch, *seq).map_err(|detail| {
        CommitError::Store(StoreError::Damaged { what: "journal", detail: format!("entry {id}: {detail}") })
    })?;
    if *id <= write::mark(db, Mark::MemoryToldAfter)? {
        // As it was folded.
        batch.instances.iter_mut().for_each(|instance| instance.memory = None);
    }
    Ok(batch)
}

/// What tells the tenure of a window of a batch.
fn place(device: i64, node: i64, batch: &UsageBatch, window: usize) -> (i64, i64, &str, u32) {
    (device, node, life(batch), batch.devices[batch.windows[window].device].slices)
}
