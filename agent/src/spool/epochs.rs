//! What becomes of a spool's batches when its numbers begin anew, and when the ledger was set back since.
//!
//! An epoch ends where its numbers are of no more use: a clone has used them too, the clock was set far back, a batch
//! cannot be read. What the ledger does not have then gets new numbers at once. What it has, and no backup, is kept
//! apart: it gets new numbers only if the ledger was restored. Some of that it may have after all; those windows are
//! quarantined there.

use super::disk::{Changes, List, Name};
use super::{Kept, Spool, SpoolError};
use crate::seal;

impl Spool {
    /// Begins another epoch: what is sealed and not acked becomes drafts again, in front of the others. What is acked
    /// is kept apart, in case a restored ledger lacks it.
    ///
    /// # Errors
    /// If the disk fails: nothing has changed.
    pub fn new_epoch(&mut self) -> Result<(), SpoolError> {
        let epoch = (self.mint)()?;
        let mut again = Vec::new();
        for kept in self.batches.iter().filter(|kept| kept.seq > self.acked_seq) {
            let draft = self.batch(kept.seq)?.and_then(|batch| seal::unseal(&batch.payload));
            again.extend(draft);
        }
        let mut changes = Changes::default();
        let mut former = Vec::new();
        let mut number = self.former.back().map_or(0, |kept| kept.seq + 1);
        for kept in &self.batches {
            changes.remove(List::Batches, kept.seq);
            // The ledger has it, but no backup does.
            if kept.seq <= self.acked_seq
                && let Some(batch) = self.store.read(List::Batches, kept.seq)?
            {
                changes.put(List::Former, number, batch);
                former.push(Kept { seq: number, ..*kept });
                number += 1;
            }
        }
        let numbered = self.in_front(&mut changes, again);
        changes.set(Name::Epoch, &epoch);
        changes.set(Name::Acked, &0_u64.to_be_bytes());
        changes.set(Name::Sealed, &0_u64.to_be_bytes());
        self.store.apply(changes)?;
        (self.epoch, self.acked_seq, self.sealed_seq) = (epoch, 0, 0);
        self.batches.clear();
        self.former.extend(former);
        self.put_in_front(numbered);
        Ok(())
    }

    /// Takes note of the ledger's incarnation. Where it is another than before, the ledger was restored: then no ack
    /// counts any more, since others may have used the same numbers since, and what was acked under former epochs
    /// becomes drafts again. True if so.
    ///
    /// # Errors
    /// If the disk fails: nothing has changed.
    pub fn recall(&mut self, ledger_id: &[u8], incarnation: u64) -> Result<bool, SpoolError> {
        let new = [ledger_id, &incarnation.to_be_bytes()].concat();
        let known = self.store.get(Name::Incarnation)?;
        if known.as_ref() == Some(&new) {
            return Ok(false);
        }
        let mut changes = Changes::default();
        changes.set(Name::Incarnation, &new);
        if known.is_none() {
            self.store.apply(changes)?;
            return Ok(false);
        }
        // Others may have used the same numbers since.
        self.take_back(changes, self.holdings().oldest_seq - 1)?;
        Ok(true)
    }

    /// The ledger's cursor stands lower than what it acked once: a copy took its place, and it does not know. What is held
    /// is sent again; of former epochs all, since of those it does not tell what it has.
    ///
    /// # Errors
    /// If the disk fails: nothing has changed.
    pub fn rewind(&mut self, cursor_seq: u64) -> Result<(), SpoolError> {
        self.take_back(Changes::default(), cursor_seq)
    }

    /// No ack counts behind this one any more, nor any of former epochs.
    fn take_back(&mut self, mut changes: Changes, acked_seq: u64) -> Result<(), SpoolError> {
        let mut again = Vec::new();
        for kept in &self.former {
            changes.remove(List::Former, kept.seq);
            let batch = self.store.read(List::Former, kept.seq)?;
            again.extend(batch.and_then(|batch| seal::unseal(batch.get(32..)?)));
        }
        changes.set(Name::Acked, &acked_seq.to_be_bytes());
        let numbered = self.in_front(&mut changes, again);
        self.store.apply(changes)?;
        self.acked_seq = acked_seq;
        self.former.clear();
        self.put_in_front(numbered);
        Ok(())
    }

    /// Changes that put drafts in front of the others, and their numbers.
    fn in_front(&self, changes: &mut Changes, again: Vec<Vec<u8>>) -> Vec<(u64, usize)> {
        let front = self.drafts.front().map_or(self.next_draft, |(number, _)| *number);
        // Spools of the first version number drafts from 0: there, they go behind the others.
        let first = front.checked_sub(again.len() as u64).unwrap_or(self.next_draft);
        let numbered: Vec<(u64, usize)> = (first..).zip(again.iter().map(Vec::len)).collect();
        for ((number, _), draft) in numbered.iter().zip(again) {
            changes.put(List::Drafts, *number, draft);
        }
        numbered
    }

    fn put_in_front(&mut self, numbered: Vec<(u64, usize)>) {
        self.drafts.extend(numbered);
        self.drafts.make_contiguous().sort_unstable();
        self.next_draft = self.drafts.back().map_or(self.next_draft, |(number, _)| number + 1);
        self.merging = 0;
    }
}
