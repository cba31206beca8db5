//! What is due as time passes: silence is taken note of, slots close, entries are posted, roll-ups are
//! built.
//!
//! Each step does a bounded part and says whether more is due, so that ingest is never held up for long. Nothing
//! depends on a step coming in time: what is late is done later, with the same end.

use tonnage_proto::limits::{DAY_NS, GRACE_NS, SILENCE_NS, SLOT_NS, slot_start};

use super::working::Working;
use super::{CommitError, budgets, describe};
use crate::prices::Book;
use crate::store::Connection;
use crate::store::closing::{self, Checkpoint};
use crate::store::write::{self, JournalEntry, JournalKind, Mark};
use crate::store::{existence, opening, purge, rollup};

/// Slots by which the horizon of existence moves in one step.
const HORIZON_SLOTS_MAX: i64 = 4;
/// (slot, tenure) posted in one step.
const POSTED_MAX: u32 = 2_000;
/// How long a closer keeps its lease without renewing it.
const LEASE_NS: i64 = 90_000_000_000;
const LEASE: &str = "close";

/// For how many days what is kept; 0 = for ever. What goes first is the detail: the journal's batches, slots, and
/// what is posted of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub detail_days: u32,
    pub hours_days: u32,
    pub days_days: u32,
}

/// Does a part of what is due at `now_ns`. True if more is. `holder` is this process's name for leases.
pub(super) fn step(
    db: &Connection,
    working: &mut Working,
    (book, retention): (&Book, Retention),
    holder: &str,
    now_ns: i64,
) -> Result<bool, CommitError> {
    if !closing::lease(db, LEASE, holder, now_ns, now_ns.saturating_add(LEASE_NS))? {
        return Ok(false);
    }
    let more = note_silence(db, working, book, now_ns)?;
    // What the working set holds must be in the store before it is asked what to post.
    working.write(db, book)?;
    let rolling = rollup::build(db, slot_start(now_ns))?;
    working.forget_marks();
    let closed = close(db, working, now_ns)?;
    let posted = post(db, now_ns, working.marks(db)?.closed_until_ns, closed)?;
    describe::forget(db, now_ns)?;
    let purged_until_ns = working.marks(db)?.purged_until_ns;
    let context = budgets::Context { db, book, now_ns, purged_until_ns };
    let expiring = working.budgets(db, book)?.expire(context)?;
    let purged = !more && !rolling && !posted && purge(db, working, retention, now_ns)?;
    Ok(more || rolling || posted || expiring || purged)
}

/// Devices of which nothing was heard for a while go on existing, slot by slot.
fn note_silence(
    db: &Connection,
    working: &mut Working,
    book: &Book,
    now_ns: i64,
) -> Result<bool, CommitError> {
    let due_ns = slot_start(now_ns.saturating_sub(SILENCE_NS));
    let from_ns = working.marks(db)?.existence_until_ns;
    if due_ns <= from_ns {
        return Ok(false);
    }
    // Before the first device nothing exists that could be silent.
    let until_ns = match closing::first_slot(db, 0)? {
        Some(_) if from_ns > 0 => due_ns.min(from_ns + HORIZON_SLOTS_MAX * SLOT_NS),
        _ => due_ns,
    };
    write::journal(
        db,
        &JournalEntry { to_ns: until_ns, ..JournalEntry::of(now_ns, JournalKind::Existence) },
    )?;
    working.set_mark(db, Mark::ExistenceUntil, until_ns)?;
    for device in existence::silent_devices(db, until_ns)? {
        let before = working.stays(db, device)?.now.clone();
        working.settle_ends(db, book, device, &before)?;
    }
    Ok(until_ns < due_ns)
}

