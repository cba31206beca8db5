//! Time that is in no window, and what the agent says of it: to the nanosecond, with its reason, and nothing else.

use std::collections::BTreeMap;

use harness::scenario;
use harness::sim_clock::BEGIN_NS;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_proto::metering::gap::Reason;
use tonnage_runtime::clock::Reading;

use crate::books::Books;

const S: i64 = 1_000_000_000;

/// Device or nothing (all of them), reason, and from when to when in seconds since the world began.
pub(crate) type Told = (Option<String>, Reason, i64, i64);

/// The same, by device and reason.
type Pieces = BTreeMap<(Option<String>, i32), Vec<(i64, i64)>>;

/// One node with two GPUs.
fn world() -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(2);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    world.add_node("n", scenario)?;
    Ok(world)
}

/// The gaps in the ledger's journal, joined where one goes on from another.
pub(crate) fn told(world: &World) -> anyhow::Result<Vec<Told>> {
    let books = Books::read(&world.aggregator.data_dir())?;
    let mut pieces = Pieces::new();
    for batch in books.entries.iter().filter_map(|entry| entry.batch.as_ref()) {
        for gap in &batch.gaps {
            let device = batch.devices.get(gap.device as usize).map(|device| device.uuid.clone());
            let from_ns = gap.start_ns - BEGIN_NS;
            let to_ns = from_ns + i64::try_from(gap.duration_ns)?;
            assert!(from_ns % S == 0 && to_ns % S == 0, "{gap:?}");
            pieces.entry((device, gap.reason)).or_default().push((from_ns / S, to_ns / S));
        }
    }
    let mut told = Vec::new();
    for ((device, reason), mut pieces) in pieces {
        pieces.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::new();
        for (from_s, to_s) in pieces {
            match joined.last_mut() {
                Some(last) if last.1 == from_s => last.1 = to_s,
                _ => joined.push((from_s, to_s)),
            }
        }
        told.extend(joined.into_iter().map(|(from_s, to_s)| {
            (device.clone(), Reason::try_from(reason).unwrap_or_default(), from_s, to_s)
        }));
    }
    Ok(told)
}

/// Moves the clocks without waiting for a reading.
fn pass(world: &mut World, step: impl FnOnce(&mut Reading)) -> anyhow::Result<()> {
    let mut now = world.now();
    step(&mut now);
    world.clock.as_mut().expect("a simulated clock").set(now)?;
    Ok(())
}

#[test]
fn what_a_kill_loses_is_told_as_agent_down_to_the_nanosecond() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(23)?;
    world.nodes[0].kill9()?;
    world.clock.as_mut().expect("a simulated clock").advance(17 * S)?;
    world.start()?;
    world.live(4)?;
    // Again, before anything of this run was stored.
    world.nodes[0].kill9()?;
    world.start()?;
    world.live(16)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(told(&world)?, [(None, Reason::AgentDown, 20, 44)]);
    let folded = Books::read(&world.aggregator.data_dir())?.folded()?;
    let held_s: i64 = folded[&scenario::uuid(0)].iter().map(|w| (w.end_ns - w.start_ns) / S).sum();
    assert_eq!(held_s, 20 + 16);
    Ok(())
}

#[test]
fn a_clean_stop_is_told_from_its_last_reading_on() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(23)?;
    world.nodes[0].stop(DEADLINE)?;
    world.clock.as_mut().expect("a simulated clock").advance(4 * S)?;
    world.start()?;
    world.live(13)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(told(&world)?, [(None, Reason::AgentDown, 23, 27)]);
    Ok(())
}

#[test]
fn a_gpu_that_is_missing_among_others_was_not_read_also_across_a_start() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(2);
    (scenario.device[1].missing_from_s, scenario.device[1].missing_to_s) = (Some(20.0), Some(65.0));
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(30)?;
    world.nodes[0].kill9()?;
    world.start()?;
    world.live(60)?;
    world.nodes[0].stop(DEADLINE)?;
    let missing = Some(scenario::uuid(1));
    // After the start it is known and was never read: its first reading is at 65 s.
    assert_eq!(
        told(&world)?,
        [(missing.clone(), Reason::NotRead, 19, 65)],
        "the kill came at an edge and lost nothing"
    );
    Ok(())
}

#[test]
fn when_every_gpu_vanishes_none_was_read() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(2);
    for device in &mut scenario.device {
        (device.missing_from_s, device.missing_to_s) = (Some(20.0), Some(35.0));
    }
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(60)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(told(&world)?, [(None, Reason::NotRead, 19, 34)]);
    Ok(())
}

#[test]
fn a_start_that_finds_no_gpu_where_there_were_some_has_failed_to_read() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(2);
    for device in &mut scenario.device {
        (device.missing_from_s, device.missing_to_s) = (Some(20.0), Some(45.0));
    }
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].kill9()?;
    world.nodes[0].spawn()?;
    world.settle()?;
    for _ in 0..10 {
        world.clock.as_mut().expect("a simulated clock").advance(S)?;
        world.settle()?;
    }
    let (status, text) = world.nodes[0].get("/readyz")?;
    assert!(status == 503 && text.contains("no GPU is visible, but there were 2"), "{status} {text}");
    for _ in 0..30 {
        world.clock.as_mut().expect("a simulated clock").advance(S)?;
        world.settle()?;
    }
    world.nodes[0].stop(DEADLINE)?;
    // Killed at an edge, so nothing was lost by that.
    assert_eq!(told(&world)?, [(None, Reason::NotRead, 19, 45)]);
    Ok(())
}

