//! Every disk that a crash may leave, one after the other, each opened and judged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Loss, Replay, boundaries};
use super::trace::Op;

/// Disks that are opened at once.
const WORKERS: usize = 3;
/// Findings that a report spells out.
const SHOWN_MAX: usize = 3;

/// What a disk turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Everything that was promised is there, and at most what was going on.
    Whole,
    /// The files are bad, and it says so: why.
    Flagged(String),
    /// It does not open, and goes on failing.
    Stuck(String),
    /// Something that was promised is not there, or something is there that was not: silently.
    Lost(String),
}

/// What crashes.
pub(crate) trait Subject: Sync {
    type Promise: Send;
    /// Files whose names end so are not part of a disk.
    const WITHOUT: &'static str;

    /// What holds after the first `at` operations.
    fn promise(&self, at: usize) -> Self::Promise;

    /// # Errors
    /// If the judge fails, not the judged.
    fn judge(&self, folder: &Path, promise: &Self::Promise) -> anyhow::Result<Verdict>;
}

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Boundaries, drawn at random where there are more.
    pub(crate) boundaries_max: usize,
    /// Random losses at each, beside the others.
    pub(crate) random: usize,
}

/// How a crash comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Crash {
    Kill,
    PowerLoss,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    boundaries: (usize, usize),
    counts: BTreeMap<(Crash, &'static str), usize>,
    findings: Vec<String>,
}

struct Image<P> {
    crash: Crash,
    what: String,
    disk: Disk,
    promise: P,
}

/// Tries the disks of a history.
pub(crate) fn try_all<S: Subject>(subject: &S, ops: &[Op], plan: Plan) -> anyhow::Result<Report> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let all: Vec<usize> = boundaries(ops).into_iter().collect();
    let mut tried: Vec<usize> = all.sample(&mut rng, plan.boundaries_max).copied().collect();
    tried.sort_unstable();
    let report = Mutex::new(Report { boundaries: (tried.len(), all.len()), ..Report::default() });
    // Bounded: a history has more disks than memory holds.
    let (sender, receiver) = sync_channel::<Image<S::Promise>>(WORKERS);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..WORKERS).map(|_| scope.spawn(|| judge_all(subject, &receiver, &report))).collect();
        let mut replay = Replay::default();
        let mut done = 0;
        for at in tried {
            ops[done..at - 1].iter().for_each(|op| replay.apply(op));
            let before = replay.done.clone();
            let op = &ops[at - 1];
            replay.apply(op);
            done = at;
            let promise = || subject.promise(at);
            let within =
                replay.killed_within(&before, op).map(|disk| (Crash::Kill, "killed within".to_owned(), disk));
            let kills =
                std::iter::once((Crash::Kill, "killed".to_owned(), replay.done.clone())).chain(within);
            let losses = replay.losses(plan.random).into_iter().map(|loss: Loss| {
                let seed = rng.random();
                let disk = replay.after(loss, &mut StdRng::seed_from_u64(seed));
                (Crash::PowerLoss, format!("{loss:?} is lost, seed {seed}"), disk)
            });
            for (crash, what, disk) in kills.chain(losses) {
                let what = format!("after {at} of {} operations, {what}", ops.len());
                // Fails once no worker is left, whose panic is told below.
                let _ = sender.send(Image { crash, what, disk, promise: promise() });
            }
        }
        drop(sender);
        workers.into_iter().try_for_each(|worker| worker.join().expect("a judge does not panic"))
    })
    .with_context(|| format!("so far: {}", report.lock().expect("no judge panicked")))?;
    Ok(report.into_inner().expect("no judge panicked"))
}

fn judge_all<S: Subject>(
    subject: &S,
    images: &Mutex<Receiver<Image<S::Promise>>>,
    report: &Mutex<Report>,
) -> anyhow::Result<()> {
    let mut result = Ok(());
    loop {
        let next = images.lock().expect("no judge panicked").recv();
        let Ok(image) = next else { return result };
        // Goes on taking, so that nobody waits for ever for room in the queue.
        if result.is_ok() {
            result = judge_one(subject, &image, report);
        }
    }
}

fn judge_one<S: Subject>(
    subject: &S,
    image: &Image<S::Promise>,
    report: &Mutex<Report>,
) -> anyhow::Result<()> {
    let dir = folder()?;
    image.disk.write(dir.path(), S::WITHOUT).context("a disk")?;
    let verdict = subject.judge(dir.path(), &image.promise)?;
    report.lock().expect("no judge panicked").add(image.crash, &image.what, verdict);
    Ok(())
}

/// In memory, where the system has such a place: what is durable is simulated anyhow.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

impl Report {
    fn add(&mut self, crash: Crash, what: &str, verdict: Verdict) {
        let (name, finding) = match verdict {
            Verdict::Whole => ("whole", None),
            Verdict::Flagged(why) => ("flagged", Some(why)),
            Verdict::Stuck(why) => ("stuck", Some(why)),
            Verdict::Lost(why) => ("lost", Some(why)),
        };
        *self.counts.entry((crash, name)).or_default() += 1;
        if let Some(why) = finding.filter(|_| self.findings.len() < SHOWN_MAX) {
            self.findings.push(format!("{what}: {name}: {why}"));
        }
    }

    /// # Errors
    /// If anything was lost, or got stuck, or a kill alone had files called bad.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        ensure!(self.findings.is_empty(), "{self}\n{}", self.findings.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tried, all) = self.boundaries;
        let images: usize = self.counts.values().sum();
        write!(f, "boundaries={tried}/{all} images={images}")?;
        for ((crash, name), count) in &self.counts {
            write!(f, " {crash:?}.{name}={count}")?;
        }
        Ok(())
    }
}
