//! How a report's figures were measured, in figures and in words. What is not known is null.

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tonnage_proto::decimal::from_nanos;
use tonnage_proto::limits::SLOT_NS;
use tonnage_proto::method;

use super::Wanted;
use super::collect::Found;
use crate::api::figures::coverage;
use crate::api::inventory::time;
use crate::budgets::Award;
use crate::prices::Book;
use crate::store::query::Kept;
use crate::store::{Connection, Identity, StoreError, audit, closing};

/// What the methods of held time are.
const METHODS: [(u32, &str); 9] = [
    (method::HELD_ALLOCATION, "by an allocation of the kubelet or of Slurm's root-side hooks"),
    (method::HELD_CGROUP, "by the cgroup of a live process on the GPU"),
    (method::HELD_SPLIT, "split among several owners who held one GPU at once, by their parts"),
    (method::HELD_INFERRED, "in part by weaker evidence than usual, which could not be checked on the node"),
    (method::BUSY_PROCESS, "use by the driver's samples of each process"),
    (method::BUSY_INSTANCE, "use by the driver's counters of a MIG instance, all of it its one owner's"),
    (method::BUSY_SCALED, "use that samples said to be more than was held is scaled down to it"),
    (method::ENERGY_BY_BUSY, "energy by the GPU's own counter, split by use"),
    (method::ENERGY_BY_HELD, "energy by the GPU's own counter, split by held time where nothing was used"),
];

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct Measured {
    pub(super) ledger_id: String,
    /// null before the first is written.
    pub(super) checkpoint: Option<CheckpointAnswer>,
    /// Slots before this are closed; later ones are provisional.
    pub(super) closed_until: String,
    /// SHA-256 of the price book by which all slots that are kept are priced; null while a new one is being applied.
    pub(super) price_book_sha256: Option<String>,
    /// The observed part of the time that all GPUs of the ledger existed in the window; null without any.
    pub(super) coverage: Option<String>,
    /// Of all GPUs of the ledger: in no figure of the grant.
    pub(super) unobserved_seconds: String,
    /// Slots, hours and days before these times are purged; null where none are.
    pub(super) slots_kept_from: Option<String>,
    pub(super) hours_kept_from: Option<String>,
    pub(super) days_kept_from: Option<String>,
    /// How each figure was measured.
    pub(super) statements: Vec<String>,
}

/// The chain of hashes over all that was posted, at its end.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CheckpointAnswer {
    pub(super) number: i64,
    pub(super) at: String,
    pub(super) hash: String,
}

pub(super) fn measured(
    db: &Connection,
    award: &Award,
    wanted: &Wanted,
    found: &Found,
    (ledger, book, kept): (&Identity, &Book, &Kept),
) -> Result<Measured, StoreError> {
    let last = Some(closing::last_checkpoint(db)?).filter(|checkpoint| checkpoint.id > 0);
    let applied = audit::applied_book(db)?.filter(|text| text == book.text());
    let coverage = Some(coverage(&found.devices)).filter(|coverage| !coverage.is_empty());
    let since = |at_ns: i64| (at_ns > 0).then(|| time(at_ns));
    let mut measured = Measured {
        ledger_id: hex(&ledger.ledger_id),
        checkpoint: last.map(|checkpoint| CheckpointAnswer {
            number: checkpoint.id,
            at: time(checkpoint.at_ns),
            hash: hex(&checkpoint.hash),
        }),
        closed_until: time(found.closed_until_ns),
        price_book_sha256: applied.map(|text| hex(&Sha256::digest(text)[..])),
        coverage,
        unobserved_seconds: from_nanos(found.devices.unobserved.ns()),
        slots_kept_from: since(kept.slots_from_ns),
        hours_kept_from: since(kept.hours_from_ns),
        days_kept_from: since(kept.days_from_ns),
        statements: Vec::new(),
    };
    measured.statements = statements(award, wanted, found, &measured);
    Ok(measured)
}

fn statements(award: &Award, wanted: &Wanted, found: &Found, measured: &Measured) -> Vec<String> {
    let Measured { ledger_id, checkpoint, closed_until, coverage, unobserved_seconds, .. } = measured;
    let sums = &found.totals.sums;
    let account = &award.grant.account;
    let mut said = vec![format!(
        "charged: GPU time that usage of account {account} and of all accounts below it held, times the price of the GPU in force in \
         each quarter of an hour; and of jobs without GPUs the CPUs and memory that they were allocated, times theirs. Exact to a \
         billionth, rounded down in each quarter of an hour. Time that nobody held, and time that nobody observed, is not \
         charged to the grant. Accounts are below {account} as the tree stood when this was made."
    )];
    said.push(match checkpoint {
        Some(of) => format!(
            "posted: in quarters of an hour before {closed_until}, which are closed. Entries are in ledger {ledger_id} under checkpoint {}, whose \
             SHA-256 over all entries before it is {}. provisional: in later ones, and may change. Data that came late to a \
             closed quarter counts as posted, by a correction.",
            of.number, of.hash
        ),
        None => format!(
            "posted: in quarters of an hour before {closed_until}, which are closed; ledger {ledger_id} has no checkpoint over them yet. \
             provisional: in later ones, and may change."
        ),
    });
    let known = METHODS.iter().filter(|(bit, _)| sums.method & bit != 0);
    let methods: Vec<&str> = known.map(|(_, text)| *text).collect();
    if !methods.is_empty() {
        said.push(format!("held_seconds, busy_seconds, energy_joules: {}.", methods.join("; ")));
    }
    if sums.unpriced.ns() != 0 {
        said.push(format!(
            "unpriced_seconds: {} s were held for which the price book has no price. They are in no amount of this report.",
            from_nanos(sums.unpriced.ns())
        ));
    }
    if sums.cpu_ns != 0 || sums.ram_byte_seconds != 0 {
        said.push(
            "cpu_seconds, ram_byte_seconds: of jobs without GPUs, by Slurm's accounting (sacct): what they were allocated from start to end, \
             in whole seconds, used or not."
                .to_owned(),
        );
    }
    if sums.unpriced_cpu_ns != 0 {
        said.push(format!(
            "unpriced_cpu_seconds: for {} s of CPUs the price book has no price. They are in no amount of this report.",
            from_nanos(sums.unpriced_cpu_ns)
        ));
    }
    said.push(coverage.as_ref().map_or_else(
        || "coverage: no GPU of this ledger is known to have existed in the window.".to_owned(),
        |coverage| {
            format!(
                "coverage: {coverage} of the time that all GPUs of this ledger existed in the window was observed. The rest, \
                 {unobserved_seconds} s of GPUs, is nobody's, and can be missing in the figures above."
            )
        },
    ));
    said.push(match &measured.price_book_sha256 {
        Some(hash) => format!("prices: by the price book with the SHA-256 {hash}."),
        None => "prices: a new price book is being applied, so that amounts may still change.".to_owned(),
    });
    if measured.slots_kept_from.as_ref().is_some_and(|_| wanted.window_ns.0 < found.closed_until_ns) {
        said.push("Detail of older time is purged by the ledger's retention; its sums by hour or day were kept unchanged.".to_owned());
    }
    said.push(
        "direct and indirect costs, and budgets of periods: worked out from the award and its rate, and by days; not measured."
            .to_owned(),
    );
    if wanted.window_ns.1 > wanted.now_ns - SLOT_NS {
        said.push(format!(
            "The window is not over: figures are those that were known at {}.",
            time(wanted.now_ns)
        ));
    }
    said
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
