//! The words that the agent's stages share. Plain data, no I/O, imports from no sibling.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A GPU as the driver describes it; does not change while the driver is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// NVML's UUID: the identity everywhere. An index is not one.
    pub uuid: Arc<str>,
    pub model: String,
    pub memory_bytes: u64,
    /// Compute slices of the whole device, as the driver says; 1 where it is not partitioned.
    pub slices: u32,
    pub minor: Option<u32>,
    pub pci_bus_id: String,
}

/// What one reading of one device gave. `None` = the driver cannot say (unsupported, symbol missing).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReading {
    pub info: Arc<DeviceInfo>,
    /// NVML's index now. It changes with what is plugged in; some schedulers name devices by it.
    pub index: u32,
    /// Where the GPU is partitioned (MIG); else `None`, as where the driver does not let the instances be listed: then the
    /// GPU is read as a whole.
    pub mig: Option<MigReading>,
    /// Every process with a context on the device, each pid once; of a partitioned GPU, those that the driver names no
    /// instance for. `Err`: the call failed this time, so nobody knows who held the device: the interval is unobserved.
    pub processes: Result<Vec<DeviceProcess>, String>,
    /// Where the GPU is given to virtual machines: who has it.
    pub vgpus: Vec<Vgpu>,
    /// Utilisation samples newer than those read before, each (pid, timestamp) once, impossible values left out. Of a host
    /// of virtual GPUs they are of those, by their numbers.
    pub utilisation: Option<Vec<UtilisationSample>>,
    /// Energy since the driver was loaded.
    pub energy_mj: Option<u64>,
    pub gauges: Gauges,
    pub signals: Signals,
}

/// What the kubelet said of who has which devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubeletState {
    pub pods: Vec<PodDevices>,
    /// Everything that could be allocated.
    pub allocatable: Vec<PluginDevice>,
}

/// A pod and its devices. It may have ended: the kubelet goes on listing it for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodDevices {
    pub namespace: String,
    pub pod: String,
    pub containers: Vec<ContainerDevices>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerDevices {
    pub container: String,
    pub devices: Vec<PluginDevice>,
    pub claimed: Vec<ClaimedDevice>,
}

/// A device of a device plugin, e.g. `nvidia.com/gpu` and `GPU-...::3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginDevice {
    pub resource: String,
    pub id: String,
}

/// A device of a `ResourceClaim` (DRA), e.g. `gpu.nvidia.com` and `gpu-0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimedDevice {
    pub driver: String,
    pub device: String,
}

/// How a GPU is partitioned, and what each part does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigReading {
    pub instances: Vec<InstanceReading>,
    /// Compute slices that are in no instance, and that none can be made of as the others lie. `None` = the driver
    /// does not say.
    pub stranded_slices: Option<u32>,
}

/// What one reading of one instance gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceReading {
    pub instance: Arc<Instance>,
    /// As [`DeviceReading::processes`].
    pub processes: Result<Vec<DeviceProcess>, String>,
    /// Use of its GPU instance since the reading before (GPM). All compute instances of one GPU instance have the same.
    pub utilisation: Option<InstanceUtilisation>,
}

/// An instance that was seen before, in the latest life of its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownInstance {
    /// UUID of its GPU.
    pub device: Arc<str>,
    pub instance: Arc<Instance>,
    /// It was there when its GPU was seen last. Of others only ids and generation are remembered.
    pub present: bool,
}

/// How much of a GPU instance was in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceUtilisation {
    /// 0 to 1000, of all compute slices of the GPU instance.
    pub permille: u32,
    /// Compute slices of the GPU instance; its compute instances may have fewer together.
    pub slices: u32,
}

/// A part of a partitioned GPU: a compute instance of a GPU instance, in one life of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    /// Of the GPU instance on the GPU, where the driver says.
    pub gpu_instance: Option<u32>,
    /// Of the compute instance in its GPU instance.
    pub compute_instance: Option<u32>,
    /// Tells lives of the same ids apart: they are given to the next instance at once.
    pub generation: u32,
    /// "MIG-...".
    pub uuid: Arc<str>,
    /// Compute slices; at least 1.
    pub slices: u32,
    /// The driver did not say how many, so one is the guess.
    pub slices_guessed: bool,
    /// E.g. "3g.40gb"; empty if unknown.
    pub profile: String,
    pub memory_bytes: u64,
    /// Where the driver says it of all instances of the GPU.
    pub memory: Option<MemoryShare>,
}

