//! Crash points, enumerated: at every write of a history, all that a kill and a power loss may leave of it.
//!
//! The history is that of the real code in a real process; `disk-trace` has logged what it did to its files. What is
//! on the disk after a crash is simulated ([`disk`]). `cargo test` tries some points, `make crash-points` all.
#![allow(clippy::print_stdout, reason = "how much was tried is a result")]

/// What a process did to its files.
mod trace;

/// What a crash leaves of it.
mod disk;

/// One disk after the other.
mod images;

/// The agent's spool.
mod spool;

/// The aggregator's store.
mod store;

use rand::RngExt;

use self::disk::{Disk, Replay};
use self::images::{Plan, Report, Subject};
use self::spool::history::Life;
use self::trace::{Op, Traced};

/// What the trace says is what is there: no call escaped it.
fn ops_of<S: Subject>(traced: &Traced) -> anyhow::Result<Vec<Op>> {
    let ops = traced.ops()?;
    let mut replay = Replay::default();
    ops.iter().for_each(|op| replay.apply(op));
    let there = Disk::read(&traced.folder, S::WITHOUT)?;
    anyhow::ensure!(replay.done.listing(S::WITHOUT) == there, "a call escaped the trace");
    Ok(ops)
}

fn spool_crashes(lives: u64, steps: u64, plan: Plan) -> anyhow::Result<Report> {
    let seed = plan.seed;
    let dir = tempfile::tempdir()?;
    let traced = Traced::new(dir.path())?;
    for number in 0..lives {
        Life { seed, steps, number }.live(&traced)?;
    }
    let ops = ops_of::<spool::Crashing>(&traced)?;
    let blob = |op: &Op| matches!(op, Op::Make { path, .. } if path.contains("blobs/"));
    anyhow::ensure!(!ops.iter().any(blob), "a page went into a file that nobody syncs");
    let report = images::try_all(&spool::Crashing::new(&ops)?, &ops, plan)?;
    println!("spool seed={seed} operations={} {report}", ops.len());
    Ok(report)
}

fn store_crashes(lives: usize, batches: usize, plan: Plan) -> anyhow::Result<Report> {
    let (world, traced) = store::history(plan.seed, lives, batches)?;
    let ops = ops_of::<store::Crashing>(&traced)?;
    let report = images::try_all(&store::Crashing::new(&ops, &world)?, &ops, plan)?;
    println!("store seed={} operations={} {report}", plan.seed, ops.len());
    Ok(report)
}

fn seed() -> u64 {
    let seed = rand::rng().random();
    println!("seed {seed}");
    seed
}

#[test]
fn a_spool_that_crashes_at_a_write_has_what_it_promised() -> anyhow::Result<()> {
    spool_crashes(2, 60, Plan { seed: seed(), boundaries_max: 50, random: 2 })?.judge()
}

#[test]
#[ignore = "takes minutes; make crash-points"]
fn a_spool_that_crashes_at_any_write_has_what_it_promised() -> anyhow::Result<()> {
    spool_crashes(3, 80, Plan { seed: seed(), boundaries_max: usize::MAX, random: 4 })?.judge()
}

#[test]
fn a_store_that_crashes_at_a_write_has_what_it_acked() -> anyhow::Result<()> {
    store_crashes(2, 6, Plan { seed: seed(), boundaries_max: 15, random: 2 })?.judge()
}

#[test]
#[ignore = "takes minutes; make crash-points"]
fn a_store_that_crashes_at_any_write_has_what_it_acked() -> anyhow::Result<()> {
    store_crashes(2, 5, Plan { seed: seed(), boundaries_max: usize::MAX, random: 2 })?.judge()
}

fn spool_faults(every: u64) -> anyhow::Result<()> {
    let seed = seed();
    let tried = spool::faults::fail_each(seed, every)?;
    println!("spool seed={seed} {tried:?}");
    Ok(())
}

#[test]
fn a_spool_on_a_disk_that_fails_says_so_and_keeps_what_it_promised() -> anyhow::Result<()> {
    spool_faults(25)
}

#[test]
#[ignore = "takes minutes; make crash-points"]
fn a_spool_on_a_disk_that_fails_at_any_call_says_so_and_keeps_what_it_promised() -> anyhow::Result<()> {
    spool_faults(1)
}

/// With the crash points of that history: what was acked while calls failed is on disk, too.
fn store_faults(every: usize, skip_max: u64, boundaries_max: usize) -> anyhow::Result<()> {
    let seed = seed();
    let (tried, world, traced) = store::faults::fail_each(seed, every, skip_max)?;
    let ops = traced.ops()?;
    let plan = Plan { seed, boundaries_max, random: 1 };
    let report = images::try_all(&store::Crashing::new(&ops, &world)?, &ops, plan)?;
    println!("store seed={seed} {tried:?} operations={} {report}", ops.len());
    report.judge()
}

#[test]
fn a_store_on_a_disk_that_fails_acks_nothing_that_is_not_there_and_goes_on() -> anyhow::Result<()> {
    store_faults(5, 12, 6)
}

#[test]
#[ignore = "takes minutes; make crash-points"]
fn a_store_on_a_disk_that_fails_at_any_call_acks_nothing_that_is_not_there_and_goes_on() -> anyhow::Result<()>
{
    store_faults(1, 60, 60)
}
