//! Ages a node's agent: hours of simulated time, every batch delivered and acked.

use std::time::Duration;

use anyhow::Context;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_runtime::clock::{Clock, Reading};

use super::{Aged, NODE, crowd};
use crate::usage;

/// As many windows as fill the spool with kept batches, and some; then the agent starts again, as after an upgrade.
const WINDOWS_BEFORE: u32 = 200;
/// Twice over, so that everything kept was written by this run.
const WINDOWS: u32 = 400;
const WINDOW_NS: i64 = 10_000_000_000;
/// The longest that an agent takes: two steps a window instead of ten make batches as large, and sooner.
const PERIOD_NS: i64 = 5_000_000_000;

pub(super) fn age() -> anyhow::Result<Aged> {
    let mut world = World::new(0)?;
    let clock = world.clock.as_mut().context("simulated time")?;
    // It ends before now, so that the same spool can go on in real time.
    let age_ns = WINDOW_NS * i64::from(WINDOWS_BEFORE + WINDOWS + 10);
    let up_ns = clock.now().monotonic_ns;
    let wall_ns = Clock::system().wall_ns() - age_ns;
    clock.set(Reading { wall_ns: wall_ns - wall_ns % WINDOW_NS, monotonic_ns: up_ns, boot_ns: up_ns })?;
    let at = world.add_node(NODE, crowd::scenario(world.now().wall_ns - WINDOW_NS))?;
    crowd::make_pod_logs(&world.nodes[at].dir().join("pod-logs"))?;
    world.nodes[at].period_ns = PERIOD_NS;
    world.nodes[at].extra_args = vec!["--period-ms".to_owned(), (PERIOD_NS / 1_000_000).to_string()];
    world.start()?;
    live(&mut world, WINDOWS_BEFORE)?;
    world.nodes[at].stop(DEADLINE)?;
    world.nodes[at].start(DEADLINE)?;
    let anonymous_kib = live(&mut world, WINDOWS)?;
    world.nodes[at].stop(DEADLINE)?;
    Ok(Aged { world, windows: WINDOWS, anonymous_kib: anonymous_kib[anonymous_kib.len() / 2..].to_vec() })
}

/// A batch for each window, and each acked soon, as in real time, where nothing takes ten seconds.
/// Gives its memory after each of them.
fn live(world: &mut World, windows: u32) -> anyhow::Result<Vec<f64>> {
    let before = accepted(world)?;
    let pid = world.nodes[0].process().context("the agent runs")?.id();
    let mut anonymous_kib = Vec::new();
    for window in 1..=u64::from(windows) {
        world.advance(PERIOD_NS)?;
        world.advance(PERIOD_NS)?;
        let enough = before + window.saturating_sub(2);
        wait_until(DEADLINE, "acks", String::new, || Ok((accepted(world)? >= enough).then_some(())))?;
        std::thread::sleep(Duration::from_millis(10));
        anonymous_kib.push(usage::memory(pid)?.anonymous_kib as f64);
    }
    Ok(anonymous_kib)
}

fn accepted(world: &World) -> anyhow::Result<u64> {
    let text =
        ureq::get(format!("{}/metrics", world.aggregator.url())).call()?.body_mut().read_to_string()?;
    let line =
        text.lines().find_map(|l| l.strip_prefix("tonnage_ingest_batches_total{outcome=\"accepted\"} "));
    Ok(line.and_then(|value| value.parse().ok()).unwrap_or(0))
}
