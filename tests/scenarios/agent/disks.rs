//! Disks that fail under a running agent: full, read-only, taken away, wrecked. What could be kept is in the ledger
//! once; what could not is told as such; the agent meters on.
//!
//! Full and read-only disks are small tmpfs mounts. Where mounting is refused these tests say so and are skipped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::metering::gap::Reason;

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

fn held_s(world: &World) -> anyhow::Result<i128> {
    let books = Books::read(&world.aggregator.data_dir())?;
    Ok(books.time(RowKind::Held, None).values().sum::<i128>() / i128::from(S))
}

/// Seconds that the ledger was told of as lost by the spool.
fn spool_gaps_s(world: &World) -> anyhow::Result<i128> {
    let books = Books::read(&world.aggregator.data_dir())?;
    let batches = books.entries.iter().filter_map(|entry| entry.batch.as_ref());
    let gaps = batches.flat_map(|batch| &batch.gaps).filter(|gap| gap.reason() == Reason::Spool);
    Ok(gaps.map(|gap| i128::from(gap.duration_ns)).sum::<i128>() / i128::from(S))
}

fn log(world: &World) -> String {
    std::fs::read_to_string(world.nodes[0].log()).unwrap_or_default()
}

fn wait_log(world: &World, text: &str) -> anyhow::Result<()> {
    wait_until(DEADLINE, text, || log(world), || Ok(log(world).contains(text).then_some(())))
}

/// A mount that goes with its test.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, said aloud, where this machine does not allow it.
    #[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
    fn mount(at: &Path, options: &str) -> Option<Self> {
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            refused => {
                eprintln!("SKIPPED: no tmpfs can be mounted here: {refused:?}");
                None
            }
        }
    }

    fn remount(&self, options: &str) -> anyhow::Result<()> {
        let options = format!("remount,{options}");
        let output = Command::new("mount").args(["-o", &options]).arg(&self.0).output()?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Writes a file until the disk is full.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path)?;
    for bytes in [64 << 10, 4 << 10] {
        while file.write_all(&vec![1; bytes]).is_ok() {}
    }
    Ok(())
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_what_it_could_not_hold_and_says_so() -> anyhow::Result<()> {
    let mut world = world()?;
    let spool = world.nodes[0].spool();
    let Some(_tmpfs) = Tmpfs::mount(&spool, "size=4m") else { return Ok(()) };
    world.nodes[0].start(DEADLINE)?;
    world.live(60)?;
    let ballast = spool.join("ballast");
    fill(&ballast)?;
    // Long enough for the reserve to be used up and for what waits in memory to overflow.
    world.live(5_000)?;
    anyhow::ensure!(world.nodes[0].get("/readyz")?.0 == 200, "metering does not wait for the disk");
    assert!(log(&world).contains("disk is full"), "{}", log(&world));
    std::fs::remove_file(&ballast)?;
    world.live(60)?;
    world.aggregator.start(DEADLINE)?;
    world.live(70)?;
    world.nodes[0].stop(DEADLINE)?;
    let (held_s, lost_s) = (held_s(&world)?, spool_gaps_s(&world)?);
    assert_eq!(held_s + lost_s, 60 + 5_000 + 60 + 70, "held {held_s} s, lost {lost_s} s");
    assert!(held_s >= 60 + 60 + 70, "{held_s}");
    Ok(())
}

#[test]
fn a_disk_that_is_read_only_at_the_start_loses_nothing_if_it_is_mended_in_time() -> anyhow::Result<()> {
    let mut world = world()?;
    let Some(tmpfs) = Tmpfs::mount(&world.nodes[0].spool(), "size=4m,ro") else { return Ok(()) };
    world.start()?;
    world.live(60)?;
    let metrics = world.nodes[0].metrics()?;
    assert_eq!(metrics.sum("tonnage_agent_spool_open"), Some(0.0));
    assert!(metrics.sum("tonnage_agent_spool_waiting") > Some(3.0), "{metrics:?}");
    assert!(log(&world).contains("The spool cannot be opened"), "{}", log(&world));
    tmpfs.remount("rw")?;
    world.live(60)?;
    let metrics = world.nodes[0].metrics()?;
    assert_eq!(metrics.sum("tonnage_agent_spool_open"), Some(1.0));
    assert_eq!(metrics.sum("tonnage_agent_windows_dropped_total"), Some(0.0));
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!((held_s(&world)?, spool_gaps_s(&world)?), (120, 0));
    Ok(())
}

