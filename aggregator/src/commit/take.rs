//! What one submission does to the ledger, within the transaction of its group.

use rusqlite::Connection;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::resync::Reason;

use super::fold::{Context, Quarantined, Working};
use super::{CommitError, HelloFacts, Position, Sealed, Verdict};
use crate::model::{NodeName, Order, OrderError};
use crate::prices::Book;
use crate::store::write::{self, BatchCount, JournalEntry, JournalKind};

/// Registers the node; books the hole if the agent no longer has what comes next.
pub(super) fn hello(db: &Connection, hello: &HelloFacts, now_ns: i64) -> Result<Position, CommitError> {
    let node = write::node(db, &hello.node)?;
    write::node_hello(db, node, &hello.agent_version, hello.sent_at_ns.saturating_sub(now_ns))?;
    let mut cursor_seq = write::cursor(db, node, &hello.epoch)?;
    if hello.oldest_seq > cursor_seq + 1 {
        let detail = format!("the agent no longer has {}..{}", cursor_seq + 1, hello.oldest_seq);
        let NodeName { cluster, node: name } = &hello.node;
        tracing::error!(cluster, node = name, detail, "Usage is lost; its time stays unobserved.");
        let to = hello.oldest_seq - 1;
        write::journal(
            db,
            &JournalEntry {
                at_ns: now_ns,
                kind: JournalKind::Hole,
                node,
                epoch: &hello.epoch,
                seq: to,
                sha256: &[],
                outcome: 0,
                detail: &detail,
                from_ns: 0,
                to_ns: 0,
                payload: &[],
            },
        )?;
        if !write::move_cursor(db, node, &hello.epoch, cursor_seq, to)? {
            return Err(CommitError::Bug("a cursor moved under the only writer"));
        }
        cursor_seq = to;
    }
    Ok(Position { cursor_seq, now_ns })
}

pub(super) fn batch(
    db: &Connection,
    working: &mut Working,
    sealed: &Sealed,
    now_ns: i64,
) -> Result<Verdict, CommitError> {
    let node = write::node(db, &sealed.node)?;
    let cursor_seq = write::cursor(db, node, &sealed.epoch)?;
    if sealed.seq <= cursor_seq {
        // What was declared lost and comes all the same has no entry: it is over, like a duplicate.
        let known = write::journalled_hash(db, node, &sealed.epoch, sealed.seq)?;
        if known.is_some_and(|known| known != sealed.sha256) {
            return Ok(Verdict::Resync { next_seq: cursor_seq + 1, reason: Reason::Conflict });
        }
        return Ok(committed(Outcome::Duplicate, String::new()));
    }
    if sealed.seq != cursor_seq + 1 || !write::move_cursor(db, node, &sealed.epoch, cursor_seq, sealed.seq)? {
        return Ok(Verdict::Resync { next_seq: cursor_seq + 1, reason: Reason::Gap });
    }
    let mut entry = JournalEntry {
        at_ns: now_ns,
        kind: JournalKind::Batch,
        node,
        epoch: &sealed.epoch,
        seq: sealed.seq,
        sha256: &sealed.sha256,
        outcome: Outcome::Accepted as i32,
        detail: "",
        from_ns: 0,
        to_ns: 0,
        payload: &sealed.payload,
    };
    let batch = match &sealed.valid {
        Ok(batch) => batch,
        Err(reason) => {
            (entry.outcome, entry.detail) = (Outcome::Refused as i32, reason);
            write::journal(db, &entry)?;
            write::node_count(db, node, BatchCount::Refused)?;
            return Ok(committed(Outcome::Refused, reason.clone()));
        }
    };
    entry.from_ns = batch.windows.iter().map(|window| window.start_ns).min().unwrap_or(0);
    entry.to_ns = batch.windows.iter().map(|window| window.end_ns).max().unwrap_or(0);
    let context = Context { node: &sealed.node, node_id: node, now_ns };
    let quarantined = working.fold(db, context, batch)?;
    let Some(first) = quarantined.first() else {
        write::journal(db, &entry)?;
        write::node_count(db, node, BatchCount::Accepted)?;
        return Ok(committed(Outcome::Accepted, String::new()));
    };
    let (count, of) = (quarantined.len(), batch.windows.len());
    let detail = format!("{count} of {of} windows; the first of {}: {}", first.device, first.reason.text);
    (entry.outcome, entry.detail) = (Outcome::Quarantined as i32, &detail);
    let journal = write::journal(db, &entry)?;
    for Quarantined { window, device, span, reason } in &quarantined {
        write::quarantine(db, (journal, *window), device, *span, (reason.kind, &reason.text))?;
    }
    write::node_count(db, node, BatchCount::Quarantined)?;
    let quarantined = quarantined.iter().map(|quarantined| quarantined.reason.kind).collect();
    Ok(Verdict::Committed { outcome: Outcome::Quarantined, detail, quarantined })
}

fn committed(outcome: Outcome, detail: String) -> Verdict {
    Verdict::Committed { outcome, detail, quarantined: Vec::new() }
}

/// Journals a book that is not the one in force. True if slots must be priced again.
pub(super) fn book(db: &Connection, book: &Book, now_ns: i64) -> Result<bool, CommitError> {
    if write::applied_book(db)?.as_deref() == Some(book.text()) {
        return Ok(false);
    }
    write::journal(
        db,
        &JournalEntry {
            at_ns: now_ns,
            kind: JournalKind::PriceBook,
            node: 0,
            epoch: &[],
            seq: 0,
            sha256: &book.sha256(),
            outcome: 0,
            detail: "",
            from_ns: 0,
            to_ns: 0,
            payload: book.text().as_bytes(),
        },
    )?;
    Ok(true)
}

/// Carries out an order.
pub(super) fn order(
    _db: &Connection,
    _working: &mut Working,
    order: &Order,
    _now_ns: i64,
) -> Result<Result<String, OrderError>, CommitError> {
    Ok(Err(OrderError::Conflict(format!("{order:?} is not taken yet"))))
}

/// Does what is due by now.
pub(super) fn tick(_db: &Connection, _working: &mut Working, _now_ns: i64) -> Result<(), CommitError> {
    Ok(())
}
