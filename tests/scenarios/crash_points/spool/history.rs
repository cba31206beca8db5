//! The steps of a spool's life, and the process that they run in: this test executable again, with an argument that
//! says nothing to the test runner.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use harness::process::{Process, tail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_agent::spool::{Holdings, Spool};
use tonnage_proto::limits::WINDOW_NS;

use super::super::trace::{Traced, mark};
use super::{Held, Mark, SPOOL, State, draft, marks, open, shown};

/// The test in which a life is lived.
const TEST: &str = "crash_points::spool::history::a_life_ends_without_a_goodbye";
const ARGUMENT: &str = "--skip=spool-life=";
/// How a life ends when all went well.
const ENDED: i32 = 42;
/// How it ends when an operation says that it failed.
const FAILED: i32 = 43;
/// Far more than a life takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// One process's part of a history.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) seed: u64,
    pub(crate) steps: u64,
    pub(crate) number: u64,
}

impl Life {
    /// Lives it in a process of its own.
    pub(crate) fn live(&self, traced: &Traced) -> anyhow::Result<()> {
        let told = self.live_with_faults(traced)?;
        ensure!(told.is_none(), "a life failed: {told:?}");
        Ok(())
    }

    /// As [`Life::live`]; gives the error of a life that an operation's error ended. It may end in no other way.
    pub(crate) fn live_with_faults(&self, traced: &Traced) -> anyhow::Result<Option<String>> {
        let dir = traced.folder.parent().context("a folder for the trace")?;
        let argument = format!("{ARGUMENT}{}:{}:{}:{}", self.seed, self.steps, self.number, dir.display());
        let mut command = traced.command(&std::env::current_exe()?)?;
        command.args(["--exact", TEST, "--nocapture", &argument]);
        let log = dir.join("log");
        let mut process = Process::start("a life", &mut command, &log)?;
        let status = process.wait(PATIENCE)?;
        match status.code() {
            Some(ENDED) => Ok(None),
            Some(FAILED) => Ok(Some(tail(&log))),
            _ => bail!("a life ended with {status}: {}", tail(&log)),
        }
    }

    fn of_argument() -> Option<(Self, PathBuf)> {
        let argument =
            std::env::args().find_map(|argument| Some(argument.strip_prefix(ARGUMENT)?.to_owned()))?;
        let mut parts = argument.splitn(4, ':');
        let mut number = || parts.next()?.parse().ok();
        let life = Self { seed: number()?, steps: number()?, number: number()? };
        Some((life, PathBuf::from(parts.next()?)))
    }
}

#[test]
fn a_life_ends_without_a_goodbye() {
    if let Some((life, dir)) = Life::of_argument() {
        let lived = live(&life, &Traced::again(&dir));
        if let Err(error) = &lived {
            eprintln!("{error:?}");
        }
        // Nothing is dropped, nothing flushed: to the disk this is a kill.
        std::process::exit(if lived.is_ok() { ENDED } else { FAILED });
    }
}

/// A spool, what it holds, and the trace.
struct Keeper<'a> {
    spool: Spool,
    state: State,
    log: &'a Path,
}

fn live(life: &Life, traced: &Traced) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(life.seed.wrapping_add(life.number));
    let last = |mark| if let Mark::Done(state) = mark { Some(state) } else { None };
    let before = marks(&traced.ops()?)?.into_iter().rev().find_map(|(_, mark)| last(mark));
    mark(&traced.log, &serde_json::to_string(&Mark::Begun("open".to_owned()))?)?;
    let (spool, aside) = open(&traced.folder.join(SPOOL))?;
    ensure!(!aside, "the spool was moved aside");
    let unseen = before.as_ref().map(|state| (state.waiting.clone(), state.former.clone()));
    let (waiting, former) = unseen.unwrap_or_default();
    let state = State { waiting, former, ..shown(&spool)? };
    let mut keeper = Keeper { spool, state, log: &traced.log };
    ensure!(before.is_none_or(|before| before == keeper.state), "not what the last life left");
    keeper.done()?;
    let boot = format!("boot-{}", life.number);
    for _ in 0..life.steps {
        keeper.step(&mut rng, &boot)?;
    }
    std::mem::forget(keeper.spool);
    Ok(())
}

impl Keeper<'_> {
    fn step(&mut self, rng: &mut StdRng, boot: &str) -> anyhow::Result<()> {
        let Holdings { oldest_seq, sealed_seq, acked_seq } = self.spool.holdings();
        match rng.random_range(0..100) {
            0..45 => self.append(rng, boot),
            // The ledger was away for a while: drafts pile up, and batches get large.
            45..47 => (0..30).try_for_each(|_| self.append(rng, boot)),
            47..70 => self.change("seal", |spool, _| {
                spool.seal(0)?;
                Ok(())
            }),
            70..92 if acked_seq < sealed_seq => {
                let seq = rng.random_range(acked_seq + 1..=sealed_seq);
                let backed_up = if rng.random_bool(0.2) { seq } else { 0 };
                self.change("ack", |spool, _| Ok(spool.ack(seq, backed_up, 0)?))
            }
            92..94 => self.change("new_epoch", |spool, state| {
                *state = state.in_new_epoch();
                Ok(spool.new_epoch()?)
            }),
            94..97 if oldest_seq <= acked_seq => {
                let cursor = rng.random_range(oldest_seq - 1..=acked_seq);
                self.change("rewind", |spool, state| {
                    *state = state.rewound();
                    Ok(spool.rewind(cursor)?)
                })
            }
            97..99 => self.change("set_ledger_id", |spool, _| Ok(spool.set_ledger_id(&[7; 16])?)),
            _ => Ok(()),
        }
    }

    fn append(&mut self, rng: &mut StdRng, boot: &str) -> anyhow::Result<()> {
        let number = self.state.last_window_end_ns.unwrap_or(0) / WINDOW_NS;
        let bytes = if rng.random_bool(0.1) { 10_000..40_000 } else { 100..4_000 };
        let draft = draft(number, rng.random_range(bytes), boot);
        self.change("append", move |spool, state| {
            state.waiting.push(number);
            Ok(spool.append(&draft, (number + 1) * WINDOW_NS)?)
        })
    }

    /// `change` also says what waits then, and what is kept of former epochs; what a seal took of the one is seen from
    /// its batches, what an ack let go of the other from how many are left.
    fn change(
        &mut self,
        what: &str,
        change: impl FnOnce(&mut Spool, &mut State) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        mark(self.log, &serde_json::to_string(&Mark::Begun(what.to_owned()))?)?;
        let mut expected = self.state.clone();
        change(&mut self.spool, &mut expected)?;
        let state = shown(&self.spool)?;
        let last = self.state.batches.last().map(|(seq, _)| *seq);
        let new = state.batches.iter().filter(|(seq, _)| what == "seal" && Some(*seq) > last);
        let taken = new.map(|(_, Held { windows, .. })| windows.len()).sum();
        let gone = expected.former.len().checked_sub(self.spool.former()).context("more of former epochs")?;
        ensure!(gone == 0 || what == "ack", "{what} lets go of {gone} batches of former epochs");
        self.state = State {
            waiting: expected.waiting.split_off(taken),
            former: expected.former.split_off(gone),
            ..state
        };
        self.done()
    }

    fn done(&self) -> anyhow::Result<()> {
        mark(self.log, &serde_json::to_string(&Mark::Done(self.state.clone()))?)
    }
}