#[test]
fn a_folder_that_is_deleted_under_the_agent_loses_nothing_and_doubles_nothing() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(20)?;
    // Away, so that there are batches and drafts that are not acked.
    world.aggregator.kill9()?;
    world.live(100)?;
    std::fs::remove_dir_all(world.nodes[0].spool())?;
    world.live(60)?;
    wait_log(&world, "was deleted or replaced under the agent")?;
    world.nodes[0].kill9()?;
    world.nodes[0].start(DEADLINE)?;
    world.aggregator.start(DEADLINE)?;
    world.live(30)?;
    world.nodes[0].stop(DEADLINE)?;
    // A batch whose ack was lost came again under the new epoch: it was seen to be there already.
    assert_eq!(held_s(&world)?, 20 + 100 + 60 + 30);
    Ok(())
}

#[test]
fn a_database_that_was_wrecked_while_no_agent_ran_is_told_and_moved_aside() -> anyhow::Result<()> {
    for wreck in ["emptied", "gone", "garbage"] {
        let mut world = world()?;
        world.start()?;
        world.live(20)?;
        world.nodes[0].stop(DEADLINE)?;
        let spool = world.nodes[0].spool();
        let epoch = std::fs::read_to_string(spool.join("epoch"))?;
        let database = spool.join("db");
        let bytes = std::fs::metadata(&database)?.len();
        match wreck {
            "emptied" => std::fs::write(&database, [])?,
            "gone" => std::fs::remove_file(&database)?,
            _ => std::fs::write(&database, vec![0x5a; usize::try_from(bytes)?])?,
        }
        world.start()?;
        world.live(20)?;
        world.nodes[0].stop(DEADLINE)?;
        let said = log(&world);
        assert!(wreck == "garbage" || said.contains(epoch.trim()), "{wreck}: {said}");
        assert!(said.contains("aside"), "{wreck}: {said}");
        let beside = std::fs::read_dir(spool.parent().expect("a parent"))?.flatten();
        let aside = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().contains("unreadable");
        assert_eq!(beside.filter(aside).count(), 1, "{wreck}");
        assert_eq!(held_s(&world)?, 40, "{wreck}");
    }
    Ok(())
}

#[test]
fn a_wrecked_database_on_a_disk_of_its_own_is_moved_into_a_folder_there() -> anyhow::Result<()> {
    let mut world = world()?;
    let spool = world.nodes[0].spool();
    let Some(_tmpfs) = Tmpfs::mount(&spool, "size=8m") else { return Ok(()) };
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    std::fs::write(spool.join("db"), [])?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    let aside = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("unreadable.");
    let aside: Vec<_> = std::fs::read_dir(&spool)?.flatten().filter(aside).collect();
    assert!(aside.len() == 1 && aside[0].path().join("conf").exists(), "{aside:?}");
    assert_eq!(held_s(&world)?, 40);
    Ok(())
}

#[test]
fn a_second_agent_on_the_same_spool_ends_and_says_why() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    let other = world.add_node("other", scenario::node(1))?;
    std::fs::remove_dir(world.nodes[other].spool())?;
    std::os::unix::fs::symlink(world.nodes[0].spool(), world.nodes[other].spool())?;
    let output = world.nodes[other].command("run").output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains("another agent has it open"), "{said}");
    world.live(12)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(held_s(&world)?, 12);
    Ok(())
}
