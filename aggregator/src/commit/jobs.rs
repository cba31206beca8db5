//! What jobs without GPUs ran for, from statements to rows: a run that says more than before changes slots by the difference.
//!
//! Constraints: the same twice changes nothing, so a report may be sent again, by whomever; a run that cannot be so is refused by
//! itself. What is journalled is what counted, in its order, so that of each run the last word in the journal is the ledger's.

use std::collections::HashMap;

use super::CommitError;
use super::budgets::Context;
use super::working::{Slot, Working};
use crate::budgets::run::{PARTS_MAX, Part, ROW_MAX, Report, Run, Stated, Told};
use crate::budgets::{BudgetError, invalid};
use crate::ledger::jobs::{self as arithmetic, Charges};
use crate::ledger::rows::WHOLE;
use crate::model::{Owner, OwnerKind, RowKind};
use crate::prices::Book;
use crate::store::write::{self, JournalEntry, JournalKind};
use crate::store::{StoreError, jobs as stored};

const S: i64 = 1_000_000_000;

/// Where a run's rows are.
type At = (i64, i64);

impl Working {
    /// Takes a report.
    pub(super) fn ran(
        &mut self,
        context: Context<'_>,
        report: &Report,
        by: &str,
    ) -> Result<Result<Told, BudgetError>, CommitError> {
        let Context { db, book, now_ns, purged_until_ns } = context;
        let cluster = report.cluster.as_str();
        if !stored::knows(db, cluster)? && !book.prices_jobs_of(cluster) {
            let text = "is of no agent that was ever heard, and no [[compute]] of the price book is for it";
            return Ok(Err(invalid("cluster", format!("{cluster:?} {text}"))));
        }
        let mut told = Told::default();
        let mut stated = Stated { cluster: cluster.to_owned(), runs: Vec::new() };
        let mut tenures = HashMap::new();
        let (mut parts, mut until_s) = (0, 0);
        for (at, run) in report.runs.iter().enumerate() {
            if parts >= PARTS_MAX {
                break;
            }
            told.taken = at + 1;
            if let Err(error) = run.check(now_ns) {
                told.refused.push((at, error));
                continue;
            }
            let before = stored::run(db, cluster, &run.job_id, run.start_s)?;
            if before.as_ref().is_some_and(|before| !run.supersedes(before)) {
                continue;
            }
            let from_s = before.as_ref().map_or(run.start_s, |before| run.differs_from_s(before));
            // Slots before the horizon are frozen.
            let from_s = from_s.max(purged_until_ns.div_euclid(S));
            match self.move_on(context, &mut tenures, (cluster, from_s), (before.as_ref(), run))? {
                Ok(moved) => parts += moved,
                Err(error) => {
                    told.refused.push((at, error));
                    continue;
                }
            }
            // Not purged before what it takes back.
            until_s = before.map_or(run.end_s, |before| before.end_s.max(run.end_s)).max(until_s);
            stored::put(db, cluster, run)?;
            stated.runs.push(run.clone());
        }
        told.changed = stated.runs.len();
        journal(context, &stated, until_s, by)?;
        if report.until_s > 0 && told.taken == report.runs.len() {
            stored::set_stated_until(db, cluster, report.until_s.min(now_ns.div_euclid(S)))?;
            told.missing = stored::missing(db, cluster, report.until_s)?;
        }
        told.until_s = stored::stated_until(db, cluster)?;
        Ok(Ok(told))
    }

