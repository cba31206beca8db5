//! `tonnage-fuzz`: feeds every parser of outside bytes with what is nearly right, and checks more than that it lives.
//!
//! No coverage guides it, so that it runs on a stable compiler: valid inputs are generated, or come from the corpus,
//! and are then broken by someone who knows their structure ([`target::Target::warp`]) and by someone who does not
//! ([`mutate`]). Everything follows from the seed. What a parser takes has to keep the promises of its target.
//!
//! A finding is printed in hex, saved, and ends the run with 1. Found inputs belong into `corpus/<target>/`, with a
//! test in the parser's own crate that is named after the fact.
#![allow(clippy::print_stdout, reason = "this is a tool for people")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod mutate;
mod run;
mod target;
mod targets;

use run::{Budget, Outcome};

/// Feeds parsers with what is nearly right.
#[derive(Debug, Parser)]
#[command(name = "tonnage-fuzz")]
struct Args {
    /// One of them, or all
    #[arg(long, default_value = "all")]
    target: String,
    /// For all targets together
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// So many for each target instead of a time
    #[arg(long)]
    executions: Option<u64>,
    /// The same seed makes the same inputs in the same order [default: a fresh one]
    #[arg(long)]
    seed: Option<u64>,
    /// Where findings are saved
    #[arg(long, value_name = "DIR", default_value = "target/fuzz")]
    save: PathBuf,
    /// Write so many generated inputs per target there instead, for the corpus
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    generate: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    let all = targets::all();
    let chosen: Vec<_> = all.iter().filter(|t| args.target == "all" || args.target == t.name).collect();
    if chosen.is_empty() {
        let names: Vec<_> = all.iter().map(|target| target.name).collect();
        println!("target: {:?} is not there; use all, {}", args.target, names.join(", "));
        return ExitCode::from(2);
    }
    if args.generate > 0 {
        return match chosen
            .iter()
            .try_for_each(|target| run::generate(target, seed, args.generate, &args.save))
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{}: {error}", args.save.display());
                ExitCode::FAILURE
            }
        };
    }
    let share = args.seconds / u32::try_from(chosen.len()).unwrap_or(1);
    let mut code = ExitCode::SUCCESS;
    for target in chosen {
        let budget = args.executions.map_or(Budget::Seconds(share.max(1)), Budget::Executions);
        match run::run(target, seed, budget) {
            Outcome::Survived(report) => println!("{report}"),
            Outcome::Found(finding) => {
                println!("{finding}");
                match finding.save(&args.save) {
                    Ok(path) => println!("saved as {}", path.display()),
                    Err(error) => println!("cannot be saved in {}: {error}", args.save.display()),
                }
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

#[cfg(test)]
mod tests;
