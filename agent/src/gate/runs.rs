//! What jobs without GPUs ran for, from `sacct`'s lines, and which of it is to be told the ledger. Pure.
//!
//! A job with GPUs costs what its GPUs cost, so it is none of these. A run is one start of a job, in the whole seconds of Slurm's
//! accounting; one that runs is told of again once it has run for some minutes more, or a slot has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use tonnage_proto::limits::SLOT_NS;

use super::plan::Job;

const SLOT_S: i64 = SLOT_NS / 1_000_000_000;
/// What is asked of each job.
pub const FORMAT: &str = "--format=JobIDRaw,State,Start,End,AllocTRES,Account,User,Partition";
/// Resources by which a job has a GPU, or a part of one.
const GPUS: [&str; 3] = ["gpu", "shard", "mps"];
/// States of jobs that have no end yet, and have started.
const RUNNING: [&str; 8] =
    ["RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"];
/// A run that goes on is told of again after so long.
const AGAIN_S: i64 = 300;
/// What was told of runs that ended is remembered for so long: as far as is looked back, and more.
const REMEMBERED_S: i64 = 2 * 86_400;
/// Runs of which it is remembered; then all are told of again.
const REMEMBERED_MAX: usize = 200_000;

/// One start of a job without GPUs, all of it until now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    pub job_id: String,
    pub start_s: i64,
    pub end_s: i64,
    pub ended: bool,
    pub cpus: u64,
    pub memory_bytes: u64,
    pub account: String,
    pub user: String,
    pub partition: String,
}

/// The line of an answer that cannot be read.
pub type Unread<'a> = &'a str;

/// Runs in an answer of `sacct`, asked at `now_s`: each of those that run is known to run until then.
///
/// # Errors
/// At the first line that is no job's.
pub fn read(text: &str, now_s: i64) -> Result<Vec<Run>, Unread<'_>> {
    let mut runs = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(run) = one(line, now_s).ok_or(line)? {
            runs.insert((run.job_id.clone(), run.start_s), run);
        }
    }
    Ok(runs.into_values().collect())
}

/// Leaves out what accounting has running and slurmctld does not know: its end was lost, and nobody knows that it still runs. What it was
/// told to have run for until then stays.
pub fn without_runaways(runs: &mut Vec<Run>, jobs: &[Job]) {
    let known: BTreeSet<&String> = jobs.iter().flat_map(|job| job.tasks.iter().chain([&job.id])).collect();
    runs.retain(|run| run.ended || known.contains(&run.job_id));
}

/// `None`: no such line. `Some(None)`: it has not started, or has GPUs.
fn one(line: &str, now_s: i64) -> Option<Option<Run>> {
    let fields: Vec<&str> = line.split('|').collect();
    let [job_id, state, start, end, tres, account, user, partition] = fields.as_slice() else { return None };
    if job_id.is_empty() || !job_id.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let has_gpus = tres
        .split(',')
        .any(|tres| tres.strip_prefix("gres/").is_some_and(|gres| GPUS.iter().any(|gpu| named(gres, gpu))));
    let Ok(start_s) = start.parse::<i64>() else { return Some(None) };
    let of = |name: &str| tres.split(',').find_map(|tres| tres.strip_prefix(name)?.strip_prefix('='));
    let Some(cpus) = of("cpu").filter(|_| !has_gpus) else { return Some(None) };
    let (end_s, ended) = match end.parse::<i64>() {
        Ok(end_s) => (end_s, true),
        Err(_) if RUNNING.contains(&state.split(' ').next().unwrap_or_default()) => (now_s, false),
        Err(_) => return Some(None),
    };
    if !ended && start_s > now_s {
        return Some(None);
    }
    Some(Some(Run {
        job_id: (*job_id).to_owned(),
        start_s,
        end_s,
        ended,
        cpus: cpus.parse().ok()?,
        memory_bytes: of("mem").map_or(Some(0), bytes)?,
        account: (*account).to_owned(),
        user: (*user).to_owned(),
        partition: (*partition).to_owned(),
    }))
}

/// Is `gpu=2` or `gpu:a100=2` of a resource called so?
fn named(gres: &str, name: &str) -> bool {
    gres.split([':', '=']).next() == Some(name)
}

