//! One target's run: from corpus and generated inputs to a report or a finding.

use std::fmt;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use tonnage_runtime::clock::Clock;

use crate::mutate::mutate;
use crate::target::Target;

/// Inputs that others are made from.
const POOL_MAX: usize = 256;
/// Bytes of a finding that are printed.
const PRINTED_BYTES_MAX: usize = 2_048;
/// An input that takes longer hangs its caller. Far above the slowest known, for a machine under load.
const HANG_NS: i64 = 20_000_000_000;

/// When to stop.
pub(crate) enum Budget {
    Seconds(u32),
    Executions(u64),
}

pub(crate) enum Outcome {
    Survived(Report),
    Found(Finding),
}

pub(crate) struct Report {
    target: &'static str,
    pub(crate) executions: u64,
    pub(crate) accepted: u64,
    slowest_ns: i64,
    seed: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "target={} executions={} accepted={} slowest_us={} seed={}",
            self.target,
            self.executions,
            self.accepted,
            self.slowest_ns / 1_000,
            self.seed
        )
    }
}

pub(crate) struct Finding {
    target: &'static str,
    pub(crate) input: Vec<u8>,
    why: String,
    execution: u64,
    seed: u64,
}

impl Finding {
    /// Saves the input under its hash.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let hash = hex(&Sha256::digest(&self.input)[..6]);
        let path = folder.join(format!("{}-{hash}", self.target));
        fs::write(&path, &self.input)?;
        Ok(path)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, execution, seed, .. } = self;
        writeln!(f, "FOUND target={target} execution={execution} seed={seed}")?;
        writeln!(f, "{}", self.why)?;
        let shown = &self.input[..self.input.len().min(PRINTED_BYTES_MAX)];
        write!(f, "{} bytes: {}", self.input.len(), hex(shown))
    }
}

/// Runs one target: first its corpus as it is, then what the seed makes of it.
pub(crate) fn run(target: &Target, seed: u64, budget: Budget) -> Outcome {
    let clock = Clock::system();
    let started_ns = clock.monotonic_ns();
    let mut rng = StdRng::seed_from_u64(seed);
    let corpus = corpus(target.name);
    let mut pool = corpus.clone();
    let mut report = Report { target: target.name, executions: 0, accepted: 0, slowest_ns: 0, seed };
    let mut corpus = corpus.into_iter();
    loop {
        let over = match budget {
            Budget::Executions(most) => report.executions >= most,
            Budget::Seconds(most) => (clock.monotonic_ns() - started_ns) / 1_000_000_000 >= i64::from(most),
        };
        if over && corpus.len() == 0 {
            return Outcome::Survived(report);
        }
        let mut input = corpus.next().unwrap_or_else(|| make(target, &pool, &mut rng));
        input.truncate(target.bytes_max);
        report.executions += 1;
        let before_ns = clock.monotonic_ns();
        let checked = catch_unwind(AssertUnwindSafe(|| (target.check)(&input)));
        let took_ns = clock.monotonic_ns() - before_ns;
        report.slowest_ns = report.slowest_ns.max(took_ns);
        let why = match checked {
            Ok(Ok(_)) if took_ns > HANG_NS => format!("took {} s", took_ns / 1_000_000_000),
            Ok(Ok(accepted)) => {
                report.accepted += u64::from(accepted);
                if accepted {
                    keep(&mut pool, input, &mut rng);
                }
                continue;
            }
            Ok(Err(promise)) => promise,
            Err(panic) => format!("panicked: {}", message(panic.as_ref())),
        };
        let execution = report.executions;
        return Outcome::Found(Finding { target: target.name, input, why, execution, seed });
    }
}

fn make(target: &Target, pool: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng| match pool.len() {
        0 => Vec::new(),
        many => pool[rng.random_range(0..many)].clone(),
    };
    let mut input = if rng.random_bool(0.3) { (target.generate)(rng) } else { pick(rng) };
    for _ in 0..rng.random_range(0..5) {
        input = if rng.random_bool(0.6) {
            (target.warp)(input, rng)
        } else {
            let other = pick(rng);
            mutate(input, &other, target.words, rng)
        };
    }
    input
}

fn keep(pool: &mut Vec<Vec<u8>>, input: Vec<u8>, rng: &mut StdRng) {
    if pool.len() < POOL_MAX {
        pool.push(input);
    } else {
        pool[rng.random_range(0..POOL_MAX)] = input;
    }
}

/// Writes generated inputs for the corpus.
pub(crate) fn generate(target: &Target, seed: u64, count: u32, folder: &Path) -> io::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = folder.join(target.name);
    fs::create_dir_all(&folder)?;
    (0..count)
        .try_for_each(|at| fs::write(folder.join(format!("generated-{at}")), (target.generate)(&mut rng)))
}

/// The corpus of a target, in the order of names.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("with no message")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
