//! The aggregator's store on a disk that may crash at any write: what was acked is there, and the ledger verifies.
//!
//! A real aggregator is traced; agents made by hand send it batches and mark each ack in the trace. Every disk that a
//! crash may leave must pass SQLite's own check and `verify`, hold what was acked in the order of its numbers, and at
//! most what was on its way beside it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use harness::aggregator::Aggregator;
use harness::binaries::Binaries;
use harness::forged::{Forged, seal, window};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tonnage_aggregator::store::{self, Store};
use tonnage_proto::limits::WINDOW_NS;
use tonnage_proto::metering::ack::Outcome;

use super::images::{Subject, Verdict};
use super::trace::{Op, Traced, mark};
use crate::books::Books;

/// Calls that fail.
pub(crate) mod faults;

const NODES: usize = 2;

/// What stands in the trace's marks: how far each node's batches were sent and acked, and whose ledger it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Promise {
    sent: BTreeMap<String, u64>,
    acked: BTreeMap<String, u64>,
    ledger_id: Option<Vec<u8>>,
}

/// Has an aggregator live `lives` times, each but the last ended by a kill, with another price book each time. Gives
/// the world, which holds its folder, and the trace.
pub(crate) fn history(seed: u64, lives: usize, batches: usize) -> anyhow::Result<(World, Traced)> {
    let mut world = World::new(seed)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let trace = world.dir().join("trace");
    std::fs::create_dir(&trace)?;
    let traced = Traced::of_folder(world.aggregator.data_dir(), &trace)?;
    world.aggregator.environment = traced.environment()?;
    let agents =
        (0..NODES).map(|node| Forged::new(&world.aggregator.uplink(), "test", &format!("node-{node}")));
    let agents = agents.collect::<anyhow::Result<Vec<_>>>()?;
    let (mut promise, mut ends_ns) = (Promise::default(), [0; NODES]);
    ends_ns.fill(world.now().wall_ns / WINDOW_NS * WINDOW_NS - 40_000 * WINDOW_NS);
    for life in 0..lives {
        let book = harness::aggregator::PRICES.replace("3.60", &format!("{}.60", 3 + life));
        std::fs::write(world.aggregator.prices(), book)?;
        world.aggregator.start(DEADLINE)?;
        for _ in 0..batches {
            let node = rng.random_range(0..NODES);
            let agent = &agents[node];
            let seq = promise.sent.get(&agent.node).copied().unwrap_or(0) + 1;
            let windows = (0..rng.random_range(1..200)).map(|_| {
                let start_ns = ends_ns[node];
                ends_ns[node] += WINDOW_NS;
                window(start_ns, WINDOW_NS.unsigned_abs(), rng.random_range(0..WINDOW_NS.unsigned_abs()))
            });
            let batch = agent.batch(seq, windows.collect());
            promise.sent.insert(agent.node.clone(), seq);
            mark(&traced.log, &serde_json::to_string(&promise)?)?;
            let (mut wire, welcome) = agent.open()?;
            let (outcome, detail) = wire.ack(seal(&batch))?;
            ensure!(outcome == Outcome::Accepted, "{outcome:?}: {detail}");
            promise.acked.insert(agent.node.clone(), seq);
            promise.ledger_id = Some(welcome.ledger_id);
            mark(&traced.log, &serde_json::to_string(&promise)?)?;
        }
        // A stop moves the log into the database; a kill leaves that to the next start.
        if life + 1 == lives { world.aggregator.stop(DEADLINE)? } else { world.aggregator.kill9()? }
    }
    Ok((world, traced))
}

/// The store as what crashes.
#[derive(Debug, Clone)]
pub(crate) struct Crashing {
    binaries: Binaries,
    /// The last book, and the time in which all of it happens.
    prices: PathBuf,
    clock: Option<PathBuf>,
    marks: Vec<(usize, Promise)>,
}

impl Crashing {
    pub(crate) fn new(ops: &[Op], world: &World) -> anyhow::Result<Self> {
        let mark = |(at, op): (usize, &Op)| match op {
            Op::Mark(text) => Some(serde_json::from_str(text).map(|promise| (at, promise))),
            _ => None,
        };
        let marks = ops.iter().enumerate().filter_map(mark).collect::<Result<_, _>>()?;
        let clock = world.clock.as_ref().map(|clock| clock.path().to_owned());
        Ok(Self { binaries: Binaries::find()?, prices: world.aggregator.prices(), clock, marks })
    }

