//! Drafts on their way into the spool. They leave at once where the spool takes them; while its disk fails they wait
//! here, in memory, for as long as there is room: an hour of them, and so many bytes. Beyond that, and where the spool
//! is full, they are turned away; their time is then told as a gap with the next draft that is taken.
//!
//! Each has a number, so that one of which nobody knows whether it was kept can be given again. Pure but for the
//! spool that it is given.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Gap, GapReason};
use crate::pump::pending::add_gap;
use crate::spool::{Spool, SpoolError};

const DRAFTS_MAX: usize = 360;
const BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) bytes: Vec<u8>,
    /// Everything before is accounted for once it is kept.
    pub(super) until_ns: i64,
    /// From the first window's start to the last one's end.
    pub(super) covers: Option<(i64, i64)>,
    pub(super) windows: usize,
    /// The gaps in it.
    pub(super) gaps: Vec<Gap>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Arc<Draft>>,
    bytes: usize,
    /// The number of the first in the queue; `None` until the spool said where it stands.
    first: Option<u64>,
    /// To be told with the next draft.
    untold: Vec<Gap>,
    /// Windows that were turned away.
    pub(super) dropped: u64,
    /// Some were turned away when drafts were given to the spool last.
    turning_away: bool,
}

/// What became of the drafts that the spool was given.
#[derive(Debug, Default)]
pub(super) struct Put {
    first: u64,
    /// Kept or turned away, from the first on.
    done: usize,
    turned_away: Vec<usize>,
    pub(super) error: Option<SpoolError>,
}

impl Waiting {
    /// The spool says how many appends it has seen.
    pub(super) fn start(&mut self, appended: u64) {
        self.first = Some(appended);
    }

    /// Gaps to be told with the next draft; they are its from here on.
    pub(super) fn take_untold(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.untold)
    }

    pub(super) fn tell(&mut self, gap: Gap) {
        add_gap(&mut self.untold, gap);
    }

    pub(super) fn push(&mut self, draft: Draft) {
        if self.queue.len() >= DRAFTS_MAX || self.bytes + draft.bytes.len() > BYTES_MAX {
            if self.dropped == 0 {
                tracing::error!(
                    "More windows wait for the spool than there is room for; their time is unobserved."
                );
            }
            self.turn_away(&draft);
            return;
        }
        self.bytes += draft.bytes.len();
        self.queue.push_back(Arc::new(draft));
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What the spool's thread is to do (see [`put`]), once it is known where the spool stands.
    pub(super) fn work(&self) -> Option<(u64, Vec<Arc<Draft>>)> {
        Some((self.first?, self.queue.iter().cloned().collect()))
    }

    /// Lets go of what is done.
    pub(super) fn settle(&mut self, put: &Put) {
        for at in 0..put.done {
            let Some(draft) = self.queue.pop_front() else { break };
            self.bytes -= draft.bytes.len();
            if put.turned_away.contains(&at) {
                self.turn_away(&draft);
            }
        }
        self.first = Some(put.first + put.done as u64);
        if self.turning_away && put.done > 0 && put.turned_away.is_empty() {
            self.turning_away = false;
            tracing::info!(dropped = self.dropped, "The spool takes windows again.");
        }
    }

    fn turn_away(&mut self, draft: &Draft) {
        if !self.turning_away {
            self.turning_away = true;
            tracing::error!(
                "There is no room for more windows, on disk or in memory; from here on time is unobserved."
            );
        }
        self.dropped += draft.windows as u64;
        draft.gaps.iter().for_each(|gap| self.tell(gap.clone()));
        if let Some((start_ns, end_ns)) = draft.covers {
            self.tell(Gap { device: None, start_ns, end_ns, reason: GapReason::Spool });
        }
    }
}

