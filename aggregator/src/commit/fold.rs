//! One batch into the ledger: which of its windows are counted, and which are held back.
//!
//! Constraint: no time of a device is counted twice. Where a window overlaps what is counted, the senior of the two
//! is believed (`ledger::seniority`), whichever came first; the other is quarantined whole, never cut.

use std::sync::Arc;

use tonnage_proto::limits::{CLAIM_NS_MAX, CLOCK_AHEAD_NS_MAX, CLOCK_BEHIND_NS_MAX, DAY_NS, slot_start};

use super::CommitError;
use super::working::Working;
use crate::ledger::coverage::{Covered, Interval};
use crate::model::{NodeName, UsageBatch};
use crate::prices::Book;
use crate::store::Connection;
use crate::store::{existence, quarantine};

/// A window older than this is quarantined: a node whose clock stood at 1970 must not create a tenure of 50 years.
pub const WINDOW_AGE_NS_MAX: i64 = 400 * DAY_NS;

/// A batch's place in the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub node_id: i64,
    pub cursor: i64,
    /// Its entry in the journal.
    pub journal: i64,
    /// The agent's clock minus the ledger's, 0 if it did not say.
    pub skew_ns: i64,
    /// The ledger's clock.
    pub now_ns: i64,
}

/// A window that was not folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    pub device: String,
    pub reason: Reason,
}

/// Why a window was not folded: one of few words for metrics, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub kind: &'static str,
    pub text: String,
}

/// A window of a batch, and who offers it.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) batch: Arc<UsageBatch>,
    pub(super) window: usize,
    pub(super) device: i64,
    pub(super) tenure: i64,
    /// 0: a person's order.
    pub(super) cursor: i64,
    pub(super) facts: i64,
}

impl Offer {
    pub(super) fn span(&self) -> Interval {
        let window = &self.batch.windows[self.window];
        Interval { start_ns: window.start_ns, end_ns: window.end_ns }
    }

    pub(super) fn uuid(&self) -> &str {
        &self.batch.devices[self.batch.windows[self.window].device].uuid
    }
}

fn reason(kind: &'static str, text: impl Into<String>) -> Reason {
    Reason { kind, text: text.into() }
}

/// What identifies the life of a node that a batch is from.
pub(super) fn life(batch: &UsageBatch) -> &str {
    if batch.instance_id.is_empty() { &batch.boot_id } else { &batch.instance_id }
}

impl Working {
    /// Folds a valid batch, but for the windows that do not fit what is already known: those are quarantined, and
    /// returned.
    pub(super) fn fold(
        &mut self,
        db: &Connection,
        book: &Book,
        context: Context,
        batch: &Arc<UsageBatch>,
    ) -> Result<Vec<Quarantined>, CommitError> {
        let facts = self.facts_id(db, &batch.facts)?;
        let devices: Vec<i64> =
            batch.devices.iter().map(|device| self.device(db, device)).collect::<Result<_, _>>()?;
        for gap in &batch.gaps {
            let device = gap.device.map_or(0, |at| devices[at]);
            let span = Interval { start_ns: gap.start_ns, end_ns: gap.end_ns };
            existence::gap(db, context.node_id, device, span, gap.reason)?;
        }
        let purged_until_ns = self.marks(db)?.purged_until_ns;
        let mut quarantined = Vec::new();
        for (at, window) in batch.windows.iter().enumerate() {
            self.folding = Some((context.journal, at));
            let device = devices[window.device];
            let span = Interval { start_ns: window.start_ns, end_ns: window.end_ns };
            let described = &batch.devices[window.device];
            let mut against = impossible(span, context, purged_until_ns);
            if against.is_none() {
                let place = (device, context.node_id, life(batch), described.slices);
                let claimed_ns = span.start_ns.max(context.now_ns - CLAIM_NS_MAX);
                let tenure = self.claim(db, place, context.cursor, claimed_ns)?;
                let (batch, cursor) = (Arc::clone(batch), context.cursor);
                against =
                    self.offer(db, book, &Offer { batch, window: at, device, tenure, cursor, facts })?;
            }
            if let Some(reason) = against {
                let why = (reason.kind, reason.text.as_str());
                quarantine::hold(db, (context.journal, at), &described.uuid, span, why)?;
                quarantined.push(Quarantined { device: described.uuid.clone(), reason });
            }
        }
        self.folding = None;
        Ok(quarantined)
    }

