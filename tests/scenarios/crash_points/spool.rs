//! The agent's spool on a disk that may crash at any write: what it promised is there.
//!
//! A history runs in processes of their own ([`history`]), each ended without a goodbye, and is traced. What the
//! spool says of itself ([`State`]) is marked in the trace once an operation returned: that is promised from then on.
//! Every disk that a crash may leave is opened by the same code and must show the state before the operation that
//! was going on, or behind it; a seal of several batches may stop between two.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use harness::wait::wait_until;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tonnage_agent::spool::{Holdings, Identity, Limits, Spool, SpoolError};
use tonnage_proto::limits::{BATCH_FORMAT, WINDOW_NS};
use tonnage_proto::metering as pb;

use super::images::{Subject, Verdict};
use super::trace::Op;

/// Steps in processes of their own.
pub(crate) mod history;

/// Calls that fail.
pub(crate) mod faults;

/// One disk opened, in a process of its own.
mod judge;

/// Small enough to be reached, large enough for some segments of sled's log.
pub(crate) const LIMITS: Limits = Limits { bytes: 8 << 20, kept_bytes: 64 << 10 };
/// Name of the spool in the traced folder.
pub(crate) const SPOOL: &str = "spool";

/// Everything that a spool shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) epoch: [u8; 16],
    pub(crate) ledger_id: Option<Vec<u8>>,
    pub(crate) last_window_end_ns: Option<i64>,
    pub(crate) acked_seq: u64,
    pub(crate) batches: Vec<(u64, Held)>,
    pub(crate) drafts: usize,
    /// Numbers of the drafts' windows.
    pub(crate) waiting: Vec<i64>,
    /// Windows of each batch that was acked under a former epoch and is kept.
    pub(crate) former: Vec<Vec<i64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) sha256: String,
    pub(crate) windows: Vec<i64>,
}

/// A mark in the trace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Mark {
    Begun(String),
    Done(State),
}

impl State {
    /// Windows that the ledger does not have, in the order in which it would get them.
    pub(crate) fn unacked(&self) -> Vec<i64> {
        let batches = self.batches.iter().filter(|(seq, _)| *seq > self.acked_seq);
        let sealed = batches.flat_map(|(_, held)| held.windows.iter().copied());
        sealed.chain(self.waiting.iter().copied()).collect()
    }

    /// As it comes of a new epoch: what is acked is kept apart, all else is to be sealed again.
    pub(crate) fn in_new_epoch(&self) -> Self {
        let acked = self.batches.iter().filter(|(seq, _)| *seq <= self.acked_seq);
        let former = self.former.iter().cloned().chain(acked.map(|(_, held)| held.windows.clone()));
        Self { former: former.collect(), waiting: self.unacked(), ..self.clone() }
    }

    /// As it comes of a ledger that was set back: what former epochs had acked waits in front.
    pub(crate) fn rewound(&self) -> Self {
        let waiting = self.former.iter().flatten().chain(&self.waiting).copied().collect();
        Self { former: Vec::new(), waiting, ..self.clone() }
    }

    /// Without the bounds of former batches: nobody sees them once they are drafts.
    fn joined(&self) -> Self {
        let former: Vec<i64> = self.former.concat();
        Self { former: if former.is_empty() { Vec::new() } else { vec![former] }, ..self.clone() }
    }

    fn without_windows(&self) -> Self {
        Self { batches: Vec::new(), drafts: 0, waiting: Vec::new(), ..self.clone() }
    }

    /// True if a seal that leads from `before` to `after` may have been here.
    fn within_seal(&self, before: &Self, after: &Self) -> bool {
        let batches = self.batches.len();
        batches >= before.batches.len()
            && after.batches.get(..batches) == Some(&self.batches)
            && self.without_windows() == after.without_windows()
            && self.unacked() == after.unacked()
    }
}

/// A draft of one window, `number`th of its grid, that takes about so many bytes. Its boot says which life made it:
/// drafts of different boots are not joined.
pub(crate) fn draft(number: i64, bytes: usize, boot: &str) -> Vec<u8> {
    let owner = pb::Owner { unit: "u".repeat(bytes), ..pb::Owner::default() };
    let window = pb::Window { start_ns: number * WINDOW_NS, duration_ns: 1, ..pb::Window::default() };
    pb::Batch {
        format: BATCH_FORMAT,
        boot_id: boot.to_owned(),
        devices: vec![pb::Device { uuid: "GPU-a".to_owned(), slices: 1, ..pb::Device::default() }],
        owners: vec![owner],
        windows: vec![window],
        ..pb::Batch::default()
    }
    .encode_to_vec()
}

