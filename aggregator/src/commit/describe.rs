//! What Kubernetes says of pods and namespaces: what of it is new is journalled, with the slot from which on it holds.
//!
//! Constraints: the same twice changes nothing, whoever says it; one aggregator at a time is believed of a cluster, by a
//! lease, so that what is older never comes last; what is said decides nobody's time and no charge. Whatever a pod's
//! author does, a subject changes a few times a day at most.

use tonnage_proto::limits::{DAY_NS, SLOT_NS, slot_start};

use super::CommitError;
use super::working::Working;
use crate::model::{Described, Seen, SubjectKind, Told};
use crate::store::described::{self, Known, Text};
use crate::store::write::{self, JournalEntry, JournalKind, Mark};
use crate::store::{Connection, StoreError, closing};

/// How often a subject may change in a day of UTC; what comes then waits for the next.
pub(super) const CHANGES_PER_DAY_MAX: i64 = 16;
/// For how long an aggregator is believed of a cluster without saying anything.
pub const LEASE_NS: i64 = 90_000_000_000;
/// Pods that never held a GPU are let go of so long after they ended: by then all agents have told of them.
const FORGET_NS: i64 = 7 * DAY_NS;

/// Of versions, each with some kilobytes of labels at most, and of ends.
const VERSIONS_PER_ENTRY: usize = 64;
const ENDED_PER_ENTRY: usize = 4_096;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// `put_off` subjects changed too often in this day: they are to be told again in the next.
    Taken { put_off: usize },
    /// Another aggregator watches this cluster.
    NotOurs,
}

/// Takes what is told of a cluster.
pub(super) fn told(
    db: &Connection,
    working: &mut Working,
    holder: &str,
    told: &Told,
    now_ns: i64,
) -> Result<Taken, CommitError> {
    let lease = format!("kubernetes {}", told.cluster);
    if !closing::lease(db, &lease, holder, now_ns, now_ns.saturating_add(LEASE_NS))? {
        return Ok(Taken::NotOurs);
    }
    let horizon_ns = write::mark(db, Mark::PurgedUntil)?;
    let mut news = Described { cluster: told.cluster.clone(), ..Described::default() };
    let mut put_off = 0;
    for seen in &told.seen {
        if !see(db, &mut news, seen, horizon_ns, now_ns)? {
            put_off += 1;
        }
    }
    for (kind, name) in &told.gone {
        end(db, &mut news, *kind, name, now_ns)?;
    }
    for (kind, all) in &told.all {
        let there = described::there(db, &told.cluster, *kind)?;
        for name in there.iter().filter(|name| !all.contains(*name)) {
            end(db, &mut news, *kind, name, now_ns)?;
        }
    }
    journal(db, &news, now_ns)?;
    if let Some(budgets) = &mut working.budgets {
        budgets.told(db, &news.versions)?;
    }
    Ok(Taken::Taken { put_off })
}

/// False if it changed too often for now.
fn see(
    db: &Connection,
    news: &mut Described,
    Seen { subject, created_ns, description }: &Seen,
    horizon_ns: i64,
    now_ns: i64,
) -> Result<bool, CommitError> {
    let text = Text::of(description)?;
    let Some(known) = described::known(db, &news.cluster, subject.kind, &subject.name)? else {
        // Nobody saw it otherwise before. What lies before the horizon is frozen.
        let created_ns = if *created_ns > 0 { *created_ns } else { now_ns };
        let from_ns = slot_start(created_ns.min(now_ns)).max(horizon_ns);
        let number = described::add(db, &news.cluster, subject)?;
        described::describe(db, number, from_ns, &text)?;
        news.versions.push((subject.clone(), from_ns, description.clone()));
        return Ok(true);
    };
    let Known { id, ended_ns, day_ns, changes, from_ns, sha256 } = known;
    if ended_ns != 0 && described::set_ended(db, &news.cluster, (subject.kind, &subject.name), 0)? {
        news.ended.push((subject.kind, subject.name.clone(), 0));
    }
    if sha256 == text.sha256 {
        return Ok(true);
    }
    let today_ns = now_ns - now_ns.rem_euclid(DAY_NS);
    let changes = if day_ns == today_ns { changes } else { 0 };
    if changes >= CHANGES_PER_DAY_MAX {
        return Ok(false);
    }
    // A clock that was set back makes nothing older than what is known.
    let from_ns = slot_start(now_ns).max(from_ns).max(horizon_ns);
    described::describe(db, id, from_ns, &text)?;
    described::set_changes(db, id, today_ns, changes + 1)?;
    news.versions.push((subject.clone(), from_ns, description.clone()));
    Ok(true)
}

fn end(
    db: &Connection,
    news: &mut Described,
    kind: SubjectKind,
    name: &str,
    now_ns: i64,
) -> Result<(), CommitError> {
    if described::set_ended(db, &news.cluster, (kind, name), now_ns)? {
        news.ended.push((kind, name.to_owned(), now_ns));
    }
    Ok(())
}

/// In entries of a size that the journal gives back.
fn journal(db: &Connection, news: &Described, now_ns: i64) -> Result<(), CommitError> {
    let part = || Described { cluster: news.cluster.clone(), ..Described::default() };
    let versions = news.versions.chunks(VERSIONS_PER_ENTRY);
    let versions = versions.map(|versions| Described { versions: versions.to_vec(), ..part() });
    let ended = news.ended.chunks(ENDED_PER_ENTRY).map(|ended| Described { ended: ended.to_vec(), ..part() });
    for part in versions.chain(ended) {
        let json = serde_json::to_vec(&part)
            .map_err(|e| StoreError::Damaged { what: "what is told of pods", detail: e.to_string() })?;
        let (described, ended) = (part.versions.len(), part.ended.len());
        let detail = format!("{}: {described} described, {ended} ended or back", part.cluster);
        let entry = JournalEntry {
            detail: &detail,
            payload: &json,
            ..JournalEntry::of(now_ns, JournalKind::Described)
        };
        write::journal(db, &entry)?;
    }
    Ok(())
}

/// Lets go of pods that matter to no GPU.
pub(super) fn forget(db: &Connection, now_ns: i64) -> Result<(), CommitError> {
    // Whole slots, so that a tick in between asks nothing of the store.
    let until_ns = slot_start(now_ns.saturating_sub(FORGET_NS));
    debug_assert!(until_ns % SLOT_NS == 0);
    described::forget(db, until_ns)?;
    Ok(())
}
