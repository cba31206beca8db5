//! What jobs without GPUs ran for, as whoever asks Slurm states it: one run for each start of a job, from when to when, with how
//! many CPUs and how much memory. Pure.
//!
//! A statement is about all of a run until now, so it may come twice, or late, or never: the next one says the same and more.
//! Of two about one run the later counts ([`Run::supersedes`]), and what is charged changes by their difference. Times are whole
//! seconds, as Slurm's accounting has them.

use serde::{Deserialize, Serialize};
use tonnage_proto::limits::{CLOCK_AHEAD_NS_MAX, NAME_BYTES_MAX, SLOT_NS};

use super::{BudgetError, invalid};

const S: i64 = 1_000_000_000;
const SLOT_S: i64 = SLOT_NS / S;
/// A run that began longer ago is taken for a wrong clock: 400 days.
const AGE_S_MAX: i64 = 400 * 86_400;
/// A day of a run with as many has less than 2^63 CPU-nanoseconds, or byte-seconds.
pub const CPUS_MAX: u64 = 100_000;
pub const MEMORY_BYTES_MAX: u64 = 96 << 40;
/// The most CPU-nanoseconds, or byte-seconds, in one row of a slot: a day of 96 slots has less than 2^63.
pub const ROW_MAX: i64 = i64::MAX / 96;
/// Runs that one report states.
pub const RUNS_MAX: usize = 50;
/// Parts of runs in slots, give or take a run, that one report changes.
pub const PARTS_MAX: usize = 10_000;

/// One start of a job without GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Slurm's, of digits; a task of an array has one of its own.
    pub job_id: String,
    /// With the job's id what a run is known by: a job that is requeued starts again.
    pub start_s: i64,
    /// Until when it ran; while it runs, until when it is known to.
    pub end_s: i64,
    pub ended: bool,
    pub cpus: u64,
    pub memory_bytes: u64,
    pub account: String,
    pub user: String,
    pub partition: String,
}

/// What is stated of one cluster at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub cluster: String,
    /// Everything that ran until then is stated; 0: there is more to come.
    pub until_s: i64,
    pub runs: Vec<Run>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The first so many of its runs were looked at: the rest is to be stated again.
    pub taken: usize,
    /// Runs of which anything was new.
    pub changed: usize,
    /// Positions of runs that cannot be so, and why.
    pub refused: Vec<(usize, BudgetError)>,
    /// Until when everything is stated; 0 before the first whole report.
    pub until_s: i64,
    /// Jobs that are not known to have ended, and of which nothing was stated for long.
    pub missing: Vec<String>,
}

/// As the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    pub cluster: String,
    pub runs: Vec<Run>,
}

/// A run's part in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Start of the slot.
    pub start_ns: i64,
    pub cpu_ns: i64,
    pub memory_byte_seconds: i64,
}