/// Moves the mark behind every slot that is over and complete, or over for so long that it no longer matters. True
/// if a slot closed in which anything existed.
fn close(db: &Connection, working: &mut Working, now_ns: i64) -> Result<bool, CommitError> {
    let from_ns = working.marks(db)?.closed_until_ns;
    let graced_ns = slot_start(now_ns.saturating_sub(GRACE_NS));
    let over_ns = slot_start(now_ns);
    let mut until_ns = from_ns.max(graced_ns);
    while until_ns < over_ns && !closing::is_incomplete(db, until_ns + SLOT_NS)? {
        until_ns += SLOT_NS;
    }
    // Silence in a slot is known only once the horizon has passed it.
    let until_ns = if closing::is_incomplete(db, until_ns)? {
        until_ns.min(working.marks(db)?.existence_until_ns.max(from_ns))
    } else {
        until_ns
    };
    if until_ns <= from_ns {
        return Ok(false);
    }
    let any = closing::first_slot(db, from_ns)?.is_some_and(|start_ns| start_ns < until_ns);
    closing::mark_closing(db, from_ns, until_ns)?;
    working.set_mark(db, Mark::ClosedUntil, until_ns)?;
    Ok(any)
}

/// Posts entries and corrections, under a checkpoint of their own. True if more wait.
fn post(db: &Connection, now_ns: i64, closed_until_ns: i64, closed: bool) -> Result<bool, CommitError> {
    let waiting = closing::unposted(db, POSTED_MAX)?;
    if waiting.is_empty() && !closed {
        return Ok(false);
    }
    let last = closing::last_checkpoint(db)?;
    let mut checkpoint = Checkpoint {
        id: last.id + 1,
        at_ns: now_ns,
        closed_until_ns,
        journal: closing::last_journal(db)?,
        entries: 0,
        hash: Vec::new(),
    };
    let entries = closing::post(db, &waiting, checkpoint.id)?;
    if entries.is_empty() && !closed {
        return Ok(false);
    }
    checkpoint.entries = i64::try_from(entries.len()).unwrap_or(i64::MAX);
    checkpoint.hash = closing::checkpoint_hash(&last.hash, &checkpoint, &entries);
    closing::put_checkpoint(db, &checkpoint)?;
    Ok(waiting.len() == POSTED_MAX as usize)
}

/// Purges up to one day of detail, once all of it is posted. True if more may go.
fn purge(
    db: &Connection,
    working: &mut Working,
    retention: Retention,
    now_ns: i64,
) -> Result<bool, CommitError> {
    if retention.detail_days == 0 {
        return Ok(false);
    }
    let day_start = |at_ns: i64| at_ns - at_ns.rem_euclid(DAY_NS);
    let kept_from = |days: u32| match days {
        0 => i64::MIN,
        days => day_start(now_ns.saturating_sub(i64::from(days) * DAY_NS)),
    };
    let marks = working.marks(db)?;
    let due_ns = kept_from(retention.detail_days).min(day_start(marks.closed_until_ns));
    let Some(first_ns) = closing::first_slot(db, marks.purged_until_ns)? else { return Ok(false) };
    let horizon_ns = due_ns.min(day_start(first_ns) + DAY_NS);
    if horizon_ns <= first_ns || horizon_ns <= marks.purged_until_ns || purge::waits(db, horizon_ns)? {
        return Ok(false);
    }
    let mut opening = purge::opening_at(db, horizon_ns)?;
    // Hours outlive the detail, and days the hours: answers are put together from the widest.
    let hours_from_ns = kept_from(retention.hours_days).min(horizon_ns);
    let days_from_ns = kept_from(retention.days_days).min(hours_from_ns.max(0));
    purge::delete(db, &mut opening, hours_from_ns, days_from_ns)?;
    let checkpoint = closing::last_checkpoint(db)?.id;
    opening::put(db, checkpoint, &opening)?;
    let detail = format!("checkpoint {checkpoint}");
    write::journal(
        db,
        &JournalEntry { to_ns: horizon_ns, detail: &detail, ..JournalEntry::of(now_ns, JournalKind::Purge) },
    )?;
    *working = Working::default();
    working.set_mark(db, Mark::PurgedUntil, horizon_ns)?;
    working.set_mark(db, Mark::HoursFrom, hours_from_ns.max(0))?;
    working.set_mark(db, Mark::DaysFrom, days_from_ns.max(0))?;
    tracing::info!(horizon_ns, "Detail before the horizon is purged; an opening stands in for it.");
    Ok(horizon_ns < due_ns)
}
