//! Opens the spool of one disk and says what it is worth: this test executable again, bounded in time and memory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use harness::process::Process;
use rustix::process::{Resource, Rlimit, setrlimit};
use tonnage_agent::spool::{Holdings, Limits, Spool};
use tonnage_runtime::telemetry;

use super::super::images::Verdict;
use super::{LIMITS, Promise, SPOOL, State, open, shown, windows};

/// The test in which a spool is opened.
const TEST: &str = "crash_points::spool::judge::a_disk_is_opened";
const ARGUMENT: &str = "--skip=spool-disk=";
/// Far more than it takes: who needs longer never ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// Far more than it takes; sled's threads take address space.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
const PROMISE: &str = "promise";
const VERDICT: &str = "verdict";
const LOG: &str = "log";

pub(super) fn in_a_process(folder: &Path, promise: &Promise) -> anyhow::Result<Verdict> {
    std::fs::write(folder.join(PROMISE), serde_json::to_vec(promise)?)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env("RUST_BACKTRACE", "0");
    let argument = format!("{ARGUMENT}{}", folder.display());
    command.args(["--exact", TEST, "--nocapture", &argument]);
    let mut process = Process::start("a judge", &mut command, &folder.join(LOG))?;
    let stuck = |why: String| Verdict::Stuck(format!("{why}; {}", process_log(folder)));
    match process.wait(PATIENCE) {
        Err(_) => Ok(stuck(format!("it does not open within {PATIENCE:?}"))),
        Ok(status) if !status.success() => Ok(stuck(format!("it ended with {status}"))),
        Ok(_) => match serde_json::from_slice(&std::fs::read(folder.join(VERDICT))?)? {
            Verdict::Flagged(_) => Ok(Verdict::Flagged(process_log(folder))),
            other => Ok(other),
        },
    }
}

fn process_log(folder: &Path) -> String {
    let log = harness::process::tail(&folder.join(LOG));
    log.lines().filter(|line| !line.trim().is_empty()).take(8).collect::<Vec<_>>().join(" / ")
}

#[test]
fn a_disk_is_opened() {
    let folder = std::env::args().find_map(|argument| Some(argument.strip_prefix(ARGUMENT)?.to_owned()));
    if let Some(folder) = folder.map(PathBuf::from) {
        let level = "error".parse().expect("a level");
        telemetry::init(level, telemetry::Format::Json);
        let limit = Some(MEMORY_BYTES_MAX);
        setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
        let promise: Promise = serde_json::from_slice(&std::fs::read(folder.join(PROMISE)).unwrap()).unwrap();
        let verdict = judge(&folder, &promise);
        std::fs::write(folder.join(VERDICT), serde_json::to_vec(&verdict).unwrap()).unwrap();
        // What is dropped after the verdict does not matter to it.
        std::process::exit(0);
    }
}

fn judge(folder: &Path, promise: &Promise) -> Verdict {
    let (mut spool, aside) = match open(&folder.join(SPOOL)) {
        Ok(opened) => opened,
        Err(error) => return Verdict::Stuck(format!("it does not open: {error:#}")),
    };
    match shown(&spool).and_then(|state| show_all(&mut spool, state)) {
        Ok(state) => promise.judge(&state, aside),
        Err(error) => Verdict::Lost(format!("{error:#}")),
    }
}

/// With what only those see who get it: what waits, and then, as if the ledger had been set back, what is kept of
/// former epochs.
fn show_all(spool: &mut Spool, state: State) -> anyhow::Result<State> {
    // No ack is to let go of anything.
    spool.limit(Limits { kept_bytes: LIMITS.bytes, ..LIMITS });
    let waiting = drain(spool)?;
    spool.rewind(spool.holdings().acked_seq)?;
    Ok(State { waiting, former: vec![drain(spool)?], ..state }.joined())
}

/// Delivers everything, which shows the drafts' windows, and that the spool goes on.
fn drain(spool: &mut Spool) -> anyhow::Result<Vec<i64>> {
    let mut drafts = Vec::new();
    let sealed_seq = spool.holdings().sealed_seq;
    loop {
        spool.seal(0)?;
        let Holdings { acked_seq, sealed_seq: last, .. } = spool.holdings();
        if acked_seq == last {
            return Ok(drafts);
        }
        for seq in (acked_seq + 1).max(sealed_seq + 1)..=last {
            let batch = spool.batch(seq)?.with_context(|| format!("the new batch {seq} is gone"))?;
            drafts.extend(windows(&batch.payload)?);
        }
        spool.ack(last, 0, 0)?;
    }
}

impl Promise {
    fn judge(&self, state: &State, aside: bool) -> Verdict {
        // A new spool has its epoch by chance; nothing was promised of it before it was opened.
        let is_new = state.batches.is_empty() && state.drafts == 0 && state.acked_seq == 0;
        let Some(before) = self.before.as_ref().map(State::joined) else {
            return if is_new {
                Verdict::Whole
            } else {
                Verdict::Lost(format!("a new spool shows {state:?}"))
            };
        };
        if aside && is_new {
            return Verdict::Flagged(String::new());
        }
        let may_be = state == &before
            || match &self.going_on {
                Some((_, Some(after))) => {
                    state == &after.joined() || state.within_seal(&before, &after.joined())
                }
                Some((what, None)) => state.may_follow(&before, what),
                None => false,
            };
        if may_be {
            return Verdict::Whole;
        }
        Verdict::Lost(format!("promised {before:?},\n  going on {:?},\n  shown {state:?}", self.going_on))
    }
}
