//! The load: holds memory on the first GPU, and works at a duty cycle for some seconds. Says in two lines of JSON when it
//! was there and for how long it worked. Exit status 3: there is no GPU to work on.

use std::process::ExitCode;

use clap::Parser;
use gpu::cuda::{Gpu, LIBRARY};
use gpu::duty::pulses;
use gpu::{Done, Ready};
use tonnage_runtime::clock::Clock;

const NO_GPU: u8 = 3;

/// Works on the first GPU, and says for how long it did.
#[derive(Debug, Parser)]
struct Args {
    /// For how long; 0: only looks whether there is a GPU
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Percent of the time to work, 0 to 100
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    duty: u32,
    /// GPU memory to hold
    #[arg(long, default_value_t = 256)]
    memory_mib: usize,
}

#[allow(clippy::print_stderr, reason = "this is where the process talks to people")]
fn main() -> ExitCode {
    let args = Args::parse();
    let gpu = match Gpu::open(LIBRARY) {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(NO_GPU);
        }
    };
    match load(&gpu, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "the two lines that its caller reads")]
fn load(gpu: &Gpu, args: &Args) -> anyhow::Result<()> {
    gpu.allocate(args.memory_mib << 20)?;
    let clock = Clock::system();
    println!("{}", serde_json::to_string(&Ready { uuid: gpu.uuid(), wall_ns: clock.wall_ns() })?);
    let begun_ns = clock.monotonic_ns();
    let mut busy_ns = 0;
    for pulse in pulses(args.duty, args.seconds) {
        clock.sleep_until(begun_ns.saturating_add_unsigned(pulse.at_ns), || false);
        if pulse.work_ns > 0 {
            busy_ns += gpu.work(pulse.work_ns)?;
        }
    }
    clock.sleep_until(begun_ns + i64::from(args.seconds) * 1_000_000_000, || false);
    println!("{}", serde_json::to_string(&Done { busy_ns, wall_ns: clock.wall_ns() })?);
    Ok(())
}
