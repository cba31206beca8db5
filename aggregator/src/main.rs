//! The aggregator's process: parse, log, run.

use std::process::ExitCode;

use clap::Parser;
use tonnage_aggregator::config::{Cli, Command};
use tonnage_aggregator::{admin, serve};
use tonnage_proto::token::{self, masked};
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::{self, chain};

/// Exit status of wrong usage, as in sysexits.h.
const USAGE: u8 = 64;

#[allow(clippy::print_stderr, reason = "this is where the process talks to people")]
fn main() -> ExitCode {
    if let Some(wrong) = token::in_arguments(std::env::args_os()) {
        eprintln!("tonnage-aggregator: {wrong}");
        return ExitCode::from(USAGE);
    }
    let done = match Cli::parse().command {
        Command::Serve(args) => match args.resolve() {
            Ok(config) => {
                telemetry::init(config.log_level, config.log_format);
                run(config)
            }
            Err(error) => {
                eprintln!("tonnage-aggregator: {}", masked(&chain(&error)));
                return ExitCode::from(USAGE);
            }
        },
        Command::Verify(store) => admin::verify_ledger(store),
        Command::Backup { store, file } => admin::backup(store, &file).map(|()| true),
        Command::Migrate { from, to } => admin::migrate(&from, &to).map(|()| true),
        Command::Restore { store, file, replace, simulated_clock } => {
            admin::restore(store, &file, replace, simulated_clock.as_deref()).map(|()| true)
        }
        Command::Succeed { store, ledger_id } => admin::succeed(store, &ledger_id).map(|()| true),
        Command::Token(command) => admin::token(command, &Clock::system()).map(|()| true),
        Command::Openapi => admin::openapi().map(|()| true),
        Command::CheckPrices { file, nodes_file } => admin::check_prices(file, nodes_file).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tonnage-aggregator: {}", masked(&chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run(config: tonnage_aggregator::config::Config) -> Result<bool, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve::run(config));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(done.map(|()| true)?)
}
