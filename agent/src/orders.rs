//! The commands that are no agent: those that have a running one do something, ask it, and say what it answered; and the gate.

use std::path::PathBuf;
use std::process::ExitCode;

use tonnage_agent::config::{ControlArgs, GateArgs, ReleaseArgs};
use tonnage_agent::gate_node;
use tonnage_agent::release::socket::{Order, ask};
use tonnage_proto::token::masked;
use tonnage_runtime::settings::SettingsError;
use tonnage_runtime::telemetry::{self, chain};

/// Exit status of wrong usage, as in sysexits.h.
pub(crate) const USAGE: u8 = 64;

pub(crate) fn release(args: ReleaseArgs) -> ExitCode {
    tell(args.resolve())
}

pub(crate) fn resume(args: ControlArgs) -> ExitCode {
    tell(args.resolve().map(|socket| (socket, Order::Resume)))
}

/// Runs the gate.
#[allow(clippy::print_stderr, reason = "this is where the process talks to people")]
pub(crate) fn gate(args: GateArgs) -> ExitCode {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("tonnage-agent: {}", masked(&chain(&error)));
            return ExitCode::from(USAGE);
        }
    };
    telemetry::init(config.log_level, config.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    let ran = runtime.map_err(Into::into).and_then(|runtime| {
        let ran = runtime.block_on(gate_node::run(config.settings, config.supervisor));
        runtime.shutdown_background();
        ran
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "The gate ended.");
            ExitCode::FAILURE
        }
    }
}

/// Gives an order, and says what became of it.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where the process talks to people")]
fn tell(order: Result<(PathBuf, Order), SettingsError>) -> ExitCode {
    let (code, wrong) = match order.map(|(socket, order)| ask(&socket, order)) {
        Ok(Ok(said)) => {
            println!("{said}");
            return ExitCode::SUCCESS;
        }
        Ok(Err(error)) => (ExitCode::FAILURE, chain(&error)),
        Err(error) => (ExitCode::from(USAGE), chain(&error)),
    };
    eprintln!("tonnage-agent: {}", masked(&wrong));
    code
}
