//! Calls that fail under the spool, one after the other: what fails is told, and once the fault is over everything
//! that was promised is there.

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::images::{Subject, Verdict};
use super::super::trace::{Op, Traced};
use super::history::Life;
use super::{Crashing, State};

/// What fails, and how: see `tests/disk-trace/src/tracer.rs`. 28 is ENOSPC, 5 is EIO.
const FAULTS: [(&str, &str); 5] =
    [("room", "28 1"), ("room", "28 1000000 short"), ("write", "5 1"), ("sync", "5 1"), ("any", "5 1000000")];
const STEPS: u64 = 25;

/// How many calls failed, and what came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    pub(crate) faults: usize,
    pub(crate) told: usize,
    pub(crate) went_on: usize,
}

/// Fails call after call of a history, one in a run; about each `every`th of them.
pub(crate) fn fail_each(seed: u64, every: u64) -> anyhow::Result<Tried> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tried = Tried::default();
    for (class, how) in FAULTS {
        let mut skip = rng.random_range(0..every);
        while fail_one(seed, &format!("{class} {skip} {how}"), &mut tried)? {
            skip += rng.random_range(1..=2 * every - 1);
        }
    }
    Ok(tried)
}

/// False once the history has no such call.
fn fail_one(seed: u64, fault: &str, tried: &mut Tried) -> anyhow::Result<bool> {
    let dir = tempfile::tempdir()?;
    let traced = Traced::new(dir.path())?;
    traced.set_fault(fault)?;
    let told = Life { seed, steps: STEPS, number: 0 }.live_with_faults(&traced);
    let told = told.with_context(|| format!("seed {seed}, {fault}"))?;
    let ops = traced.ops()?;
    if !ops.contains(&Op::Fault) {
        ensure!(told.is_none(), "{fault}: nothing failed, but {told:?}");
        return Ok(false);
    }
    traced.lift_fault()?;
    tried.faults += 1;
    match &told {
        Some(error) => {
            let clear = ["No space left on device", "Input/output error", "failed to write whole buffer"];
            ensure!(clear.iter().any(|words| error.contains(words)), "{fault}: an unclear error: {error}");
            tried.told += 1;
        }
        None => tried.went_on += 1,
    }
    let subject = Crashing::new(&ops)?;
    let verdict = subject.judge(&traced.folder, &subject.promise(ops.len()))?;
    ensure!(verdict == Verdict::Whole, "seed {seed}, {fault}: {told:?}, then {verdict:?}");
    Ok(true)
}

impl State {
    /// True if this may have come of `before` by an operation that failed, and was done all the same, or in part.
    pub(super) fn may_follow(&self, before: &Self, what: &str) -> bool {
        let (now, then) = (self.unacked(), before.unacked());
        let former_is = |state: &Self| self.former == state.joined().former;
        match what {
            "append" => now.starts_with(&then) && now.len() <= then.len() + 1 && former_is(before),
            "ack" => then.ends_with(&now) && before.former.concat().ends_with(&self.former.concat()),
            "rewind" => {
                let sealed = then.strip_suffix(&before.waiting[..]).unwrap_or_default();
                let now = now.strip_suffix(&before.rewound().waiting[..]);
                now.is_some_and(|now| now.ends_with(sealed)) && self.former.is_empty()
            }
            "new_epoch" => now == then && former_is(&before.in_new_epoch()),
            _ => now == then && former_is(before),
        }
    }
}
