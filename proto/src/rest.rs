//! The REST API's answers, shared by the aggregator (which writes them) and the command line (which reads them).
//!
//! Money is text in decimal form with nine places ([`crate::decimal`]), time is seconds in the same form, so
//! nothing is rounded on the way; seconds of GPU time are of whole GPUs (a MIG instance with one of seven slices has a
//! seventh of a second in each), rounded down to a nanosecond; `energy_joules` has nine places too. Times are RFC 3339 in UTC.
//! Fields may be added in later versions; readers ignore what they do not know.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod cost;
mod devices;
pub mod explain;

pub use cost::{CostAnswer, CostRow, CostStep, IdlePolicy, MonthRow, MonthsAnswer};
pub use devices::{DeviceInstance, DeviceRow, DevicesAnswer};

/// Header of an export: slots before this time, RFC 3339, are in it as far as the window has them.
pub const CLOSED_UNTIL: &str = "x-tonnage-closed-until";

/// Rows of a cost answer that stand for no owner.
pub mod sentinel {
    /// Time that nobody held.
    pub const IDLE: &str = "__idle__";
    /// Time for which the GPU existed and no agent saw it.
    pub const UNOBSERVED: &str = "__unobserved__";
    /// What is left of a slot's price after rounding every charge down.
    pub const ROUNDING: &str = "__rounding__";
    /// Owners that have no value for the grouping, e.g. a Slurm job in a table of namespaces.
    pub const UNALLOCATED: &str = "__unallocated__";
    /// Usage that no account of a budget is bound to.
    pub const UNASSIGNED: &str = "__unassigned__";
    /// Pods whose namespace (or name and UID) is not known yet; nodes of which a fact is not known.
    pub const UNKNOWN: &str = "__unknown__";
    /// The sum of the rows beyond the limit.
    pub const OTHER: &str = "__other__";
}

/// The half-open interval that an answer really covers: slots, so a window's edges are moved out to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    pub start: String,
    pub end: String,
}

/// Sums over slots. For every answer `cost = held_cost + idle_cost + unobserved_cost + rounding_cost + job_cpu_cost + job_ram_cost`,
/// exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    pub held_seconds: String,
    /// Use by holders, and in the idle part use that no owner explains.
    pub busy_seconds: String,
    /// Use by owners on devices that others hold by allocation: in no other figure here, and in no cost.
    #[serde(default)]
    pub intruder_busy_seconds: String,
    pub idle_seconds: String,
    /// The part of `idle_seconds` that is in no MIG instance and that none can be made of.
    #[serde(default)]
    pub stranded_seconds: String,
    pub unobserved_seconds: String,
    /// GPU time that exists in the slots but have no price: in no cost here.
    pub unpriced_seconds: String,
    /// A whole number.
    pub memory_byte_seconds: String,
    pub energy_joules: String,
    pub held_cost: String,
    pub idle_cost: String,
    /// The part of `idle_cost` that `stranded_seconds` have.
    #[serde(default)]
    pub stranded_cost: String,
    pub unobserved_cost: String,
    pub rounding_cost: String,
    /// Time of CPUs that jobs without GPUs held: in no figure above.
    #[serde(default)]
    pub cpu_seconds: String,
    /// The part of `cpu_seconds` that has no price: in no cost here.
    #[serde(default)]
    pub unpriced_cpu_seconds: String,
    /// Memory that they held, a whole number.
    #[serde(default)]
    pub ram_byte_seconds: String,
    #[serde(default)]
    pub job_cpu_cost: String,
    #[serde(default)]
    pub job_ram_cost: String,
    /// All costs, but those that are parts of others.
    pub cost: String,
    /// `cost` per hour of the part of the window that has passed, rounded down to a nano-dollar.
    pub hourly_rate: String,
}

/// `GET /api/v1/idle`: GPUs that are held and not used, used by others than their holders, or by nobody who is known.
/// Each list has what weighs most first, and at most `limit` rows; `totals` are of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdleAnswer {
    pub window: Window,
    pub currency: String,
    pub held_idle: Vec<HeldIdleRow>,
    pub intruders: Vec<IntruderRow>,
    pub unattributed: Vec<UnattributedRow>,
    pub totals: IdleTotals,
    /// Seconds since the newest usage in the ledger ended; null if there is none.
    pub data_age_seconds: Option<i64>,
}

/// What an owner held of a GPU by allocation (kubelet, Slurm). Who merely had a process there is in no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldIdleRow {
    pub cluster: String,
    pub node: String,
    pub device: String,
    pub model: String,
    /// MIG instance, by its UUID; empty: the device as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
    pub owner: OwnerName,
    /// False: the driver does not say who was busy, so how much was idle is not known, and the row is in no total.
    pub busy_known: bool,
    pub held_seconds: String,
    pub busy_seconds: String,
    /// `held_seconds - busy_seconds`; null = unknown.
    pub idle_seconds: Option<String>,
    /// The idle part of what the holding cost, rounded down to a nano; null = unknown.
    pub idle_cost: Option<String>,
    /// Part of `held_seconds` that has no price: it costs nothing here.
    pub unpriced_seconds: String,
    /// Is it so in the GPU's newest window, not older than 2 minutes?
    pub holding_now: bool,
    /// Since when the windows in between show no use; at the earliest since the server started. Null: it is busy, or
    /// nobody knows.
    pub idle_since: Option<String>,
}

