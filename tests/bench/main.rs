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
}

#[derive(Debug, Clone, Subcommand)]
enum Part {
    /// Memory, CPU, size and start of the agent
    Agent,
    /// Windows per second, queries, memory and start of the aggregator
    Aggregator,
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
        aggregator::measure()?;
    }
    Ok(())
}
