//! Calls that fail under the store, one after the other: nothing is acked that is not on disk, and once the disk is
//! well again the aggregator goes on.

use anyhow::{Context, ensure};
use harness::forged::{Forged, seal, window};
use harness::world::{DEADLINE, World};
use tonnage_proto::limits::WINDOW_NS;
use tonnage_proto::metering::ack::Outcome;

use super::super::images::{Subject, Verdict};
use super::super::trace::{Op, Traced, mark};
use super::{Crashing, Promise};

/// What fails from then on, and how: see `tests/disk-trace/src/tracer.rs`. 28 is ENOSPC, 5 is EIO.
const FAULTS: [(&str, &str); 5] = [
    ("room", "28 1000000"),
    ("room", "28 1000000 short"),
    ("write", "5 1"),
    ("sync", "5 1"),
    ("any", "5 1000000"),
];
const NODE: &str = "node-0";

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    faults: usize,
    /// Not acked, and taken once the disk was well.
    unavailable: usize,
    /// Acked all the same: what failed came after the commit.
    acked: usize,
    /// Ended by itself, and was started again.
    restarts: usize,
}

/// Fails the first, the second, ... call of a commit, each `every`th, up to `skip_max`.
pub(crate) fn fail_each(seed: u64, every: usize, skip_max: u64) -> anyhow::Result<(Tried, World, Traced)> {
    let mut world = World::new(seed)?;
    let dir = world.dir().join("trace");
    std::fs::create_dir(&dir)?;
    let traced = Traced::of_folder(world.aggregator.data_dir(), &dir)?;
    world.aggregator.environment = traced.environment()?;
    world.aggregator.start(DEADLINE)?;
    let agent = Forged::new(&world.aggregator.uplink(), "test", NODE)?;
    let mut sender = Sender {
        agent,
        promise: Promise::default(),
        tried: Tried::default(),
        start_ns: world.now().wall_ns / WINDOW_NS * WINDOW_NS - 40_000 * WINDOW_NS,
    };
    for (class, how) in FAULTS {
        for skip in (seed % every as u64..skip_max).step_by(every) {
            let fault = format!("{class} {skip} {how}");
            if !sender.fail_one(&mut world, &traced, &fault).with_context(|| fault.clone())? {
                break;
            }
        }
    }
    world.aggregator.stop(DEADLINE)?;
    let ops = traced.ops()?;
    let subject = Crashing::new(&ops, &world)?;
    let verdict = subject.judge(&traced.folder, &subject.promise(ops.len()))?;
    ensure!(verdict == Verdict::Whole, "seed {seed}: {verdict:?}");
    Ok((sender.tried, world, traced))
}

struct Sender {
    agent: Forged,
    promise: Promise,
    tried: Tried,
    start_ns: i64,
}

impl Sender {
    /// Sends a batch while calls fail, and again afterwards until it is acked. False if it met no fault.
    fn fail_one(&mut self, world: &mut World, traced: &Traced, fault: &str) -> anyhow::Result<bool> {
        let seq = self.promise.sent.get(NODE).copied().unwrap_or(0) + 1;
        // Many windows touch many pages, so that the log is moved into the database now and then.
        let windows = (0..200).map(|_| {
            self.start_ns += WINDOW_NS;
            window(self.start_ns, WINDOW_NS.unsigned_abs(), 7)
        });
        let batch = self.agent.batch(seq, windows.collect());
        self.promise.sent.insert(NODE.to_owned(), seq);
        self.mark(traced)?;
        let (mut wire, _) = self.agent.open()?;
        let faults = count(traced)?;
        traced.set_fault(fault)?;
        let answer = wire.ack(seal(&batch));
        traced.lift_fault()?;
        let failed = count(traced)? > faults;
        match answer {
            Ok((outcome, detail)) => {
                ensure!(outcome == Outcome::Accepted, "{outcome:?}: {detail}");
                self.tried.acked += usize::from(failed);
            }
            Err(error) => {
                ensure!(failed, "not acked, but nothing failed: {error:#}");
                self.tried.unavailable += 1;
                let process = world.aggregator.process().context("the aggregator runs")?;
                if process.exited()?.is_some() {
                    self.tried.restarts += 1;
                    world.aggregator.start(DEADLINE)?;
                }
                let (mut wire, _) = self.agent.open().context("once the disk is well")?;
                let (outcome, detail) = wire.ack(seal(&batch)).context("once the disk is well")?;
                // A commit that was told as failed may have reached the disk.
                ensure!(matches!(outcome, Outcome::Accepted | Outcome::Duplicate), "{outcome:?}: {detail}");
            }
        }
        self.tried.faults += usize::from(failed);
        self.promise.acked.insert(NODE.to_owned(), seq);
        self.mark(traced)?;
        Ok(failed)
    }

    fn mark(&self, traced: &Traced) -> anyhow::Result<()> {
        mark(&traced.log, &serde_json::to_string(&self.promise)?)
    }
}

fn count(traced: &Traced) -> anyhow::Result<usize> {
    Ok(traced.ops()?.iter().filter(|op| **op == Op::Fault).count())
}
