//! Drafts that wait for a number: how they are kept, and what gives way when there is no room.
//!
//! In this order: acked batches are dropped; drafts are merged within their slots; new windows are turned away.
//! Merging goes from the oldest draft to the newest, some drafts at a step, and never over what it merged before,
//! so an append has little to do however long the backlog is.

use tonnage_proto::limits::BATCH_BYTES_MAX;
use tonnage_runtime::telemetry::chain;

use super::disk::{Changes, List, Name};
use super::{Counts, Spool, SpoolError};
use crate::seal;

/// Drafts that wait before the oldest of them are merged: an hour of one per cell of the window grid.
const UNMERGED_MAX: usize = 360;
/// Drafts that are merged in one step, one slot and a little, and their bytes.
const MERGE_DRAFTS_MAX: usize = 91;
const MERGE_BYTES_MAX: usize = BATCH_BYTES_MAX / 4;

/// Acked batches that go for want of room: of former epochs, and of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Dropped {
    former: usize,
    batches: usize,
}

impl Spool {
    /// Keeps a draft. On disk when this returns.
    ///
    /// # Errors
    /// If the spool is full, or the disk fails: the draft is not kept.
    pub fn append(&mut self, draft: &[u8], last_window_end_ns: i64) -> Result<(), SpoolError> {
        self.append_as(self.appended, draft, last_window_end_ns)
    }

    /// Appends until now, over all openings: the number of the next one.
    #[must_use]
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// As [`Spool::append`], for a caller that counts, and so can ask again when it does not know what became of an
    /// append: one that is kept already is not kept twice.
    ///
    /// # Errors
    /// As [`Spool::append`].
    pub fn append_as(
        &mut self,
        number: u64,
        draft: &[u8],
        last_window_end_ns: i64,
    ) -> Result<(), SpoolError> {
        if number < self.appended {
            return Ok(());
        }
        let (mut changes, dropped) = self.make_room(draft.len())?;
        changes.put(List::Drafts, self.next_draft, draft.to_vec());
        changes.set(Name::LastWindowEnd, &last_window_end_ns.to_be_bytes());
        changes.set(Name::Appended, &(number + 1).to_be_bytes());
        self.store.apply(changes)?;
        self.dropped(dropped);
        self.drafts.push_back((self.next_draft, draft.len()));
        self.next_draft += 1;
        self.appended = number + 1;
        if self.drafts.len() - self.merging > UNMERGED_MAX {
            // The draft is kept, whatever becomes of this.
            if let Err(error) = self.merge_some() {
                tracing::warn!(error = chain(&error), "Drafts could not be merged.");
            }
        }
        Ok(())
    }

    /// Makes room for so many bytes: where dropping acked batches is enough, gives the changes that do it, to be made
    /// with the append, and how many go; where it is not, drops and merges at once.
    fn make_room(&mut self, more: usize) -> Result<(Changes, Dropped), SpoolError> {
        let mut changes = Changes::default();
        let mut bytes = self.bytes() + more;
        let mut dropped = Dropped::default();
        for kept in &self.former {
            if bytes <= self.limits.bytes {
                break;
            }
            changes.remove(List::Former, kept.seq);
            bytes -= kept.bytes;
            dropped.former += 1;
        }
        for kept in &self.batches {
            if bytes <= self.limits.bytes || kept.seq > self.acked_seq {
                break;
            }
            changes.remove(List::Batches, kept.seq);
            bytes -= kept.bytes;
            dropped.batches += 1;
        }
        if bytes <= self.limits.bytes {
            return Ok((changes, dropped));
        }
        if dropped != Dropped::default() {
            self.store.apply(changes)?;
            self.dropped(dropped);
        }
        let merged_before = self.counts.merged;
        while self.bytes() + more > self.limits.bytes && self.merge_some()? {}
        let merged = self.counts.merged - merged_before;
        if merged > 0 {
            tracing::warn!(merged, "The spool is full: windows are merged within their slots.");
        }
        let bytes = self.bytes() + more;
        if bytes > self.limits.bytes {
            return Err(SpoolError::Full { bytes, limit: self.limits.bytes });
        }
        Ok((Changes::default(), Dropped::default()))
    }

