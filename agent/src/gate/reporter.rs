//! Tells the ledger what jobs without GPUs ran for, by Slurm's accounting, so that they are charged ([`super::runs`]).
//!
//! Nothing here has to outlive a crash: until when everything was told says the ledger, and what is told twice counts once. Each look goes
//! back some minutes behind that, since slurmdbd hears of ends late, and once an hour a day; of what was missed even so, the ledger names the
//! jobs. Long gaps are caught up on a day at a time. Without a whole answer of Slurm's nothing is told.

use std::path::PathBuf;

use tonnage_runtime::clock::Clock;

use super::ledger::{Ledger, LedgerError};
use super::runs::{FORMAT, Memory, Run, read, unaccounted, without_runaways};
use super::slurm::{Slurm, SlurmError};

const S: i64 = 1_000_000_000;
/// How far a look goes back behind what was told.
const BACK_S: i64 = 600;
/// How far the look of each hour does, and the most that one look is of.
const DAY_S: i64 = 86_400;
const HOUR_NS: i64 = 3_600 * S;
/// Of jobs that are asked for by their ids: as long as the ledger believes in.
const EVER_S: i64 = 400 * DAY_S;
/// As many the ledger takes at once.
const RUNS_MAX: usize = 50;

/// Slurm's programs.
#[derive(Debug, Clone)]
pub struct Programs {
    pub sacct: PathBuf,
    pub scontrol: PathBuf,
}

/// See the module.
pub struct Reporter {
    programs: Programs,
    clock: Clock,
    memory: Memory,
    /// Until when everything was told by this process, if anything was.
    until_s: Option<i64>,
    /// When it last looked back for a day.
    looked_ns: Option<i64>,
}

/// How many runs were told of, and how many of them the ledger cannot believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    pub told: u64,
    pub refused: u64,
}

/// Nothing was told, or not all.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("Slurm did not say which jobs ran")]
    Slurm(#[from] SlurmError),
    #[error("Slurm's accounting cannot be used: {0}")]
    Unaccounted(String),
    #[error("the ledger took nothing of what it was told")]
    NothingTaken,
}

impl Reporter {
    #[must_use]
    pub fn new(programs: Programs, clock: Clock) -> Self {
        Self { programs, clock, memory: Memory::default(), until_s: None, looked_ns: None }
    }

    /// Tells what is new.
    ///
    /// # Errors
    /// If Slurm or the ledger gives no answer that can be used: what is left is told the next time.
    pub async fn tend(&mut self, ledger: &Ledger, slurm: &Slurm) -> Result<Told, ReportError> {
        let (now_s, now_ns) = (self.clock.wall_ns().div_euclid(S), self.clock.monotonic_ns());
        let known_s = ledger.report(&[], None).await?.until_s;
        if self.until_s.is_some_and(|until_s| known_s < until_s) {
            // It is an older copy of itself, or another one.
            (self.memory, self.looked_ns) = (Memory::default(), None);
        }
        // The first time what runs now is told of, with all that it ran for.
        let known_s = if known_s == 0 { now_s } else { known_s };
        let looks_back = self.looked_ns.is_none_or(|at_ns| now_ns - at_ns >= HOUR_NS);
        if looks_back {
            let config = slurm.run(&self.programs.scontrol, &["show", "config"]).await?;
            if let Some(why) = unaccounted(&config) {
                return Err(ReportError::Unaccounted(why));
            }
        }
        if looks_back {
            self.memory.retry();
        }
        let until_s = now_s.min(known_s + DAY_S);
        let from_s = known_s.min(until_s) - if looks_back { DAY_S } else { BACK_S };
        let span = [
            format!("--starttime=now-{}seconds", (now_s - from_s).max(1)),
            match now_s - until_s {
                0 => "--endtime=now".to_owned(),
                ago_s => format!("--endtime=now-{ago_s}seconds"),
            },
        ];
        let mut told = Told::default();
        let runs = self.ask(slurm, now_s, &[&span[0], &span[1]]).await?;
        let mut missing = self.tell(ledger, &runs, Some(until_s), &mut told).await?;
        if !missing.is_empty() {
            missing.truncate(500);
            self.memory.lost(&missing);
            let (ids, ever) =
                (format!("--jobs={}", missing.join(",")), format!("--starttime=now-{EVER_S}seconds"));
            let runs = self.ask(slurm, now_s, &[&ids, &ever]).await?;
            self.tell(ledger, &runs, None, &mut told).await?;
        }
        self.until_s = Some(until_s);
        if looks_back {
            self.looked_ns = Some(now_ns);
        }
        self.memory.trim(now_s);
        Ok(told)
    }

    async fn ask(&self, slurm: &Slurm, now_s: i64, which: &[&str]) -> Result<Vec<Run>, ReportError> {
        let how = [
            "--noheader",
            "--parsable2",
            "--noconvert",
            "--allocations",
            "--duplicates",
            "--allusers",
            FORMAT,
        ];
        let text = slurm.run(&self.programs.sacct, &[&how[..], which].concat()).await?;
        let mut runs =
            read(&text, now_s).map_err(|line| SlurmError::Line { line: line.chars().take(120).collect() })?;
        if runs.iter().any(|run| !run.ended && self.memory.is_news(run)) {
            // Asked after accounting, so that it knows all that began.
            without_runaways(&mut runs, &slurm.jobs().await?);
        }
        Ok(runs)
    }

    /// Tells what of it is new, in parts. Gives the jobs that the ledger misses.
    async fn tell(
        &mut self,
        ledger: &Ledger,
        runs: &[Run],
        until_s: Option<i64>,
        told: &mut Told,
    ) -> Result<Vec<String>, ReportError> {
        let news: Vec<&Run> = runs.iter().filter(|run| self.memory.is_news(run)).collect();
        let mut left = news.as_slice();
        loop {
            let part = &left[..left.len().min(RUNS_MAX)];
            let last = part.len() == left.len();
            let reported = ledger.report(part, until_s.filter(|_| last)).await?;
            if reported.taken == 0 && !part.is_empty() {
                return Err(ReportError::NothingTaken);
            }
            for refused in &reported.refused {
                let (job, field, why) = (&refused.job_id, &refused.field, &refused.message);
                tracing::warn!(job, field, why, "The ledger cannot believe what a job ran for.");
            }
            let taken = reported.taken.min(part.len());
            for run in &part[..taken] {
                self.memory.told(run);
                if reported.refused.iter().any(|refused| refused.job_id == run.job_id) {
                    self.memory.refused(run);
                }
            }
            told.told += taken as u64;
            told.refused += reported.refused.len() as u64;
            left = &left[taken..];
            if left.is_empty() {
                return Ok(reported.missing);
            }
        }
    }
}