/// `4096M`, as sacct writes it when told to convert nothing.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 10),
        (at, 'M') => (&text[..at], 20),
        (at, 'G') => (&text[..at], 30),
        (at, 'T') => (&text[..at], 40),
        (at, 'P') => (&text[..at], 50),
        _ => (text, 20),
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift)
}

/// Why jobs with GPUs cannot be told from others by Slurm's accounting, if so; `config` is what `scontrol show config` says.
#[must_use]
pub fn unaccounted(config: &str) -> Option<String> {
    let value = |key: &str| {
        let mut lines = config.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| name.trim() == key).map_or("", |(_, value)| value.trim())
    };
    let accounted: Vec<&str> = value("AccountingStorageTRES").split(',').collect();
    let missing = value("GresTypes").split(',').find(|gres| {
        GPUS.contains(gres) && !accounted.iter().any(|tres| tres.strip_prefix("gres/") == Some(gres))
    })?;
    Some(format!(
        "AccountingStorageTRES lacks gres/{missing}, so that jobs with GPUs look like others; add it"
    ))
}

/// What the ledger was told of runs. It may be forgotten at any time.
#[derive(Debug, Default)]
pub struct Memory {
    told: HashMap<(String, i64), (i64, bool)>,
    /// Of these the ledger did not believe it.
    refused: BTreeSet<(String, i64)>,
}

impl Memory {
    /// Is there anything to tell of it?
    #[must_use]
    pub fn is_news(&self, run: &Run) -> bool {
        let Some((end_s, ended)) = self.told.get(&(run.job_id.clone(), run.start_s)) else { return true };
        if run.ended || *ended {
            return run.ended && !ended;
        }
        run.end_s - end_s >= AGAIN_S || run.end_s.div_euclid(SLOT_S) > end_s.div_euclid(SLOT_S)
    }

    /// It was told.
    pub fn told(&mut self, run: &Run) {
        self.told.insert((run.job_id.clone(), run.start_s), (run.end_s, run.ended));
    }

    /// Lets go of what no look back shows again.
    pub fn trim(&mut self, now_s: i64) {
        self.told.retain(|_, (end_s, _)| *end_s >= now_s - REMEMBERED_S);
        if self.told.len() > REMEMBERED_MAX {
            self.told.clear();
        }
        self.refused.retain(|run| self.told.contains_key(run));
    }

    /// The ledger did not believe it.
    pub fn refused(&mut self, run: &Run) {
        self.refused.insert((run.job_id.clone(), run.start_s));
    }

    /// Tells again what was not believed: a clock may have been set since.
    pub fn retry(&mut self) {
        for run in std::mem::take(&mut self.refused) {
            self.told.remove(&run);
        }
    }

