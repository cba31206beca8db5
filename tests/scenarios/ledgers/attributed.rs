//! Accounts, intruders, idle holders and the nodes file through whole processes: over the wire in, by the command line
//! out.

use harness::forged::{Forged, seal, window};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::{Batch, Owner, Usage, owner, usage};
use tonnage_proto::method::{BUSY_PROCESS, HELD_ALLOCATION};

use super::orders::{refused, said};

const S: i64 = 1_000_000_000;

/// A minute of a GPU that a job holds by allocation and uses by half, while a user is there, too.
fn batch(forged: &Forged, now: i64) -> Batch {
    let ten = (10 * S).unsigned_abs();
    let windows = (1..=6).rev().map(|cell| {
        let mut window = window(now - cell * 10 * S, ten, ten);
        window.usages[0].method = HELD_ALLOCATION | BUSY_PROCESS;
        window.usages.push(Usage {
            owner: 1,
            kind: usage::Kind::Intruder.into(),
            busy_ns: ten / 5,
            energy_uj: 1_000_000,
            method: BUSY_PROCESS,
            ..Usage::default()
        });
        window.busy_unattributed_ns = 1_000_000_000;
        window
    });
    let mut batch = forged.batch(1, windows.collect());
    batch.owners = vec![
        Owner {
            kind: owner::Kind::SlurmJob.into(),
            job_id: "4711".into(),
            user: "ada".into(),
            account: "physics".into(),
            partition: "gpu".into(),
            ..Owner::default()
        },
        Owner { kind: owner::Kind::User.into(), user: "eve".into(), ..Owner::default() },
    ];
    batch
}

#[test]
fn accounts_intruders_and_idle_holders_are_told_by_the_command_line() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.aggregator.start(DEADLINE)?;
    let now = world.now().wall_ns;
    let forged = Forged::new(&world.aggregator.uplink(), "c", "n1")?;
    let (mut wire, _) = forged.open()?;
    let (outcome, detail) = wire.ack(seal(&batch(&forged, now)))?;
    anyhow::ensure!(outcome == Outcome::Accepted, "{detail}");

    let cost = said(&world, &["cost", "--by", "account,partition", "--no-idle", "-o", "csv"])?;
    // A minute at 3.60 an hour.
    anyhow::ensure!(
        cost.contains("physics,gpu,60.000000000,30.000000000,") && cost.contains(",0.060000000,"),
        "{cost}"
    );
    let none = said(&world, &["cost", "--account", "biology", "--no-idle", "-o", "csv"])?;
    anyhow::ensure!(none.lines().count() == 1, "{none}");

    let idle = said(&world, &["idle"])?;
    for part in [
        "HELD BY",
        "job 4711 ada",
        "50.0",
        "0.030000",
        "Intruders (1 of 1)",
        "user eve",
        "Unattributed (1 of 1)",
    ] {
        anyhow::ensure!(idle.contains(part), "{part}: {idle}");
    }
    let rows = said(&world, &["idle", "--last", "1h", "--account", "physics", "-o", "csv"])?;
    anyhow::ensure!(
        rows.lines().count() == 2
            && rows.contains(",60.000000000,30.000000000,30.000000000,0.000000000,0.030000000,"),
        "{rows}"
    );
    let top = said(&world, &["top", "--once"])?;
    anyhow::ensure!(top.contains("user eve (intruder)"), "{top}");
    let error = refused(&world, &["idle", "--window", "fortnight"])?;
    anyhow::ensure!(error.contains("is not a window"), "{error}");
    anyhow::ensure!(said(&world, &["audit", "verify"])?.contains("conserved:"));
    let (_, metrics) = world.aggregator.get("/metrics")?;
    let line = r#"tonnage_held_idle_seconds_total{account="physics",cluster="c",namespace=""} 30"#;
    anyhow::ensure!(metrics.contains(line), "{metrics}");
    Ok(())
}

#[test]
fn the_nodes_file_prices_what_agents_say_nothing_of_and_a_wrong_one_changes_nothing() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let nodes = world.dir().join("nodes.toml");
    let path = nodes.to_string_lossy().into_owned();
    let says =
        |region: &str| std::fs::write(&nodes, format!("[[node]]\nname = \"n*\"\nregion = \"{region}\"\n"));
    says("eu")?;
    let book =
        "currency = \"USD\"\n[[price]]\nmatch = { region = \"eu\" }\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";
    std::fs::write(world.aggregator.prices(), book)?;
    world.aggregator.extra_args = vec!["--nodes-file".to_owned(), path.clone()];
    world.aggregator.start(DEADLINE)?;
    let now = world.now().wall_ns;
    let forged = Forged::new(&world.aggregator.uplink(), "c", "n1")?;
    let (mut wire, _) = forged.open()?;
    anyhow::ensure!(wire.ack(seal(&batch(&forged, now)))?.0 == Outcome::Accepted);
    let until_cost = |world: &mut World, cost: &str| {
        wait_until(DEADLINE, cost, String::new, || {
            // The files are looked at every two seconds of the world's time.
            world.move_clock(3 * S)?;
            let text = said(world, &["cost", "--window", "today", "--no-idle", "-o", "csv"])?;
            Ok(text.contains(cost).then_some(()))
        })
    };
    until_cost(&mut world, ",0.060000000,")?;
    anyhow::ensure!(said(&world, &["nodes", "-o", "csv"])?.contains(",eu,"));

    std::fs::write(&nodes, "[[node]]\nname = \"n*\"\nregon = \"us\"\n")?;
    wait_until(DEADLINE, "a refused file", String::new, || {
        world.move_clock(3 * S)?;
        let (_, text) = world.aggregator.get("/api/v1/prices")?;
        Ok(text.contains("line 3: node: \\\"regon\\\" is not a key of a node").then_some(()))
    })?;
    until_cost(&mut world, ",0.060000000,")?;
    says("us")?;
    until_cost(&mut world, ",0.000000000,0.000000000,0.000000000,0.000000000,0.000000000,")?;
    anyhow::ensure!(said(&world, &["audit", "verify"])?.contains("conserved:"));
    // The journal has it, whatever becomes of the files.
    std::fs::remove_file(&nodes)?;
    world.aggregator.stop(DEADLINE)?;
    anyhow::ensure!(world.aggregator.admin(&["verify"])?.contains("conserved:"));
    Ok(())
}
