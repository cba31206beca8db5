//! What one submission does to the ledger, within the transaction of its group.

use std::sync::Arc;

use tonnage_proto::limits::CLOCK_AHEAD_NS_MAX;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::resync::Reason;

use super::budgets;
use super::fold::Context;
use super::working::Working;
use super::{CommitError, HelloFacts, Position, Sealed, Verdict};
use crate::budgets::{Act, Acted, BudgetError, What};
use crate::model::{NodeName, Order, OrderError};
use crate::prices::Book;
use crate::store::Connection;
use crate::store::quarantine::{self, State};
use crate::store::write::{self, BatchCount, Cursor, JournalEntry, JournalKind};
use crate::store::{StoreError, existence};

/// Registers the node; books the hole if the agent no longer has what comes next.
pub(super) fn hello(db: &Connection, hello: &HelloFacts, now_ns: i64) -> Result<Position, CommitError> {
    let node = write::node(db, &hello.node)?;
    write::node_hello(db, node, &hello.agent_version, hello.sent_at_ns.saturating_sub(now_ns))?;
    let Cursor { id, seq: mut cursor_seq, backed_up_seq } = write::cursor(db, node, &hello.epoch)?;
    if hello.oldest_seq > cursor_seq + 1 {
        let detail = format!("the agent no longer has {}..{}", cursor_seq + 1, hello.oldest_seq);
        let NodeName { cluster, node: name } = &hello.node;
        tracing::error!(cluster, node = name, detail, "Usage is lost; its time stays unobserved.");
        let to = hello.oldest_seq - 1;
        let entry = JournalEntry {
            node,
            epoch: &hello.epoch,
            seq: to,
            detail: &detail,
            ..JournalEntry::of(now_ns, JournalKind::Hole)
        };
        write::journal(db, &entry)?;
        if !write::move_cursor(db, id, cursor_seq, to)? {
            return Err(CommitError::Bug("a cursor moved under the only writer"));
        }
        cursor_seq = to;
    }
    Ok(Position { cursor_seq, backed_up_seq, now_ns })
}

pub(super) fn batch(
    db: &Connection,
    working: &mut Working,
    book: &Book,
    sealed: &Sealed,
    now_ns: i64,
) -> Result<Verdict, CommitError> {
    let node = working.nodes.id(db, &sealed.node)?;
    let cursor = write::cursor(db, node, &sealed.epoch)?;
    let committed = |outcome, detail, quarantined| {
        let backed_up_seq = cursor.backed_up_seq;
        Verdict::Committed { outcome, detail, quarantined, backed_up_seq }
    };
    if sealed.seq <= cursor.seq {
        // What was declared lost and comes all the same has no entry: it is over, like a duplicate. So has what was
        // purged.
        let known = write::journalled_hash(db, node, &sealed.epoch, sealed.seq)?;
        if known.is_some_and(|known| known != sealed.sha256) {
            return Ok(Verdict::Resync { next_seq: cursor.seq + 1, reason: Reason::Conflict });
        }
        return Ok(committed(Outcome::Duplicate, String::new(), Vec::new()));
    }
    if sealed.seq != cursor.seq + 1 || !write::move_cursor(db, cursor.id, cursor.seq, sealed.seq)? {
        return Ok(Verdict::Resync { next_seq: cursor.seq + 1, reason: Reason::Gap });
    }
    let mut entry = JournalEntry {
        node,
        epoch: &sealed.epoch,
        seq: sealed.seq,
        sha256: &sealed.sha256,
        outcome: Outcome::Accepted as i32,
        skew_ns: if sealed.sent_at_ns == 0 { 0 } else { sealed.sent_at_ns.saturating_sub(now_ns) },
        payload: &sealed.payload,
        ..JournalEntry::of(now_ns, JournalKind::Batch)
    };
    let batch = match &sealed.valid {
        Ok(batch) => Arc::clone(batch),
        Err(reason) => {
            (entry.outcome, entry.detail) = (Outcome::Refused as i32, reason);
            write::journal(db, &entry)?;
            working.nodes.count(node, BatchCount::Refused);
            return Ok(committed(Outcome::Refused, reason.clone(), Vec::new()));
        }
    };
    entry.from_ns = batch.windows.iter().map(|window| window.start_ns).min().unwrap_or(0);
    entry.to_ns = batch.windows.iter().map(|window| window.end_ns).max().unwrap_or(0);
    let journal = write::journal(db, &entry)?;
    let context = Context { node_id: node, cursor: cursor.id, journal, skew_ns: entry.skew_ns, now_ns };
    let quarantined = working.fold(db, book, context, &batch)?;
    let Some(first) = quarantined.first() else {
        working.nodes.count(node, BatchCount::Accepted);
        return Ok(committed(Outcome::Accepted, String::new(), Vec::new()));
    };
    let (count, of) = (quarantined.len(), batch.windows.len());
    let detail = format!("{count} of {of} windows; the first of {}: {}", first.device, first.reason.text);
    write::set_outcome(db, journal, Outcome::Quarantined as i32, &detail)?;
    working.nodes.count(node, BatchCount::Quarantined);
    let kinds = quarantined.iter().map(|quarantined| quarantined.reason.kind).collect();
    Ok(committed(Outcome::Quarantined, detail, kinds))
}