/// Gives drafts to the spool, in their order, until one fails.
pub(super) fn put(spool: &mut Spool, (first, drafts): (u64, Vec<Arc<Draft>>)) -> Put {
    let mut put = Put { first, ..Put::default() };
    for (number, draft) in (put.first..).zip(&drafts) {
        match spool.append_as(number, &draft.bytes, draft.until_ns) {
            Ok(()) => {}
            Err(SpoolError::Full { .. }) => put.turned_away.push(put.done),
            Err(error) => {
                put.error = Some(error);
                break;
            }
        }
        put.done += 1;
    }
    put
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::memory::{Fault, Memory};
    use crate::spool::{Identity, Limits};

    const S: i64 = 1_000_000_000;

    fn open(disk: &Memory, bytes: usize) -> Spool {
        let identity = Identity { cluster: "c".into(), node: "n".into() };
        let limits = Limits { bytes, kept_bytes: 0 };
        Spool::open_on(Box::new(disk.clone()), Box::new(|| Ok([7; 16])), identity, limits, 0).unwrap()
    }

    fn draft(n: i64, bytes: usize) -> Draft {
        let covers = Some((n * S, (n + 1) * S));
        // Bytes that are no draft: nothing here looks into them.
        Draft { bytes: vec![0xff; bytes], until_ns: (n + 1) * S, covers, windows: 1, gaps: Vec::new() }
    }

    fn lost(from: i64, to: i64) -> Gap {
        Gap { device: None, start_ns: from * S, end_ns: to * S, reason: GapReason::Spool }
    }

    fn flush(waiting: &mut Waiting, spool: &mut Spool) -> Option<SpoolError> {
        let put = put(spool, waiting.work().unwrap());
        waiting.settle(&put);
        put.error
    }

    #[test]
    fn what_waits_while_the_disk_fails_is_kept_once_whatever_the_failure_left() {
        for fault in [Fault::Refused, Fault::Lost, Fault::Kept] {
            let disk = Memory::default();
            let mut spool = open(&disk, 1 << 20);
            let mut waiting = Waiting::default();
            waiting.start(spool.appended());
            waiting.push(draft(0, 10));
            assert!(flush(&mut waiting, &mut spool).is_none());
            disk.fail_next(fault);
            for n in 1..4 {
                waiting.push(draft(n, 10));
                assert!(flush(&mut waiting, &mut spool).is_some());
            }
            assert_eq!(waiting.len(), 3);
            disk.crash();
            let mut spool = open(&disk, 1 << 20);
            assert!(flush(&mut waiting, &mut spool).is_none());
            assert_eq!((waiting.len(), spool.drafts(), spool.appended()), (0, 4, 4), "{fault:?}");
            assert!(waiting.take_untold().is_empty() && waiting.dropped == 0);
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_told_as_one_gap() {
        let mut waiting = Waiting::default();
        let (max, more) = (i64::try_from(DRAFTS_MAX).unwrap(), 1_000);
        (0..max + more).for_each(|n| waiting.push(draft(n, 10)));
        assert_eq!((waiting.len(), waiting.dropped), (DRAFTS_MAX, 1_000));
        assert_eq!(waiting.take_untold(), [lost(max, max + more)]);
        let mut waiting = Waiting::default();
        (0..10).for_each(|n| waiting.push(draft(n, BYTES_MAX / 4)));
        assert_eq!((waiting.len(), waiting.take_untold()), (4, vec![lost(4, 10)]));
    }

    #[test]
    fn what_a_full_spool_turns_away_is_told_with_the_gaps_that_were_in_it() {
        let mut spool = open(&Memory::default(), 100);
        let mut waiting = Waiting::default();
        waiting.start(0);
        let down = Gap { reason: GapReason::AgentDown, ..lost(0, 1) };
        waiting.push(draft(0, 60));
        waiting.push(Draft { gaps: vec![down.clone()], ..draft(1, 60) });
        waiting.push(draft(2, 30));
        assert!(flush(&mut waiting, &mut spool).is_none(), "being full is no failure");
        assert_eq!((waiting.len(), waiting.dropped, spool.drafts()), (0, 1, 2));
        assert_eq!(waiting.take_untold(), [down, lost(1, 2)]);
    }
}
