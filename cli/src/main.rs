//! `tonnage`: a thin client of the aggregator's REST API, for people and for scripts.

mod args;
mod client;
mod commands;
mod error;
mod output;
mod top;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if let Some(wrong) = tonnage_proto::token::in_arguments(std::env::args_os()) {
        return error::usage(wrong);
    }
    error::exit_code(commands::run(args::Args::parse()))
}