/// What an instance has of its GPU's memory: the memory slices of its GPU instance, which its compute instances share by
/// their compute slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemoryShare {
    /// Memory slices of the GPU instance.
    pub slices: u32,
    /// Compute slices of the GPU instance; at least 1.
    pub compute_slices: u32,
    /// Memory slices of the GPU; at least 1.
    pub of: u32,
}

/// Values of the moment, for metrics only: nothing is billed by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    pub gpu_utilisation_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub power_mw: Option<u32>,
    pub temperature_celsius: Option<u32>,
}

/// What a device says of its health and of how it is driven; nothing is billed by it. Some is read less often, and then
/// what was read last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signals {
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    /// NVML's bits of why clocks are low.
    pub clocks_event_reasons: Option<u64>,
    /// Of a whole GPU that is not partitioned, since the reading before.
    pub gpm: Option<GpmUse>,
    pub ecc: EccErrors,
    pub remapped_rows: Option<RemappedRows>,
    /// The driver keeps account of processes that have ended.
    pub accounting: Option<bool>,
    pub links: Links,
    /// Where the GPU is partitioned: one list of it names each process's instance, so the agent has the privileges. `None`
    /// = there was no process yet to tell by.
    pub sees_instances: Option<bool>,
    /// Since the agent started: totals, so that nothing is lost with a reading that is.
    pub xids: BTreeMap<Xid, u64>,
}

/// Parts of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpmUse {
    pub graphics_permille: Option<u32>,
    pub sm_permille: Option<u32>,
    pub memory_bandwidth_permille: Option<u32>,
}

/// Memory errors since the driver was loaded (volatile) and ever (aggregate).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EccErrors {
    pub volatile_corrected: Option<u64>,
    pub volatile_uncorrected: Option<u64>,
    pub aggregate_corrected: Option<u64>,
    pub aggregate_uncorrected: Option<u64>,
}

/// Rows of memory that were replaced, for errors that could be corrected and that could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemappedRows {
    pub correctable: u32,
    pub uncorrectable: u32,
    /// One will be at the next reset.
    pub pending: bool,
    /// One could not be: there is none left.
    pub failed: bool,
}

/// What is slow to read, and read only if it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Links {
    pub pcie_sent_kib_s: Option<u32>,
    pub pcie_received_kib_s: Option<u32>,
    pub nvlinks_up: Option<u32>,
    /// Since the driver was loaded.
    pub nvlink_sent_kib: Option<u64>,
    pub nvlink_received_kib: Option<u64>,
}

/// A virtual GPU of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// NVML's, while it lives.
    pub number: u32,
    pub uuid: Arc<str>,
    /// The virtual machine's UUID, or its number for the hypervisor.
    pub vm: Arc<str>,
    /// E.g. "NVIDIA A100-10C".
    pub kind: Arc<str>,
    /// How many of this kind the GPU has room for.
    pub of: Option<u32>,
    pub memory_bytes: Option<u64>,
}

/// A kind of error by NVIDIA's number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xid {
    /// `None`: of all kinds that there is no room for.
    pub code: Option<u64>,
    /// UUID of the instance that it was on, where the driver says.
    pub instance: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceProcess {
    pub pid: u32,
    pub memory_bytes: Option<u64>,
    /// The driver lists it as a client of MPS.
    pub mps_client: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtilisationSample {
    /// Or the number of a virtual GPU.
    pub pid: u32,
    /// Driver's clock, microseconds since the Unix epoch; may lag the call by seconds.
    pub timestamp_us: u64,
    /// 0 to 100.
    pub sm_percent: u32,
}

/// A moment of ledger time, as the ledger clock gives it for each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Ledger time of this sample, nanoseconds since the Unix epoch. Never before the previous tick's.
    pub now_ns: i64,
    /// False: the time since the previous tick is not covered (a step, a suspend, the first tick).
    pub continuous: bool,
    /// Why, where it is not covered.
    pub gap: GapReason,
    /// Real time that passed since the previous tick while ledger time stood still.
    pub overlap_ns: u64,
    /// The clock was set back so far that the agent anchored anew: seal under a new epoch from here on.
    pub new_epoch: bool,
}

/// Why time is in no window. The same as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GapReason {
    /// No agent ran, or it ended before its open windows were durable.
    #[default]
    AgentDown,
    /// The driver failed, or a reading came too late.
    NotRead,
    /// The node's clock was set forward.
    Clock,
    Suspended,
    /// The spool could not take windows.
    Spool,
}

/// A stretch of ledger time that is in no window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// `None`: every device of the node.
    pub device: Option<Arc<DeviceInfo>>,
    pub start_ns: i64,
    pub end_ns: i64,
    pub reason: GapReason,
}

