//! Drivers that misbehave and come back, and one that is let go of: whole processes, and what the ledger has of it.
//!
//! Whatever the driver does, windows and told gaps part the time between them, held, idle and unobserved are all of it,
//! and the ledger verifies.

use std::path::PathBuf;

use anyhow::Context;
use harness::scenario;
use harness::sim_clock::BEGIN_NS;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::{Faults, Scenario};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::metering::gap::Reason;

use crate::agent::gaps::{Told, pieces, told};
use crate::books::Books;

/// Calls that do not return.
mod hangs;

/// What cannot be true.
mod nonsense;

/// Errors of the whole driver and of one GPU.
mod refusals;

/// `release` and `resume`.
mod release;

const S: i64 = 1_000_000_000;
const HUNG: &str = "tonnage_agent_driver_hung_seconds";

/// One node with two GPUs, of which a unit holds the first.
fn world(faults: Faults) -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    world.add_node("n", node(faults))?;
    Ok(world)
}

fn node(faults: Faults) -> Scenario {
    let mut scenario = Scenario { faults, ..scenario::node(2) };
    let mut process = scenario::process(7, &scenario::unit("a.service"), &[0], 0.0);
    process.utilisation = vec![(0.0, 50)];
    scenario.process.push(process);
    scenario
}

/// Lets so many seconds pass in which the driver need not be read.
fn pass(world: &mut World, seconds: u32) -> anyhow::Result<()> {
    (0..seconds).try_for_each(|_| {
        world.move_clock(S)?;
        world.settle()
    })
}

/// Lets time pass, a second at a time, until the agent's metric is over so much.
fn pass_until(world: &mut World, metric: &str, over: f64) -> anyhow::Result<()> {
    let log = world.nodes[0].log();
    wait_until(
        DEADLINE,
        metric,
        || harness::process::tail(&log),
        || {
            world.move_clock(S)?;
            Ok((world.nodes[0].metrics()?.sum(metric) > Some(over)).then_some(()))
        },
    )
}

fn metric(world: &World, name: &str) -> anyhow::Result<f64> {
    world.nodes[0].metrics()?.sum(name).with_context(|| format!("no metric {name}"))
}

/// The ledger of a stopped node holds all of its time, up to `until_s`, once. What was told as in no window.
fn conserved(world: &World, until_s: i64) -> anyhow::Result<Vec<Told>> {
    let books = Books::read(&world.aggregator.data_dir())?;
    for gpu in 0..2 {
        let device = scenario::uuid(gpu);
        let pieces = pieces(world, &device)?;
        for pair in pieces.windows(2) {
            anyhow::ensure!(pair[0].1 == pair[1].0, "GPU {gpu}: {pair:?}");
        }
        let ends = (pieces.first().map(|piece| piece.0), pieces.last().map(|piece| piece.1));
        let all_ns = until_s * S;
        anyhow::ensure!(ends == (Some(BEGIN_NS), Some(BEGIN_NS + all_ns)), "GPU {gpu}: {ends:?}");
        let windows = &books.folded()?[&device];
        let covered_ns: i64 = windows.iter().map(|window| window.end_ns - window.start_ns).sum();
        let of = |kind| books.time(kind, Some(&device)).values().sum::<i128>();
        let (held, idle) = (of(RowKind::Held), of(RowKind::Idle));
        anyhow::ensure!(held + idle == i128::from(covered_ns), "GPU {gpu}: {held} + {idle}");
        // What is unobserved at the very end belongs to nobody yet: existence ends with coverage.
        let last_ns = windows.last().map_or(BEGIN_NS, |window| window.end_ns);
        let unobserved = of(RowKind::Unobserved);
        let existed = i128::from(last_ns - BEGIN_NS);
        anyhow::ensure!(held + idle + unobserved == existed, "GPU {gpu}: {unobserved} of {existed}");
    }
    let verified = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(verified.contains("conserved:"), "{verified}");
    told(world)
}

/// Lets the node live for a minute, from 19 s to 34 s without counting on its driver. What `/readyz` said at its worst,
/// and what was told.
fn minute(faults: Faults) -> anyhow::Result<(String, Vec<Told>)> {
    let mut world = world(faults)?;
    world.start()?;
    world.live(19)?;
    pass(&mut world, 15)?;
    let (_, said) = world.nodes[0].get("/readyz")?;
    anyhow::ensure!(world.nodes[0].get("/healthz")?.0 == 200, "the agent itself is well");
    pass(&mut world, 11)?;
    world.live(15)?;
    world.nodes[0].stop(DEADLINE)?;
    let told = conserved(&world, 60)?;
    Ok((said, told))
}

/// A copy of the driver's library that really lacks these symbols: their names are others in its table.
fn library_without(world: &World, symbols: &[&str]) -> anyhow::Result<PathBuf> {
    let mut bytes = std::fs::read(&world.binaries().nvml)?;
    for symbol in symbols {
        let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
        let mut at = 0;
        let mut found = 0;
        while let Some(next) = bytes[at..].windows(name.len()).position(|window| window == name) {
            at += next + 1;
            bytes[at] = b'x';
            found += 1;
        }
        anyhow::ensure!(found > 0, "{symbol} is in no table of the library");
    }
    let path = world.dir().join("libnvidia-ml.so.1");
    std::fs::write(&path, bytes)?;
    Ok(path)
}
