//! `make bench`: what the agent and the aggregator cost and carry, as real release processes, beside a yardstick
//! measured in the same run.
//!
//! ```text
//! agent       age a node in simulated time -> its spool, full -> starts -> a minute at 1 Hz in real time
//! aggregator  agents in this process -> windows per second | bare SQLite, bare fsync -> a ledger -> queries
//! ```
//!
//! Every figure is one line: `name value unit (note)`. Nothing here fails because a figure is bad: aims stand beside
//! the figures for people to compare. docs/measurements.md says what the figures mean.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod agent;
mod aggregator;
mod cores;
mod driver_alone;
mod report;
mod usage;

/// Measure the agent and the aggregator; without a command, both.
#[derive(Debug, Parser)]
#[command(name = "tonnage-bench")]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// How long the agent is watched, in seconds
    #[arg(long, default_value_t = 60, global = true)]
    seconds: u64,
    /// GPUs of the fleet whose ledger is asked; it has as many namespaces and ten times as many pods [default: 10,000, and a
    /// tenth of it in PostgreSQL, where so many rows take long to write]
    #[arg(long, global = true, value_parser = clap::value_parser!(i64).range(8..=100_000))]
    gpus: Option<i64>,
    /// Agents of the crowd, each with 8 GPUs and a connection of its own: two file descriptors apiece here and one there
    #[arg(long, default_value_t = 10_000, global = true, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    agents: u32,
    /// One engine alone [default: all that are installed]
    #[arg(long, global = true)]
    engine: Option<Which>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Sqlite,
    Postgres,
}

#[derive(Debug, Clone, Subcommand)]
enum Part {
    /// Memory, CPU, size and start of the agent
    Agent,
    /// Windows per second, queries, memory and start of the aggregator
    Aggregator,
    /// Ninety days of a large fleet in groups, on both engines
    Queries,
    /// Many connected agents at real time, on both engines
    Crowd,
    /// Checks of a budget by 64 clients, beside bare transactions, on both engines
    Checks,
    /// Reads a simulated driver once a second until it is killed, and does nothing else
    #[command(hide = true)]
    DriverAlone { library: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Part::DriverAlone { library }) = cli.part {
        return driver_alone::run(library);
    }
    if cfg!(debug_assertions) {
        report::note("A debug build: these figures say nothing. Use `make bench`.");
    }
    report::machine();
    if matches!(cli.part, None | Some(Part::Agent)) {
        agent::measure(cli.seconds)?;
    }
    if matches!(cli.part, None | Some(Part::Aggregator)) {
        aggregator::measure(cli.engine)?;
    }
    if matches!(cli.part, None | Some(Part::Queries)) {
        aggregator::measure_queries(cli.engine, cli.gpus)?;
    }
    if matches!(cli.part, None | Some(Part::Crowd)) {
        aggregator::measure_crowd(cli.engine, cli.agents)?;
    }
    if matches!(cli.part, None | Some(Part::Checks)) {
        aggregator::measure_checks(cli.engine)?;
    }
    Ok(())
}