/// Whose. Field by field the same as `Owner` on the wire; empty = does not apply or is not known.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum OwnerKind {
    /// A process holds the device, and whose it is cannot be known.
    #[default]
    Unowned,
    Pod,
    SlurmJob,
    SystemdUnit,
    User,
    Container,
    /// A guest of this host of virtual GPUs; its name is its `unit`.
    VirtualMachine,
}

/// How many of the kubelet's allocations count, and why the others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllocationCounts {
    /// Pods that hold GPUs by the kubelet's word.
    pub held: usize,
    /// Pods in the list that have ended, or not begun.
    pub gone: usize,
    /// Pods of which it could not be checked whether they live, or which uid they have.
    pub unconfirmed: usize,
    /// Ids that look like a GPU's and are none of this node's, or in no known form.
    pub unresolved: usize,
    /// Ids of `HAMi`, which do not say which GPU is used.
    pub hami: usize,
}

/// A live process on a device, with its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub owner: Arc<Owner>,
    /// When the process started, in ledger time, if known: a new owner's time begins there.
    pub started_ns: Option<i64>,
    pub memory_bytes: Option<u64>,
    /// Whose it is rests on weaker evidence than usual (`method::HELD_INFERRED`).
    pub inferred: bool,
}

/// Somebody to whom a device, or a part of it, is allocated: by the kubelet, or by Slurm's hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its processes on the device have the same owner.
    pub owner: Arc<Owner>,
    /// Of [`Allocation::parts`]; at least 1.
    pub parts: u64,
    /// When it began and ended, in ledger time, where the evidence says.
    pub from_ns: Option<i64>,
    pub until_ns: Option<i64>,
    /// As [`Holder::inferred`].
    pub inferred: bool,
    pub shared_by: SharedBy,
}

/// By what those share a device who have a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SharedBy {
    /// Their contexts take turns, or run at once under MPS: [`Allocation::mps`] says which.
    #[default]
    Contexts,
    Mps,
    Shards,
    VirtualGpus,
    /// Compute slices of a GPU of which nobody says how it is partitioned.
    Slices,
}

/// To whom a device is allocated. Without claims it is held by those who have a process on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    pub claims: Vec<Claim>,
    /// Into how many equal parts the device is divided for allocation (replicas, shards, slices); parts that nobody
    /// claims are idle. What is claimed beyond that makes the parts smaller.
    pub parts: u64,
    /// MPS has clients, or a server, on the device.
    pub mps: bool,
}

/// One device at one tick, owners resolved: what metering works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub info: Arc<DeviceInfo>,
    /// Where it is partitioned. Holders and allocation of the device itself are then those of what is in no instance.
    pub partition: Option<Partition>,
    pub holders: Vec<Holder>,
    pub allocation: Allocation,
    pub utilisation: Option<Vec<UtilisationSample>>,
    pub energy_mj: Option<u64>,
}

/// A partitioned device at one tick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partition {
    pub instances: Vec<InstanceObservation>,
    /// See [`MigReading::stranded_slices`].
    pub stranded_slices: u32,
}

/// One instance at one tick, owners resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceObservation {
    pub instance: Arc<Instance>,
    pub holders: Vec<Holder>,
    pub allocation: Allocation,
    /// See [`InstanceReading::utilisation`].
    pub utilisation: Option<InstanceUtilisation>,
}

/// Sums over one device and one covered interval within one cell of the window grid.
/// Invariant: `sum(usages.held_ns) + idle_ns == duration_ns * info.slices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub info: Arc<DeviceInfo>,
    pub start_ns: i64,
    pub duration_ns: u64,
    /// All of it, also what is in the two that follow.
    pub idle_ns: u64,
    /// Of instances that nobody held.
    pub instance_idle_ns: BTreeMap<Arc<Instance>, u64>,
    /// Of slices that are in no instance and that none can be made of.
    pub stranded_ns: u64,
    pub usages: BTreeMap<Whose, Usage>,
    /// Who used the device while it was allocated to others. They hold nothing.
    pub intruders: BTreeMap<Whose, Usage>,
    pub busy_unattributed_ns: u64,
    pub energy_idle_uj: u64,
    pub energy_unobserved_uj: u64,
    pub samples: u32,
}

/// An owner on an instance; `None`: on the device as a whole, or on what of it is in no instance.
pub type Whose = (Option<Arc<Instance>>, Arc<Owner>);

/// One owner's part of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub held_ns: u64,
    pub busy_ns: u64,
    pub memory_byte_seconds: u64,
    pub energy_uj: u64,
    /// Bits of `tonnage_proto::method`.
    pub method: u32,
}
