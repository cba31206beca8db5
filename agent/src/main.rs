//! The agent's process: parse, log, run.

use std::process::ExitCode;

use clap::Parser;
use tonnage_agent::config::{Cli, Command};
use tonnage_agent::{check, node};
use tonnage_proto::token::{self, masked};
use tonnage_runtime::{heap, telemetry};

mod orders;

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where the process talks to people")]
fn main() -> ExitCode {
    if let Some(wrong) = token::in_arguments(std::env::args_os()) {
        eprintln!("tonnage-agent: {wrong}");
        return ExitCode::from(orders::USAGE);
    }
    let (args, checking) = match Cli::parse().command {
        Command::Run(args) => (args, false),
        Command::Check(args) => (args, true),
        Command::Release(args) => return orders::release(args),
        Command::Resume(args) => return orders::resume(args),
        Command::Gate(args) => return orders::gate(*args),
    };
    // Before anything large is allocated.
    heap::keep_large_buffers_apart();
    let config = match args.resolve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("tonnage-agent: {}", masked(&telemetry::chain(&error)));
            return ExitCode::from(orders::USAGE);
        }
    };
    telemetry::init(config.log_level, config.log_format);
    // One thread serves the uplink and the admin port; two more may wait for names to be resolved.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "The system refused what a runtime needs.");
            return ExitCode::FAILURE;
        }
    };
    let code = if checking {
        let findings = runtime.block_on(check::check(&config));
        print!("{}", findings.text);
        if findings.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    } else {
        match runtime.block_on(node::run(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = telemetry::chain(&error), "The agent ended.");
                ExitCode::FAILURE
            }
        }
    };
    runtime.shutdown_background();
    code
}
