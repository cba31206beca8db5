//! How a figure was obtained: bits of `Usage.method`, kept through every sum by OR.
//!
//! A reader of a bill can tell a measurement from an approximation by them. No bit set in a group means that
//! there was no source for that figure, so it is zero for want of knowledge.

/// Held: a live process's cgroup named the owner.
pub const HELD_CGROUP: u32 = 1 << 0;
/// Held: an allocation (kubelet, Slurm hook) named the owner.
pub const HELD_ALLOCATION: u32 = 1 << 1;
/// Held: several owners shared the device, so its time was split among them in equal parts, or by
/// the parts that are allocated to each.
pub const HELD_SPLIT: u32 = 1 << 2;
/// Held: by weaker evidence than usual. The processes' pids are of another pid namespace than `/proc`'s; or whether the
/// allocation is still in force, or which device it is, could not be checked on the node.
pub const HELD_INFERRED: u32 = 1 << 3;
/// Busy: the driver's utilisation samples per process.
pub const BUSY_PROCESS: u32 = 1 << 4;
/// Busy: samples said more than was held, and were scaled down to it.
pub const BUSY_SCALED: u32 = 1 << 5;
/// Busy: the driver's utilisation of a MIG instance (GPM), all of it the one owner's who had a process there.
pub const BUSY_INSTANCE: u32 = 1 << 6;
/// Memory: the driver's figure per process.
pub const MEMORY_PROCESS: u32 = 1 << 8;
/// Energy: the device's counter, split by busy time.
pub const ENERGY_BY_BUSY: u32 = 1 << 12;
/// Energy: the device's counter, split by held time, since nobody was busy.
pub const ENERGY_BY_HELD: u32 = 1 << 13;

/// Held: what was split was shared by NVIDIA's Multi-Process Service.
pub const SHARED_MPS: u32 = 1 << 16;
/// Held: what was split was shared in turns, by replicas or without any arrangement.
pub const SHARED_TIME_SLICING: u32 = 1 << 17;
/// Held: what was split were Slurm's shards.
pub const SHARED_SHARDS: u32 = 1 << 18;
/// Held: what was split were virtual GPUs of guests.
pub const SHARED_VGPU: u32 = 1 << 19;

/// Charge: the price book weighs MIG instances by memory, and it is not known what this one, or another beside it, has of it: so its
/// compute slices were weighed. The ledger's own: what an agent says of it does not count.
pub const WEIGHED_BY_COMPUTE: u32 = 1 << 24;

const NAMES: [(u32, &str); 15] = [
    (HELD_CGROUP, "held_cgroup"),
    (HELD_ALLOCATION, "held_allocation"),
    (HELD_SPLIT, "held_split"),
    (HELD_INFERRED, "held_inferred"),
    (BUSY_PROCESS, "busy_process"),
    (BUSY_SCALED, "busy_scaled"),
    (BUSY_INSTANCE, "busy_instance"),
    (MEMORY_PROCESS, "memory_process"),
    (ENERGY_BY_BUSY, "energy_by_busy"),
    (ENERGY_BY_HELD, "energy_by_held"),
    (SHARED_MPS, "shared_mps"),
    (SHARED_TIME_SLICING, "shared_time_slicing"),
    (SHARED_SHARDS, "shared_shards"),
    (SHARED_VGPU, "shared_vgpu"),
    (WEIGHED_BY_COMPUTE, "weighed_by_compute"),
];

/// The names of the bits that are set, in the order of this file; what the REST API shows.
pub fn names(bits: u32) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| name)
}
