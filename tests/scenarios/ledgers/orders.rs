//! What people have a ledger do, by the command line as they use it.

use std::process::{Command, Output};

use harness::forged::{Forged, seal, window};
use harness::world::{DEADLINE, World};
use tonnage_proto::metering::ack::Outcome;

const S: i64 = 1_000_000_000;

/// The command line on the world's aggregator.
fn tonnage(world: &World, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(&world.binaries().cli);
    command.args(["--url", &world.aggregator.url()]).args(args).env_remove("TONNAGE_TOKEN_FILE");
    command.stdin(std::process::Stdio::null());
    Ok(command.output()?)
}

pub(crate) fn said(world: &World, args: &[&str]) -> anyhow::Result<String> {
    let output = tonnage(world, args)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.success(), "{args:?}: {out}{err}");
    Ok(out.into_owned())
}

pub(crate) fn refused(world: &World, args: &[&str]) -> anyhow::Result<String> {
    let output = tonnage(world, args)?;
    anyhow::ensure!(output.status.code() == Some(1), "{args:?}: {:?}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A GPU that two nodes claim: the owner's 20 s count, of the clone's 20 s the half that is free.
fn disputed() -> anyhow::Result<(World, i64)> {
    let mut world = World::new(1)?;
    world.aggregator.start(DEADLINE)?;
    let now = world.now().wall_ns;
    let own = Forged::new(&world.aggregator.uplink(), "c", "own")?;
    let clone = Forged::new(&world.aggregator.uplink(), "c", "clone")?;
    let (mut wire, _) = own.open()?;
    let ten = (10 * S).unsigned_abs();
    let windows = vec![window(now - 40 * S, ten, 6), window(now - 30 * S, ten, 6)];
    anyhow::ensure!(wire.ack(seal(&own.batch(1, windows)))?.0 == Outcome::Accepted);
    let mut batch = clone.batch(1, vec![window(now - 30 * S, ten, 4), window(now - 20 * S, ten, 4)]);
    batch.devices[0].uuid = "GPU-own".to_owned();
    let (mut wire, _) = clone.open()?;
    let (outcome, detail) = wire.ack(seal(&batch))?;
    anyhow::ensure!(outcome == Outcome::Quarantined, "{detail}");
    Ok((world, now))
}

#[test]
fn a_quarantined_window_is_listed_explained_and_not_released_into_taken_time() -> anyhow::Result<()> {
    let (world, _) = disputed()?;
    let list = said(&world, &["quarantine", "list"])?;
    anyhow::ensure!(
        list.contains("GPU-own") && list.contains("overlap") && list.contains("1 windows"),
        "{list}"
    );
    let explained = said(&world, &["quarantine", "explain", "1"])?;
    for part in ["from node clone", "clone.service", "counted instead: node own", "stop the other's agent"] {
        anyhow::ensure!(explained.contains(part), "{part}: {explained}");
    }
    let error = refused(&world, &["quarantine", "release", "1"])?;
    anyhow::ensure!(error.contains("--yes"), "{error}");
    let error = refused(&world, &["quarantine", "release", "1", "--yes"])?;
    anyhow::ensure!(error.contains("its time is not free") && error.contains("own"), "{error}");
    let error = refused(&world, &["quarantine", "release", "99", "--yes"])?;
    anyhow::ensure!(error.contains("no quarantined window 99"), "{error}");
    let error = refused(&world, &["quarantine", "list", "--state", "lost"])?;
    anyhow::ensure!(error.contains("state \"lost\" is none of held"), "{error}");
    let verified = said(&world, &["audit", "verify"])?;
    anyhow::ensure!(verified.contains("conserved:"), "{verified}");
    Ok(())
}

#[test]
fn a_window_from_a_clock_that_was_ahead_is_released_once_its_time_has_come() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.aggregator.start(DEADLINE)?;
    let now = world.now().wall_ns;
    let forged = Forged::new(&world.aggregator.uplink(), "c", "n")?;
    let (mut wire, _) = forged.open()?;
    let ten = (10 * S).unsigned_abs();
    let batch = forged.batch(1, vec![window(now - 10 * S, ten, 1), window(now + 300 * S, ten, 1)]);
    anyhow::ensure!(wire.ack(seal(&batch))?.0 == Outcome::Quarantined);
    let error = refused(&world, &["quarantine", "release", "1", "--yes"])?;
    anyhow::ensure!(error.contains("ends after the ledger's now"), "{error}");
    world.advance(400 * S)?;
    let done = said(&world, &["quarantine", "release", "1", "--yes"])?;
    anyhow::ensure!(done.contains("is counted"), "{done}");
    let list = said(&world, &["quarantine", "list", "--state", "released", "-o", "csv"])?;
    anyhow::ensure!(list.lines().count() == 2 && list.contains("clock_ahead"), "{list}");
    let log = said(&world, &["audit", "log", "-o", "csv"])?;
    for part in [",batch,c,n,1,quarantined,", ",release,,,0,,", ",price_book,"] {
        anyhow::ensure!(log.contains(part), "{part}: {log}");
    }
    anyhow::ensure!(said(&world, &["audit", "verify"])?.contains("conserved:"));
    Ok(())
}

#[test]
fn a_retired_gpu_no_longer_goes_unobserved() -> anyhow::Result<()> {
    let (mut world, now) = disputed()?;
    world.advance(3 * 3600 * S)?;
    let silent = || -> anyhow::Result<i64> {
        let text = said(&world, &["unobserved", "--window", "today", "-o", "csv"])?;
        let row = text.lines().find(|line| line.contains(",silent,"));
        Ok(row.and_then(|row| row.rsplit(',').next()?.split('.').next()?.parse().ok()).unwrap_or(0))
    };
    harness::wait::wait_until(DEADLINE, "silence that was noted", String::new, || {
        Ok((silent()? > 3600).then_some(()))
    })?;
    let devices = said(&world, &["devices"])?;
    anyhow::ensure!(devices.contains("silent"), "{devices}");
    let error = refused(&world, &["devices", "retire", "GPU-own", "--at", "yesterday"])?;
    anyhow::ensure!(error.contains("at \"yesterday\" is not a time"), "{error}");
    let error = refused(&world, &["devices", "retire", "GPU-other"])?;
    anyhow::ensure!(error.contains("GPU-other"), "{error}");
    let at = rfc3339(now);
    let done = said(&world, &["devices", "retire", "GPU-own", "--at", &at])?;
    anyhow::ensure!(done.contains("is retired since"), "{done}");
    anyhow::ensure!(silent()? <= 20, "{}", silent()?);
    anyhow::ensure!(said(&world, &["devices"])?.contains("retired"));
    anyhow::ensure!(said(&world, &["audit", "verify"])?.contains("conserved:"));
    Ok(())
}

/// RFC 3339 of the simulated beginning plus whole seconds, which lies at a round time of 15 January 2027.
fn rfc3339(at_ns: i64) -> String {
    let seconds = (at_ns - harness::sim_clock::BEGIN_NS) / S;
    format!("2027-01-15T08:{:02}:{:02}Z", seconds / 60, seconds % 60)
}