    /// The ledger misses what it was told of jobs, and did not say that it cannot be so.
    pub fn lost(&mut self, job_ids: &[String]) {
        let lost: BTreeSet<&str> = job_ids.iter().map(String::as_str).collect();
        let refused = &self.refused;
        self.told.retain(|run, _| !lost.contains(run.0.as_str()) || refused.contains(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7|COMPLETED|1000|1060|billing=4,cpu=4,mem=8192M,node=1|physics|ada|cpu
8|RUNNING|1000|Unknown|billing=1,cpu=1,mem=1G,node=1|physics|ada|cpu
9|COMPLETED|1000|1060|billing=4,cpu=4,gres/gpu=1,mem=8192M,node=1|physics|ada|gpu
10|COMPLETED|1000|1060|cpu=4,gres/shard=1|physics|ada|gpu
11|COMPLETED|1000|1060|cpu=4,gres/gpu:a100=1|physics|ada|gpu
12|PENDING|Unknown|Unknown||physics|ada|cpu
13|CANCELLED by 0|Unknown|1060||physics|ada|cpu
14|NODE_FAIL|900|950|cpu=2,mem=100M|chemistry|eve|cpu
14|RUNNING|1010|Unknown|cpu=2,mem=100M|chemistry|eve|cpu
15|RUNNING|1200|Unknown|cpu=2|chemistry|eve|cpu
16|REQUEUED|1000|Unknown|cpu=2|chemistry|eve|cpu
";

    #[test]
    fn runs_are_starts_of_jobs_without_gpus() {
        let runs = read(TEXT, 1100).unwrap();
        let seen: Vec<_> = runs
            .iter()
            .map(|run| {
                (run.job_id.as_str(), run.start_s, run.end_s, run.ended, run.cpus, run.memory_bytes >> 20)
            })
            .collect();
        let expected = [
            ("14", 900, 950, true, 2, 100),
            ("14", 1010, 1100, false, 2, 100),
            ("7", 1000, 1060, true, 4, 8192),
            ("8", 1000, 1100, false, 1, 1024),
        ];
        assert_eq!(seen, expected);
        assert_eq!(
            (runs[0].account.as_str(), runs[0].user.as_str(), runs[0].partition.as_str()),
            ("chemistry", "eve", "cpu")
        );
    }

    #[test]
    fn what_slurmctld_does_not_know_is_not_taken_to_run_on() {
        let job = |id: &str, tasks: &[&str]| Job {
            id: id.to_owned(),
            tasks: tasks.iter().map(|&task| task.to_owned()).collect(),
            lives: true,
            mark: None,
        };
        let left = |jobs: &[Job]| {
            let mut runs = read(TEXT, 1100).unwrap();
            without_runaways(&mut runs, jobs);
            runs.iter().map(|run| (run.job_id.clone(), run.ended)).collect::<Vec<_>>()
        };
        let of = |id: &str, ended| (id.to_owned(), ended);
        assert_eq!(left(&[]), [of("14", true), of("7", true)]);
        assert_eq!(left(&[job("8", &[])]), [of("14", true), of("7", true), of("8", false)]);
        assert_eq!(left(&[job("13", &["14"])]), [of("14", true), of("14", false), of("7", true)]);
    }

    #[test]
    fn an_answer_with_a_line_that_is_no_job_is_no_answer() {
        for text in [
            "sacct: error: slurmdbd",
            "7.batch|RUNNING|1|2|cpu=1|a|u|p",
            "7|RUNNING|1|2|cpu=x|a|u|p",
            "7|RUNNING|1|2|cpu=1,mem=1.5G|a|u|p",
            "7|RUNNING|1|2|cpu=1|a|u",
        ] {
            assert_eq!(read(text, 10), Err(text));
        }
    }

    #[test]
    fn jobs_with_gpus_have_to_be_told_from_others_by_slurms_accounting() {
        let config = |tres: &str, gres: &str| {
            format!(
                "AccountingStorageTRES   = {tres}\nAccountingStorageType = x\nGresTypes               = {gres}\n"
            )
        };
        assert_eq!(unaccounted(&config("cpu,mem,gres/gpu", "gpu")), None);
        assert_eq!(unaccounted(&config("cpu,mem", "(null)")), None);
        assert_eq!(unaccounted(&config("cpu,mem", "nic")), None);
        assert!(unaccounted(&config("cpu,mem", "gpu")).unwrap().contains("gres/gpu"));
        assert!(unaccounted(&config("cpu,gres/gpu", "gpu,shard")).unwrap().contains("gres/shard"));
        assert!(unaccounted(&config("cpu,gres/gpu:a100", "gpu")).is_some());
    }

    #[test]
    fn a_run_is_told_of_when_it_ends_and_now_and_then_before() {
        let run = |end_s, ended| Run { end_s, ended, ..read(TEXT, 1100).unwrap().remove(3) };
        let mut memory = Memory::default();
        assert!(memory.is_news(&run(1100, false)));
        memory.told(&run(1100, false));
        assert!(!memory.is_news(&run(1130, false)) && memory.is_news(&run(1400, false)));
        assert!(memory.is_news(&run(1110, true)), "its end");
        memory.told(&run(1790, false));
        assert!(memory.is_news(&run(1800, false)), "a slot has ended");
        memory.told(&run(1810, true));
        assert!(!memory.is_news(&run(1810, true)) && !memory.is_news(&run(5000, false)));
        memory.refused(&run(1810, true));
        assert!(!memory.is_news(&run(1810, true)), "not with each look");
        memory.retry();
        assert!(memory.is_news(&run(1810, true)));
        memory.told(&run(1810, true));
        memory.lost(&["7".into(), run(0, true).job_id]);
        assert!(memory.is_news(&run(1810, true)), "the ledger says that it has no end of it");
        memory.told(&run(1810, true));
        memory.trim(1810 + REMEMBERED_S + 1);
        assert!(memory.is_news(&run(1810, true)));
    }
}
