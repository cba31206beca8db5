//! Two agents and an aggregator, each killed again and again: the ledger equals what the drivers served, to the
//! nanosecond, and what a kill cost is unobserved and within its bound.

use harness::comparison::{self, LOST_MAX_NS};
use harness::scenario;
use harness::world::{DEADLINE, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::decimal::to_nanos;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::rest::{CostAnswer, Figures};

use crate::books::Books;

const S: i64 = 1_000_000_000;
const STEPS: u32 = 1_300;
const NODES: usize = 2;
const GPUS: u32 = 2;
/// Kills of each process at least.
const KILLS_MIN: usize = 3;

#[test]
fn through_kills_at_any_point_the_ledger_equals_what_the_drivers_served() -> anyhow::Result<()> {
    kill_and_compare(20_260_101)
}

#[test]
fn through_kills_at_any_point_the_ledger_equals_what_the_drivers_served_whatever_the_seed()
-> anyhow::Result<()> {
    kill_and_compare(rand::random())
}

fn kill_and_compare(seed: u64) -> anyhow::Result<()> {
    let mut world = World::new(seed)?;
    let mut rng = StdRng::seed_from_u64(seed);
    for node in 0..NODES {
        let mut scenario = scenario::random_of(&mut rng, node, GPUS, STEPS);
        scenario.faults.garbage_utilisation = node == 0;
        scenario.process[0].lag_us = 7_000_000;
        world.add_node(&format!("node-{node}"), scenario)?;
    }
    // Keeps nothing that the ledger has: what it lets go of too early is lost.
    world.nodes[1].extra_args = vec!["--spool-kept-bytes".to_owned(), "0".to_owned()];
    let kills = live_and_die(&mut world, &mut rng)?;
    for node in &mut world.nodes {
        node.stop(DEADLINE)?;
        let log = std::fs::read_to_string(node.log())?;
        anyhow::ensure!(log.trim_end().ends_with("everything measured is in the ledger."), "{log}");
    }
    let totals = totals(&world)?;
    world.aggregator.stop(DEADLINE)?;

    let books = Books::read(&world.aggregator.data_dir())?;
    anyhow::ensure!(books.count(Outcome::Accepted) == books.entries.len(), "not all was accepted");
    let folded = books.folded()?;
    anyhow::ensure!(folded.len() == NODES * GPUS as usize, "{} devices", folded.len());
    let now_ns = world.now().wall_ns;
    for (node, kills) in world.nodes.iter_mut().zip(&kills) {
        let pieces = node.judge()?;
        for device in &node.spec.scenario.device {
            let windows = &folded[&device.uuid];
            comparison::same_as_served(&device.uuid, windows, &pieces)?;
            anyhow::ensure!(comparison::doubled_ns(windows) == 0, "{}: windows overlap", device.uuid);
            let missing = comparison::missing(&device.uuid, windows, &pieces);
            let lost = comparison::by_kill(&missing, kills);
            anyhow::ensure!(lost.unexplained.is_empty(), "{}: {lost:?}", device.uuid);
            anyhow::ensure!(lost.longest_ns() <= LOST_MAX_NS, "{}: {lost:?}", device.uuid);
            let last_ns = windows.iter().map(|window| window.end_ns).max();
            anyhow::ensure!(last_ns == Some(now_ns), "{}: ends at {last_ns:?}", device.uuid);
        }
    }
    let rows = comparison::rows(&books, &folded);
    anyhow::ensure!(rows.wrong.is_empty(), "{}", rows.wrong.join("\n"));
    anyhow::ensure!(rows.slots >= 2, "one slot only");
    rest_follows(&books, &totals)?;
    let verified = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(verified.lines().any(|line| line.starts_with("conserved:")), "{verified}");
    Ok(())
}

/// When something is killed or started next, in steps; and when it was killed.
struct Fate {
    next: u32,
    kills: Vec<i64>,
}

/// Lets time pass in steps of all lengths while everything is killed and started at random. All run at the end.
/// Gives the times at which each agent was killed.
fn live_and_die(world: &mut World, rng: &mut StdRng) -> anyhow::Result<Vec<Vec<i64>>> {
    world.start()?;
    let mut fates: Vec<Fate> =
        (0..=NODES).map(|_| Fate { next: rng.random_range(1..150), kills: Vec::new() }).collect();
    for step in 0..STEPS {
        let length_ns = match rng.random_range(0..40) {
            // Twice the period is covered, more is not.
            0 => 2 * S,
            1 => rng.random_range(2 * S + 1..9 * S),
            2..6 => rng.random_range(S..2 * S),
            _ => S,
        };
        world.advance(length_ns)?;
        // Half of the kills hit an agent before it has worked off what it read.
        let midway = rng.random_bool(0.5);
        if !midway {
            world.settle()?;
        }
        for (at, fate) in fates.iter_mut().enumerate().filter(|(_, fate)| fate.next == step) {
            // The ledger may be away for longer than agents have numbers for.
            let away = if at == NODES { 1..120 } else { 1..40 };
            let wait = if toggle(world, at, &mut fate.kills)? { 30..200 } else { away };
            fate.next = step + rng.random_range(wait);
        }
        world.settle()?;
    }
    for fate in &fates {
        anyhow::ensure!(fate.kills.len() >= KILLS_MIN, "only {} kills", fate.kills.len());
    }
    world.start()?;
    world.live(3)?;
    Ok(fates.into_iter().take(NODES).map(|fate| fate.kills).collect())
}

/// Kills what runs and starts what does not. True if it runs now.
fn toggle(world: &mut World, at: usize, kills: &mut Vec<i64>) -> anyhow::Result<bool> {
    let now_ns = world.now().wall_ns;
    let Some(node) = world.nodes.get_mut(at) else {
        if world.aggregator.process().is_none() {
            world.aggregator.start(DEADLINE)?;
            return Ok(true);
        }
        world.aggregator.kill9()?;
        kills.push(now_ns);
        return Ok(false);
    };
    if node.process().is_none() {
        node.start(DEADLINE)?;
        return Ok(true);
    }
    node.kill9()?;
    kills.push(now_ns);
    Ok(false)
}

/// The totals of the six tables, after their rows were found to sum to them.
fn totals(world: &World) -> anyhow::Result<Vec<[i128; 12]>> {
    let tables = ["namespaces", "pods", "jobs", "users", "devices", "nodes"];
    let mut totals = Vec::new();
    for table in tables {
        let answer: CostAnswer = world.aggregator.answer(&format!("/api/v1/cost/{table}"))?;
        let mut sums = [0; 12];
        for row in &answer.rows {
            for (sum, figure) in sums.iter_mut().zip(figures(&row.figures)?) {
                *sum += figure;
            }
        }
        let total = figures(&answer.totals)?;
        anyhow::ensure!(sums == total, "{table}: rows sum to {sums:?}, totals are {total:?}");
        totals.push(total);
    }
    Ok(totals)
}

/// Everything but the rate, exactly.
fn figures(figures: &Figures) -> anyhow::Result<[i128; 12]> {
    let Figures { held_seconds, busy_seconds, idle_seconds, unobserved_seconds, unpriced_seconds, .. } =
        figures;
    let Figures { held_cost, idle_cost, unobserved_cost, rounding_cost, cost, .. } = figures;
    let texts = [
        held_seconds,
        idle_seconds,
        unobserved_seconds,
        busy_seconds,
        unpriced_seconds,
        &figures.memory_byte_seconds,
        &figures.energy_joules,
        held_cost,
        idle_cost,
        unobserved_cost,
        rounding_cost,
        cost,
    ];
    let mut values = [0; 12];
    for (value, text) in values.iter_mut().zip(texts) {
        *value = to_nanos(text).ok_or_else(|| anyhow::anyhow!("{text:?} is no exact decimal"))?;
    }
    Ok(values)
}

/// The REST totals are the slots' sums, from whatever table.
fn rest_follows(books: &Books, totals: &[[i128; 12]]) -> anyhow::Result<()> {
    let kinds = [RowKind::Held, RowKind::Idle, RowKind::Unobserved, RowKind::Rounding];
    let of =
        |kind: RowKind| books.slots.iter().filter(move |(key, _)| key.3 == kind).map(|(_, bucket)| bucket);
    let times: Vec<i128> = kinds.iter().map(|kind| of(*kind).map(|b| b.time_ns).sum()).collect();
    let costs: Vec<i128> = kinds.iter().map(|kind| of(*kind).map(|b| b.cost_nanos).sum()).collect();
    for total in totals {
        anyhow::ensure!(
            total[..3] == times[..3] && total[7..11] == costs[..],
            "{total:?}: {times:?} {costs:?}"
        );
        anyhow::ensure!(total[11] == costs.iter().sum::<i128>(), "{total:?}: {costs:?}");
        anyhow::ensure!(*total == totals[0], "{total:?} is not {:?}", totals[0]);
    }
    Ok(())
}
