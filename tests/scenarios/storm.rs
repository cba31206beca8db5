//! `make crash`, short: storms that are always the same and storms that are new each time.

use std::process::Command;

const KILLS: u32 = 40;
const HISTORIES: u32 = 250;

/// Runs a storm to its verdict. A failed one leaves its folder behind, and says where.
#[allow(clippy::print_stdout, reason = "whoever reads a failed test needs the storm's figures")]
fn survives(seed: u64) -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonnage-crash"));
    let output = command.args(["--seed", &seed.to_string(), "--kills", &KILLS.to_string()]).output()?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{errors}");
    anyhow::ensure!(output.status.success(), "seed {seed}: {said}\n{errors}");
    let figure = |name: &str| -> Option<u64> {
        said.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    for name in ["lost_ns", "doubled_ns", "lost_nanos"] {
        anyhow::ensure!(figure(name) == Some(0), "{said}");
    }
    // A storm that harmed nothing shows nothing.
    anyhow::ensure!(figure("kills") == Some(u64::from(KILLS)), "{said}");
    anyhow::ensure!(figure("cuts") > Some(0) && figure("killed_ns") > Some(0), "{said}");
    Ok(())
}

#[test]
fn after_a_storm_nothing_is_lost_and_nothing_is_there_twice() -> anyhow::Result<()> {
    survives(20_260_101)
}

#[test]
fn after_a_storm_nothing_is_lost_and_nothing_is_there_twice_whatever_the_seed() -> anyhow::Result<()> {
    survives(rand::random())
}

/// Runs simulated histories and gives the line that says what happened in them.
#[allow(clippy::print_stdout, reason = "whoever reads a failed test needs the seed")]
fn simulated(seed: u64, histories: u32) -> anyhow::Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonnage-crash"));
    let output =
        command.args(["--seed", &seed.to_string(), "--simulated", &histories.to_string()]).output()?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{errors}");
    anyhow::ensure!(output.status.success(), "seed {seed}: {said}\n{errors}");
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_seed_brings_back_its_simulated_histories_to_the_last_message() -> anyhow::Result<()> {
    let once = simulated(20_260_101, 25)?;
    anyhow::ensure!(once.contains("hash") && once == simulated(20_260_101, 25)?, "{once}");
    anyhow::ensure!(once != simulated(20_260_102, 25)?, "{once}");
    Ok(())
}

#[test]
fn in_hundreds_of_simulated_histories_the_ledger_has_what_disks_kept_once() -> anyhow::Result<()> {
    simulated(rand::random(), HISTORIES).map(drop)
}