    /// Counts a window if its time is free, or held by juniors only, who then give way. Else says who has it.
    pub(super) fn offer(
        &mut self,
        db: &Connection,
        book: &Book,
        offer: &Offer,
    ) -> Result<Option<Reason>, CommitError> {
        let span = offer.span();
        let (coverage, _) = self.coverage(db, offer.device, slot_start(span.start_ns))?;
        let known = coverage.overlapping(span).to_vec();
        if known.is_empty() {
            self.count(db, book, offer)?;
            return Ok(None);
        }
        if let Some(senior) = self.senior(db, offer, &known)? {
            return Ok(Some(reason("overlap", self.holder(db, senior)?)));
        }
        self.displace(db, book, offer, &known)?;
        Ok(None)
    }

    /// Who counts for the time of a window, if anybody does.
    pub(super) fn taken(&mut self, db: &Connection, offer: &Offer) -> Result<Option<String>, CommitError> {
        let span = offer.span();
        let (coverage, _) = self.coverage(db, offer.device, slot_start(span.start_ns))?;
        let known = coverage.overlapping(span).first().copied();
        known.map(|known| self.holder(db, known)).transpose()
    }

    fn holder(&mut self, db: &Connection, covered: Covered) -> Result<String, CommitError> {
        let NodeName { cluster, node } = &self.tenure(db, covered.tenure)?.node;
        let Interval { start_ns, end_ns } = covered.span;
        Ok(format!("node {node:?} of cluster {cluster:?} has the device from {start_ns} to {end_ns} ns"))
    }

    /// The first of those that the offer must give way to.
    pub(super) fn senior(
        &mut self,
        db: &Connection,
        offer: &Offer,
        known: &[Covered],
    ) -> Result<Option<Covered>, CommitError> {
        let own = existence::seniority(db, offer.tenure, offer.cursor)?;
        for covered in known {
            let same = (covered.tenure, covered.cursor) == (offer.tenure, offer.cursor);
            if same || existence::seniority(db, covered.tenure, covered.cursor)? <= own {
                return Ok(Some(*covered));
            }
        }
        Ok(None)
    }

    /// Counts a window whose time is free.
    pub(super) fn count(&mut self, db: &Connection, book: &Book, offer: &Offer) -> Result<(), CommitError> {
        let span = offer.span();
        self.cover(db, offer)?;
        self.set_facts(db, slot_start(span.start_ns), offer.tenure, (offer.facts, span.start_ns))?;
        self.lengthen(db, book, (offer.device, offer.tenure), span)?;
        self.add(db, offer.tenure, &offer.batch, &offer.batch.windows[offer.window], 1)
    }

    pub(super) fn cover(&mut self, db: &Connection, offer: &Offer) -> Result<(), CommitError> {
        let span = offer.span();
        let (coverage, dirty) = self.coverage(db, offer.device, slot_start(span.start_ns))?;
        coverage.insert(Covered { span, cursor: offer.cursor, tenure: offer.tenure });
        *dirty = true;
        Ok(())
    }
}

/// Why no device can be counted at such a time.
fn impossible(span: Interval, context: Context, purged_until_ns: i64) -> Option<Reason> {
    let Context { skew_ns, now_ns, .. } = context;
    if skew_ns < -CLOCK_BEHIND_NS_MAX {
        let behind_s = skew_ns.saturating_neg() / 1_000_000_000;
        let text = format!("the node's clock is {behind_s} s behind the ledger's; set it");
        return Some(reason("clock_behind", text));
    }
    if span.end_ns > now_ns + CLOCK_AHEAD_NS_MAX {
        let ahead_s = (span.end_ns - now_ns) / 1_000_000_000;
        return Some(reason(
            "clock_ahead",
            format!("ends {ahead_s} s after the ledger's now; set the node's clock"),
        ));
    }
    if span.start_ns < now_ns - WINDOW_AGE_NS_MAX {
        return Some(reason("too_old", "is over 400 days old; was the node's clock wrong?"));
    }
    if span.start_ns < purged_until_ns {
        return Some(reason("too_late", "lies before the ledger's retention; its slot is frozen"));
    }
    None
}
