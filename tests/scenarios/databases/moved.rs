//! A ledger that agents made, moved from a folder to a database and back, backed up and restored: people read the same
//! figures to the last digit, and agents go on.

use std::path::Path;
use std::process::Stdio;

use harness::books::Books;
use harness::process::tail;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use tonnage_aggregator::model::RowKind;
use tonnage_aggregator::store::Location;
use tonnage_aggregator::store::server::TlsFiles;

const S: i64 = 1_000_000_000;
/// What people ask; nothing happens between two answers, and the clock stands.
const ASKED: [&str; 6] = [
    "/api/v1/cost/devices?window=today",
    "/api/v1/cost/nodes?window=today&step=1h",
    "/api/v1/devices",
    "/api/v1/unobserved?window=today",
    "/api/v1/quarantine",
    "/api/v1/audit/log",
];

/// A ledger in a folder with a minute in it, and a server for databases.
fn world() -> anyhow::Result<Option<(World, Server)>> {
    let Some((mut world, server)) = super::world()? else { return Ok(None) };
    world.aggregator.database = None;
    world.start()?;
    world.live(61)?;
    let log = world.aggregator.log();
    let done = || Ok((held_s(&world)? >= 60).then_some(()));
    wait_until(DEADLINE, "a minute in the ledger", || tail(&log), done)?;
    world.nodes[0].kill9()?;
    Ok(Some((world, server)))
}

fn held_s(world: &World) -> anyhow::Result<i128> {
    let held = Books::of(&world.aggregator.store()?)?.time(RowKind::Held, None);
    Ok(held.values().sum::<i128>() / i128::from(S))
}