/// What an owner used of a GPU that others held by allocation. It has no time of its own, and costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IntruderRow {
    pub cluster: String,
    pub node: String,
    pub device: String,
    pub model: String,
    /// MIG instance, by its UUID; empty: the device as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
    pub owner: OwnerName,
    /// Whose GPU it was; null if more than one held it meanwhile.
    pub holder: Option<OwnerName>,
    /// False: the driver does not say who was busy.
    pub busy_known: bool,
    pub busy_seconds: String,
    pub energy_joules: String,
    /// Starts of the first and the last slot in which it was there.
    pub first: String,
    pub last: String,
}

/// What of a GPU no owner explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnattributedRow {
    pub cluster: String,
    pub node: String,
    pub device: String,
    pub model: String,
    /// Use by processes that held nothing and were nobody's.
    pub busy_unattributed_seconds: String,
    /// Held by processes whose owner cannot be known, and what that cost.
    pub unowned_held_seconds: String,
    pub unowned_cost: String,
}

/// `held_seconds`, `busy_seconds`, `idle_seconds` and `idle_cost` are of all holders by allocation whose use is known,
/// also of those who were never idle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdleTotals {
    pub held_seconds: String,
    pub busy_seconds: String,
    pub idle_seconds: String,
    pub idle_cost: String,
    /// Held by allocation where the driver does not say who was busy.
    pub busy_unknown_held_seconds: String,
    pub unpriced_seconds: String,
    pub intruder_busy_seconds: String,
    pub busy_unattributed_seconds: String,
    pub unowned_held_seconds: String,
    pub unowned_cost: String,
    /// Rows that there are, whether or not the lists show them.
    pub held_idle_rows: u64,
    pub intruder_rows: u64,
    pub unattributed_rows: u64,
}

/// `GET /api/v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodesAnswer {
    pub nodes: Vec<NodeRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRow {
    pub cluster: String,
    pub node: String,
    pub devices: u32,
    pub agent_version: String,
    pub connected: bool,
    /// End of the newest usage from this node.
    pub observed_until: Option<String>,
    /// Agent's clock minus the ledger's at its last Hello.
    pub clock_skew_ms: Option<i64>,
    /// Batches committed, refused and quarantined since the ledger began.
    pub batches_accepted: u64,
    pub batches_refused: u64,
    pub batches_quarantined: u64,
    /// By which it is priced: the nodes file's, and what that does not say as the agent said in the newest slot.
    #[serde(default)]
    pub facts: NodeFacts,
}

/// What a price book can match a node by; empty = unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeFacts {
    pub instance_type: String,
    pub region: String,
    pub zone: String,
    pub capacity_type: String,
    pub labels: BTreeMap<String, String>,
}

/// `GET /api/v1/live`: who is on the GPUs, by the newest window of each device that is not older than 2 minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveAnswer {
    pub at: String,
    pub currency: String,
    pub rows: Vec<LiveRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveRow {
    pub cluster: String,
    pub node: String,
    pub device: String,
    pub model: String,
    /// MIG instance, by its UUID; empty: the device as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
    pub owner: OwnerName,
    /// It uses what others hold by allocation.
    #[serde(default)]
    pub intruder: bool,
    /// Parts of the window in thousandths.
    pub held_permille: u32,
    pub busy_permille: u32,
    pub memory_bytes: u64,
    /// What this costs per hour; null = unpriced.
    pub hourly_rate: Option<String>,
    pub age_seconds: i64,
}

/// An owner as answers name it; empty fields do not apply. `kind` is `pod`, `slurm_job`, `systemd_unit`,
/// `user`, `container`, `virtual_machine` (its name is `unit`), `unowned`, or `idle` in a live answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct OwnerName {
    #[schemars(extend("enum" = ["pod", "slurm_job", "systemd_unit", "user", "container", "virtual_machine", "unowned", "idle"]))]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Slurm's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub account: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub partition: String,
}

/// `POST /api/v1/prices/check`, body: a price book. Also the shape of a good `GET /api/v1/prices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PricesAnswer {
    pub currency: String,
    pub prices: Vec<PriceRow>,
    /// Why the book's file could not be taken, if so: then `prices` are those of the last good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PriceRow {
    pub line: u32,
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, String>,
    pub valid_from: String,
    pub price: String,
    pub unit: String,
    #[serde(default)]
    /// By what MIG instances of a GPU are weighed: `compute` or `memory` slices. Empty where it is no price of GPUs.
    pub weight: String,
    /// The same per GPU-hour, rounded down to a nano; a month's rate is of the month of `valid_from`.
    pub price_per_gpu_hour: String,
}