    /// Takes from rows what was stated of a run before, and adds what is now, of all at or behind a time. Gives how many parts that
    /// were.
    fn move_on(
        &mut self,
        context: Context<'_>,
        tenures: &mut HashMap<String, i64>,
        (cluster, from_s): (&str, i64),
        (before, now): (Option<&Run>, &Run),
    ) -> Result<Result<usize, BudgetError>, CommitError> {
        let mut place = |working: &mut Self, run: &Run| -> Result<At, CommitError> {
            let tenure = match tenures.get(&run.partition) {
                Some(tenure) => *tenure,
                None => {
                    let tenure = stored::tenure(context.db, cluster, &run.partition)?;
                    tenures.insert(run.partition.clone(), tenure);
                    tenure
                }
            };
            Ok((tenure, working.owner(context.db, &owner(run))?))
        };
        let at = place(self, now)?;
        for part in now.parts(from_s) {
            if !self.has_room(context, at, part)? {
                let text = "so many runs of this job in one slot cannot be: they overlap";
                return Ok(Err(invalid("start_s", text)));
            }
        }
        let mut parts = 0;
        if let Some(before) = before {
            let at = place(self, before)?;
            for part in before.parts(from_s) {
                self.add_part(context, at, part, -1)?;
                parts += 1;
            }
        }
        for part in now.parts(from_s) {
            self.add_part(context, at, part, 1)?;
            parts += 1;
        }
        Ok(Ok(parts))
    }

    fn has_room(
        &mut self,
        context: Context<'_>,
        (tenure, owner): At,
        part: Part,
    ) -> Result<bool, CommitError> {
        let rows = &self.slot(context.db, part.start_ns, tenure)?.state.rows;
        let cpu_ns = rows.get(&(WHOLE, owner, RowKind::Cpu)).map_or(0, |row| row.time_ns);
        let byte_seconds =
            rows.get(&(WHOLE, owner, RowKind::Memory)).map_or(0, |row| row.memory_byte_seconds);
        let fits = |is: i64, more: i64| is.checked_add(more).is_some_and(|sum| sum <= ROW_MAX);
        Ok(fits(cpu_ns, part.cpu_ns) && fits(byte_seconds, part.memory_byte_seconds))
    }

    fn add_part(
        &mut self,
        context: Context<'_>,
        (tenure, owner): At,
        part: Part,
        sign: i64,
    ) -> Result<(), CommitError> {
        let slot = self.slot(context.db, part.start_ns, tenure)?;
        slot.dirty = true;
        let rows = slot.rows();
        rows.row((WHOLE, owner, RowKind::Cpu)).time_ns += sign * part.cpu_ns;
        if part.memory_byte_seconds > 0 {
            rows.row((WHOLE, owner, RowKind::Memory)).memory_byte_seconds += sign * part.memory_byte_seconds;
        }
        rows.retain(|_, row| (row.time_ns, row.memory_byte_seconds) != (0, 0));
        Ok(())
    }
}

/// Prices a slot of jobs without GPUs, whose tenure's life is their partition.
pub(super) fn settle(slot: &mut Slot, book: &Book, start_ns: i64) {
    let place = std::sync::Arc::clone(&slot.tenure);
    let prices = book.compute(&place.node.cluster, &place.life, start_ns);
    let narrow = |nanos: i128| i64::try_from(nanos).unwrap_or(i64::MAX);
    slot.state.price_nanos = match prices {
        Some(prices) => {
            let cpu = |ns: i64| narrow(prices.cpu.charge(i128::from(ns)));
            let memory = |byte_seconds: i64| narrow(prices.memory.charge(i128::from(byte_seconds)));
            let charges: Charges<'_> = [&cpu, &memory];
            arithmetic::settle(slot.rows(), Some(charges))
        }
        None => arithmetic::settle(slot.rows(), None),
    };
}

fn owner(run: &Run) -> Owner {
    Owner {
        kind: OwnerKind::SlurmJob,
        job_id: run.job_id.clone(),
        user: run.user.clone(),
        account: run.account.clone(),
        partition: run.partition.clone(),
        ..Owner::default()
    }
}

fn journal(context: Context<'_>, stated: &Stated, until_s: i64, by: &str) -> Result<(), CommitError> {
    if stated.runs.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_vec(stated)
        .map_err(|e| StoreError::Damaged { what: "what jobs ran for", detail: e.to_string() })?;
    let detail = format!("{} runs of {}, by {by}", stated.runs.len(), stated.cluster);
    let entry = JournalEntry {
        detail: &detail,
        to_ns: until_s.saturating_mul(S),
        payload: &json,
        ..JournalEntry::of(context.now_ns, JournalKind::Jobs)
    };
    write::journal(context.db, &entry)?;
    Ok(())
}