/// All answers of the aggregator, which runs for this.
fn answers(world: &mut World) -> anyhow::Result<Vec<String>> {
    if world.aggregator.process().is_none() {
        world.aggregator.start(DEADLINE)?;
    }
    let aggregator = &world.aggregator;
    let asked = ASKED.iter().map(|path| {
        let (status, text) = aggregator.get(path)?;
        anyhow::ensure!(status == 200, "{path}: {status} {text}");
        Ok(text)
    });
    let answers = asked.collect::<anyhow::Result<Vec<String>>>()?;
    world.aggregator.stop(DEADLINE)?;
    Ok(answers)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn from_a_folder_to_a_database_and_back_every_figure_is_the_same_and_agents_go_on() -> anyhow::Result<()> {
    let Some((mut world, server)) = world()? else { return Ok(()) };
    let before = answers(&mut world)?;
    anyhow::ensure!(before[0].contains("\"held_cost\":\"0.0"), "{}", before[0]);
    let (folder, url) = (text(&world.aggregator.data_dir()), server.database()?);
    let said = world.aggregator.run(&["migrate", "--from", &folder, "--to", &url])?;
    anyhow::ensure!(said.contains("rows copied") && said.contains("conserved:"), "{said}");
    world.aggregator.database = Some(url.clone());
    assert_eq!(answers(&mut world)?, before);
    // And on there.
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    let held_s = held_s(&world)?;
    assert!((79..=81).contains(&held_s), "{held_s} s");
    let later = answers(&mut world)?;
    anyhow::ensure!(later[0] != before[0]);
    // Back, by each of the two ways.
    let [moved, restored] = ["moved", "restored"].map(|name| world.dir().join(name));
    world.aggregator.run(&["migrate", "--from", &url, "--to", &text(&moved)])?;
    let file = text(&world.dir().join("backup"));
    world.aggregator.admin(&["backup", &file])?;
    for (folder, same) in [(&moved, ASKED.len()), (&restored, ASKED.len() - 1)] {
        world.aggregator.database = None;
        if folder == &restored {
            world.aggregator.run(&["restore", &file, "--data", &text(folder)])?;
        }
        std::fs::remove_dir_all(world.aggregator.data_dir())?;
        std::fs::rename(folder, world.aggregator.data_dir())?;
        // The journal of one that was restored says so.
        assert_eq!(answers(&mut world)?[..same], later[..same], "{}", folder.display());
    }
    let another = server.database()?;
    world.aggregator.run(&["restore", &file, "--database-url", &another])?;
    world.aggregator.database = Some(another);
    assert_eq!(answers(&mut world)?[..ASKED.len() - 1], later[..ASKED.len() - 1]);
    Ok(())
}

#[test]
fn a_move_that_cannot_be_is_refused_in_words_and_leaves_both_sides_as_they_were() -> anyhow::Result<()> {
    let Some((mut world, server)) = world()? else { return Ok(()) };
    let (folder, url) = (text(&world.aggregator.data_dir()), server.database()?);
    let refused = |world: &World, from: &str, to: &str, says: &str| {
        let error = world.aggregator.run(&["migrate", "--from", from, "--to", to]).unwrap_err().to_string();
        anyhow::ensure!(error.contains(says), "{from} to {to}: {error}");
        Ok(())
    };
    refused(&world, &folder, &url, "another aggregator runs on it")?;
    let before = answers(&mut world)?;
    refused(&world, &folder, &folder, "is the same place as from")?;
    refused(&world, &url, &url, "is the same place as from")?;
    refused(&world, "/nowhere", &url, "there is no ledger in /nowhere")?;
    refused(&world, &folder, "postgres://t@127.0.0.1:1/x", "cannot be reached")?;
    refused(&world, &folder, "mysql://t@127.0.0.1/x", "postgres://")?;
    world.aggregator.run(&["migrate", "--from", &folder, "--to", &url])?;
    refused(&world, &folder, &url, "holds a ledger that something has entered already")?;
    // One that runs on a database is noticed as well.
    let empty = text(&world.dir().join("empty"));
    world.aggregator.database = Some(url.clone());
    world.aggregator.start(DEADLINE)?;
    let aggregator = &world.aggregator;
    wait_until(DEADLINE, "a refusal", String::new, || {
        Ok(refused(&world, &url, &empty, "an aggregator runs on the database").is_ok().then_some(()))
    })?;
    let file = text(&world.dir().join("backup"));
    aggregator.admin(&["backup", &file])?;
    let error = aggregator.admin(&["restore", &file]).unwrap_err().to_string();
    anyhow::ensure!(error.contains("an aggregator runs on the database"), "{error}");
    world.aggregator.stop(DEADLINE)?;
    let error = world.aggregator.admin(&["restore", &file]).unwrap_err().to_string();
    anyhow::ensure!(error.contains("holds a ledger"), "{error}");
    assert_eq!(answers(&mut world)?, before);
    Ok(())
}

#[test]
fn a_move_that_is_killed_midway_left_nothing_and_can_be_tried_again() -> anyhow::Result<()> {
    let Some((mut world, server)) = world()? else { return Ok(()) };
    let before = answers(&mut world)?;
    let (folder, url) = (text(&world.aggregator.data_dir()), server.database()?);
    // The last table is held, so that all others are copied and nothing is committed.
    let target = Location::database(&url, false, &TlsFiles::default())?.open()?;
    let holder = target.reader()?;
    holder.execute_batch("BEGIN; LOCK TABLE token IN ACCESS EXCLUSIVE MODE")?;
    let mut moving = world.aggregator.program(&["migrate", "--from", &folder, "--to", &url]);
    let mut moving = moving.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let waits =
        "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%token%'";
    wait_until(DEADLINE, "the copy to be midway", String::new, || {
        Ok((server.sql(&url, waits)?.trim() != "0").then_some(()))
    })?;
    moving.kill()?;
    moving.wait()?;
    holder.execute_batch("ROLLBACK")?;
    drop(holder);
    let gone = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'";
    wait_until(DEADLINE, "the server to notice", String::new, || {
        Ok((server.sql(&url, gone)?.trim() == "0").then_some(()))
    })?;
    assert_eq!(server.sql(&url, "SELECT COUNT(*) FROM journal")?.trim(), "0");
    world.aggregator.run(&["migrate", "--from", &folder, "--to", &url])?;
    world.aggregator.database = Some(url);
    assert_eq!(answers(&mut world)?, before);
    Ok(())
}
