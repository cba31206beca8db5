//! The windows that a slot's time rests on, from the sealed bytes in the journal, as far as it still has them.

use std::collections::BTreeSet;

use tonnage_proto::limits::SLOT_NS;
use tonnage_proto::rest::explain::{ExplainedShare, ExplainedWindow};

use super::super::inventory::time;
use crate::ledger::coverage::Interval;
use crate::live::owner_name;
use crate::model::{UsageBatch, Window};
use crate::store::existence::TenureRecord;
use crate::store::quarantine::{self, Journalled};
use crate::store::query::QueryError;
use crate::store::query::explain::{RowRecord, cursors};
use crate::store::{Connection, StoreError};
use crate::wire;

/// Windows shown of one device.
const WINDOWS_MAX: usize = 200;
/// Batches read at once.
const PAGE: u32 = 32;

/// The first windows of a tenure in a slot that count, by time, with the usages of the rows that were asked about; and
/// whether there are more than are shown.
pub(super) fn windows(
    db: &Connection,
    start_ns: i64,
    tenure: &TenureRecord,
    asked: &[&RowRecord],
    expired: &dyn Fn() -> bool,
) -> Result<(Vec<ExplainedWindow>, bool), QueryError> {
    let span = Interval { start_ns, end_ns: start_ns + SLOT_NS };
    let mut evidence = Evidence { span, tenure, asked, found: Vec::new(), cut: false };
    let mut known = BTreeSet::new();
    for (node, epoch) in cursors(db, start_ns, tenure)? {
        let mut after = i64::MIN;
        loop {
            let batches = quarantine::batches_within_behind(db, (node, &epoch), span, after, PAGE)?;
            let Some(last) = batches.last() else { break };
            after = last.id;
            for journalled in &batches {
                if expired() {
                    return Err(QueryError::Expired);
                }
                known.insert(journalled.id);
                evidence.take(db, journalled)?;
            }
        }
    }
    // What counts by a person's order counts for no cursor.
    for id in quarantine::released_overlapping(db, &tenure.uuid, span)? {
        if known.insert(id) {
            evidence.take(db, &quarantine::batch(db, id)?)?;
        }
    }
    evidence.shorten();
    Ok((evidence.found.into_iter().map(|(_, window)| window).collect(), evidence.cut))
}

struct Evidence<'a> {
    span: Interval,
    tenure: &'a TenureRecord,
    asked: &'a [&'a RowRecord],
    /// By start.
    found: Vec<(i64, ExplainedWindow)>,
    cut: bool,
}

impl Evidence<'_> {
    fn take(&mut self, db: &Connection, journalled: &Journalled) -> Result<(), StoreError> {
        if journalled.node != self.tenure.node {
            return Ok(());
        }
        let valid = wire::decode(&journalled.payload, &journalled.node, &journalled.epoch, journalled.seq)
            .map_err(|detail| StoreError::Damaged {
                what: "journal",
                detail: format!("entry {}: {detail}", journalled.id),
            })?;
        let life = if valid.instance_id.is_empty() { &valid.boot_id } else { &valid.instance_id };
        let (span, tenure) = (self.span, self.tenure);
        for (at, window) in valid.windows.iter().enumerate() {
            let device = &valid.devices[window.device];
            let within = window.start_ns >= span.start_ns && window.end_ns <= span.end_ns;
            let theirs = device.uuid == tenure.uuid && device.slices == tenure.slices && *life == tenure.life;
            if within && theirs && !quarantine::is_held(db, journalled.id, at)? {
                self.found.push((window.start_ns, shown(journalled, &valid, window, self.asked)));
            }
        }
        if self.found.len() > 2 * WINDOWS_MAX {
            self.shorten();
        }
        Ok(())
    }

    fn shorten(&mut self) {
        self.found.sort_by_key(|(start_ns, _)| *start_ns);
        self.cut |= self.found.len() > WINDOWS_MAX;
        self.found.truncate(WINDOWS_MAX);
    }
}

fn shown(
    journalled: &Journalled,
    batch: &UsageBatch,
    window: &Window,
    asked: &[&RowRecord],
) -> ExplainedWindow {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let usages = window.usages.iter().filter_map(|usage| {
        let owner = &batch.owners[usage.owner];
        let instance = usage.instance.map(|at| &batch.instances[at]);
        let theirs =
            |row: &&&RowRecord| row.owner.as_ref() == Some(owner) && row.instance.as_ref() == instance;
        asked.iter().find(theirs)?;
        Some(ExplainedShare {
            owner: owner_name(owner),
            instance: instance.map_or_else(String::new, |instance| instance.uuid.clone()),
            intruder: usage.intruder,
            held_ns: usage.held_ns,
            busy_ns: usage.busy_ns,
        })
    });
    ExplainedWindow {
        journal: journalled.id,
        node: journalled.node.node.clone(),
        epoch: hex(&journalled.epoch),
        seq: journalled.seq,
        sha256: hex(&wire::sha256(&journalled.payload)),
        start: time(window.start_ns),
        end: time(window.end_ns),
        samples: window.samples,
        usages: usages.collect(),
        idle_ns: window.idle_ns,
        stranded_ns: window.stranded_ns,
    }
}
