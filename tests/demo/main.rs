//! `make demo`: an aggregator and agents on two simulated nodes, as separate processes like in production; and a real
//! node too where this machine has an NVIDIA driver. Shows who holds the GPUs and what it costs, until Ctrl-C or for
//! `--for` seconds; then stops all of it, agents first, and has the ledger recomputed from the journal.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demo is for people to read")]

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;

mod fleet;
mod story;
mod table;

use fleet::Fleet;

/// Shows Tonnage at work on two simulated nodes.
#[derive(Debug, Parser)]
struct Args {
    /// End after so many seconds; without it, at Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u32>,
}

/// Between two tables; longer where they are not drawn over each other.
const REFRESH_NS: i64 = 1_000_000_000;
const REFRESH_PLAIN_NS: i64 = 10_000_000_000;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if the ledger is conserved.
fn run(args: &Args) -> anyhow::Result<bool> {
    let stop = signals()?;
    let clock = Clock::system();
    let folder = tempfile::Builder::new().prefix("tonnage-demo-").tempdir()?;
    println!("Starting an aggregator and the agents of two simulated nodes ...");
    let mut fleet = Fleet::start(folder.path(), clock.wall_ns())?;
    let started_ns = clock.monotonic_ns();
    let end_ns = args.seconds.map(|seconds| started_ns + i64::from(seconds) * 1_000_000_000);
    let screen = std::io::stdout().is_terminal();
    let refresh_ns = if screen { REFRESH_NS } else { REFRESH_PLAIN_NS };
    let mut next_ns = started_ns;
    let mut shown = String::new();
    while !stop.is_set() && end_ns.is_none_or(|end_ns| clock.monotonic_ns() < end_ns) {
        let table = table::draw(&fleet, true)?;
        if screen {
            // Home, the table, and whatever was below it before erased.
            print!("\x1b[H\x1b[2J{table}");
        } else if table != shown {
            println!("{table}");
        }
        std::io::Write::flush(&mut std::io::stdout())?;
        // The first figures should not wait for a slow refresh.
        let empty = !table.contains("idle");
        shown = table;
        next_ns += if empty { REFRESH_NS } else { refresh_ns };
        let wake_ns = end_ns.map_or(next_ns, |end_ns| next_ns.min(end_ns));
        clock.sleep_until(wake_ns, || stop.is_set());
    }
    println!("Stopping the agents; they deliver what they still hold ...");
    fleet.stop_agents(Duration::from_secs(20))?;
    println!("{}", table::draw(&fleet, false)?);
    println!("Held and not used (tonnage idle):\n\n{}", fleet.idle()?);
    fleet.stop_aggregator(Duration::from_secs(20))?;
    let (conserved, report) = fleet.verify()?;
    print!("{report}");
    Ok(conserved)
}

/// A token that Ctrl-C and SIGTERM pull.
fn signals() -> anyhow::Result<Shutdown> {
    let stop = Shutdown::new();
    let token = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            if let Err(error) = token.on_signals() {
                eprintln!("demo: Ctrl-C cannot be caught: {error}");
            }
            token.wait().await;
        });
    });
    Ok(stop)
}
