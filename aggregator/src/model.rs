//! The words that the aggregator's parts share. Plain data without I/O; imports from no sibling.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tonnage_proto::limits::{GPU_NS_PARTS, MEMORY_PARTS, SLICES_MAX};

mod alert;
mod subject;
mod team;

pub use alert::{Alert, AlertAct, AlertActed, AlertState, Delivery, Event, Finding, Sent, Severity};
pub use subject::{
    Described, Description, LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, Seen, Subject, SubjectKind, Told,
};
pub use team::{TeamSource, Teams};

/// Who sent it: from the credential, never from a payload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName {
    pub cluster: String,
    pub node: String,
}

/// 16 random bytes, minted with a spool or a ledger.
pub type Id = [u8; 16];

/// A batch that passed validation: every index is in range, every sum holds (docs/ledger.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBatch {
    pub epoch: Id,
    pub seq: u64,
    pub sealed_at_ns: i64,
    pub boot_id: String,
    pub instance_id: String,
    pub facts: NodeFacts,
    pub devices: Vec<Device>,
    pub owners: Vec<Owner>,
    pub instances: Vec<Instance>,
    pub windows: Vec<Window>,
    pub overlap_ns: u64,
    pub gaps: Vec<Gap>,
}

/// What a price book can match a node by; empty = unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct NodeFacts {
    pub instance_type: String,
    pub region: String,
    pub zone: String,
    pub capacity_type: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub uuid: String,
    pub model: String,
    pub memory_bytes: u64,
    /// At least 1.
    pub slices: u32,
    /// `u32::MAX` if unknown.
    pub minor: u32,
    pub pci_bus_id: String,
    pub driver_version: String,
}

/// A part of a partitioned device, in one life of it. All fields together are the identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Instance {
    /// UUID of the device.
    pub device: String,
    pub generation: u32,
    /// `u32::MAX` if unknown.
    pub gpu_instance: u32,
    pub compute_instance: u32,
    /// At least 1.
    pub slices: u32,
    pub uuid: String,
    /// Empty if unknown.
    pub profile: String,
    pub memory_bytes: u64,
    pub memory: Option<MemoryShare>,
}

/// What an instance has of its GPU's memory: the memory slices of its GPU instance, which its compute instances share by
/// their compute slices. None of these numbers is over `WEIGHED_SLICES_MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemoryShare {
    /// Memory slices of the GPU instance.
    pub slices: u32,
    /// Compute slices of the GPU instance; at least 1.
    pub compute_slices: u32,
    /// Memory slices of the GPU; at least 1.
    pub of: u32,
}

impl MemoryShare {
    /// Of an instance with so many compute slices: `4/8`, or `1/3 of 4/8`.
    #[must_use]
    pub fn to_words(self, slices: u32) -> String {
        let of_gpu = format!("{}/{}", self.slices, self.of);
        if slices == self.compute_slices {
            of_gpu
        } else {
            format!("{slices}/{} of {of_gpu}", self.compute_slices)
        }
    }

    /// What so many slice-nanoseconds of the instance are of its GPU's memory, in parts: `MEMORY_PARTS` are a nanosecond of all of it.
    #[must_use]
    pub fn parts(self, time_ns: i64) -> i128 {
        let whole = i128::from(self.compute_slices) * i128::from(self.of);
        i128::from(time_ns) * i128::from(self.slices) * (MEMORY_PARTS / whole)
    }
}

/// Whose; empty = does not apply or is not known. All fields together are the identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Owner {
    pub kind: OwnerKind,
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub container: String,
    pub container_id: String,
    pub job_id: String,
    pub step: String,
    pub unit: String,
    pub user: String,
    /// Slurm's, as its hooks say.
    pub account: String,
    pub partition: String,
}

/// The numbers are those of the wire, and of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum OwnerKind {
    #[default]
    Unowned = 1,
    Pod = 2,
    SlurmJob = 3,
    SystemdUnit = 4,
    User = 5,
    Container = 6,
    VirtualMachine = 7,
}

impl OwnerKind {
    /// Every kind with the name that answers and metrics use.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Unowned, "unowned"),
        (Self::Pod, "pod"),
        (Self::SlurmJob, "slurm_job"),
        (Self::SystemdUnit, "systemd_unit"),
        (Self::User, "user"),
        (Self::Container, "container"),
        (Self::VirtualMachine, "virtual_machine"),
    ];

    /// By its number on the wire and in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().map(|(kind, _)| kind).find(|kind| i64::from(*kind as u8) == number)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("unowned", |(_, name)| name)
    }
}

/// One device over one covered interval, within one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Position in `UsageBatch::devices`.
    pub device: usize,
    pub start_ns: i64,
    pub end_ns: i64,
    /// All of it, with what is in the next two.
    pub idle_ns: u64,
    /// Idle time by position in `UsageBatch::instances`.
    pub instance_idles: Vec<(usize, u64)>,
    pub stranded_ns: u64,
    pub usages: Vec<Usage>,
    pub busy_unattributed_ns: u64,
    pub energy_idle_uj: u64,
    pub energy_unobserved_uj: u64,
    pub samples: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Position in `UsageBatch::owners`.
    pub owner: usize,
    /// Position in `UsageBatch::instances`; `None` = the device, or what of it is in no instance.
    pub instance: Option<usize>,
    /// A process on a device that others hold: it has no time, whatever else it has.
    pub intruder: bool,
    pub held_ns: u64,
    pub busy_ns: u64,
    pub memory_byte_seconds: u64,
    pub energy_uj: u64,
    pub method: u32,
}

