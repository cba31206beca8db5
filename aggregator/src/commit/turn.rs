//! Who wrote last, and what that makes of what this process remembers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::CommitError;
use super::working::Working;
use crate::prices::Book;
use crate::store::pen::{self, Pen};
use crate::store::sql::Connection;
use crate::store::{self, StoreError, write};

/// This process's turns at the pen.
pub(super) struct Turn {
    /// Its name, also for leases.
    pub(super) holder: String,
    /// What the ledger counted at the last commit, and counts in this transaction.
    pub(super) known: Option<i64>,
    pub(super) count: i64,
    /// The ledger was set back before this transaction.
    pub(super) set_back: bool,
}

/// Where several aggregators write one ledger, or it was replaced by an older copy, what is there now makes what this one
/// remembers old, and the book in force is the one that was journalled last, whoever had it.
pub(super) fn take_up(
    db: &Connection,
    turn: &mut Turn,
    incarnation: &AtomicU64,
    now_ns: i64,
    (working, book, repricing): (&mut Working, &mut Arc<Book>, &mut Option<(i64, i64)>),
) -> Result<(), CommitError> {
    let (pen, count) = pen::take(db, &turn.holder, turn.known)?;
    (turn.count, turn.set_back) = (count, matches!(pen, Pen::SetBack(_)));
    let now_in_force = match &pen {
        Pen::Kept => return Ok(()),
        Pen::Passed => store::identity(db)?.incarnation,
        Pen::SetBack(why) => {
            tracing::error!(
                why,
                "The ledger may have been set back: agents send again what they still have."
            );
            pen::renew(db, now_ns, why)?
        }
    };
    incarnation.store(now_in_force, Ordering::Relaxed);
    *working = Working::default();
    if let Some(text) = write::newest_book(db)?.filter(|text| text != book.text()) {
        let newest = Book::kept(&text)
            .map_err(|e| StoreError::Damaged { what: "price book in the journal", detail: e.to_string() })?;
        *book = Arc::new(newest);
        if write::applied_book(db)?.as_deref() != Some(book.text()) {
            *repricing = Some((i64::MIN, 0));
        }
    }
    Ok(())
}