    fn verify(&self, folder: &Path) -> anyhow::Result<Result<(), String>> {
        let output = Command::new(&self.binaries.aggregator).arg("verify").arg("--data").arg(folder).output();
        let output = output.with_context(|| format!("{}", self.binaries.aggregator.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let conserved = output.status.success() && said.contains("\nconserved:");
        let errors = String::from_utf8_lossy(&output.stderr);
        Ok(if conserved { Ok(()) } else { Err(format!("{said}{errors}")) })
    }

    /// A new book is journalled first, and then prices slot by slot: what a crash has left of that is done when an
    /// aggregator runs again.
    fn verify_again(&self, folder: &Path) -> anyhow::Result<Result<(), String>> {
        let mut aggregator = Aggregator::new(&folder.join("again"), &self.binaries, self.clock.as_deref())?;
        std::fs::copy(&self.prices, aggregator.prices()).context("the price book")?;
        std::fs::create_dir(aggregator.data_dir())?;
        for file in ["ledger.sqlite", "ledger.sqlite-wal"] {
            let (from, to) = (folder.join(file), aggregator.data_dir().join(file));
            if from.exists() {
                std::fs::rename(from, to).context("the ledger's files")?;
            }
        }
        aggregator.start(DEADLINE)?;
        let data = aggregator.data_dir();
        let last = RefCell::new(String::new());
        let verified = wait_until(
            DEADLINE,
            "a ledger that verifies",
            || last.borrow().clone(),
            || Ok(self.verify(&data)?.map_err(|said| *last.borrow_mut() = said).ok()),
        );
        Ok(verified.map_err(|error| format!("{error:#}")))
    }
}

impl Subject for Crashing {
    type Promise = Promise;
    /// The index of SQLite's log lies in memory that is mapped; it is made anew from the log.
    const WITHOUT: &'static str = "-shm";

    fn promise(&self, at: usize) -> Promise {
        let passed = self.marks.partition_point(|(position, _)| *position < at);
        passed.checked_sub(1).map(|last| self.marks[last].1.clone()).unwrap_or_default()
    }

    fn judge(&self, folder: &Path, promise: &Promise) -> anyhow::Result<Verdict> {
        let found = match sound(folder) {
            Ok(found) => found,
            Err(error) => return Ok(Verdict::Stuck(format!("{error:#}"))),
        };
        if let Err(error) = found.keeps(promise) {
            return Ok(Verdict::Lost(format!("{error:#}")));
        }
        let verified = match self.verify(folder)? {
            Ok(()) => Ok(()),
            Err(_) => self.verify_again(folder)?,
        };
        if let Err(said) = verified {
            return Ok(Verdict::Lost(said));
        }
        Ok(Verdict::Whole)
    }
}

/// What a ledger holds: each node's accepted numbers, as they stand in the journal.
struct Found {
    seqs: BTreeMap<String, Vec<u64>>,
    ledger_id: Vec<u8>,
}

fn sound(folder: &Path) -> anyhow::Result<Found> {
    let readers = Store::open(folder)?.readers();
    let (says, identity) = readers.with(|db| {
        let says: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        Ok((says, store::identity(db)?))
    })?;
    ensure!(says == "ok", "SQLite finds {says}");
    let mut seqs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for entry in Books::read(folder)?.entries {
        let batch = entry.batch.context("a batch in the journal cannot be read")?;
        seqs.entry(batch.node).or_default().push(batch.seq);
    }
    Ok(Found { seqs, ledger_id: identity.ledger_id.to_vec() })
}

impl Found {
    fn keeps(&self, promise: &Promise) -> anyhow::Result<()> {
        if let Some(ledger_id) = &promise.ledger_id {
            ensure!(*ledger_id == self.ledger_id, "it is another ledger");
        }
        for (node, acked) in &promise.acked {
            let last = self.seqs.get(node).map_or(0, Vec::len) as u64;
            ensure!(last >= *acked, "{node}: {last} batches, acked were {acked}");
        }
        for (node, seqs) in &self.seqs {
            let sent = promise.sent.get(node).copied().unwrap_or(0);
            ensure!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{node}: the journal has {seqs:?}");
            ensure!(seqs.len() as u64 <= sent, "{node}: {seqs:?}, sent were {sent}");
        }
        Ok(())
    }
}
