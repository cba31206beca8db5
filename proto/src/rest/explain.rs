//! `GET /api/v1/explain`: one slot of a GPU, a MIG instance, a pod or a job, line by line, for whoever disputes a bill.
//!
//! Times here are whole slice-nanoseconds and money whole nano-dollars, as the ledger has them (docs/ledger.md), so that
//! every line can be worked out again by hand. Non-goal: sums over longer than a slot, which the cost answers have.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OwnerName, Window};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainAnswer {
    /// What was asked about, e.g. `pod ml/train-0 (uid 12ab)`.
    pub subject: String,
    pub slot: Window,
    pub currency: String,
    /// The slot is over and its rows are posted; what changes is a correction.
    pub closed: bool,
    /// One for each GPU, and for each way that it was partitioned, in the slot; of jobs without GPUs one for each partition, whose
    /// time is that of CPUs.
    pub devices: Vec<ExplainedDevice>,
    /// Of all rows that were asked about, whether or not `devices` show them: GPU time as of the cost answers, and cost.
    pub asked_gpu_seconds: String,
    pub asked_cost_nanos: i64,
    /// What was cut, and what does not agree.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedDevice {
    pub device: String,
    pub model: String,
    pub cluster: String,
    pub node: String,
    /// The tenure: the node's cloud instance id or boot id, and the slices by which its time counts.
    pub life: String,
    pub slices: u32,
    /// Slice-nanoseconds.
    pub existence_ns: i64,
    pub covered_ns: i64,
    pub unobserved_ns: i64,
    /// Why time is unobserved: wall nanoseconds by reason.
    pub unobserved_reasons: BTreeMap<String, i64>,
    /// Null: the slot is unpriced.
    pub price: Option<ExplainedPrice>,
    pub rows: Vec<ExplainedRow>,
    /// Sums of all rows: they are `existence_ns`, and the price.
    pub rows_ns: i64,
    pub rows_cost_nanos: i64,
    pub entries: Vec<ExplainedEntry>,
    pub evidence: Vec<ExplainedWindow>,
}

/// The row of the price book that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedPrice {
    pub line: u32,
    pub valid_from: String,
    pub price: String,
    pub unit: String,
    /// By what MIG instances of a GPU are weighed: `compute` or `memory` slices.
    #[serde(default)]
    pub weight: String,
    /// What the row asks for, and what the GPU and its node have there.
    pub matched: BTreeMap<String, ExplainedMatch>,
    /// Nano-dollars per slice-nanosecond: `num / den`.
    pub num: String,
    pub den: String,
    pub per_gpu_hour: String,
    /// The price of the slot: `floor(num * existence_ns / den) = nanos`.
    pub arithmetic: String,
    pub price_nanos: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedMatch {
    pub pattern: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedRow {
    /// `held`, `idle`, `stranded`, `unobserved`, `rounding` or `intruder`; of a job without GPUs `cpu` or `memory`.
    #[schemars(extend("enum" = ["held", "idle", "stranded", "unobserved", "rounding", "intruder", "cpu", "memory"]))]
    pub kind: String,
    /// Null: nobody's.
    pub owner: Option<OwnerName>,
    /// UUID and profile of the MIG instance; empty for the GPU as a whole, and what of it is in no instance.
    pub instance: String,
    pub profile: String,
    /// It is what was asked about.
    pub asked: bool,
    pub time_ns: i64,
    /// Of the GPU's existence in the slot, with six places, rounded down.
    pub share: String,
    /// Of the idle row: use that no owner explains.
    pub busy_ns: i64,
    pub memory_byte_seconds: i64,
    pub energy_uj: i64,
    /// How the figures came about, a sentence for each method bit.
    pub methods: Vec<String>,
    pub arithmetic: String,
    pub cost_nanos: i64,
}

/// What was posted of a row: a first entry, or a correction of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedEntry {
    pub id: i64,
    pub checkpoint: i64,
    /// Number of the entry that this one corrects; 0 = none.
    pub corrects: i64,
    #[schemars(extend("enum" = ["held", "idle", "stranded", "unobserved", "rounding", "intruder", "cpu", "memory"]))]
    pub kind: String,
    pub owner: Option<OwnerName>,
    pub instance: String,
    pub time_ns: i64,
    pub cost_nanos: i64,
}

/// A window that counts here, in the batch that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedWindow {
    /// Entry of the journal, the spool's epoch, the batch's number there, and SHA-256 of its sealed bytes.
    pub journal: i64,
    pub node: String,
    pub epoch: String,
    pub seq: u64,
    pub sha256: String,
    pub start: String,
    pub end: String,
    pub samples: u32,
    /// Of the owners that were asked about; of a GPU or an instance, all that it has there.
    pub usages: Vec<ExplainedShare>,
    pub idle_ns: u64,
    pub stranded_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedShare {
    pub owner: OwnerName,
    pub instance: String,
    pub intruder: bool,
    pub held_ns: u64,
    pub busy_ns: u64,
}