fn windows(payload: &[u8]) -> anyhow::Result<Vec<i64>> {
    let batch = pb::Batch::decode(payload)?;
    Ok(batch.windows.iter().map(|window| window.start_ns / WINDOW_NS).collect())
}

/// Opens a spool. A process that was not long gone may hold its lock for a moment.
pub(crate) fn open(path: &Path) -> anyhow::Result<(Spool, bool)> {
    let identity = || Identity { cluster: "c".to_owned(), node: "n".to_owned() };
    wait_until(Duration::from_secs(20), "the spool's lock", String::new, || {
        match Spool::open(path, identity(), LIMITS, 0) {
            Ok((spool, aside)) => Ok(Some((spool, aside.is_some()))),
            Err(SpoolError::Store(error)) if format!("{error:?}").contains("could not acquire lock") => {
                Ok(None)
            }
            Err(error) => bail!("{error:?}"),
        }
    })
}

/// What the spool shows: all but the windows of drafts, and of batches of former epochs.
pub(crate) fn shown(spool: &Spool) -> anyhow::Result<State> {
    let Holdings { oldest_seq, sealed_seq, acked_seq } = spool.holdings();
    let mut batches = Vec::new();
    for seq in oldest_seq..=sealed_seq {
        let batch = spool
            .batch(seq)?
            .with_context(|| format!("batch {seq} of {oldest_seq}..={sealed_seq} is gone"))?;
        ensure!(Sha256::digest(&batch.payload)[..] == batch.sha256, "batch {seq} is not what its hash says");
        let sha256 = batch.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        batches.push((seq, Held { sha256, windows: windows(&batch.payload)? }));
    }
    Ok(State {
        epoch: spool.epoch(),
        ledger_id: spool.ledger_id()?,
        last_window_end_ns: spool.last_window_end_ns()?,
        acked_seq,
        batches,
        drafts: spool.drafts(),
        waiting: Vec::new(),
        former: Vec::new(),
    })
}

/// What a spool's disk must show.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Promise {
    /// `None`: nothing was promised yet.
    before: Option<State>,
    /// What was going on, and what it led to, where it ended.
    going_on: Option<(String, Option<State>)>,
}

/// The marks of a trace, with the number of operations before each.
pub(crate) fn marks(ops: &[Op]) -> anyhow::Result<Vec<(usize, Mark)>> {
    let mark = |(at, op): (usize, &Op)| match op {
        Op::Mark(text) => Some(serde_json::from_str(text).map(|mark| (at, mark))),
        _ => None,
    };
    Ok(ops.iter().enumerate().filter_map(mark).collect::<Result<_, _>>()?)
}

/// The spool as what crashes.
#[derive(Debug, Clone)]
pub(crate) struct Crashing {
    marks: Vec<(usize, Mark)>,
}

impl Crashing {
    pub(crate) fn new(ops: &[Op]) -> anyhow::Result<Self> {
        Ok(Self { marks: marks(ops)? })
    }
}

impl Subject for Crashing {
    type Promise = Promise;
    /// sled has no file that a crash may take.
    const WITHOUT: &'static str = "/";

    fn promise(&self, at: usize) -> Promise {
        let passed = self.marks.partition_point(|(position, _)| *position < at);
        let (passed, coming) = self.marks.split_at(passed);
        let done = |(_, mark): &(usize, Mark)| match mark {
            Mark::Done(state) => Some(state.clone()),
            Mark::Begun(_) => None,
        };
        let going_on = match passed.last() {
            Some((_, Mark::Begun(what))) => Some((what.clone(), coming.first().and_then(done))),
            _ => None,
        };
        Promise { before: passed.iter().rev().find_map(done), going_on }
    }

    /// In a process of its own: what sled makes of bad files may be a panic, or a loop that takes all memory.
    fn judge(&self, folder: &Path, promise: &Promise) -> anyhow::Result<Verdict> {
        judge::in_a_process(folder, promise)
    }
}