    /// So many acked batches are gone from the disk.
    fn dropped(&mut self, dropped: Dropped) {
        let count = dropped.former + dropped.batches;
        if count > 0 {
            self.former.drain(..dropped.former);
            self.batches.drain(..dropped.batches);
            self.counts.dropped += count as u64;
            tracing::warn!(count, "The spool is full: acked batches go before they are backed up.");
        }
    }

    /// Merges the oldest drafts that are not, as far as one step goes. False if all are.
    fn merge_some(&mut self) -> Result<bool, SpoolError> {
        let numbers = self.leading(self.merging, MERGE_DRAFTS_MAX, MERGE_BYTES_MAX);
        let [first, _, ..] = numbers[..] else { return Ok(false) };
        let (draft, taken) = seal::merge(&self.read_drafts(&numbers)?);
        if taken < 2 {
            self.merging += 1;
            return Ok(true);
        }
        let mut changes = Changes::default();
        for number in &numbers[1..taken] {
            changes.remove(List::Drafts, *number);
        }
        let bytes = draft.len();
        changes.put(List::Drafts, first, draft);
        self.store.apply(changes)?;
        self.drafts[self.merging].1 = bytes;
        self.drafts.drain(self.merging + 1..self.merging + taken);
        self.counts.merged += taken as u64 - 1;
        Ok(true)
    }

    /// Numbers of the drafts from a place on, at most so many and of so many bytes, but two where there are two.
    pub(super) fn leading(&self, from: usize, drafts_max: usize, bytes_max: usize) -> Vec<u64> {
        let mut bytes_before = 0;
        let drafts = self.drafts.range(from.min(self.drafts.len())..).take(drafts_max).enumerate();
        let fitting = drafts.take_while(|(at, (_, bytes))| {
            bytes_before += bytes;
            *at < 2 || bytes_before <= bytes_max
        });
        fitting.map(|(_, (number, _))| *number).collect()
    }

    pub(super) fn read_drafts(&self, numbers: &[u64]) -> Result<Vec<Vec<u8>>, SpoolError> {
        let read = |number: &u64| Ok(self.store.read(List::Drafts, *number)?.unwrap_or_default());
        numbers.iter().map(read).collect()
    }

    /// Takes what another spool has that is not acked, and what it remembers. It begins an epoch of its own: nobody
    /// knows what the other's numbers still stand for.
    ///
    /// # Errors
    /// If there is no room for it here, or the disk fails.
    pub(super) fn take_over(&mut self, old: &Self) -> Result<(), SpoolError> {
        self.new_epoch()?;
        let until_ns = old.last_window_end_ns()?.unwrap_or(0);
        for kept in old.batches.iter().filter(|kept| kept.seq > old.acked_seq) {
            let Some(draft) = old.batch(kept.seq)?.and_then(|batch| seal::unseal(&batch.payload)) else {
                tracing::error!(kept.seq, "A batch cannot be read any more; its time is unobserved.");
                continue;
            };
            self.append(&draft, until_ns)?;
        }
        for (number, _) in &old.drafts {
            let draft = old.store.read(List::Drafts, *number)?.unwrap_or_default();
            self.append(&draft, until_ns)?;
        }
        let mut changes = Changes::default();
        for name in [Name::LedgerId, Name::Devices, Name::LastWindowEnd] {
            if let Some(value) = old.store.get(name)? {
                changes.set(name, &value);
            }
        }
        changes.set(Name::Appended, &old.appended.to_be_bytes());
        self.store.apply(changes)?;
        self.appended = old.appended;
        Ok(())
    }

    /// What was done for want of room.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
