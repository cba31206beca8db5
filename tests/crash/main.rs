//! `make crash`: a storm over real agents and a real aggregator, by seed, and the verdict over what is left.
//!
//! ```text
//! plan (seed) -> storm (processes, clock, network) -> verdict (ledger against reference) -> one line, exit status
//! ```
//!
//! Or, with --simulated, as many short histories in this process alone: see `simulated`.
//!
//! The plan is the seed's. What a kill hits within a process, and after how many bytes a cut finds it, is the machine's
//! affair: a seed brings back its storm, not every interleaving.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use harness::sim_clock::BEGIN_NS;
use postgres_server::Server;
use tonnage_runtime::clock::Clock;

mod plan;
mod reasons;
mod simulated;
mod storm;
mod verdict;

/// Kill, cut and set back agents and their ledger, and see whether anything is lost or counted twice.
#[derive(Debug, Parser)]
#[command(name = "tonnage-crash")]
struct Cli {
    /// Which storm; a new one without
    #[arg(long)]
    seed: Option<u64>,
    /// How often a process is killed
    #[arg(long, default_value_t = 40)]
    kills: u32,
    /// How many agents there are
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
    /// Where the ledger is: in a folder, or in a PostgreSQL that is killed too
    #[arg(long, default_value = "sqlite")]
    store: Engine,
    /// Only say what would happen
    #[arg(long)]
    plan: bool,
    /// So many short histories in this process instead, on a simulated disk, network and clock
    #[arg(long, value_name = "HISTORIES")]
    simulated: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Sqlite,
    Postgres,
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to people")]
fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(rand::random);
    let nodes = usize::from(cli.nodes);
    if cli.plan {
        print!("{}", plan::Plan::new(seed, nodes, cli.kills, BEGIN_NS));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(histories) = cli.simulated {
        return simulate(seed, histories);
    }
    let database = if cli.store == Engine::Postgres { Some(Server::start(&[])?) } else { None };
    let mut storm = storm::Storm::new(seed, nodes, cli.kills, database)?;
    let judged = storm.blow().context("the storm could not go on").and_then(|()| verdict::judge(&mut storm));
    eprint!("{}", storm.story.lines().last().map(|line| format!("{line}\n")).unwrap_or_default());
    eprintln!("backups {}\nrestores {}\nfull disks {}", storm.backups, storm.restores, storm.full.len());
    eprintln!("kills of the database {}, older copies {}", storm.kills_of_database, storm.copies);
    for (what, count) in storm.network.counts().named() {
        eprintln!("{what} {count}");
    }
    let wrong = match &judged {
        Ok(verdict) => {
            for (reason, time_ns) in &verdict.reasons {
                eprintln!("{reason} {time_ns} ns");
            }
            println!("{verdict}");
            verdict.wrong.clone()
        }
        Err(error) => vec![format!("{error:#}")],
    };
    if wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let report = format!("seed {seed}\n\n{}\n\n{}\n{}", wrong.join("\n"), storm.plan, storm.story);
    let folder = storm.world.keep_folder().to_owned();
    std::fs::write(folder.join("storm"), report)?;
    for line in wrong.iter().take(10) {
        eprintln!("WRONG: {line}");
    }
    eprintln!(
        "{} findings; ledger, spools, logs and the storm's story are in {}",
        wrong.len(),
        folder.display()
    );
    Ok(ExitCode::FAILURE)
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to people")]
fn simulate(seed: u64, histories: u64) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let begin_ns = clock.monotonic_ns();
    eprintln!("seed {seed}");
    let totals = simulated::run(seed, histories)?;
    let took_ms = (clock.monotonic_ns() - begin_ns).unsigned_abs() / 1_000_000;
    println!("{totals:?}");
    let rate = |count: u64| count * 1_000 / took_ms.max(1);
    println!("{took_ms} ms: {} steps and {} events a second", rate(totals.steps), rate(totals.events));
    Ok(ExitCode::SUCCESS)
}
