//! Which of the driver's utilisation samples to believe.
//!
//! The driver keeps a buffer of the last samples, answers "newer than", and is known to answer with samples seen
//! before, with use above 100 %, with samples that are minutes old and with nonsense; timestamps of different pids
//! lag by different amounts, up to some ten seconds. So: ask from a little before the newest seen, drop what
//! cannot be, and give each (pid, timestamp) on once.

use std::collections::HashMap;

use crate::model::UtilisationSample;

/// Asked for again each time, since a sample can appear later than one of another pid with the same timestamp.
const SLACK_US: u64 = 2_000_000;
const OLD_US: u64 = 30_000_000;
const FUTURE_US: u64 = 5_000_000;
/// Pids remembered per device; a new one beyond this is left out until old ones expire.
const PIDS_MAX: usize = 4096;

/// What has been seen of one device.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The newest believed timestamp; does not go back, except when the clock does.
    newest_us: u64,
    last_us: HashMap<u32, u64>,
}

impl Seen {
    /// The "newer than" to ask the driver for, at wall time `now_us`.
    pub(super) fn since_us(&mut self, now_us: u64) -> u64 {
        if self.newest_us > now_us.saturating_add(FUTURE_US) {
            // The clock was set back: what was seen is of another time, and would hide all that comes.
            *self = Self::default();
        }
        self.newest_us.max(now_us.saturating_sub(OLD_US)).saturating_sub(SLACK_US)
    }

    /// The samples to believe, oldest first.
    pub(super) fn accept(
        &mut self,
        mut samples: Vec<UtilisationSample>,
        now_us: u64,
    ) -> Vec<UtilisationSample> {
        let plausible = now_us.saturating_sub(OLD_US)..=now_us.saturating_add(FUTURE_US);
        self.last_us.retain(|_, at_us| plausible.contains(at_us));
        samples.retain(|sample| sample.sm_percent <= 100 && plausible.contains(&sample.timestamp_us));
        samples.sort_unstable_by_key(|sample| (sample.timestamp_us, sample.pid));
        samples.retain(|sample| {
            let last_us = self.last_us.get(&sample.pid).copied();
            let fresh = last_us.is_none_or(|last_us| sample.timestamp_us > last_us);
            let room = last_us.is_some() || self.last_us.len() < PIDS_MAX;
            if fresh && room {
                self.last_us.insert(sample.pid, sample.timestamp_us);
            }
            fresh && room
        });
        self.newest_us =
            samples.last().map_or(self.newest_us, |newest| newest.timestamp_us.max(self.newest_us));
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;
    const NOW: u64 = 1_800_000_000 * S;

    fn sample(pid: u32, timestamp_us: u64, sm_percent: u32) -> UtilisationSample {
        UtilisationSample { pid, timestamp_us, sm_percent }
    }

    #[test]
    fn each_sample_is_given_on_once_though_it_is_asked_for_with_slack() {
        let mut seen = Seen::default();
        assert_eq!(seen.since_us(NOW), NOW - 32 * S);
        let first = vec![sample(1, NOW - S, 50), sample(2, NOW - 2 * S, 20)];
        assert_eq!(seen.accept(first.clone(), NOW).len(), 2);
        assert_eq!(seen.since_us(NOW + S), NOW - 3 * S);
        let mut again = first;
        again.push(sample(2, NOW - S, 30));
        assert_eq!(seen.accept(again, NOW + S), [sample(2, NOW - S, 30)]);
    }

    #[test]
    fn what_cannot_be_is_left_out_and_does_not_move_the_newest() {
        let mut seen = Seen::default();
        let odd = vec![
            sample(1, NOW, 101),
            sample(2, NOW, 2_147_483_632),
            sample(3, NOW - 31 * S, 5),
            sample(4, NOW + 6 * S, 5),
            sample(5, u64::MAX, 5),
            sample(6, 0, 5),
        ];
        assert!(seen.accept(odd, NOW).is_empty());
        assert_eq!(seen.since_us(NOW), NOW - 32 * S);
    }

    #[test]
    fn the_newest_does_not_go_back_with_a_late_sample_of_another_pid() {
        let mut seen = Seen::default();
        seen.accept(vec![sample(1, NOW, 5)], NOW);
        assert_eq!(seen.accept(vec![sample(2, NOW - 9 * S, 5)], NOW).len(), 1);
        assert_eq!(seen.since_us(NOW), NOW - 2 * S);
    }

    #[test]
    fn a_clock_that_was_set_back_starts_afresh() {
        let mut seen = Seen::default();
        seen.accept(vec![sample(1, NOW, 5)], NOW);
        let hour_ago = NOW - 3_600 * S;
        assert_eq!(seen.since_us(hour_ago), hour_ago - 32 * S);
        assert_eq!(seen.accept(vec![sample(1, hour_ago, 5)], hour_ago).len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_expires() {
        let mut seen = Seen::default();
        for pid in 0..5_000 {
            seen.accept(vec![sample(pid, NOW, 5)], NOW);
        }
        assert_eq!(seen.last_us.len(), PIDS_MAX);
        assert_eq!(seen.accept(vec![sample(9_999, NOW + 31 * S, 5)], NOW + 31 * S).len(), 1);
        assert_eq!(seen.last_us.len(), 1);
    }
}