impl Run {
    /// # Errors
    /// At the first field that is wrong by itself.
    pub fn check(&self, now_ns: i64) -> Result<(), BudgetError> {
        let digits = !self.job_id.is_empty() && self.job_id.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || self.job_id.len() > 20 {
            return Err(invalid(
                "job_id",
                format!("{:?} is no id of Slurm's, up to 20 digits", shown(&self.job_id)),
            ));
        }
        let now_s = now_ns.div_euclid(S);
        if self.start_s < now_s - AGE_S_MAX || self.start_s > now_s + CLOCK_AHEAD_NS_MAX / S {
            return Err(invalid("start_s", format!("{} is not within the last 400 days", self.start_s)));
        }
        if self.end_s < self.start_s {
            let text = format!("{} is before start_s, {}", self.end_s, self.start_s);
            return Err(invalid("end_s", text));
        }
        if self.end_s > now_s + CLOCK_AHEAD_NS_MAX / S {
            return Err(invalid(
                "end_s",
                format!("{} is after the ledger's now, {now_s}; set the clock", self.end_s),
            ));
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(invalid("cpus", format!("{} is not 1 to {CPUS_MAX}", self.cpus)));
        }
        if self.memory_bytes > MEMORY_BYTES_MAX {
            return Err(invalid(
                "memory_bytes",
                format!("{} is more than {MEMORY_BYTES_MAX}", self.memory_bytes),
            ));
        }
        for (field, text) in
            [("account", &self.account), ("user", &self.user), ("partition", &self.partition)]
        {
            if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
                let right =
                    format!("{:?} has over {NAME_BYTES_MAX} bytes, or control characters", shown(text));
                return Err(invalid(field, right));
            }
        }
        Ok(())
    }

    /// Does it say more than `before` of the same run? An end is final: what says that it still runs is older. Of two ends the last
    /// word counts.
    #[must_use]
    pub fn supersedes(&self, before: &Self) -> bool {
        if self == before {
            return false;
        }
        match (before.ended, self.ended) {
            (true, running) => running,
            (false, true) => true,
            (false, false) => self.end_s >= before.end_s,
        }
    }

    /// From when on it differs from `before` of the same run, in seconds.
    #[must_use]
    pub fn differs_from_s(&self, before: &Self) -> i64 {
        let same_but_for_end = Self { end_s: self.end_s, ended: self.ended, ..before.clone() } == *self;
        if same_but_for_end { self.end_s.min(before.end_s) } else { self.start_s }
    }

    /// Its parts in slots, of what ran at or behind `from_s`.
    pub fn parts(&self, from_s: i64) -> impl Iterator<Item = Part> + use<> {
        let (cpus, memory_bytes) = (self.cpus, self.memory_bytes);
        let (mut at_s, end_s) = (self.start_s.max(from_s), self.end_s);
        std::iter::from_fn(move || {
            if at_s >= end_s {
                return None;
            }
            let slot_s = at_s - at_s.rem_euclid(SLOT_S);
            let until_s = end_s.min(slot_s + SLOT_S);
            let seconds = until_s - at_s;
            at_s = until_s;
            // Both are bounded by `check`.
            Some(Part {
                start_ns: slot_s * S,
                cpu_ns: seconds * S * cpus.cast_signed(),
                memory_byte_seconds: seconds * memory_bytes.cast_signed(),
            })
        })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_800_057_600;

    fn run(start_s: i64, end_s: i64, ended: bool) -> Run {
        let [account, user, partition] = ["physics", "ada", "cpu"].map(str::to_owned);
        let job_id = "7".to_owned();
        Run { job_id, start_s, end_s, ended, cpus: 4, memory_bytes: 8 << 30, account, user, partition }
    }

    #[test]
    fn a_run_is_cut_at_the_edges_of_slots_and_nothing_of_it_is_lost() {
        let run = run(NOW_S + 890, NOW_S + 1810, true);
        let parts: Vec<Part> = run.parts(0).collect();
        let seconds: Vec<i64> = parts.iter().map(|part| part.cpu_ns / (4 * S)).collect();
        assert_eq!(seconds, [10, 900, 10]);
        assert!(parts.iter().all(|part| part.start_ns % SLOT_NS == 0));
        assert_eq!(parts.iter().map(|part| part.memory_byte_seconds).sum::<i64>(), 920 * (8 << 30));
        assert_eq!(run.parts(NOW_S + 1800).map(|part| part.cpu_ns).sum::<i64>(), 40 * S);
        assert_eq!(run.parts(NOW_S + 1810).count(), 0);
    }

    #[test]
    fn the_later_statement_counts_and_an_end_is_final() {
        let at = |end_s, ended| run(NOW_S, NOW_S + end_s, ended);
        assert!(at(20, false).supersedes(&at(10, false)));
        assert!(!at(10, false).supersedes(&at(20, false)), "older");
        assert!(!at(20, false).supersedes(&at(20, false)), "the same");
        assert!(at(15, true).supersedes(&at(20, false)), "it had ended before it was last seen to run");
        assert!(!at(30, false).supersedes(&at(15, true)));
        assert_eq!(at(20, false).differs_from_s(&at(10, false)), NOW_S + 10);
        assert_eq!(at(15, true).differs_from_s(&at(20, false)), NOW_S + 15);
        let larger = Run { cpus: 8, ..at(20, false) };
        assert_eq!(larger.differs_from_s(&at(10, false)), NOW_S, "all of it is of other CPUs");
    }

    #[test]
    fn a_statement_that_cannot_be_so_names_its_field() {
        let now_ns = NOW_S * S;
        let good = run(NOW_S - 60, NOW_S, false);
        assert_eq!(good.check(now_ns), Ok(()));
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (run, field) in [
            (Run { job_id: "7_1".into(), ..good.clone() }, "job_id"),
            (Run { job_id: String::new(), ..good.clone() }, "job_id"),
            (Run { start_s: NOW_S - 401 * 86_400, ..good.clone() }, "start_s"),
            (Run { start_s: i64::MAX, ..good.clone() }, "start_s"),
            (Run { end_s: NOW_S - 61, ..good.clone() }, "end_s"),
            (Run { end_s: NOW_S + 61, ..good.clone() }, "end_s"),
            (Run { cpus: 0, ..good.clone() }, "cpus"),
            (Run { cpus: CPUS_MAX + 1, ..good.clone() }, "cpus"),
            (Run { memory_bytes: MEMORY_BYTES_MAX + 1, ..good.clone() }, "memory_bytes"),
            (Run { account: long, ..good.clone() }, "account"),
            (Run { user: "a\0".into(), ..good.clone() }, "user"),
        ] {
            let error = run.check(now_ns).unwrap_err();
            assert!(matches!(error, BudgetError::Invalid { field: named, .. } if named == field), "{error}");
        }
    }

    #[test]
    fn a_day_of_the_largest_run_fits_the_ledger() {
        let largest =
            Run { cpus: CPUS_MAX, memory_bytes: MEMORY_BYTES_MAX, ..run(NOW_S, NOW_S + 86_400, true) };
        let parts: Vec<Part> = largest.parts(0).collect();
        assert!(parts.iter().all(|part| part.cpu_ns <= ROW_MAX && part.memory_byte_seconds <= ROW_MAX));
        let sum = parts.iter().try_fold(0_i64, |sum, part| sum.checked_add(part.memory_byte_seconds));
        assert!(sum.is_some());
    }
}
