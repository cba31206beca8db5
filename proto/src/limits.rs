//! Versions, sizes and the grid of time. Both ends of the uplink keep to them; the ledger enforces them.

/// Version of the uplink's contract. Both sides speak this one and the one before; they meet at the lower.
pub const PROTOCOL: u32 = 3;
/// Oldest version that is still spoken.
pub const PROTOCOL_OLDEST: u32 = 2;
/// Version of the `Batch` message inside sealed bytes.
pub const BATCH_FORMAT: u32 = 1;

/// One cell of the window grid in nanoseconds: 10 s, aligned to the Unix epoch.
pub const WINDOW_NS: i64 = 10_000_000_000;
/// One slot in nanoseconds: a quarter of an hour of UTC. Every time zone's midnight falls on a slot's edge.
pub const SLOT_NS: i64 = 900_000_000_000;
/// Four slots.
pub const HOUR_NS: i64 = 3_600_000_000_000;
/// Ninety-six slots.
pub const DAY_NS: i64 = 86_400_000_000_000;

/// Largest payload of a sealed batch in bytes. A gRPC message may be a little larger (its frame).
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Batches that one agent may have on the way without an ack.
pub const IN_FLIGHT_MAX: u32 = 4;
/// Windows in one batch.
pub const WINDOWS_PER_BATCH_MAX: usize = 4096;
/// Use that no owner explains, in a window, is at most so many times the window's time: a device runs many processes, and
/// drivers report some that are long gone.
pub const UNATTRIBUTED_FACTOR_MAX: u64 = 64;
/// Owners that share one device within one window.
pub const USAGES_PER_WINDOW_MAX: usize = 512;
/// Instances of one device that a window tells of as idle: it may have been cut anew a few times.
pub const INSTANCE_IDLES_PER_WINDOW_MAX: usize = 64;
/// Devices of one node: 16 GPUs with every MIG instance would be far below.
pub const DEVICES_PER_BATCH_MAX: usize = 256;
/// Instances named in one batch.
pub const INSTANCES_PER_BATCH_MAX: usize = 2048;
/// Owners named in one batch.
pub const OWNERS_PER_BATCH_MAX: usize = 8192;
/// Longest text of a name (node, namespace, pod, unit, model, ...) in bytes; Kubernetes allows 253.
pub const NAME_BYTES_MAX: usize = 256;
/// All names of one owner together, in bytes. No owner has all of them; the ledger's index over them takes no more.
pub const OWNER_BYTES_MAX: usize = 2048;
/// Gaps told in one batch.
pub const GAPS_PER_BATCH_MAX: usize = 1024;
/// Node labels in one batch, and the bytes of a key or a value.
pub const LABELS_PER_NODE_MAX: usize = 64;
/// Slices of one device.
pub const SLICES_MAX: u32 = 32;
/// Least common multiple of 1 to [`SLICES_MAX`]: a nanosecond of a whole GPU has so many parts, and one of any slice a whole
/// number of them. So time of GPUs with different slices is added up exactly.
pub const GPU_NS_PARTS: i128 = 144_403_552_893_600;
/// Compute slices, and memory slices, of a device whose instances can be weighed by memory; GPUs have 8 at most.
pub const WEIGHED_SLICES_MAX: u32 = 16;
/// A GPU's memory has so many parts: one compute slice of an instance has a whole number of them, whatever its GPU instance has of
/// up to [`WEIGHED_SLICES_MAX`] of either. The square of the least common multiple of 1 to that.
pub const MEMORY_PARTS: i128 = 720_720 * 720_720;
/// A GPU of which nothing was heard for this long is silent; its existence goes on provisionally.
pub const SILENCE_NS: i64 = 900_000_000_000;
/// A slot that is not complete closes this long after its end.
pub const GRACE_NS: i64 = 3_600_000_000_000;
/// What is sent by a clock that is further than this behind the ledger's is journalled and quarantined.
pub const CLOCK_BEHIND_NS_MAX: i64 = 3_600_000_000_000;
/// A tenure or cursor that the ledger never heard of claims its devices for no longer than this back, however old its
/// first window is: nobody becomes senior by backdating.
pub const CLAIM_NS_MAX: i64 = DAY_NS;
/// A window that ends further than this beyond the ledger's clock is journalled and quarantined.
pub const CLOCK_AHEAD_NS_MAX: i64 = 60_000_000_000;

/// Start of the slot that contains `at_ns` (nanoseconds since the Unix epoch, any sign).
#[must_use]
pub fn slot_start(at_ns: i64) -> i64 {
    at_ns - at_ns.rem_euclid(SLOT_NS)
}

/// Start of the window cell that contains `at_ns`.
#[must_use]
pub fn window_start(at_ns: i64) -> i64 {
    at_ns - at_ns.rem_euclid(WINDOW_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_never_crosses_a_slot_and_a_slot_never_crosses_an_hour() {
        assert_eq!(SLOT_NS % WINDOW_NS, 0);
        assert_eq!(HOUR_NS % SLOT_NS, 0);
        assert_eq!(DAY_NS % HOUR_NS, 0);
    }

    #[test]
    fn every_slice_is_a_whole_number_of_a_gpus_parts() {
        assert!((1..=i128::from(SLICES_MAX)).all(|slices| GPU_NS_PARTS % slices == 0));
        let few = || 1..=i128::from(WEIGHED_SLICES_MAX);
        assert!(few().all(|compute| few().all(|memory| MEMORY_PARTS % (compute * memory) == 0)));
    }

    #[test]
    fn times_before_1970_belong_to_the_slot_that_starts_before_them() {
        assert_eq!(slot_start(-1), -SLOT_NS);
        assert_eq!(slot_start(0), 0);
        assert_eq!(window_start(-1), -WINDOW_NS);
        assert_eq!(slot_start(SLOT_NS - 1), 0);
    }
}