/// Time that an agent says it did not cover, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Position in `UsageBatch::devices`; `None` = every device of the node.
    pub device: Option<usize>,
    pub start_ns: i64,
    pub end_ns: i64,
    /// As on the wire, `metering.v1.Gap.Reason`.
    pub reason: u8,
}

/// What a person orders the ledger to do. Journalled as JSON, so it is also what verification reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The device is out of service since `at_ns`, or since it was last observed if that is later.
    Retire { device: String, at_ns: i64, by: String },
    /// The window at this position of this entry of the journal is to be counted, if its time is still free.
    Release { journal: i64, window: usize, by: String },
}

/// Why an order was not carried out; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("{0}")]
    NotFound(String),
    /// It does not fit what is in the ledger.
    #[error("{0}")]
    Conflict(String),
    #[error("the ledger cannot write now")]
    Unavailable,
}

/// Time of whole GPUs, from slice-nanoseconds of GPUs with any number of slices: exact until it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GpuTime(i128);

impl GpuTime {
    /// So many slice-nanoseconds of a GPU that has `slices`.
    #[must_use]
    pub fn of_slices(slice_ns: i128, slices: u32) -> Self {
        Self(slice_ns * (GPU_NS_PARTS / i128::from(slices.clamp(1, SLICES_MAX))))
    }

    /// In nanoseconds of a whole GPU, rounded down.
    #[must_use]
    pub fn ns(self) -> i128 {
        self.0.div_euclid(GPU_NS_PARTS)
    }

    /// `amount * self / whole`, rounded down; 0 of nothing.
    #[must_use]
    pub fn share_of(self, whole: Self, amount: i128) -> i128 {
        if whole.0 == 0 {
            return 0;
        }
        let negative = (self.0 < 0) ^ (whole.0 < 0) ^ (amount < 0);
        let [part, whole, amount] = [self.0, whole.0, amount].map(i128::unsigned_abs);
        let (share, rest) = mul_div(amount, part, whole);
        let share = i128::try_from(share).unwrap_or(i128::MAX);
        if negative { -share - i128::from(rest > 0) } else { share }
    }
}

/// Quotient and rest of `a * b / c`, where `c` is not 0 and all are under 2^126: bit by bit, since the product may have
/// 256 bits.
pub(crate) fn mul_div(a: u128, b: u128, c: u128) -> (u128, u128) {
    if let Some(product) = a.checked_mul(b) {
        return (product / c, product % c);
    }
    let (mut quotient, mut rest) = (0_u128, 0_u128);
    for bit in (0..u128::BITS).rev() {
        let doubled = 2 * rest + if b >> bit & 1 == 1 { a } else { 0 };
        quotient = quotient.saturating_mul(2).saturating_add(doubled / c);
        rest = doubled % c;
    }
    (quotient, rest)
}

impl std::ops::Add for GpuTime {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self(self.0 + more.0)
    }
}

impl std::ops::AddAssign for GpuTime {
    fn add_assign(&mut self, more: Self) {
        self.0 += more.0;
    }
}

impl std::ops::Sub for GpuTime {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self(self.0 - less.0)
    }
}

impl std::iter::Sum for GpuTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::default(), |sum, time| sum + time)
    }
}

/// What a row of the ledger stands for. The numbers are the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RowKind {
    Held = 0,
    Idle = 1,
    Unobserved = 2,
    Rounding = 3,
    /// Use of a device by an owner while others held it: no time, no cost.
    Intruder = 4,
    /// Idle time of slices that are in no instance, and of which none could be made.
    Stranded = 5,
    /// CPU time of a job without GPUs: of no GPU, and in no sum of their time.
    Cpu = 6,
    /// Its memory.
    Memory = 7,
}

impl RowKind {
    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        const ALL: [RowKind; 8] = [
            RowKind::Held,
            RowKind::Idle,
            RowKind::Unobserved,
            RowKind::Rounding,
            RowKind::Intruder,
            RowKind::Stranded,
            RowKind::Cpu,
            RowKind::Memory,
        ];
        ALL.into_iter().find(|kind| i64::from(*kind as u8) == number)
    }

    /// Is it of a job without GPUs, and so of no GPU?
    #[must_use]
    pub fn is_of_job(self) -> bool {
        matches!(self, Self::Cpu | Self::Memory)
    }

    /// Is it what an owner is charged?
    #[must_use]
    pub fn is_charge(self) -> bool {
        self == Self::Held || self.is_of_job()
    }
}

#[cfg(test)]
mod tests {
    use super::{GpuTime, mul_div};

    #[test]
    fn shares_are_exact_where_products_are_wider_than_128_bits() {
        let large = (1_u128 << 126) - 3;
        assert_eq!(mul_div(large, large, large), (large, 0));
        assert_eq!(mul_div(large, 3, 7), (large / 7 * 3 + large % 7 * 3 / 7, large % 7 * 3 % 7));
        assert_eq!(mul_div(large, large - 1, large), (large - 1, 0));
        assert_eq!(mul_div(large - 1, large - 1, large), (large - 2, 1));
        let year = |slices| GpuTime::of_slices(500 * 365 * 86_400_000_000_000 * i128::from(slices), slices);
        let (part, whole) = (year(7), year(7) + year(4) + year(3));
        assert_eq!(part.share_of(whole, 3_000_000_000_000_001), 1_000_000_000_000_000);
        assert_eq!((GpuTime::default() - part).share_of(whole, 10), -4, "rounded down");
        assert_eq!(part.share_of(GpuTime::default(), 10), 0);
    }
}
