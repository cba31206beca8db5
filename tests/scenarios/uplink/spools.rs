//! What agents keep: through a ledger that is away, that is another one, and through an old copy of their own spool.

use std::path::Path;

use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::metering::ack::Outcome;

use crate::books::Books;

const S: i64 = 1_000_000_000;

/// One node with one GPU that a unit holds from the beginning.
fn world() -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(1);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    world.add_node("n", scenario)?;
    Ok(world)
}

fn books(world: &World) -> anyhow::Result<Books> {
    Books::read(&world.aggregator.data_dir())
}

fn held_s(world: &World) -> anyhow::Result<i128> {
    Ok(books(world)?.time(RowKind::Held, None).values().sum::<i128>() / i128::from(S))
}

fn conserved(world: &World) -> anyhow::Result<()> {
    let verified = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(verified.contains("\nconserved:"), "{verified}");
    Ok(())
}

fn wait_log(world: &World, text: &str) -> anyhow::Result<()> {
    let log = world.nodes[0].log();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until(DEADLINE, text, said, || Ok(said().contains(text).then_some(())))
}

#[test]
fn an_agent_without_a_ledger_keeps_its_time_until_one_appears() -> anyhow::Result<()> {
    let mut world = world()?;
    world.nodes[0].start(DEADLINE)?;
    world.live(45)?;
    wait_log(&world, "cannot connect")?;
    let (status, _) = world.nodes[0].get("/readyz")?;
    assert_eq!(status, 200, "metering does not wait for the ledger");
    world.aggregator.start(DEADLINE)?;
    let acked = || {
        let metrics = world.nodes[0].metrics()?;
        Ok((metrics.sum("tonnage_agent_uplink_acked_total") > Some(0.0)).then_some(()))
    };
    wait_until(DEADLINE, "the first ack", || harness::process::tail(&world.nodes[0].log()), acked)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(held_s(&world)?, 45);
    Ok(())
}

#[test]
fn through_kills_of_the_agent_while_the_ledger_is_away_nothing_that_was_kept_is_lost() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(20)?;
    world.aggregator.kill9()?;
    // More windows than may be sealed, so that some wait without a number; and no window is open at a kill.
    for _ in 0..4 {
        world.live(80)?;
        world.nodes[0].kill9()?;
        world.nodes[0].start(DEADLINE)?;
    }
    world.live(30)?;
    world.aggregator.start(DEADLINE)?;
    world.live(30)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(held_s(&world)?, 20 + 4 * 80 + 60);
    let books = books(&world)?;
    assert_eq!(books.count(Outcome::Accepted), books.entries.len());
    conserved(&world)
}

#[test]
fn an_agent_feeds_no_other_ledger_than_its_own() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    world.aggregator.stop(DEADLINE)?;
    assert_eq!(held_s(&world)?, 20);
    // Another, empty ledger takes the place of the first.
    let own = world.dir().join("own");
    std::fs::rename(world.aggregator.data_dir(), &own)?;
    world.start()?;
    world.live(30)?;
    wait_log(&world, "point the agent at its own ledger")?;
    assert_eq!(books(&world)?.entries.len(), 0, "a batch went to a stranger");
    let metrics = world.nodes[0].metrics()?;
    assert!(metrics.sum("tonnage_agent_spool_bytes") > Some(0.0));
    world.nodes[0].kill9()?;
    world.aggregator.stop(DEADLINE)?;
    // Its own comes back, and nothing was lost by the detour but what a kill loses.
    std::fs::remove_dir_all(world.aggregator.data_dir())?;
    std::fs::rename(&own, world.aggregator.data_dir())?;
    world.start()?;
    world.nodes[0].stop(DEADLINE)?;
    let held_s = held_s(&world)?;
    assert!((40..=50).contains(&held_s), "{held_s} s");
    assert_eq!(books(&world)?.count(Outcome::Accepted), books(&world)?.entries.len());
    conserved(&world)
}

#[test]
fn an_old_copy_of_a_spool_is_not_billed_again() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(20)?;
    // Away: what follows stays in the spool, sealed and not.
    world.aggregator.kill9()?;
    world.live(100)?;
    world.nodes[0].kill9()?;
    let (spool, copy) = (world.nodes[0].spool(), world.dir().join("copy"));
    copy_folder(&spool, &copy)?;
    world.start()?;
    world.live(40)?;
    world.nodes[0].stop(DEADLINE)?;
    // 120 s before the kill, on the grid; 40 s after the start.
    assert_eq!(held_s(&world)?, 160);
    let before = books(&world)?;
    assert_eq!(before.count(Outcome::Accepted), before.entries.len());

    std::fs::remove_dir_all(&spool)?;
    copy_folder(&copy, &spool)?;
    world.start()?;
    wait_log(&world, "A new epoch begins")?;
    world.live(25)?;
    world.nodes[0].stop(DEADLINE)?;
    let after = books(&world)?;
    assert_eq!(held_s(&world)?, 185);
    assert!(after.count(Outcome::Quarantined) > 0, "what came twice was not seen to");
    let epochs: std::collections::BTreeSet<_> =
        after.entries.iter().filter_map(|entry| Some(entry.batch.as_ref()?.epoch.clone())).collect();
    assert_eq!(epochs.len(), 2);
    conserved(&world)
}

#[test]
fn a_cloned_node_bills_no_second_twice() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    // The same GPU under the same name on another machine, with a copy of the spool, at the same time.
    let clone = world.add_node("clone", world.nodes[0].spec.scenario.clone())?;
    world.nodes[clone].spec.name = "n".to_owned();
    let (own, other) = (world.nodes[0].spool(), world.nodes[clone].spool());
    std::fs::remove_dir_all(&other)?;
    copy_folder(&own, &other)?;
    world.start()?;
    world.live(60)?;
    world.nodes[0].stop(DEADLINE)?;
    world.nodes[clone].stop(DEADLINE)?;
    assert_eq!(held_s(&world)?, 80);
    let unobserved: i128 = books(&world)?.time(RowKind::Unobserved, None).values().sum();
    assert_eq!(unobserved, 0);
    conserved(&world)
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
