//! The commands that have a running agent do something: ask it, and say what it answered.

use std::path::PathBuf;
use std::process::ExitCode;

use tonnage_agent::config::{ControlArgs, ReleaseArgs};
use tonnage_agent::release::socket::{Order, ask};
use tonnage_proto::token::masked;
use tonnage_runtime::settings::SettingsError;
use tonnage_runtime::telemetry::chain;

/// Exit status of wrong usage, as in sysexits.h.
pub(crate) const USAGE: u8 = 64;

pub(crate) fn release(args: ReleaseArgs) -> ExitCode {
    tell(args.resolve())
}

pub(crate) fn resume(args: ControlArgs) -> ExitCode {
    tell(args.resolve().map(|socket| (socket, Order::Resume)))
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
