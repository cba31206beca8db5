//! Copies of a ledger made while it is in use, taken back, and what agents do then.

use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::rest::VersionAnswer;

use crate::books::Books;

const S: i64 = 1_000_000_000;

fn world() -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(1);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    world.add_node("n", scenario)?;
    Ok(world)
}

fn seconds(world: &World, kind: RowKind) -> anyhow::Result<i128> {
    let books = Books::read(&world.aggregator.data_dir())?;
    Ok(books.time(kind, None).values().sum::<i128>() / i128::from(S))
}

fn conserved(world: &World) -> anyhow::Result<()> {
    let verified = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(verified.contains("\nconserved:"), "{verified}");
    Ok(())
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// Lets the agent deliver all that it has measured up to now.
fn deliver(world: &mut World, held_s: i128) -> anyhow::Result<()> {
    let log = world.aggregator.log();
    let done = || Ok((seconds(world, RowKind::Held)? >= held_s).then_some(()));
    wait_until(DEADLINE, &format!("{held_s} s in the ledger"), || harness::process::tail(&log), done)
}

#[test]
fn a_restored_ledger_is_given_again_what_agents_still_have() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(61)?;
    deliver(&mut world, 60)?;
    let file = world.dir().join("monday.sqlite");
    let said = world.aggregator.admin(&["backup", &text(&file)])?;
    anyhow::ensure!(said.contains("batches in"), "{said}");
    world.live(60)?;
    deliver(&mut world, 120)?;
    // What is lost is what came after the backup: agents keep it.
    world.aggregator.kill9()?;
    let error = world.aggregator.admin(&["restore", &text(&file)]).unwrap_err().to_string();
    anyhow::ensure!(error.contains("--replace"), "{error}");
    let said = world.aggregator.admin(&["restore", &text(&file), "--replace"])?;
    anyhow::ensure!(said.contains("the ledger that was there is in"), "{said}");
    anyhow::ensure!(seconds(&world, RowKind::Held)? == 60);
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(seconds(&world, RowKind::Held)?, 141);
    assert_eq!(seconds(&world, RowKind::Unobserved)?, 0);
    conserved(&world)?;
    let metrics = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(metrics.contains("conserved"), "{metrics}");
    Ok(())
}

#[test]
fn agents_let_go_of_what_is_backed_up_and_of_nothing_else() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(61)?;
    deliver(&mut world, 60)?;
    let oldest = |world: &World| -> anyhow::Result<f64> {
        let metrics = world.nodes[0].metrics()?;
        Ok(metrics.sum("tonnage_agent_spool_bytes").unwrap_or(0.0))
    };
    let before = oldest(&world)?;
    world.aggregator.admin(&["backup", &text(&world.dir().join("b.sqlite"))])?;
    world.live(20)?;
    deliver(&mut world, 80)?;
    let after = oldest(&world)?;
    anyhow::ensure!(after < before, "{before} bytes before the backup, {after} after");
    Ok(())
}

#[test]
fn what_an_agent_no_longer_has_after_a_restore_is_unobserved_and_said() -> anyhow::Result<()> {
    let mut world = world()?;
    // Keeps nothing that was acked.
    world.nodes[0].extra_args = vec!["--spool-kept-bytes".to_owned(), "0".to_owned()];
    world.start()?;
    world.live(61)?;
    deliver(&mut world, 60)?;
    let file = world.dir().join("b.sqlite");
    world.aggregator.admin(&["backup", &text(&file)])?;
    world.live(60)?;
    deliver(&mut world, 120)?;
    world.aggregator.stop(DEADLINE)?;
    world.aggregator.admin(&["restore", &text(&file), "--replace"])?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    let (held_s, unobserved_s) = (seconds(&world, RowKind::Held)?, seconds(&world, RowKind::Unobserved)?);
    assert_eq!((held_s, unobserved_s), (81, 60));
    let log = std::fs::read_to_string(world.aggregator.log())?;
    anyhow::ensure!(log.contains("the agent no longer has"), "{log}");
    conserved(&world)
}

#[test]
fn a_backup_overwrites_nothing_and_a_damaged_one_is_not_restored() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(21)?;
    deliver(&mut world, 20)?;
    let file = world.dir().join("b.sqlite");
    world.aggregator.admin(&["backup", &text(&file)])?;
    let error = world.aggregator.admin(&["backup", &text(&file)]).unwrap_err().to_string();
    anyhow::ensure!(error.contains("exists already"), "{error}");
    // Not while an aggregator runs on it.
    let error = world.aggregator.admin(&["restore", &text(&file), "--replace"]).unwrap_err().to_string();
    anyhow::ensure!(error.contains("another aggregator runs"), "{error}");
    world.nodes[0].kill9()?;
    world.aggregator.stop(DEADLINE)?;
    let before = std::fs::read(world.aggregator.data_dir().join("ledger.sqlite"))?;
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0xa5);
    for (name, bad) in [("damaged", &bytes[..]), ("short", &bytes[..100]), ("rubbish", b"not a ledger")] {
        let path = world.dir().join(name);
        std::fs::write(&path, bad)?;
        let error = world.aggregator.admin(&["restore", &text(&path), "--replace"]).unwrap_err().to_string();
        anyhow::ensure!(error.contains(name), "{error}");
    }
    let missing = world.aggregator.admin(&["restore", "/nowhere", "--replace"]).unwrap_err().to_string();
    anyhow::ensure!(missing.contains("/nowhere"), "{missing}");
    assert_eq!(std::fs::read(world.aggregator.data_dir().join("ledger.sqlite"))?, before);
    Ok(())
}

#[test]
fn a_declared_successor_is_fed_and_a_stranger_is_not() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(31)?;
    deliver(&mut world, 30)?;
    let version: VersionAnswer = world.aggregator.answer("/version")?;
    world.aggregator.kill9()?;
    std::fs::remove_dir_all(world.aggregator.data_dir())?;
    let error = world.aggregator.admin(&["succeed", "abc"]).unwrap_err().to_string();
    anyhow::ensure!(error.contains("32 hexadecimal digits"), "{error}");
    world.aggregator.admin(&["succeed", &version.ledger_id])?;
    world.start()?;
    world.live(30)?;
    world.nodes[0].stop(DEADLINE)?;
    // All of it: what the lost ledger had acked, the agent still had.
    assert_eq!(seconds(&world, RowKind::Held)?, 61);
    conserved(&world)
}
