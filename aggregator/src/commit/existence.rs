//! From what is covered to how long a device existed: stays, their ends, and the existence of slots.

use tonnage_proto::limits::{SLOT_NS, slot_start};

use super::CommitError;
use super::working::Working;
use crate::ledger::coverage::Interval;
use crate::ledger::stay::{self, Stay};
use crate::prices::Book;
use crate::store::Connection;
use crate::store::existence;

impl Working {
    /// Covered time of a tenure came in: its device's stays, and existence, follow.
    pub(super) fn lengthen(
        &mut self,
        db: &Connection,
        book: &Book,
        (device, tenure): (i64, i64),
        span: Interval,
    ) -> Result<(), CommitError> {
        let stays = self.stays(db, device)?;
        let last = stays.now.len().saturating_sub(1);
        // Nearly always: the last stay goes on, and nothing else can change by that.
        if let Some(before) = stays.now.last().copied()
            && before.tenure == tenure
            && before.from_ns <= span.start_ns
            && span.start_ns <= before.covered_ns
            && before.to_ns == before.covered_ns
        {
            let stay = &mut stays.now[last];
            stay.covered_ns = stay.covered_ns.max(span.end_ns);
            stay.to_ns = stay.covered_ns;
            let to_ns = stay.to_ns;
            return self.exist(db, tenure, Interval { start_ns: before.to_ns, end_ns: to_ns });
        }
        let before = stays.now.clone();
        let retired = stays.retired.clone();
        if stay::extend(&mut stays.now, &retired, tenure, span).is_none() {
            return self.rebuild(db, book, device);
        }
        self.settle_ends(db, book, device, &before)
    }

    /// Works the stays of a device out anew from all that covers it.
    pub(super) fn rebuild(&mut self, db: &Connection, book: &Book, device: i64) -> Result<(), CommitError> {
        self.write_coverage(db, Some(device))?;
        let purged_until_ns = self.marks(db)?.purged_until_ns;
        let covered = existence::coverage(db, device, i64::MIN, i64::MAX)?;
        let stays = self.stays(db, device)?;
        let before = stays.now.clone();
        let frozen: Vec<Stay> =
            before.iter().copied().take_while(|stay| stay.from_ns < purged_until_ns).collect();
        stays.now = stay::rebuild(&frozen, covered.intervals(), &stays.retired);
        self.settle_ends(db, book, device, &before)
    }

    /// Brings the ends of a device's stays up to date: something changed that they depend on.
    pub(super) fn settle_ends(
        &mut self,
        db: &Connection,
        book: &Book,
        device: i64,
        before: &[Stay],
    ) -> Result<(), CommitError> {
        let horizon_ns = self.marks(db)?.existence_until_ns;
        let mut now = self.stays(db, device)?.now.clone();
        for at in 0..now.len() {
            let (stay, next) = (now[at], now.get(at + 1).copied());
            let matters = match next {
                Some(next) => next.from_ns > stay.covered_ns,
                None => horizon_ns > stay.covered_ns,
            };
            let lasts = matters && self.lasts(db, book, &stay, next.as_ref())?;
            now[at].to_ns = stay.end(next.as_ref(), &self.stays(db, device)?.retired, horizon_ns, lasts);
        }
        let changed = differences(before, &now);
        self.stays(db, device)?.now = now;
        for (tenure, span) in changed {
            self.exist(db, tenure, span)?;
        }
        Ok(())
    }

    /// Brings the ends of all stays up to date, by another book.
    pub(super) fn settle_all_ends(&mut self, db: &Connection, book: &Book) -> Result<(), CommitError> {
        for device in existence::devices(db)? {
            let before = self.stays(db, device)?.now.clone();
            self.settle_ends(db, book, device, &before)?;
        }
        Ok(())
    }

    /// The same node has the device again in `next`, or nobody has, and the book says that a silent GPU is there. Within one
    /// life it was there, whatever the book says.
    fn lasts(
        &mut self,
        db: &Connection,
        book: &Book,
        stay: &Stay,
        next: Option<&Stay>,
    ) -> Result<bool, CommitError> {
        if let Some(next) = next {
            let (now, then) = (self.tenure(db, stay.tenure)?, self.tenure(db, next.tenure)?);
            if now.node_id != then.node_id {
                return Ok(false);
            }
            // MIG was switched: it is the same boot that goes on.
            if now.life == then.life {
                return Ok(true);
            }
        }
        let slot = slot_start(stay.covered_ns - 1);
        self.price_facts(db, slot, stay.tenure, |facts| book.lasts(facts, slot))
    }

    /// Brings existence up to date in the slots of a tenure that `span` touches.
    fn exist(&mut self, db: &Connection, tenure: i64, span: Interval) -> Result<(), CommitError> {
        let record = self.tenure(db, tenure)?;
        // What lies before the purge horizon is frozen.
        let mut start_ns = slot_start(span.start_ns).max(self.marks(db)?.purged_until_ns);
        while start_ns < span.end_ns {
            let whole = Interval { start_ns, end_ns: start_ns + SLOT_NS };
            let stays = &self.stays(db, record.device)?.now;
            let from = stays.partition_point(|stay| stay.to_ns <= start_ns);
            let within = stays[from..].iter().take_while(|stay| stay.from_ns < whole.end_ns);
            let own = within.filter(|stay| stay.tenure == tenure);
            let existence_ns: i64 = own.map(|stay| stay.span().intersect(whole).length_ns()).sum();
            self.inherit_facts(db, start_ns, tenure)?;
            let slot = self.slot(db, start_ns, tenure)?;
            slot.state.extent.existence_ns = existence_ns * i64::from(record.slices);
            slot.dirty = true;
            start_ns += SLOT_NS;
        }
        Ok(())
    }
}

/// Per tenure, the stretches in which the existence of a device is not what it was.
fn differences(before: &[Stay], now: &[Stay]) -> Vec<(i64, Interval)> {
    let mut changed = Vec::new();
    let pair = |list: &[Stay], stay: &Stay| {
        list.iter().copied().find(|other| (other.tenure, other.from_ns) == (stay.tenure, stay.from_ns))
    };
    for old in before.iter().filter(|old| pair(now, old).is_none()) {
        changed.push((old.tenure, old.span()));
    }
    for new in now {
        match pair(before, new) {
            None => changed.push((new.tenure, new.span())),
            Some(old) if old.to_ns != new.to_ns => {
                let (start_ns, end_ns) = (old.to_ns.min(new.to_ns), old.to_ns.max(new.to_ns));
                changed.push((new.tenure, Interval { start_ns, end_ns }));
            }
            Some(_) => {}
        }
    }
    // Slots hand their facts on to those behind them.
    changed.sort_by_key(|(_, span)| span.start_ns);
    changed
}