/// `GET /api/v1/unobserved`: time that GPUs existed for and nobody observed, by device and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnobservedAnswer {
    pub window: Window,
    pub rows: Vec<UnobservedRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnobservedRow {
    pub cluster: String,
    pub node: String,
    pub device: String,
    /// `quarantined`, `agent_down`, `spool`, `clock`, `suspended`, `not_read`, or `silent` where nobody said why.
    #[schemars(extend("enum" = ["quarantined", "agent_down", "spool", "clock", "suspended", "not_read", "silent"]))]
    pub reason: String,
    /// Slice-independent: wall seconds of the device, exact.
    pub seconds: String,
}

/// `GET /api/v1/quarantine`: windows that are not counted, oldest first; `after` takes the last `id` of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuarantineAnswer {
    pub rows: Vec<QuarantineRow>,
    /// Give it as `after` to read on; null at the end.
    pub next: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuarantineRow {
    pub id: i64,
    pub cluster: String,
    pub node: String,
    pub device: String,
    pub start: String,
    pub end: String,
    /// `overlap`, `clock_ahead`, `clock_behind`, `too_old`, `too_late` or `slices`.
    #[schemars(extend("enum" = ["overlap", "clock_ahead", "clock_behind", "too_old", "too_late", "slices"]))]
    pub kind: String,
    pub reason: String,
    /// `held`, `released` by order, or `counted` after all.
    #[schemars(extend("enum" = ["held", "released", "counted"]))]
    pub state: String,
    pub journalled: String,
}

/// `GET /api/v1/quarantine/{id}`: one window with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuarantineExplained {
    #[serde(flatten)]
    pub row: QuarantineRow,
    /// Entry of the journal that holds its bytes, the spool's epoch and the batch's number there.
    pub journal: i64,
    pub epoch: String,
    pub seq: u64,
    pub idle_seconds: String,
    pub usages: Vec<ExplainedUsage>,
    /// Who counts for that time instead.
    pub counted: Vec<CoveredRow>,
    /// What may be done about it, in words.
    pub advice: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedUsage {
    pub owner: OwnerName,
    /// It used what others hold by allocation.
    #[serde(default)]
    pub intruder: bool,
    pub held_seconds: String,
    pub busy_seconds: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CoveredRow {
    pub cluster: String,
    pub node: String,
    pub start: String,
    pub end: String,
    /// Counted by a person's order, and not for its seniority.
    pub ordered: bool,
}

/// What an order did: `POST /api/v1/quarantine/{id}/release`, `POST /api/v1/devices/{uuid}/retire?at=TIME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderAnswer {
    pub done: String,
}

/// `GET /api/v1/audit/log`: the journal, oldest first; `after` takes the last `id` of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLogAnswer {
    pub rows: Vec<AuditLogRow>,
    pub next: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLogRow {
    pub id: i64,
    pub at: String,
    /// `batch`, `price_book`, `hole`, `existence`, `retire`, `release`, `purge`, `restore`, `described`, `account`,
    /// `hold` or `grant`.
    #[schemars(extend("enum" = [
        "batch", "price_book", "hole", "existence", "retire", "release", "purge", "restore", "described", "account",
        "hold", "grant", "jobs"
    ]))]
    pub kind: String,
    pub cluster: String,
    pub node: String,
    pub seq: u64,
    /// Of a batch: `accepted`, `refused` or `quarantined`.
    pub outcome: String,
    pub detail: String,
    /// Of what the entry holds, in hexadecimal; empty where it holds nothing.
    pub sha256: String,
}

/// `POST /api/v1/audit/verify`: the ledger recomputed from its journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyAnswer {
    pub conserved: bool,
    pub batches: u64,
    pub windows: u64,
    pub devices: u64,
    pub entries: u64,
    pub checkpoints: u64,
    pub differences: u64,
    /// The first difference in words.
    pub first: Option<String>,
    pub summary: String,
}

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionAnswer {
    pub version: String,
    pub protocol: u32,
    pub ledger_id: String,
}

/// The one shape of every error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorAnswer {
    pub error: ErrorBody,
    /// As in `error`.
    #[serde(default)]
    pub request_id: String,
    /// When it was answered, RFC 3339.
    #[serde(default)]
    pub timestamp: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// Stable, for programs: `invalid_parameter`, `unauthenticated`, `forbidden`, `not_found`,
    /// `method_not_allowed`, `conflict`, `too_large`, `invalid_price_book`, `unavailable`, `internal`; of accounts
    /// that may not spend `ACCOUNT_INACTIVE`, `ACCOUNT_EXPIRED`, `PARTITION_LIMIT_EXCEEDED`.
    #[schemars(extend("enum" = ["invalid_parameter", "unauthenticated", "forbidden", "not_found", "method_not_allowed", "conflict", "too_large", "invalid_price_book", "unavailable", "internal", "ACCOUNT_INACTIVE", "ACCOUNT_EXPIRED", "PARTITION_LIMIT_EXCEEDED"]))]
    pub code: String,
    /// For people: the field, the value, and what would be right.
    pub message: String,
    /// The parameter or field at fault, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The same id is in the `x-request-id` header and in the log.
    pub request_id: String,
}