/// Journals a book that is not the one in force, which is the last in the journal. True if slots must be priced again.
pub(super) fn book(db: &Connection, book: &Book, now_ns: i64) -> Result<bool, CommitError> {
    if write::newest_book(db)?.as_deref() == Some(book.text()) {
        return Ok(write::applied_book(db)?.as_deref() != Some(book.text()));
    }
    let sha256 = book.sha256();
    let entry = JournalEntry {
        sha256: &sha256,
        payload: book.text().as_bytes(),
        ..JournalEntry::of(now_ns, JournalKind::PriceBook)
    };
    write::journal(db, &entry)?;
    Ok(true)
}

/// Carries out an order, and journals it if it could be.
pub(super) fn order(
    db: &Connection,
    working: &mut Working,
    book: &Book,
    order: &Order,
    now_ns: i64,
) -> Result<Result<String, OrderError>, CommitError> {
    let (kind, order, done) = match order {
        Order::Retire { device, at_ns, by } => match retire(db, working, book, device, *at_ns, now_ns)? {
            Ok((at_ns, done)) => {
                let order = Order::Retire { device: device.clone(), at_ns, by: by.clone() };
                (JournalKind::Retire, order, done)
            }
            Err(error) => return Ok(Err(error)),
        },
        Order::Release { journal, window, .. } => {
            match release(db, working, book, (*journal, *window), now_ns)? {
                Ok(done) => (JournalKind::Release, order.clone(), done),
                Err(error) => return Ok(Err(error)),
            }
        }
    };
    let json = serde_json::to_string(&order)
        .map_err(|e| StoreError::Damaged { what: "order", detail: e.to_string() })?;
    write::journal(
        db,
        &JournalEntry { detail: &done, payload: json.as_bytes(), ..JournalEntry::of(now_ns, kind) },
    )?;
    Ok(Ok(done))
}

/// Does something to accounts or holds, or takes what jobs ran for.
pub(super) fn budget(
    db: &Connection,
    working: &mut Working,
    book: &Book,
    act: &Act,
    now_ns: i64,
) -> Result<Result<Acted, BudgetError>, CommitError> {
    let purged_until_ns = working.marks(db)?.purged_until_ns;
    let context = budgets::Context { db, book, now_ns, purged_until_ns };
    if let What::Ran(report) = &act.what {
        return Ok(working.ran(context, report, &act.by)?.map(Acted::Ran));
    }
    working.budgets(db, book)?.act(context, act)
}

/// Takes a device out of service; gives since when.
fn retire(
    db: &Connection,
    working: &mut Working,
    book: &Book,
    uuid: &str,
    at_ns: i64,
    now_ns: i64,
) -> Result<Result<(i64, String), OrderError>, CommitError> {
    let Some(device) = existence::device_by_uuid(db, uuid)? else {
        return Ok(Err(OrderError::NotFound(format!("device: {uuid:?} is not known to the ledger"))));
    };
    if at_ns > now_ns + CLOCK_AHEAD_NS_MAX {
        let text = "at: lies in the future; give the time since when the device is gone".to_owned();
        return Ok(Err(OrderError::Conflict(text)));
    }
    let purged_until_ns = working.marks(db)?.purged_until_ns;
    let stays = working.stays(db, device)?;
    let Some(last) = stays.now.last().copied() else {
        return Ok(Err(OrderError::Conflict(format!("device: {uuid:?} was never observed"))));
    };
    let at_ns = at_ns.max(last.covered_ns).max(purged_until_ns);
    if let Some(known_ns) = stays.retired.iter().find(|known_ns| **known_ns >= last.covered_ns) {
        let text = format!("device: {uuid:?} is retired already, since {known_ns} ns");
        return Ok(Err(OrderError::Conflict(text)));
    }
    stays.retired.push(at_ns);
    stays.retired.sort_unstable();
    let before = stays.now.clone();
    existence::retire(db, device, at_ns)?;
    working.settle_ends(db, book, device, &before)?;
    Ok(Ok((
        at_ns,
        format!("{uuid} is retired since {at_ns} ns; it was last observed at {} ns", last.covered_ns),
    )))
}

/// Counts a quarantined window after all, if its time is free.
fn release(
    db: &Connection,
    working: &mut Working,
    book: &Book,
    (journal, window): (i64, usize),
    now_ns: i64,
) -> Result<Result<String, OrderError>, CommitError> {
    let conflict = |text: String| Ok(Err(OrderError::Conflict(text)));
    let Some(held) = quarantine::by_place(db, journal, window)? else {
        let text = format!("entry {journal} of the journal has no quarantined window {window}");
        return Ok(Err(OrderError::NotFound(text)));
    };
    if held.state != State::Held {
        return conflict(format!("id: {} is {} already", held.id, held.state.name()));
    }
    if held.kind == "slices" {
        return conflict(format!("id: {} counts other slices than the ledger: it cannot be added", held.id));
    }
    if held.span.start_ns < working.marks(db)?.purged_until_ns {
        return conflict(format!("id: {} lies before the ledger's retention: its slot is frozen", held.id));
    }
    if held.span.end_ns > now_ns + CLOCK_AHEAD_NS_MAX {
        return conflict(format!(
            "id: {} ends after the ledger's now: nobody can have held that time",
            held.id
        ));
    }
    let journalled = quarantine::batch(db, journal)?;
    let offer = working.offer_again(db, &journalled, window, 0)?;
    if let Some(against) = working.taken(db, &offer)? {
        return conflict(format!("id: {}: its time is not free: {against}", held.id));
    }
    working.count(db, book, &offer)?;
    quarantine::set_state(db, held.id, State::Released)?;
    Ok(Ok(format!("window {window} of entry {journal} is counted")))
}