#[test]
fn a_step_of_the_clock_a_suspend_and_a_late_reading_are_told_apart() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(12)?;
    pass(&mut world, |now| now.wall_ns += 30 * S)?;
    world.live(10)?;
    pass(&mut world, |now| {
        now.wall_ns += 100 * S;
        now.boot_ns += 100 * S;
    })?;
    world.live(10)?;
    world.advance(7 * S)?;
    world.live(10)?;
    world.nodes[0].stop(DEADLINE)?;
    let mut told = told(&world)?;
    told.sort_by_key(|gap| gap.2);
    assert_eq!(
        told,
        [
            // The second in which the clock was set is of the jump.
            (None, Reason::Clock, 12, 43),
            (None, Reason::Suspended, 52, 153),
            (None, Reason::NotRead, 162, 169),
        ]
    );
    Ok(())
}

#[test]
fn a_driver_that_is_dead_after_a_start_is_told_while_it_is_dead() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].kill9()?;
    world.nodes[0].nvml = "/nowhere/libnvidia-ml.so.1".into();
    world.nodes[0].spawn()?;
    world.settle()?;
    for _ in 0..60 {
        world.clock.as_mut().expect("a simulated clock").advance(S)?;
        world.settle()?;
    }
    let said = || Ok(told(&world)?.last().filter(|gap| gap.3 >= 70).cloned());
    let last = wait_until(DEADLINE, "gaps", || harness::process::tail(&world.nodes[0].log()), said)?;
    assert_eq!((last.1, last.2), (Reason::NotRead, 20));
    Ok(())
}

/// For each device: what its windows cover, and what gaps say of it, as pieces from when to when.
pub(crate) fn pieces(world: &World, device: &str) -> anyhow::Result<Vec<(i64, i64, &'static str)>> {
    let books = Books::read(&world.aggregator.data_dir())?;
    let mut pieces = Vec::new();
    for batch in books.entries.iter().filter_map(|entry| entry.batch.as_ref()) {
        let is = |at: u32| batch.devices.get(at as usize).is_none_or(|known| known.uuid == device);
        for window in batch.windows.iter().filter(|window| is(window.device)) {
            let end_ns = window.start_ns.saturating_add_unsigned(window.duration_ns);
            pieces.push((window.start_ns, end_ns, "a window"));
        }
        for gap in batch.gaps.iter().filter(|gap| is(gap.device)) {
            let end_ns = gap.start_ns.saturating_add_unsigned(gap.duration_ns);
            pieces.push((gap.start_ns, end_ns, gap.reason().as_str_name()));
        }
    }
    pieces.sort_unstable();
    Ok(pieces)
}

#[test]
fn windows_and_gaps_part_any_life_between_them_to_the_nanosecond() -> anyhow::Result<()> {
    let seed = rand::random();
    let mut world = World::new(seed)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scenario = scenario::random(seed, 3, 400);
    scenario.faults.garbage_utilisation = true;
    for device in &mut scenario.device[1..] {
        let from_s = rng.random_range(20.0..300.0);
        (device.missing_from_s, device.missing_to_s) =
            (Some(from_s), Some(from_s + rng.random_range(1.0..90.0)));
    }
    world.add_node("n", scenario)?;
    world.start()?;
    // From here on the spool knows the node and its devices.
    world.live(12)?;
    for _ in 0..300 {
        match rng.random_range(0..60) {
            0 => pass(&mut world, |now| now.wall_ns += rng.random_range(S..100 * S))?,
            1 => pass(&mut world, |now| now.wall_ns -= rng.random_range(S / 2..20 * S))?,
            2 => {
                let slept_ns = rng.random_range(S..100 * S);
                pass(&mut world, |now| {
                    (now.wall_ns, now.boot_ns) = (now.wall_ns + slept_ns, now.boot_ns + slept_ns);
                })?;
            }
            3 | 4 => {
                world.nodes[0].kill9()?;
                let away_ns = rng.random_range(0..60 * S);
                world.clock.as_mut().expect("a simulated clock").advance(away_ns)?;
                world.start()?;
            }
            5 => world.advance(rng.random_range(2 * S..9 * S))?,
            _ => {}
        }
        world.advance(rng.random_range(S..3 * S / 2))?;
        if rng.random_bool(0.9) {
            world.settle()?;
        }
    }
    // To where ledger time moves again, if it stood still.
    world.live(70)?;
    world.nodes[0].stop(DEADLINE)?;
    for gpu in 0..3 {
        let pieces = pieces(&world, &scenario::uuid(gpu))?;
        for pair in pieces.windows(2) {
            assert_eq!(pair[0].1, pair[1].0, "GPU {gpu}: {pair:?}");
        }
        assert!(pieces.iter().any(|piece| piece.2 == "AGENT_DOWN"), "no kill told: {pieces:?}");
        assert_eq!(pieces.first().map(|piece| piece.0), Some(BEGIN_NS));
        assert_eq!(pieces.last().map(|piece| piece.1), Some(world.now().wall_ns));
    }
    Ok(())
}
